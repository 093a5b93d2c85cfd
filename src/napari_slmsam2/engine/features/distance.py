"""Signed distances to the outlines of a batch of masks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

LIMIT = 8
"""Distances are exact up to here, in pixels, and cut off beyond."""


def signed_distances(masks: Tensor) -> Tensor:
    """Distance to the outline in pixels, positive inside, within `LIMIT` - 0.5.

    As `napari_slmsam2.engine.features.interpolation.signed_distance`, for a batch on any device:
    the outline runs midway between object and background pixels.

    Parameters
    ----------
    masks : Tensor of bool, shape (B, H, W)

    Returns
    -------
    Tensor of float32, shape (B, H, W)
    """
    height, width = masks.shape[1:]
    far = float(LIMIT**2)
    # Squared distance to the nearest object pixel, and to the nearest background pixel.
    squared = torch.where(torch.stack([masks, ~masks]), 0.0, far)
    for axis, n in ((2, height), (3, width)):
        pad = (0, 0, LIMIT, LIMIT) if axis == 2 else (LIMIT, LIMIT, 0, 0)
        padded = F.pad(squared, pad, value=far)
        nearest = padded.narrow(axis, LIMIT, n).clone()
        shifted = torch.empty_like(nearest)
        for step in range(1, LIMIT):
            for start in (LIMIT - step, LIMIT + step):
                torch.add(padded.narrow(axis, start, n), float(step**2), out=shifted)
                torch.minimum(nearest, shifted, out=nearest)
        squared = nearest
    outside, inside = squared.sqrt_().unbind(0)
    return torch.where(masks, inside - 0.5, 0.5 - outside)


def refreshed(values: Tensor, exact: Tensor) -> Tensor:
    """Distances that were interpolated, without the blur of the interpolation.

    Near the outline they keep their fraction of a pixel, further away they are replaced.

    Parameters
    ----------
    values : Tensor of float32, shape (B, H, W)
        Signed distances after a warp or a resampling.
    exact : Tensor of float32, shape (B, H, W)
        Signed distances of ``values > 0``, by the pixel.
    """
    return torch.where(exact.abs() <= 1.5, torch.clamp(values, exact - 1, exact + 1), exact)
