"""Writer of Labels layers on the grid of their image."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_slmsam2.core.errors import GridMismatchError, OutputError
from napari_slmsam2.io.layer_grid import METADATA_KEY, colours_of, grid_of, loaded_image


def write_labels(path: str, data: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Write a Labels layer; the suffix of the path decides the format.

    A layer on the grid of an image file gets the geometry of that file, and its header if the
    format is the same. Other layers are written to TIFF and OME-Zarr only, with the scale, units
    and (in OME-Zarr) translation of the layer, because the other formats require a position in
    the patient or specimen that is not known. OME-Zarr and ``.seg.nrrd`` also store names and
    colours of the labels.

    Parameters
    ----------
    path : str
        ``.nii``, ``.nii.gz``, ``.mgh``, ``.mgz``, ``.nrrd``, ``.tif``, ``.zarr``. An existing
        file is replaced; napari has asked for confirmation.
    data : array_like of integer
        For a multiscale layer the levels, of which the finest is written.
    attributes : mapping
        Attributes of the layer.

    Returns
    -------
    list of str
        Paths of the files written.

    Raises
    ------
    GridMismatchError
        The layer is not 3D, or its shape differs from that of its image.
    OutputError
        The format cannot represent the position of the layer, or the file cannot be written.
    """
    from napari_slmsam2.io import write_labels as write

    name = f"layer {attributes.get('name', 'labels')!r}"
    data = data[0] if attributes.get("multiscale") else data
    if len(data.shape) != 3:
        raise GridMismatchError(
            name, "is not a volume", expected="3 dimensions", found=f"shape {tuple(data.shape)}",
            hint="Save one time point or channel as a separate layer.",
        )  # fmt: skip
    grid = attributes.get("metadata", {}).get(METADATA_KEY)
    if grid is None:
        grid = _grid_of_layer(path, name, data.shape, attributes)
    else:
        _check(name, data.shape, attributes, grid)
    colormap = attributes.get("colormap")
    colours = None if colormap is None else colours_of(colormap)
    return [str(write(path, data, loaded_image(grid, data), overwrite=True, colours=colours))]


def _check(
    name: str, shape: Sequence[int], attributes: Mapping[str, Any], grid: Mapping[str, Any]
) -> None:
    if tuple(shape) != tuple(grid["shape"]):
        raise GridMismatchError(
            name, "does not have the shape of its image", expected=grid["shape"],
            found=tuple(shape), hint=f"Was it cropped? Its image: {grid['path']}.",
        )  # fmt: skip
    scale = tuple(float(s) for s in attributes.get("scale", grid["spacing"]))
    if not np.allclose(scale, grid["spacing"], rtol=1e-3, atol=0):
        warnings.warn(
            f"{name} has scale {scale}, but its image has a voxel size of {grid['spacing']}; "
            "the file is written with the voxel size of the image.",
            stacklevel=3,
        )


def _grid_of_layer(
    path: str, name: str, shape: Sequence[int], attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """The grid of a layer that was not opened by this plugin."""
    from napari_slmsam2.io.formats import format_to_write
    from napari_slmsam2.io.geometry import Geometry
    from napari_slmsam2.io.units import NO_UNIT, unit_name

    if format_to_write(Path(path)).order != "zyx":
        raise OutputError(
            path, f"the position of {name} is not known",
            expected="the grid of an image that this plugin opened",
            hint="Open the image with SLM-SAM 2 and annotate it there, or save as TIFF or "
            "OME-Zarr, which keep the voxel size.",
        )  # fmt: skip
    _check_straight(path, name, attributes)
    units = {unit_name(unit) for unit in attributes.get("units", (NO_UNIT,))}
    spacing = [float(s) for s in attributes.get("scale", (1.0,) * 3)]
    if len(units) != 1 or min(spacing) <= 0:
        raise OutputError(
            path, f"{name} has no usable voxel size", expected="positive, in one unit",
            found=f"{spacing} in {', '.join(sorted(units))}",
        )  # fmt: skip
    x, y, z = spacing
    i, j, k = (float(t) for t in attributes.get("translate", (0.0,) * 3))
    labels = "".join(str(label) for label in attributes.get("axis_labels", ()))
    order = labels if sorted(labels) == ["x", "y", "z"] else "zyx"
    geometry = Geometry((x, y, z), units.pop(), origin=(i, j, k))
    return grid_of(tuple(shape), geometry, order=order)


def _check_straight(path: str, name: str, attributes: Mapping[str, Any]) -> None:
    """Refuse a transform that voxel size and translation cannot represent."""
    moved = {
        "rotate": not np.allclose(attributes.get("rotate", np.eye(3)), np.eye(3)),
        "shear": not np.allclose(attributes.get("shear", np.zeros(3)), 0),
        "affine": not np.allclose(attributes.get("affine", np.eye(4)), np.eye(4)),
    }
    found = [key for key, is_moved in moved.items() if is_moved]
    if found:
        raise OutputError(
            path, f"the format cannot represent the transform of {name}", found=", ".join(found),
            hint="Open the image with SLM-SAM 2, or reset the layer's transform.",
        )  # fmt: skip
