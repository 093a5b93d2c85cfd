"""Writer of Labels layers on the grid of their image."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_slmsam2.core.errors import GridMismatchError, OutputError
from napari_slmsam2.io.layer_grid import (
    METADATA_KEY,
    colours_of,
    grid_of,
    layer_time,
    lead_axes,
    loaded_image,
    spatial_axes,
    table_of,
    with_lead_first,
)


def write_labels(path: str, data: Any, attributes: Mapping[str, Any]) -> list[str]:
    """Write a Labels layer, of a time series all time points; the suffix decides the format.

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
        The layer has fewer than three axes, or axes beside space, time and channels, or its shape
        differs from that of its image.
    OutputError
        The format cannot represent the position of the layer or its time points, or the file
        cannot be written.
    """
    from napari_slmsam2.io import write_labels as write

    name = f"layer {attributes.get('name', 'labels')!r}"
    data = data[0] if attributes.get("multiscale") else data
    n_dims = len(data.shape)
    names = attributes.get("axis_labels", ("",) * n_dims)
    attributes = {**attributes, "axis_labels": names}
    axes = spatial_axes(names)
    if len(axes) != 3:
        raise GridMismatchError(
            name, "is not a volume", expected="3 dimensions of space",
            found=f"shape {tuple(data.shape)}",
        )  # fmt: skip
    lead = lead_axes(data.shape, names, axes)
    array = with_lead_first(data, axes, lead)
    shape = array.shape[-3:]
    grid = attributes.get("metadata", {}).get(METADATA_KEY)
    if grid is None:
        grid = _grid_of_layer(path, name, shape, attributes, axes, lead)
    else:
        scale = attributes.get("scale")
        _check(name, shape, grid["spacing"] if scale is None else [scale[a] for a in axes], grid)
    colormap = attributes.get("colormap")
    colours = None if colormap is None else colours_of(colormap)
    like = loaded_image(grid, array[(0,) * len(lead)])
    table = table_of(attributes.get("metadata", {}))
    letters = "".join(lead.values())
    written = write(path, array, like, overwrite=True, colours=colours, table=table, lead=letters)
    return [str(written)]


def _check(
    name: str, shape: Sequence[int], scale: Sequence[float], grid: Mapping[str, Any]
) -> None:
    if tuple(shape) != tuple(grid["shape"]):
        raise GridMismatchError(
            name, "does not have the shape of its image", expected=grid["shape"],
            found=tuple(shape), hint=f"Was it cropped? Its image: {grid['path']}.",
        )  # fmt: skip
    scale = tuple(float(s) for s in scale)
    if not np.allclose(scale, grid["spacing"], rtol=1e-3, atol=0):
        warnings.warn(
            f"{name} has scale {scale}, but its image has a voxel size of {grid['spacing']}; "
            "the file is written with the voxel size of the image.",
            stacklevel=3,
        )


def _grid_of_layer(
    path: str,
    name: str,
    shape: Sequence[int],
    attributes: Mapping[str, Any],
    axes: Sequence[int],
    lead: Mapping[int, str],
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
    names = attributes["axis_labels"]
    n_dims = len(names)
    scale = [float(s) for s in attributes.get("scale", (1.0,) * n_dims)]
    start = [float(t) for t in attributes.get("translate", (0.0,) * n_dims)]
    units = list(attributes.get("units", (NO_UNIT,) * n_dims))
    found = {unit_name(units[a]) for a in axes}
    x, y, z = (scale[a] for a in axes)
    if len(found) != 1 or min(x, y, z) <= 0:
        raise OutputError(
            path, f"{name} has no usable voxel size", expected="positive, in one unit",
            found=f"{[x, y, z]} in {', '.join(sorted(found))}",
        )  # fmt: skip
    i, j, k = (start[a] for a in axes)
    called = "".join(str(names[a]) for a in axes)
    order = called if sorted(called) == ["x", "y", "z"] else "zyx"
    time = layer_time(lead, scale, units, start)
    geometry = Geometry((x, y, z), found.pop(), origin=(i, j, k), time=time)
    return grid_of(tuple(shape), geometry, order=order)


def _check_straight(path: str, name: str, attributes: Mapping[str, Any]) -> None:
    """Refuse a transform that voxel size and translation cannot represent."""
    found = []
    for key in ("rotate", "shear", "affine"):
        matrix = np.asarray(attributes.get(key, 0.0), float)
        straight = np.eye(len(matrix)) if matrix.ndim == 2 and key != "shear" else 0.0
        if not np.allclose(matrix, straight):
            found.append(key)
    if found:
        raise OutputError(
            path, f"the format cannot represent the transform of {name}", found=", ".join(found),
            hint="Open the image with SLM-SAM 2, or reset the layer's transform.",
        )  # fmt: skip
