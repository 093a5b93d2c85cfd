"""Appearance of objects: the intensities inside them and around them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Self

import numpy as np
import torch
from scipy import ndimage as ndi
from torch import Tensor

from napari_slmsam2.engine.features.batches import multiply_rows

_BINS = 32
_MAX_LOG_RATIO = 3.0


class Appearance(NamedTuple):
    """Intensity statistics of ``B`` objects and their surrounds, each on one slice.

    Attributes
    ----------
    inside, outside : Tensor of float32, shape (B, 32)
        Smoothed intensity histograms between 0 and 1, each with sum 1.
    mean, deviation : Tensor of float32, shape (B,)
        Of the intensities inside.
    """

    inside: Tensor
    outside: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def measure(cls, images: Tensor, distances: Tensor, ring: float | Tensor) -> Self:
        """Measure objects on their slices.

        Parameters
        ----------
        images : Tensor of float32, shape (B, H, W)
            Intensities, 0 to 1 over the object and its surround.
        distances : Tensor of float32, shape (B, H, W)
            Signed distance to the outline in pixels, positive inside.
        ring : float
            Width of the surround in pixels.
        """
        values, distance = images.flatten(1), distances.flatten(1)
        inside = (distance > 0).float()
        near = (distance > -ring).float()
        # One histogram of 2 x 32 bins: the object first, then its surround.
        bins = _bins(values) + _BINS * (distance <= 0)
        counts = values.new_zeros(len(values), 2 * _BINS).scatter_add_(1, bins, near)
        n = inside.sum(1).clamp_(min=1)
        mean = (values * inside).sum(1) / n
        deviation = (((values - mean[:, None]) * inside) ** 2).sum(1).div_(n).sqrt_()
        return cls(_density(counts[:, :_BINS]), _density(counts[:, _BINS:]), mean, deviation)

    @property
    def separability(self) -> Tensor:
        """Total variation distance of the histograms, (B,): 0 equal, 1 no common intensity."""
        return 0.5 * (self.inside - self.outside).abs().sum(1)

    def log_ratio(self, images: Tensor) -> Tensor:
        """Log likelihood ratio of object against surround for every pixel, within -3 to 3."""
        ratio = (self.inside / self.outside).log().clamp_(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
        return ratio.gather(1, _bins(images.flatten(1))).reshape(images.shape)

    def mean_log_ratio(self, images: Tensor, inside: Tensor) -> Tensor:
        """Mean of `log_ratio` over masks of shape (B, H, W); (B,), 0 where a mask is empty."""
        weight = inside.float()
        total = (self.log_ratio(images) * weight).sum((1, 2))
        return total / weight.sum((1, 2)).clamp(min=1)

    def similarity(self, other: Appearance) -> Tensor:
        """Bhattacharyya coefficient of the histograms inside, (B,): 1 where they are equal."""
        return (self.inside * other.inside).sqrt_().sum(1)


def _bins(values: Tensor) -> Tensor:
    return (values * _BINS).long().clamp_(0, _BINS - 1)


def _density(counts: Tensor) -> Tensor:
    smooth = multiply_rows(counts, _smoothing(counts.device))
    smooth += 5e-3 * smooth.sum(1, keepdim=True) + 1e-6
    return smooth / smooth.sum(1, keepdim=True)


@lru_cache(maxsize=8)
def _smoothing(device: torch.device) -> Tensor:
    """The matrix (32, 32) with the weights of every smoothed count in its rows."""
    unit = np.eye(_BINS, dtype=np.float32)
    return torch.from_numpy(ndi.gaussian_filter1d(unit, 1.5, axis=0, mode="nearest")).to(device)
