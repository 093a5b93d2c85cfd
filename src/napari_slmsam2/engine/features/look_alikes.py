"""Objects of a slice that look like a few examples, by thresholds and watershed.

Classical and fast; the result is a proposal of which a person removes what is wrong. The parts are
standard: Fisher's linear discriminant of smoothed intensity, local contrast and edges, learned
from the pixels of the examples and around them, and a watershed from the maxima of depth inside
the threshold (F. Meyer, "Topographic distance and watershed lines", Signal Processing 38, 1994).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from napari_slmsam2.core.errors import PromptError

_Floats = npt.NDArray[np.float32]
_Ints = npt.NDArray[np.int32]

_SMALLEST, _LARGEST = 0.4, 2.5
"""Areas that are accepted, as shares of the smallest and the largest example."""


class _Options(NamedTuple):
    """How objects are separated from their surroundings and from each other.

    Attributes
    ----------
    ring : float
        Width of the surroundings of an example, in radii: narrow for objects with a wall between
        them, wide for objects on a background.
    smoothing : float
        Of the depth, in radii; more of it splits less.
    score : float
        Weight of the score against the depth.
    """

    ring: float
    smoothing: float
    score: float


_CHOICES = tuple(_Options(*one) for one in itertools.product((0.2, 0.6), (0.15, 0.35), (0.25, 1.0)))


def find_look_alikes(
    image: npt.NDArray[np.floating], examples: npt.NDArray[np.integer]
) -> npt.NDArray[np.int32]:
    """Objects of a slice that look like examples on it.

    Of several options those are used that find the examples best.

    Parameters
    ----------
    image : ndarray of float, shape (H, W)
        Intensities; the scale does not matter.
    examples : ndarray of int, shape (H, W)
        Each value above 0 is one complete object.

    Returns
    -------
    ndarray of int32, shape (H, W)
        1, 2, ... for the objects that were found, largest first. Pixels of examples are 0.

    Raises
    ------
    PromptError
        There is no example.
    """
    areas = np.unique(examples[examples > 0], return_counts=True)[1]
    if not len(areas):
        raise PromptError(
            "look-alikes",
            "there is no example on this slice",
            hint="Paint one or a few complete objects on it first.",
        )
    radius = float(np.sqrt(np.median(areas) / np.pi))
    features = _features(image, radius)
    scores = {ring: _score(features, examples, radius, ring) for ring in {o.ring for o in _CHOICES}}
    tried = [_split(scores[one.ring], radius, one) for one in _CHOICES]
    parts = max(tried, key=lambda found: _agreement(found, examples))
    return _of_size(_without(parts, examples), int(areas.min()), int(areas.max()))


def _features(image: npt.NDArray[np.floating], radius: float) -> _Floats:
    """Intensity at two scales, local contrast and edges, standardised; shape (F, H, W)."""
    plane = np.nan_to_num(image.astype(np.float32))
    fine = ndimage.gaussian_filter(plane, max(0.7, 0.12 * radius))
    coarse = ndimage.gaussian_filter(plane, 0.4 * radius)
    around = ndimage.gaussian_filter(plane, 2.0 * radius)
    edges = ndimage.gaussian_gradient_magnitude(plane, max(0.7, 0.2 * radius))
    found = np.stack([fine, coarse, fine - around, edges])
    spread = found.std((1, 2), keepdims=True)
    standard: _Floats = (found - found.mean((1, 2), keepdims=True)) / np.maximum(spread, 1e-6)
    return standard


def _score(
    features: _Floats, examples: npt.NDArray[np.integer], radius: float, ring: float
) -> _Floats:
    """The discriminant of objects against their surroundings, shape (H, W); above 0 is object.

    0.5 stands for the typical pixel of an example, -0.5 for one around it.
    """
    inside = examples > 0
    distance = ndimage.distance_transform_edt(~inside)
    outside = ~inside & (distance <= max(1.5, ring * radius))
    own, other = features[:, inside], features[:, outside]
    scatter = np.cov(own, bias=True) + np.cov(other, bias=True) + 0.05 * np.eye(len(features))
    here, there = own.mean(1), other.mean(1)
    direction = np.linalg.solve(scatter, here - there)
    span = max(float(direction @ (here - there)), 1e-6)
    middle = float(direction @ (here + there)) / 2
    score: _Floats = ((np.tensordot(direction, features, 1) - middle) / span).astype(np.float32)
    return score


def _split(score: _Floats, radius: float, options: _Options) -> _Ints:
    """The objects above the threshold, shape (H, W), touching ones apart."""
    above = score > 0
    inside = ndimage.binary_fill_holes(ndimage.binary_opening(above) if radius > 3 else above)
    depth = ndimage.distance_transform_edt(inside) / radius + options.score * np.clip(score, -1, 1)
    relief = ndimage.gaussian_filter(depth, options.smoothing * radius)
    distance = max(1, round(0.6 * radius))
    peaks = peak_local_max(relief, min_distance=distance, labels=inside, exclude_border=False)
    markers = np.zeros(score.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    parts: _Ints = watershed(-relief, markers, mask=inside).astype(np.int32)
    return parts


def _agreement(parts: _Ints, examples: npt.NDArray[np.integer]) -> float:
    """Mean overlap (intersection over union) of the examples with what was found there."""
    areas = np.bincount(parts.ravel())
    overlaps = []
    for label in np.unique(examples[examples > 0]):
        mask = examples == label
        common = np.bincount(parts[mask], minlength=len(areas))
        common[0] = 0
        best = int(common.argmax())
        overlaps.append(common[best] / (mask.sum() + areas[best] - common[best]))
    return float(np.mean(overlaps))


def _without(parts: _Ints, examples: npt.NDArray[np.integer]) -> _Ints:
    """The parts of which less than half lies on examples, without the pixels of these."""
    areas = np.bincount(parts.ravel())
    covered = np.bincount(parts[examples > 0], minlength=len(areas))
    kept: _Ints = np.where((2 * covered < areas)[parts] & (examples == 0), parts, 0)
    return kept


def _of_size(parts: _Ints, smallest: int, largest: int) -> _Ints:
    """The parts of a fitting size, numbered from the largest one."""
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    fitting = np.flatnonzero((areas >= _SMALLEST * smallest) & (areas <= _LARGEST * largest))
    fitting = fitting[areas[fitting] > 0]
    fitting = fitting[np.argsort(-areas[fitting], kind="stable")]
    numbers = np.zeros(len(areas), np.int32)
    numbers[fitting] = np.arange(1, len(fitting) + 1)
    return numbers[parts]
