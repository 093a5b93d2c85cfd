"""Geodesic distances on a slice, with costs from edges and from intensity differences."""

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
"""Weights of the cost of a pixel: constant, gradient, difference from the clicked intensities."""

MOST_KNOWN = 16
"""Clicked intensities that are compared at most; those of strokes are represented by quantiles."""

CONTRAST_REACH = 32
"""Half the side of the square whose contrast is the unit of intensity, in pixels."""


def gradient_cost(
    image: npt.NDArray[np.float32], centre: Pixels | None
) -> tuple[Field, Field, float]:
    """The part of the cost that does not depend on the clicks.

    Parameters
    ----------
    image : ndarray of float32, shape (H, W)
    centre : ndarray of int, shape (2,), or None
        Centre of the square whose contrast is measured; None for the whole image.

    Returns
    -------
    smooth : ndarray of float, shape (H, W)
        Smoothed intensities.
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


def intensity_cost(smooth: Field, pixels: Pixels) -> Field:
    """Cost of an intensity: its difference from the nearest of the clicked intensities."""
    known = [
        np.median(smooth[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3])
        for row, column in pixels
    ]
    if len(known) > MOST_KNOWN:  # of strokes
        known = np.quantile(known, np.linspace(0, 1, MOST_KNOWN)).tolist()
    return UNLIKE * np.asarray(np.min([np.abs(smooth - value) for value in known], axis=0))


def distance_from(cost: Field, start: Pixels) -> Field:
    """Length of the cheapest path from the nearest start, shape (H, W)."""
    distance, _ = MCP_Geometric(cost).find_costs([tuple(p) for p in start.tolist()])
    return np.asarray(distance)
