"""Label volumes: on the grid of their image, whole numbers, complete or not written at all."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.atomic_write import atomic_write, check_writable
from napari_slmsam2.core.errors import GridMismatchError, SlmSam2Warning, VolumeError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io._ngff import is_label_store
from napari_slmsam2.io.alignment import align
from napari_slmsam2.io.chunked_array import compressed_labels
from napari_slmsam2.io.formats import check_holds, format_to_read, format_to_write
from napari_slmsam2.io.geometry import transposition
from napari_slmsam2.io.images import LoadedImage, explained, load_volume
from napari_slmsam2.io.label_stream import LabelStream, check_label_shape, described
from napari_slmsam2.io.raw import Colours, RawImage
from napari_slmsam2.io.selection import Selection

_WHOLE = 1e-3
"""How far a float label may be from a whole number: scaled files are not exact."""

_HIGHEST_FLOAT = 2**32 - 1


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Labels from a file.

    Attributes
    ----------
    array : ndarray of uint8, uint16, uint32 or uint64, or ChunkedArray, shape (I, J, K)
        The smallest of these dtypes that holds all labels. Of a series (T, I, J, K).
    table : LabelTable
        Names and colours, where the file has some.
    """

    array: Any
    table: LabelTable


def read_labels(
    path: str | os.PathLike[str],
    like: LoadedImage | None = None,
    *,
    image: int | str | None = None,
    channel: int | str | None = None,
    time: int | None = None,
    stack: Literal["channel", "time"] | None = None,
    trust_voxels: bool = False,
    option_prefix: str = "",
) -> npt.NDArray[Any]:
    """Read a label volume; see `read_label_map`, which gives names and colours as well."""
    return read_label_map(
        path, like, image=image, channel=channel, time=time, stack=stack,
        trust_voxels=trust_voxels, option_prefix=option_prefix,
    ).array  # fmt: skip


def read_label_map(
    path: str | os.PathLike[str],
    like: LoadedImage | None = None,
    *,
    image: int | str | None = None,
    channel: int | str | None = None,
    time: int | None = None,
    stack: Literal["channel", "time"] | None = None,
    level: int | None = None,
    trust_voxels: bool = False,
    option_prefix: str = "",
    compressed: bool = False,
) -> LabelMap:
    """Read a label volume, with the names and colours of its labels.

    Parameters
    ----------
    path : path-like
        Whole numbers, 0 for background; floats are accepted if they are whole.
    like : LoadedImage, optional
        The image that the labels belong to. Their grids must agree. Labels whose axes are in
        another order, flipped, or a part of the grid, come out on the grid of the image. Labels of
        a time series of the same length are taken at the time point of the image.
    image, channel, time, stack : optional
        Which volume of the file, see `read_image`. A layer of a ``.seg.nrrd`` is a channel, which
        has the names of its segments.
    level : int, optional
        Resolution level of labels with several. Default: the finest, or the level of the image
        where the finest has another shape.
    trust_voxels : bool
        The arrays line up, whatever the files specify about the place of their voxels.
    option_prefix : str
        Of the command line options that messages name, ``"seeds-"`` for instance.
    compressed : bool
        Whether to return a `ChunkedArray` that is compressed in memory: for labels of few slices
        of a large volume.

    Raises
    ------
    VolumeError
        The file cannot be read, holds several volumes and none was chosen, or a voxel is
        negative, NaN or not a whole number; the message names the first one in the file.
    GridMismatchError
        The grids differ.

    Warns
    -----
    SlmSam2Warning
        The labels were reordered, or taken at the time point of the image.
    """
    path = Path(path)
    selection = Selection(image, channel, time, stack, option_prefix, level or 0)
    with explained(path):
        raw = format_to_read(path).read(path, selection)
        if level is None and like is not None and like.selection.level:
            raw, selection = _at_level_of(like, raw, path, selection)
        selection = selection if like is None else _followed(raw, path, selection, like)
        return labels_of(
            raw, path, selection, like, trust_voxels=trust_voxels, compressed=compressed
        )


def labels_of(
    raw: RawImage,
    path: Path,
    selection: Selection,
    like: LoadedImage | None = None,
    *,
    trust_voxels: bool = False,
    compressed: bool = False,
) -> LabelMap:
    """The labels of an opened file; see `read_label_map`."""
    found = load_volume(raw, path, selection, axis=0)
    # In the order of the file: its slices along other axes lie all over it.
    found = replace(found, volume=found.volume.with_axis(found.order.index("z")))
    alignment = None if like is None else align(like, found, trust_voxels=trust_voxels)
    array = _whole_numbers(found.volume, compressed=compressed)
    if alignment is not None:
        array = alignment.apply(array, str(path))
    return LabelMap(array, found.label_table)


