"""Distances on a slice that grow along edges and away from the intensities of a place."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi
from skimage.graph import MCP_Geometric

Field = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int64]

SMOOTHING = 0.7
"""Standard deviation of the filter before the intensities are compared, in pixels."""

STEP, EDGE, UNLIKE = 0.02, 1.0, 0.5
"""Cost of a pixel: a constant, its gradient, and its distance from the intensities clicked on."""

CONTRAST_REACH = 32
"""Half the side of the square whose contrast is the unit of intensity, in pixels."""


def gradient_cost(
    image: npt.NDArray[np.float32], centre: Pixels | None
) -> tuple[Field, Field, float]:
    """What every distance on an image begins with.

    Parameters
    ----------
    image : ndarray of float32, shape (H, W)
    centre : ndarray of int, shape (2,), or None
        Where the contrast is looked at; None for the whole image.

    Returns
    -------
    smooth : ndarray of float, shape (H, W)
        The intensities to compare.
    cost : ndarray of float, shape (H, W)
    unit : float
        Range of the intensities.
    """
    smooth = ndi.gaussian_filter(image.astype(np.float64), SMOOTHING)
    near = smooth
    if centre is not None:
        row, column = np.maximum(0, centre - CONTRAST_REACH)
        side = 2 * CONTRAST_REACH + 1
        near = smooth[row : row + side, column : column + side]
    low, high = np.percentile(near, (2, 98))
    unit = max(float(high - low), 0.02)
    gradient = np.hypot(ndi.sobel(smooth, 0), ndi.sobel(smooth, 1)) / 8
    return smooth, STEP + EDGE * gradient / unit, unit


def unlike(smooth: Field, pixels: Pixels) -> Field:
    """Cost of an intensity: its distance from the nearest of those that were clicked on."""
    known = [
        np.median(smooth[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3])
        for row, column in pixels
    ]
    return UNLIKE * np.asarray(np.min([np.abs(smooth - value) for value in known], axis=0))


def distance_from(cost: Field, start: Pixels) -> Field:
    """Length of the cheapest path from the nearest start, shape (H, W)."""
    distance, _ = MCP_Geometric(cost).find_costs([tuple(p) for p in start.tolist()])
    return np.asarray(distance)
