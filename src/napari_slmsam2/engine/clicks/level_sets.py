"""Level sets of a distance on a slice, and the probability that each is the object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

Values = npt.NDArray[np.float64]

N_LEVELS, SMALLEST = 48, 9
"""Number of levels, and area of the smallest one in pixels."""

MEANS, SPREADS, WEIGHTS = (-3.593, -3.142, 0.193), (0.813, 0.813, 0.200), (0.516, 0.479, 0.455)
"""Of log signed contrast, log absolute contrast, and dissimilarity of the rim.

Fitted on the training volumes (see ``docs/clicks.md``).
"""

_BINS = 16


@dataclass(frozen=True, slots=True, eq=False)
class LevelSets:
    """Nested regions within a distance, from small to large.

    Attributes
    ----------
    values : ndarray of float, shape (T,)
        The distances.
    areas : ndarray of int, shape (T,)
        Pixels within them.
    features : ndarray of float, shape (T, 3)
        Log of the signed and of the absolute contrast across the outline, and the total variation
        distance between the intensities of the outer half of the region and of the inner one.
    """

    values: Values
    areas: npt.NDArray[np.int64]
    features: Values

    @classmethod
    def measure(cls, distance: Values, image: npt.NDArray[np.float32]) -> Self:
        """Measure the levels of a distance on an image; both of shape (H, W)."""
        ascending = np.sort(distance, axis=None)
        largest = max(SMALLEST, int(0.8 * distance.size))
        areas = np.unique(np.geomspace(SMALLEST, largest, N_LEVELS).astype(np.int64))
        areas = np.unique(np.minimum(areas, distance.size))
        # Slightly beyond the last pixel within.
        values = ascending[areas - 1] * (1 + 1e-6) + 1e-9
        entered = np.searchsorted(values, distance)
        low, high = np.percentile(image, (1, 99))
        unit = float(high - low) + 1e-6
        outline = _across(
            ndi.gaussian_filter(image.astype(np.float64), 0.7) / unit, entered, len(values)
        )
        bins = np.clip((image - low) / unit * _BINS, 0, _BINS - 1).astype(np.int64)
        return cls(values, areas, np.column_stack([*outline, _rim(bins, entered, areas)]))

    def weights(self, prior: Values | None = None) -> Values:
        """Probability of each level, shape (T,); ``prior`` is a logarithm."""
        score = ((self.features - MEANS) / SPREADS) @ np.array(WEIGHTS)
        score = score if prior is None else score + prior
        odds = np.exp(score - score.max())
        return np.asarray(odds / odds.sum())

    def median(self, weights: Values) -> float:
        """The level at which half of the weight is reached.

        For nested regions this is the weighted majority vote at each pixel.
        """
        reached = np.cumsum(weights) / weights.sum()
        return float(self.values[min(int((reached < 0.5).sum()), len(self.values) - 1)])

    def joining(self, distance: Values, places: npt.NDArray[np.int64]) -> float:
        """The lowest level that contains all places in one part; 0 for a single place."""
        if len(places) < 2:
            return 0.0
        low, high = 0, len(self.values) - 1
        while low < high:
            middle = (low + high) // 2
            parts = ndi.label(distance <= self.values[middle])[0][tuple(places.T)]
            low, high = (low, middle) if (parts == parts[0]).all() else (middle + 1, high)
        return float(self.values[low])


def _across(image: Values, entered: npt.NDArray[np.intp], n: int) -> tuple[Values, Values]:
    """Logarithms of the mean signed and the mean absolute step across the outline of each level."""
    sums = np.zeros((3, n + 1))
    for axis in (0, 1):
        before = tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))
        after = tuple(slice(1, None) if a == axis else slice(None) for a in (0, 1))
        first, last = entered[before].ravel(), entered[after].ravel()
        step = (image[before] - image[after]).ravel()
        step = np.where(first < last, step, -step)
        first, last = np.minimum(first, last), np.maximum(first, last)
        for total, part in zip(sums, (np.ones_like(step), step, np.abs(step)), strict=True):
            total += np.bincount(first, part, n + 1) - np.bincount(last, part, n + 1)
    length, signed, absolute = np.cumsum(sums, axis=1)[:, :n]
    length = np.maximum(length, 1)
    return np.log(np.abs(signed) / length + 0.01), np.log(np.abs(absolute) / length + 0.01)


def _rim(
    bins: npt.NDArray[np.int64], entered: npt.NDArray[np.intp], areas: npt.NDArray[np.int64]
) -> Values:
    """Dissimilarity of the outer and inner half of each level; 0 without an inner half."""
    n = len(areas)
    counts = np.bincount((entered * _BINS + bins).ravel(), minlength=(n + 1) * _BINS)
    counts = counts.reshape(n + 1, _BINS).astype(np.float64)
    counts = np.cumsum(ndi.gaussian_filter1d(counts, 1.0, axis=1, mode="nearest"), axis=0)
    half = np.maximum(np.searchsorted(areas, areas / 2) - 1, 0)
    whole, core = counts[:n], counts[half]
    rim = np.where((half > 0)[:, None], whole - core, whole) + 1e-3
    shares = [part / part.sum(1, keepdims=True) for part in (rim, core)]
    return np.asarray(0.5 * np.abs(shares[0] - shares[1]).sum(1))
