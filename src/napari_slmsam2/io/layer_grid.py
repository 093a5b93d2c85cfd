"""The grid of a file as a layer carries it in its metadata, so that labels can be written on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.label_table import RGBA, LabelTable, distinct_colour
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io import LoadedImage
from napari_slmsam2.io.geometry import SPATIAL, Geometry, TimeAxis
from napari_slmsam2.io.raw import Colours
from napari_slmsam2.io.units import time_unit_name

_LETTERS = {"t": "t", "time": "t", "c": "c", "ch": "c", "channel": "c"}

METADATA_KEY = "napari_slmsam2"
"""Where `Layer.metadata` holds a grid. A layer on the same grid has a copy of it."""

TABLE_KEY = "napari_slmsam2_label_table"
"""Where the metadata of a Labels layer holds the `LabelTable` that was edited in the window."""

_MOST_COLOURS = 2**16 - 1
"""Colours of a cycle that napari draws from a texture of integers."""


def grid_of(
    shape: tuple[int, ...],
    geometry: Geometry,
    *,
    order: str,
    path: str | None = None,
    file_format: str = "",
    template: Any = None,
    table: LabelTable | None = None,
) -> dict[str, Any]:
    """Describe a grid in plain values, but for the header of the file and the label table.

    Parameters
    ----------
    shape : tuple of int
        Of the three spatial axes.
    geometry : Geometry
    order : str
        Names of the spatial axes, in the file and in the layer: ``"xyz"`` in some order.
    path : str, optional
        The file.
    file_format : str
    template : object
        What the writer of the same format needs to give labels the same header.
    table : LabelTable, optional
        Names and colours of labels.

    Returns
    -------
    dict
    """
    return {
        "path": path,
        "format": file_format,
        "order": order,
        "shape": tuple(int(n) for n in shape),
        "spacing": geometry.spacing,
        "unit": geometry.unit,
        "affine": geometry.affine,
        "origin": geometry.origin,
        "time": geometry.time,
        "template": template,
        "label_table": table or LabelTable(),
    }


def loaded_image(grid: Mapping[str, Any], data: Any) -> LoadedImage:
    """The image of a grid as `io.write_labels` takes it.

    Parameters
    ----------
    grid : mapping
    data : array_like, shape of the grid
        Its voxels.
    """
    geometry = Geometry(
        tuple(grid["spacing"]), grid["unit"], grid["affine"], grid["origin"], grid.get("time")
    )
    path = Path(grid["path"] or "image")
    volume = Volume(data, 0, geometry.spacing, geometry.unit, geometry.affine, name=str(path))
    return LoadedImage(
        volume,
        path,
        grid["format"],
        np.dtype(data.dtype),
        "",
        grid["order"],
        geometry,
        grid["template"],
        label_table=grid.get("label_table") or LabelTable(),
    )


def colours_of(colormap: Any) -> Colours:
    """The colours of a Labels layer, of all labels also where it shows the selected one only.

    Parameters
    ----------
    colormap : CyclicLabelColormap or DirectLabelColormap
        napari's.

    Returns
    -------
    callable
    """
    if colormap.use_selection:
        colormap = type(colormap)(**{**colormap.model_dump(), "use_selection": False})
    colours: Colours = colormap.map
    return colours


def table_of(metadata: Mapping[str, Any]) -> LabelTable:
    """The label table of a Labels layer: the edited one, else that of its file."""
    table: LabelTable | None = metadata.get(TABLE_KEY)
    if table is None:
        table = metadata.get(METADATA_KEY, {}).get("label_table")
    return LabelTable() if table is None else table


def colour_cycle(
    colours: Mapping[int, RGBA], base: npt.NDArray[np.floating] | None = None
) -> npt.NDArray[np.float32]:
    """The colours of a cyclic colormap in which some labels have colours of their own.

    Parameters
    ----------
    colours : mapping of label to RGBA
        Labels above 65534 are left out.
    base : ndarray, shape (n, 4)
        Colours of the background and of labels 1 to n - 1, which are repeated. Default: 49
        colours of which neighbours differ.

    Returns
    -------
    ndarray of float32, shape (n, 4)
        The first colour is that of the background.
    """
    if base is None:
        base = np.array([(0.0, 0.0, 0.0, 0.0), *(distinct_colour(i) for i in range(49))])
    period = len(base) - 1
    own = {label: colour for label, colour in colours.items() if 0 < label < _MOST_COLOURS}
    repeats = -(-max(own, default=1) // period)
    cycle = np.concatenate([base[:1], np.tile(base[1:], (repeats, 1))])[:_MOST_COLOURS]
    for label, colour in own.items():
        cycle[label] = colour
    return cycle.astype(np.float32)


def layer_geometry(geometry: Geometry, n_dims: int, order: str) -> dict[str, Any]:
    """Scale, translation, units and axis labels of a layer of ``n_dims`` spatial axes.

    A rotation or a reflection of the file is not shown: slices stay slices. It stays in the grid.
    """
    kept = [i for i, axis in enumerate(order) if n_dims == 3 or axis != "z"]
    origin = geometry.origin_along(order) or (0.0, 0.0, 0.0)
    return {
        "scale": [geometry.spacing[i] for i in kept],
        "translate": [origin[i] for i in kept],
        "units": [geometry.unit] * n_dims,
        "axis_labels": [order[i] for i in kept],
    }


def spatial_axes(names: Sequence[object]) -> tuple[int, ...]:
    """The axes of space of a layer: those called x, y and z, else the last three.

    Parameters
    ----------
    names : sequence of str
        Labels of the layer's axes. Axes called time or channel are not counted.
    """
    words = [str(name).lower() for name in names]
    called = [i for i, word in enumerate(words) if word in SPATIAL and word]
    if sorted(words[i] for i in called) == sorted(SPATIAL):
        return tuple(called)
    return tuple(i for i, word in enumerate(words) if word not in _LETTERS)[-3:]


def lead_axes(shape: Sequence[int], names: Sequence[object], axes: Sequence[int]) -> dict[int, str]:
    """What the axes of a layer beside three axes of space are: ``t``, ``c``, or ``?``.

    Parameters
    ----------
    shape : sequence of int
        Of the layer.
    names : sequence of str
        Labels of its axes. Those that specify nothing are time first, then channels.
    axes : sequence of int
        The axes of space.

    Returns
    -------
    dict of {axis: letter}
        Ascending; without axes of length 1.
    """
    beside = [a for a, n in enumerate(shape) if a not in axes and n > 1]
    letters = {a: _LETTERS.get(str(names[a]).lower(), "?") for a in beside}
    free = [letter for letter in "tc" if letter not in letters.values()]
    return {a: free.pop(0) if x == "?" and free else x for a, x in letters.items()}


def with_lead_first(data: Any, axes: Sequence[int], lead: Mapping[int, str]) -> npt.NDArray[Any]:
    """The array of a layer with the axes of `lead_axes` first, then those of space."""
    kept = [*lead, *axes]
    array = np.asarray(data)[tuple(slice(None) if a in kept else 0 for a in range(data.ndim))]
    return array.transpose([sorted(kept).index(a) for a in kept])


def layer_time(
    lead: Mapping[int, str], scale: Sequence[float], units: Sequence[object], start: Sequence[float]
) -> TimeAxis | None:
    """The time axis that the transform of a layer describes; None without one."""
    for axis, letter in lead.items():
        if letter == "t":
            return TimeAxis.usable(scale[axis], time_unit_name(units[axis]), start[axis])
    return None
