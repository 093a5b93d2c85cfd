"""Outlines along ridges, such as membranes between cells and neurites, and snapping to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from skimage.segmentation import watershed
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.engine.features.batches import convolve_images
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

    A watershed (Beucher and Lantuejoul 1979) from the core of the object and from what is
    certainly outside finds the ridge, on the CPU and object by object: few objects need it.

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
    chosen = ((strength != 0) & (depth >= 2.0)).nonzero()[:, 0]
    if not len(chosen):
        return distances
    present, share = distances[chosen], strength[chosen, None, None]
    height = _smoothed(torch.sign(share) * images[chosen])
    markers = (present > CORE * depth[chosen, None, None]).int() + 2 * (present < -REACH).int()
    regions = [
        watershed(one, marked) == 1
        for one, marked in zip(height.cpu().numpy(), markers.cpu().numpy(), strict=True)
    ]
    wanted = signed_distances(torch.from_numpy(np.stack(regions)).to(distances.device))
    step = (wanted - present).clamp_(-LONGEST_STEP, LONGEST_STEP)
    moved = distances.clone()
    moved[chosen] = present + share.abs() * step
    return moved


def _smoothed(images: Tensor) -> Tensor:
    """Gaussian filter of standard deviation `SMOOTHING`, the border repeated."""
    steps = torch.arange(-3.0, 4.0, device=images.device)
    kernel = torch.exp(-0.5 * (steps / SMOOTHING) ** 2)
    kernel = kernel / kernel.sum()

    def filtered(images: Tensor) -> Tensor:
        rows = F.conv2d(F.pad(images, (0, 0, 3, 3), "replicate"), kernel[None, None, :, None])
        return F.conv2d(F.pad(rows, (3, 3, 0, 0), "replicate"), kernel[None, None, None])

    return convolve_images(filtered, images[:, None])[:, 0]
