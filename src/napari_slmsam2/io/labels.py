"""Label volumes: on the grid of their image, whole numbers, complete or not written at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.atomic_write import atomic_write, check_writable
from napari_slmsam2.core.errors import GridMismatchError, VolumeError
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io._ngff import is_label_store
from napari_slmsam2.io.formats import format_to_write
from napari_slmsam2.io.images import LoadedImage, read_image
from napari_slmsam2.io.raw import Colours, Geometry
from napari_slmsam2.io.units import IN_MM

GRID_TOLERANCE = 0.05
"""How far a voxel of the labels may lie from its voxel of the image, in voxel sizes."""

_WHOLE = 1e-3
"""How far a float label may be from a whole number: scaled files are not exact."""


def read_labels(path: str | os.PathLike[str], like: LoadedImage | None = None) -> npt.NDArray[Any]:
    """Read a label volume.

    Parameters
    ----------
    path : path-like
        Whole numbers, 0 for background; floats are fine if they are whole.
    like : LoadedImage, optional
        The image that the labels belong to. Their grids must agree; labels in a file of the other
        axis order come out in the order of the image.

    Returns
    -------
    ndarray of uint8, uint16 or uint32, shape (I, J, K)
        The smallest of these that holds all labels.

    Raises
    ------
    VolumeError
        The file cannot be read, or a voxel is negative, NaN or not a whole number; the message
        names the first one.
    GridMismatchError
        The grids differ.
    """
    labels = read_image(path, axis=0)
    if like is not None:
        check_same_grid(like, labels)
    array = _whole_numbers(labels.volume)
    return array.T if like is not None and like.order != labels.order else array


def write_labels(
    path: str | os.PathLike[str],
    labels: npt.ArrayLike,
    like: LoadedImage,
    *,
    overwrite: bool = False,
    colours: Colours | None = None,
) -> Path:
    """Write a label volume on the grid of its image.

    The suffix of the path decides the format. In the format of the image the header is the
    image's own (affine, sform and qform with their codes, voxel size, units); in another format
    the geometry is kept as far as that format can say it, and arrays are transposed between
    (x, y, z) and (z, y, x) formats.

    Parameters
    ----------
    path : path-like
        NIfTI, MGH/MGZ, NRRD, TIFF, OME-Zarr or NPY.
    labels : array_like of integer or bool, shape of the image
    like : LoadedImage
        The image.
    overwrite : bool
        Whether an existing file, or OME-Zarr of labels, may be replaced.
    colours : callable, optional
        Of the labels: gets an array of n of them, gives RGBA from 0 to 1, shape (n, 4). Kept by
        OME-Zarr.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        The file exists, cannot be written, or its format cannot hold labels.
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
    array = np.asarray(labels)
    if array.shape != like.volume.shape:
        raise GridMismatchError(
            str(path), "labels do not have the shape of the image",
            expected=like.volume.shape, found=array.shape,
        )  # fmt: skip
    array = _smallest(_whole(array, str(path), {}))
    geometry = like.geometry
    if target.order != like.order:
        array, geometry = array.T, geometry.reversed()
    module = target.load(path)
    options = {"colours": colours} if target.coloured else {}
    return atomic_write(
        path,
        lambda file: module.write(file, array, geometry, like.template, **options),
        overwrite=overwrite,
        replaceable_folder=is_label_store,
    )


