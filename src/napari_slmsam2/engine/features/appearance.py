"""How an object looks: the intensities inside it and around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

Image = npt.NDArray[np.float32]

_BINS = 32
_MAX_LOG_RATIO = 3.0


@dataclass(frozen=True, slots=True, eq=False)
class Appearance:
    """Intensity statistics of an object and its surround on one slice.

    Attributes
    ----------
    inside, outside : ndarray of float, shape (32,)
        Smoothed intensity histograms between 0 and 1, each with sum 1.
    mean, deviation : float
        Of the intensities inside.
    """

    inside: npt.NDArray[np.float64]
    outside: npt.NDArray[np.float64]
    mean: float
    deviation: float

    @classmethod
    def measure(cls, image: Image, distance: Image, ring: float) -> Appearance:
        """Look at a slice.

        Parameters
        ----------
        image : ndarray of float32, shape (H, W)
            Intensities, 0 to 1 over the object and its surround.
        distance : ndarray of float32, shape (H, W)
            Signed distance to the outline in pixels, positive inside.
        ring : float
            Width of the surround in pixels.
        """
        object_ = distance > 0
        surround = ~object_ & (distance > -ring)
        bins = _bins(image)
        values = image[object_] if object_.any() else np.zeros(1)
        return cls(
            _histogram(bins[object_]),
            _histogram(bins[surround]),
            float(values.mean()),
            float(values.std()),
        )

    @property
    def separability(self) -> float:
        """Total variation distance of the histograms: 0 alike, 1 without any common intensity."""
        return float(0.5 * np.abs(self.inside - self.outside).sum())

    def log_ratio(self, image: Image) -> Image:
        """Log likelihood ratio of object against surround for every pixel, within -3 to 3."""
        ratio = np.log(self.inside / self.outside)
        bounded = np.clip(ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO).astype(np.float32)
        return np.asarray(bounded[_bins(image)])

    def likeness(self, other: Appearance) -> float:
        """Bhattacharyya coefficient of the histograms inside, 1 where they are equal."""
        return float(np.sqrt(self.inside * other.inside).sum())


def _bins(image: Image) -> npt.NDArray[np.int64]:
    return np.clip((image * _BINS).astype(np.int64), 0, _BINS - 1)


def _histogram(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    counts = np.bincount(bins, minlength=_BINS).astype(np.float64)
    counts = ndi.gaussian_filter1d(counts, 1.5, mode="nearest")
    counts += 5e-3 * counts.sum() + 1e-6
    return counts / counts.sum()