def label_series_of(raw: RawImage, path: Path, selection: Selection) -> LabelMap:
    """The labels of all time points of an opened file, shape (T, I, J, K); of one, (I, J, K)."""
    if raw.n_times == 1:
        return labels_of(raw, path, selection)
    maps = [labels_of(raw, path, replace(selection, time=t)) for t in range(raw.n_times)]
    return replace(maps[0], array=np.stack([labels.array for labels in maps]))


def _at_level_of(
    like: LoadedImage, raw: RawImage, path: Path, selection: Selection
) -> tuple[RawImage, Selection]:
    """The labels at the resolution level of the image, unless the finest one has its shape."""
    grids = [image.volume.shape for image in (like, like.whole) if image is not None]
    shape = tuple(n for n, axis in zip(raw.data.shape, raw.axes, strict=True) if axis in "xyz")
    if sorted(shape) in [sorted(grid) for grid in grids]:
        return raw, selection
    coarser = replace(selection, level=like.selection.level)
    try:
        return format_to_read(path).read(path, coarser), coarser
    except VolumeError:  # It has no such level; the shapes are compared next.
        return raw, selection


def _followed(raw: RawImage, path: Path, selection: Selection, like: LoadedImage) -> Selection:
    """The selection, with the time point and the stack of the image where labels have the same."""
    shape = dict(zip(raw.axes, raw.data.shape, strict=False))
    theirs = like.selection
    if selection.stack is None and theirs.stack is not None and shape.get("z", 1) == 1:
        letter = theirs.stack[0]
        if shape.get(letter, 1) > 1 or "?" in raw.axes:
            return replace(selection, stack=theirs.stack)
    if selection.time is None and theirs.time is not None and 1 < raw.n_times == like.n_times:
        warnings.warn(
            f"{path.name}: its labels are taken at time point {theirs.time}, that of the image. "
            f"Choose another one with {selection.advice('time')}.",
            SlmSam2Warning,
            stacklevel=3,
        )
        return replace(selection, time=theirs.time)
    return selection


def write_labels(
    path: str | os.PathLike[str],
    labels: npt.ArrayLike,
    like: LoadedImage,
    *,
    overwrite: bool = False,
    colours: Colours | None = None,
    table: LabelTable | None = None,
    lead: str | None = None,
    crop: bool = False,
) -> Path:
    """Write a label volume, or a series of them, on the grid of its image.

    The suffix of the path decides the format. In the format of the image the header is the
    image's own (affine, sform and qform with their codes, voxel size, units); in another format
    the geometry is kept as far as that format can represent it, and arrays are transposed between
    (x, y, z) and (z, y, x) formats. OME-Zarr and NRRD keep the axis order of an image of theirs.

    Parameters
    ----------
    path : path-like
        NIfTI, MGH/MGZ, NRRD, TIFF, OME-Zarr or NPY.
    labels : array_like of integer or bool, shape of the image
        Or one or two axes more, which come first: time points, channels.
    like : LoadedImage
        The image, of a series any time point.
    overwrite : bool
        Whether an existing file, or OME-Zarr of labels, may be replaced.
    colours : callable, optional
        Of the labels: gets an array of n of them, gives RGBA from 0 to 1, shape (n, 4).
    table : LabelTable, optional
        Names and colours of labels; where ``colours`` is given too, that has precedence. OME-Zarr
        and ``.seg.nrrd`` keep both. Default: those of ``like``.

    lead : {"", "t", "c", "tc", "ct"}, optional
        What the first axes are, where there are more than three. Default: ``t`` for one, ``tc`` for
        two. Time points keep the step, the unit and the start of the image's time axis.
    crop : bool
        Of the labels of a part of an image (``like.region``): whether the file holds the part, with
        its own geometry, instead of the whole image with 0 outside of it.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        The file exists, cannot be written, or its format cannot hold the labels, for instance
        several time points.
    VolumeError
        The labels are not whole numbers from 0.
    GridMismatchError
        The labels do not have the shape of the image.

    Warns
    -----
    SlmSam2Warning
        OME-Zarr, of an image with a rotation or reflection.
    """
    path = check_writable(path, overwrite=overwrite, replaceable_folder=is_label_store)
    target = format_to_write(path)
    array: Any = labels if hasattr(labels, "dtype") else np.asarray(labels)
    check_label_shape(path, array, like)
    array, lead = _with_lead(array, str(path), lead)
    check_holds(path, lead)
    if target.is_written_in_blocks:
        sizes = dict(zip(lead, array.shape, strict=False))
        places = np.ndindex(*sizes.values())
        highest = max(_highest(array[x] if x else array, path, like.volume) for x in places)
        with LabelStream(
            path, like, highest=highest, overwrite=overwrite, lead=sizes, crop=crop
        ) as stream:
            stream.fill(array)
            return stream.finish(table=table, colours=colours)
    array = _smallest(_whole(np.asarray(array), str(path), {}))
    if like.whole is not None and like.region is not None and not crop:
        part, region, like = array, like.region, like.whole
        array = np.zeros((*part.shape[:-3], *like.volume.shape), part.dtype)
        array[(..., *region.key)] = part
    geometry, options = like.geometry, dict[str, Any]()
    if target.described:
        options["table"] = described(array, table or like.label_table, colours)
    if lead:
        options["lead"] = lead
    order = target.order_to_write(path, like.template)
    source, wanted = lead + like.order, order + lead if target.order == "xyz" else lead + order
    if source != wanted:
        array = array.transpose(transposition(source, wanted))
        geometry = geometry.reordered(like.order, order)
    module = target.load(path)
    return atomic_write(
        path,
        lambda file: module.write(file, array, geometry, like.template, **options),
        overwrite=overwrite,
        replaceable_folder=is_label_store,
    )


