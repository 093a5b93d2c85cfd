"""Reading images, with the choice of the propagation axis."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_slmsam2.core.errors import SlmSam2Error, VolumeError
from napari_slmsam2.core.intensity import (
    DEFAULT_WINDOW,
    is_sampled,
    parse_window,
    sample_finite,
)
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.core.volume import Volume, default_axis
from napari_slmsam2.io.formats import DICOM, format_to_read
from napari_slmsam2.io.geometry import Geometry
from napari_slmsam2.io.raw import RawImage
from napari_slmsam2.io.region import Region, crop
from napari_slmsam2.io.selection import PickedVolume, Selection, pick_volume
from napari_slmsam2.io.units import NO_UNIT


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image as it came from a file.

    Attributes
    ----------
    volume : Volume
        In the axis order of the file: (x, y, z) for NIfTI, MGH and most NRRD, (z, y, x) for NPY
        and most TIFF, Zarr and MINC; see ``order``.
    path : Path
    format : str
        ``NIfTI-1``, ``OME-TIFF``, ...
    dtype : numpy dtype
        As stored in the file.
    axis_reason : str
        One sentence: which propagation axis and why.
    order : str
        Names of the axes: ``"xyz"`` in some order.
    geometry : Geometry
    template : object
        What the writer of the same format needs to give labels the same header.
    selection : Selection
        Which volume of the file it is.
    n_times : int
        Time points of the file.
    named : bool
        Whether the file or its format specifies which axis is which.
    label_table : LabelTable
        Names and colours of labels, where the file has some.
    region : Region or None
        The part of the file's image that this is.
    whole : LoadedImage or None
        The image that this is a part of.
    """

    volume: Volume
    path: Path
    format: str
    dtype: np.dtype[Any]
    axis_reason: str
    order: str
    geometry: Geometry
    template: Any
    selection: Selection = field(default_factory=Selection)
    n_times: int = 1
    named: bool = True
    label_table: LabelTable = field(default_factory=LabelTable)
    region: Region | None = None
    whole: LoadedImage | None = None

    @property
    def whole_shape(self) -> tuple[int, int, int]:
        """The shape of the image, of a part that of the image that it is a part of."""
        return (self.whole or self).volume.shape


def read_image(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    axis: int | None = None,
    image: int | str | None = None,
    channel: int | str | None = None,
    time: int | None = None,
    stack: Literal["channel", "time"] | None = None,
    level: int = 0,
    roi: Sequence[slice] | None = None,
    option_prefix: str = "",
) -> LoadedImage:
    """Open a 3D image.

    Uncompressed NIfTI, MGH, NRRD and TIFF, NPY and Zarr are read slice by slice when slices are
    taken. Compressed NIfTI, MGH and NRRD, and compressed TIFF up to 1 GiB, are held in memory in
    the dtype of the file.

    Parameters
    ----------
    path : path-like, or sequence of path-like
        NIfTI, MGH/MGZ, MINC, NRRD, TIFF, NPY, Zarr or OME-Zarr. A folder of
        DICOM files, one file of a DICOM series, or a list of DICOM files.
    axis : int, optional
        Propagation axis, 0 to 2. Default: the one with the coarsest spacing; of equal ones the
        axis along which the file stacks slices.
    image : int or str, optional
        Number or name of the image, for files with several.
    channel : int or str, optional
        Number or name of the channel, for images with several.
    time : int, optional
        Number of the time point, for images with several.
    stack : {"channel", "time"}, optional
        Take the channels, or the time points, as the slices, for images whose slices were saved
        as such.
    level : int
        Resolution level of an OME-Zarr or a pyramidal TIFF, 0 for the finest.
    roi : sequence of slice, optional
        A part of the level, ``np.s_[10:60, :, 100:200]`` for instance: along the axes of the file,
        in voxels of the level. Only its slices are read.
    option_prefix : str
        Of the command line options that messages name, ``"seeds-"`` for instance.

    Returns
    -------
    LoadedImage

    Raises
    ------
    VolumeError
        The file is missing, damaged, of no known format or not a 3D image, or it has several
        images, channels or time points and none was chosen (the message lists them).

    Warns
    -----
    SlmSam2Warning
        The header contradicts itself, or there are more data than it specifies.
    """
    selection = Selection(image, channel, time, stack, option_prefix, level)
    if not isinstance(path, str | os.PathLike):
        files = [Path(file) for file in path]
        place = files[0].parent
        with explained(place):
            raw = read_dicom_files(files, selection)
            found = load_volume(raw, place, selection, axis)
            return found if roi is None else crop(found, roi)
    with explained(Path(path)):
        raw = format_to_read(Path(path)).read(Path(path), selection)
        found = load_volume(raw, Path(path), selection, axis)
        return found if roi is None else crop(found, roi)


