"""Dense optical flow between two small images, and reading images at other places."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi
from skimage.registration import optical_flow_tvl1

Image = npt.NDArray[np.float32]

ATTACHMENT = 60.0
"""Weight of the intensities against the smoothness of the flow, for a contrast of about 1."""

_FLAT = 1e-6


def dense_flow(reference: Image, moving: Image) -> npt.NDArray[np.float32]:
    """TV-L1 flow that carries ``moving`` onto ``reference``.

    Zach, Pock and Bischof 2007, DAGM; the implementation is scikit-image's.

    Parameters
    ----------
    reference, moving : ndarray of float32, shape (H, W)
        Finite intensities, scaled so that the contrast of interest is about 1.

    Returns
    -------
    ndarray of float32, shape (2, H, W)
        ``(row, column)`` displacement in pixels: ``reference(x)`` looks like
        ``moving(x + flow(x))``. Zero where either image is constant or thinner than 2 pixels.
    """
    flat = np.ptp(reference) < _FLAT or np.ptp(moving) < _FLAT
    if min(reference.shape) < 2 or flat:
        return np.zeros((2, *reference.shape), np.float32)
    flow = optical_flow_tvl1(
        reference, moving, attachment=ATTACHMENT, num_warp=3, num_iter=10, dtype=np.float32
    )
    return np.nan_to_num(np.asarray(flow, np.float32))


def warp(field: Image, flow: npt.NDArray[np.float32]) -> Image:
    """Read ``field`` at ``x + flow(x)``, linearly, beyond the border as on the border."""
    rows, columns = np.indices(field.shape, dtype=np.float32)
    where = (rows + flow[0], columns + flow[1])
    return np.asarray(ndi.map_coordinates(field, where, order=1, mode="nearest"), np.float32)


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