def _with_lead(array: Any, what: str, lead: str | None) -> tuple[Any, str]:
    """The labels, and the axes before the three of space: at most ``t`` and ``c``, in this order.

    Raises
    ------
    GridMismatchError
        There are others.
    """
    n_lead = len(array.shape) - 3
    lead = "tc"[:n_lead] if lead is None else lead
    if len(lead) != n_lead or lead not in ("", "t", "c", "tc", "ct"):
        raise GridMismatchError(
            what, "labels have too many axes", expected="three of space, time and channels",
            found=f"shape {tuple(array.shape)}",
            hint="Save one volume at a time, or one time series.",
        )  # fmt: skip
    return (np.asarray(array).swapaxes(0, 1), "tc") if lead == "ct" else (array, lead)


def _highest(labels: Any, path: Path, volume: Volume) -> int:
    """The highest label, after a check that all are whole numbers; read slice by slice."""
    parts = (_whole(labels[volume.slicer(i)], str(path), {volume.axis: i})
             for i in range(volume.n_slices))  # fmt: skip
    return max(int(part.max(initial=0)) for part in parts)


def check_same_grid(image: LoadedImage, labels: LoadedImage) -> None:
    """Refuse labels that do not lie on the voxels of the image, see `align`.

    Parameters
    ----------
    image, labels : LoadedImage

    Raises
    ------
    GridMismatchError
        Names what differs.
    """
    align(image, labels)


def _whole_numbers(volume: Volume, *, compressed: bool) -> Any:
    """All voxels as labels, read slice by slice."""
    result: Any = np.zeros(volume.shape, np.uint8)
    if compressed:
        result = compressed_labels(volume.shape, np.uint8, volume.axis)
    for index in range(volume.n_slices):
        part = _whole(volume.take(index), volume.name, {volume.axis: index})
        smallest = _smallest(part)
        if smallest.dtype.itemsize > result.dtype.itemsize:
            result = result.astype(smallest.dtype)
        if smallest.any():
            result[volume.slicer(index)] = smallest
    return result


def _whole(array: npt.NDArray[Any], what: str, fixed: dict[int, int]) -> npt.NDArray[Any]:
    """The array if it holds whole numbers from 0 to the highest label, else an error.

    ``fixed`` gives the axes, and the index along them, that the array was cut from.
    """
    highest = _HIGHEST_FLOAT if array.dtype.kind == "f" else 2**64 - 1
    if array.dtype.kind not in "buif":
        raise VolumeError(
            what, "does not hold labels", expected="whole numbers", found=f"dtype {array.dtype}"
        )
    if array.size == 0:
        return array
    if array.dtype.kind == "f":
        found = array.astype(np.float64)
        array = np.rint(found)
        wrong = ~((array >= 0) & (array <= highest))
        wrong[~wrong] = np.abs(found[~wrong] - array[~wrong]) > _WHOLE
    elif array.min() >= 0:
        return array
    else:
        found, wrong = array, array < 0
    if not wrong.any():
        return array
    first = np.unravel_index(int(wrong.argmax()), array.shape)
    voxel = [int(i) for i in first]
    for axis, index in fixed.items():
        voxel.insert(axis, index)
    raise VolumeError(
        what, "does not hold labels", expected=f"whole numbers from 0 to {highest}",
        found=f"{found[first].item()} at voxel {tuple(voxel)}",
        hint="Is this the image instead of its labels?",
    )  # fmt: skip


def _smallest(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same labels in the smallest unsigned dtype that holds them."""
    dtype = np.min_scalar_type(int(array.max(initial=0)))
    return array.astype(dtype, copy=False)
