"""Outlines along ridges, such as membranes between cells and neurites, and snapping to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.engine.features.distance import signed_distances

Image = npt.NDArray[np.float32]

SMOOTHING = 0.7
"""Standard deviation of the filter of the image before ridges are followed, in pixels."""

SIDES = (3.0, 9.0)
"""Distances from the outline between which lies what it is compared with, in pixels; towards the
core as far as it goes."""

CORE = 0.6
"""Of the largest distance to the outline: what lies deeper certainly belongs to the object."""

REACH = 1.5
"""Pixels to either side that count as the outline; further outside nothing is object."""

LONGEST_STEP = 1.0
"""Of the outline towards a ridge, before it is weighted, in pixels."""

FLOOD_STEPS = 16
"""Pixels that a flood runs at most: more than the width of the band between core and outside."""


def measure_ridge(image: Image, distance: Image) -> float:
    """By how much an outline is brighter, or darker, than both of its sides.

    Parameters
    ----------
    image : ndarray of float32, shape (H, W)
    distance : ndarray of float32, shape (H, W)
        Signed distance to the outline in pixels, positive inside.

    Returns
    -------
    float
        In standard deviations of the intensities of the object and its surround; negative where
        it is darker, 0 where it lies between both sides.
    """
    nearest, farthest = SIDES
    near = distance > -farthest
    inside = distance > min(nearest, CORE * float(distance.max()))
    sides = (inside, near & (distance < -nearest))
    line = np.abs(distance) < REACH
    if not all(part.any() for part in (line, *sides)):
        return 0.0
    here = float(image[line].mean())
    darker, brighter = sorted(float(image[side].mean()) for side in sides)
    deviation = float(image[near].std()) + 1e-6
    return (max(0.0, here - brighter) - max(0.0, darker - here)) / deviation


def snap_to_ridge(distances: Tensor, images: Tensor, strength: Tensor) -> Tensor:
    """Move outlines towards the ridges next to them.

    Floods rise from the core of the object and from what is certainly outside (the watershed by
    flooding of Beucher and Lantuejoul 1979); they meet on the ridge.

    Parameters
    ----------
    distances : Tensor of float32, shape (B, H, W)
        Signed distance to the outline in pixels, positive inside.
    images : Tensor of float32, shape (B, H, W)
    strength : Tensor of float32, shape (B,)
        Share of the distance to the ridge, of at most `LONGEST_STEP`; negative towards dark ridges.

    Returns
    -------
    Tensor of float32, shape (B, H, W)
        The approximate distance to the new outline; unchanged where the strength is 0 or the object
        is less than 2 pixels deep.
    """
    depth = distances.amax((1, 2))
    moves = (strength != 0) & (depth >= 2.0)
    core = distances > CORE * depth[:, None, None]
    outside = distances < -REACH
    height = _smoothed(torch.sign(strength)[:, None, None] * images)
    arrival = _flood(height, torch.stack([core, outside], 1))
    inside = arrival[:, 0] < arrival[:, 1]
    inside |= (arrival[:, 0] == arrival[:, 1]) & (distances > 0)
    wanted = signed_distances((inside | core) & ~outside)
    step = (wanted - distances).clamp_(-LONGEST_STEP, LONGEST_STEP)
    moved = distances + strength.abs()[:, None, None] * step
    return torch.where(moves[:, None, None], moved, distances)


def _flood(height: Tensor, sources: Tensor) -> Tensor:
    """Lowest level at which a flood from each source arrives beside every pixel: (B, S, H, W)."""
    height = height[:, None].expand_as(sources)
    level = torch.where(sources, height, torch.inf)
    # From one source a flood does not run through another.
    barred = sources.flip(1)
    for _ in range(FLOOD_STEPS):
        reached = torch.maximum(_lowest_neighbour(level), height)
        level = torch.minimum(level, reached.masked_fill_(barred, torch.inf))
    return _lowest_neighbour(level)


def _lowest_neighbour(level: Tensor) -> Tensor:
    rows = F.max_pool2d(-level, (3, 1), 1, (1, 0))
    columns = F.max_pool2d(-level, (1, 3), 1, (0, 1))
    return -torch.maximum(rows, columns)


def _smoothed(images: Tensor) -> Tensor:
    """Gaussian filter of standard deviation `SMOOTHING`, the border repeated."""
    steps = torch.arange(-3.0, 4.0, device=images.device)
    kernel = torch.exp(-0.5 * (steps / SMOOTHING) ** 2)
    kernel = kernel / kernel.sum()
    rows = F.conv2d(F.pad(images[:, None], (0, 0, 3, 3), "replicate"), kernel[None, None, :, None])
    return F.conv2d(F.pad(rows, (3, 3, 0, 0), "replicate"), kernel[None, None, None])[:, 0]
