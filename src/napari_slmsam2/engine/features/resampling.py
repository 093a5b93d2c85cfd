"""Resizing of slices; numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

Image = npt.NDArray[np.float32]


def resample(image: Image, shape: tuple[int, int]) -> Image:
    """Resize to another shape, linearly, smoothed first along the axes that shrink.

    Pixels are areas: the outer edges of both grids coincide.
    """
    if image.shape == tuple(shape):
        return image
    zoom = np.divide(shape, image.shape)
    if zoom.min() < 1:
        image = ndi.gaussian_filter(image, np.maximum(0.0, 0.5 * (1 / zoom - 1)), mode="nearest")
    where = [(np.arange(n) + 0.5) / z - 0.5 for n, z in zip(shape, zoom, strict=True)]
    grid = np.meshgrid(*where, indexing="ij")
    return np.asarray(ndi.map_coordinates(image, grid, order=1, mode="nearest"), np.float32)