def read_dicom_files(files: Sequence[Path], selection: Selection) -> RawImage:
    """Open an image of a list of DICOM files.

    Raises
    ------
    VolumeError
        One of them is of another format, or they contain no image.
    """
    for file in files:
        if format_to_read(file) is not DICOM:
            raise VolumeError(
                str(file), "is not one of several DICOM files", expected="DICOM files only",
                hint="Give one file, or the slices of one DICOM series.",
            )  # fmt: skip
    raw: RawImage = DICOM.load(files[0]).read_files(files, selection, str(files[0].parent))
    return raw


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn any error of a reader into one that names the file.

    Raises
    ------
    VolumeError
    """
    try:
        yield
    except (SlmSam2Error, Warning):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise VolumeError(
            str(path), "cannot be read as an image", found=f"{type(error).__name__}: {reason}",
            hint="The file may be damaged or of another format than its name suggests.",
        ) from error  # fmt: skip


def load_volume(
    raw: RawImage, path: Path, selection: Selection, axis: int | None = None
) -> LoadedImage:
    """The volume of an opened file that the options name.

    Raises
    ------
    VolumeError
        See `read_image`.
    """
    picked = pick_volume(raw, str(path), selection)
    dtype = np.dtype(picked.data.dtype)
    if dtype.kind not in "buif":
        raise VolumeError(
            str(path), "does not hold real numbers", expected="integers or floats", found=dtype
        )
    geometry = picked.geometry
    reason = "Chosen by the user."
    if axis is None:
        axis = _default_axis(picked)
        reason = _axis_reason(axis, geometry)
    volume = Volume(
        picked.data, axis, geometry.spacing, geometry.unit, geometry.affine, name=str(path)
    )
    stored = dtype if raw.stored_dtype is None or raw.stored_dtype.names else raw.stored_dtype
    tables = raw.label_tables
    table = LabelTable()
    if tables:
        table = tables[picked.channel or 0] if len(tables) > 1 else tables[0]
    template = raw.template
    if picked.n_times > 1 and isinstance(template, dict) and "dicom" in template:
        # A segmentation of this volume refers to the files of its time point.
        template = {"dicom": template["dicom"][selection.time :][:1]}
    return LoadedImage(
        volume, path, raw.format, stored, reason, picked.order, geometry, template,
        selection, picked.n_times, raw.named, table,
    )  # fmt: skip


def _default_axis(picked: PickedVolume) -> int:
    """The axis with the coarsest spacing; of equally coarse ones the z axis, if it is one."""
    spacing, stacked = picked.geometry.spacing, picked.order.index("z")
    if spacing[stacked] >= 0.99 * max(spacing):
        return stacked
    return default_axis(spacing, ties="last" if stacked == 2 else "first")


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
    """The properties of an image in plain values.

    Parameters
    ----------
    image : LoadedImage

    Returns
    -------
    dict
        ``orientation`` is the anatomical direction in which each axis grows (``LPS``), None where
        the file has no affine. ``intensity_range`` is that of the finite voxels, None if there
        are none; ``intensity_sampled`` is true where a very large volume was not read completely.
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