def check_same_grid(image: LoadedImage, labels: LoadedImage) -> None:
    """Refuse labels that do not lie on the voxels of the image.

    Shapes must be equal. Where both files have an affine, no corner of the volume may be off by
    more than `GRID_TOLERANCE` voxels; else, where both have a voxel size with a unit, these must
    agree to one part in a thousand, and, where both have one, the first voxels in their place.

    Parameters
    ----------
    image, labels : LoadedImage

    Raises
    ------
    GridMismatchError
        Names what differs.
    """
    name = f"{labels.path} on {image.path}"
    transposed = image.order != labels.order
    shape = labels.volume.shape[::-1] if transposed else labels.volume.shape
    geometry = labels.geometry.reversed() if transposed else labels.geometry
    if shape != image.volume.shape:
        raise GridMismatchError(
            name, "the shapes differ", expected=f"shape {image.volume.shape}",
            found=f"shape {shape}",
        )  # fmt: skip
    ours, theirs = image.geometry, geometry
    known = ours.unit in IN_MM and theirs.unit in IN_MM
    factor = IN_MM[theirs.unit] / IN_MM[ours.unit] if known else 1.0
    if ours.affine is not None and theirs.affine is not None:
        _check_affine(name, ours, theirs.affine * np.array([[factor]] * 3 + [[1.0]]), shape)
    elif known:
        spacing = tuple(s * factor for s in theirs.spacing)
        if not np.allclose(spacing, ours.spacing, rtol=1e-3, atol=0):
            raise GridMismatchError(
                name, "the voxel sizes differ", expected=f"{ours.spacing} {ours.unit}",
                found=f"{spacing} {ours.unit}",
            )  # fmt: skip
        _check_origin(name, ours, geometry.origin_along(image.order), factor, image.order)


def _check_origin(
    name: str,
    image: Geometry,
    theirs: tuple[float, float, float] | None,
    factor: float,
    order: str,
) -> None:
    ours = image.origin_along(order)
    if ours is None or theirs is None:
        return
    found = tuple(p * factor for p in theirs)
    shift = max(abs(o - p) / s for o, p, s in zip(ours, found, image.spacing, strict=True))
    if shift > GRID_TOLERANCE:
        raise GridMismatchError(
            name, f"the first voxels lie {shift:.3g} voxels apart",
            expected=f"{ours} {image.unit}", found=f"{found} {image.unit}",
            hint="Resample the labels to the grid of the image.",
        )  # fmt: skip


def _check_affine(
    name: str, image: Geometry, affine: npt.NDArray[np.float64], shape: tuple[int, int, int]
) -> None:
    assert image.affine is not None
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1.0])).reshape(4, -1)
    shift = np.sqrt((((affine - image.affine) @ corners)[:3] ** 2).sum(axis=0)).max()
    sizes = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
    if not shift <= GRID_TOLERANCE * sizes.min():
        raise GridMismatchError(
            name, f"the affines differ by up to {shift / sizes.min():.3g} voxels",
            expected=f"affine {_rows(image.affine)}", found=f"affine {_rows(affine)}",
            hint="Resample the labels to the grid of the image.",
        )  # fmt: skip


def _rows(affine: npt.NDArray[np.float64]) -> str:
    return str([[float(f"{v:.6g}") for v in row] for row in affine[:3]])


def _whole_numbers(volume: Volume) -> npt.NDArray[Any]:
    """All voxels as labels, read slice by slice."""
    result = np.zeros(volume.shape, np.uint8)
    for index in range(volume.n_slices):
        part = _whole(volume.take(index), volume.name, {volume.axis: index})
        smallest = _smallest(part)
        if smallest.dtype.itemsize > result.dtype.itemsize:
            result = result.astype(smallest.dtype)
        result[volume.slicer(index)] = smallest
    return result


def _whole(array: npt.NDArray[Any], what: str, fixed: dict[int, int]) -> npt.NDArray[Any]:
    """The array if it holds whole numbers from 0 to the highest label, else an error.

    ``fixed`` gives the axes, and the index along them, that the array was cut from.
    """
    highest = np.iinfo(np.uint32).max
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
    elif array.min() >= 0 and array.max() <= highest:
        return array
    else:
        found, wrong = array, (array < 0) | (array > highest)
    if not wrong.any():
        return array
    first = np.unravel_index(int(wrong.argmax()), array.shape)
    voxel = [int(i) for i in first]
    for axis, index in fixed.items():
        voxel.insert(axis, index)
    raise VolumeError(
        what, "does not hold labels", expected=f"whole numbers from 0 to {highest}",
        found=f"{found[first].item()} at voxel {tuple(voxel)}",
        hint="Is this the image instead of its labels?" if found.dtype.kind == "f" else None,
    )  # fmt: skip


def _smallest(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same labels, 0 to 2**32 - 1, in the smallest unsigned dtype that holds them."""
    dtype = np.min_scalar_type(int(array.max(initial=0)))
    return array.astype(dtype, copy=False)
