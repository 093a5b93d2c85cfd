"""Outlines along a ridge, as the membranes between cells and neurites, and masks drawn to them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi
from skimage.segmentation import watershed

from napari_slmsam2.engine.features.interpolation import signed_distance

Image = npt.NDArray[np.float32]

SMOOTHING = 0.7
"""Standard deviation of the filter of the image before ridges are followed, in pixels."""

SIDES = (3.0, 9.0)
"""Distances from the outline between which lies what it is compared with, in pixels; towards the
core as far as it goes."""

CORE = 0.6
"""Of the largest distance to the outline: what lies deeper is object without question."""

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


def snap_to_ridge(distance: Image, image: Image, pull: float) -> Image:
    """Move an outline towards the ridge next to it.

    A watershed (Beucher and Lantuejoul 1979) from the core of the object and from what is
    certainly outside finds the ridge.

    Parameters
    ----------
    distance : ndarray of float32, shape (H, W)
        Signed distance to the outline in pixels, positive inside.
    image : ndarray of float32, shape (H, W)
    pull : float
        Share of the way, of at most `LONGEST_STEP`; negative towards dark ridges.

    Returns
    -------
    ndarray of float32, shape (H, W)
        The distance to the new outline, about.
    """
    depth = float(distance.max())
    if pull == 0 or depth < 2.0:
        return distance
    markers = np.zeros(distance.shape, np.int32)
    markers[distance > CORE * depth] = 1
    markers[distance < -REACH] = 2
    height = ndi.gaussian_filter(np.sign(pull) * image, SMOOTHING)
    wanted = signed_distance(watershed(height, markers) == 1)
    step = np.clip(wanted - distance, -LONGEST_STEP, LONGEST_STEP)
    return np.asarray(distance + np.float32(abs(pull)) * step, np.float32)
