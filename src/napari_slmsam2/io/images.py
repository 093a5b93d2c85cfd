"""Reading images, with the choice of the propagation axis."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_slmsam2.core.errors import SlmSam2Error, VolumeError
from napari_slmsam2.core.intensity import (
    DEFAULT_WINDOW,
    is_sampled,
    parse_window,
    sample_finite,
)
from napari_slmsam2.core.volume import Volume, default_axis
from napari_slmsam2.io.formats import format_to_read
from napari_slmsam2.io.raw import Geometry, RawImage, pick_volume
from napari_slmsam2.io.units import NO_UNIT


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image as it came from a file.

    Attributes
    ----------
    volume : Volume
        In the axis order of the file: (x, y, z) for NIfTI, MGH and NRRD, (z, y, x) for TIFF, NPY
        and Zarr; MINC as nibabel orders it.
    path : Path
    format : str
        ``NIfTI-1``, ``OME-TIFF``, ...
    dtype : numpy dtype
        As stored in the file.
    axis_reason : str
        One sentence: which propagation axis and why.
    order : {"xyz", "zyx"}
    geometry : Geometry
    template : object
        What the writer of the same format needs to give labels the same header.
    """

    volume: Volume
    path: Path
    format: str
    dtype: np.dtype[Any]
    axis_reason: str
    order: str
    geometry: Geometry
    template: Any


def read_image(
    path: str | os.PathLike[str],
    *,
    axis: int | None = None,
    channel: int | str | None = None,
    time: int | None = None,
) -> LoadedImage:
    """Open a 3D image.

    Uncompressed NIfTI, MGH, NRRD and TIFF, NPY and Zarr are read slice by slice when slices are
    taken. Compressed NIfTI, MGH and NRRD, and compressed TIFF up to 1 GiB, are held in memory in
    the dtype of the file.

    Parameters
    ----------
    path : path-like
        NIfTI, MGH/MGZ, MINC, NRRD, TIFF, NPY, Zarr or OME-Zarr (the finest resolution level).
    axis : int, optional
        Propagation axis, 0 to 2. Default: the one with the coarsest spacing; of equal ones the
        axis along which the file stacks slices.
    channel : int or str, optional
        Number or name of the channel, for images with several.
    time : int, optional
        Number of the time point, for images with several.

    Returns
    -------
    LoadedImage

    Raises
    ------
    VolumeError
        The file is missing, damaged, of no known format or not a 3D image, or it has several
        channels or time points and none was picked (the message lists them).
    """
    path = Path(path)
    try:
        raw: RawImage = format_to_read(path).load(path).read(path)
        data = pick_volume(raw, str(path), channel=channel, time=time)
        return _loaded(raw, data, path, axis)
    except SlmSam2Error:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise VolumeError(
            str(path), "cannot be read as an image", found=f"{type(error).__name__}: {reason}",
            hint="The file may be damaged or of another format than its name says.",
        ) from error  # fmt: skip


def _loaded(raw: RawImage, data: Any, path: Path, axis: int | None) -> LoadedImage:
    dtype = np.dtype(data.dtype)
    if dtype.kind not in "buif":
        raise VolumeError(
            str(path), "does not hold real numbers", expected="integers or floats", found=dtype
        )
    geometry = raw.geometry
    reason = "Chosen by the user."
    if axis is None:
        ties = "last" if raw.order == "xyz" else "first"
        axis = default_axis(geometry.spacing, ties=ties)  # type: ignore[arg-type]
        reason = _axis_reason(axis, geometry)
    volume = Volume(data, axis, geometry.spacing, geometry.unit, geometry.affine, name=str(path))
    stored = dtype if raw.stored_dtype is None or raw.stored_dtype.names else raw.stored_dtype
    return LoadedImage(volume, path, raw.format, stored, reason, raw.order, geometry, raw.template)


def _axis_reason(axis: int, geometry: Geometry) -> str:
    unit = "" if geometry.unit == NO_UNIT else f" {geometry.unit}"
    coarsest = geometry.spacing[axis]
    tied = [a for a, s in enumerate(geometry.spacing) if s >= 0.99 * max(geometry.spacing)]
    if len(tied) == 1:
        return f"Axis {axis} has the coarsest spacing ({coarsest:.4g}{unit})."
    equal = "All axes" if len(tied) == 3 else f"Axes {tied[0]} and {tied[1]}"
    return (
        f"{equal} have the same coarsest spacing ({coarsest:.4g}{unit}); "
        f"axis {axis} is the one along which the file stacks slices."
    )


def describe(image: LoadedImage) -> dict[str, Any]:
    """What there is to know about an image, in plain values.

    Parameters
    ----------
    image : LoadedImage

    Returns
    -------
    dict
        ``orientation`` is the anatomical direction in which each axis grows (``LPS``), None where
        the file has no affine. ``intensity_range`` is that of the finite voxels, None if there
        are none; ``intensity_sampled`` tells that a very large volume was not read completely.
    """
    volume = image.volume
    values = sample_finite(volume)
    window = parse_window(DEFAULT_WINDOW, volume)
    return {
        "path": str(image.path),
        "format": image.format,
        "shape": list(volume.shape),
        "dtype": str(image.dtype),
        "spacing": list(volume.spacing),
        "unit": volume.unit,
        "orientation": _orientation(volume),
        "axis": volume.axis,
        "axis_reason": image.axis_reason,
        "slices": volume.n_slices,
        "slice_shape": list(volume.slice_shape),
        "intensity_range": [values.min().item(), values.max().item()] if values.size else None,
        "intensity_sampled": is_sampled(volume),
        "window": window.to_dict(),
    }


def _orientation(volume: Volume) -> str | None:
    if volume.affine is None:
        return None
    import nibabel.orientations

    orientations: Any = nibabel.orientations
    return "".join(code or "?" for code in orientations.aff2axcodes(volume.affine))
