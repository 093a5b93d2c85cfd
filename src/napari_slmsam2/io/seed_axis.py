"""The propagation axis of an image and its seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy.typing as npt

from napari_slmsam2.core.seed_planes import find_seed_planes
from napari_slmsam2.io.images import LoadedImage


def with_seed_axis(image: LoadedImage, seeds: npt.NDArray[Any]) -> LoadedImage:
    """The image with the axis on whose planes the seeds were drawn.

    Parameters
    ----------
    image : LoadedImage
        Its axis, chosen by the voxel size, is kept where the seeds do not determine one.
    seeds : ndarray of int, shape of the image

    Returns
    -------
    LoadedImage
        ``axis_reason`` reports what determined the axis.
    """
    planes = find_seed_planes(seeds)
    if planes.axis is None or planes.axis == image.volume.axis:
        return replace(image, axis_reason=f"{image.axis_reason} {planes.reason}")
    return replace(image, volume=image.volume.with_axis(planes.axis), axis_reason=planes.reason)
