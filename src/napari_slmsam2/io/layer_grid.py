"""The grid of a file as a layer carries it in its metadata, so that labels can be written on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io import LoadedImage
from napari_slmsam2.io.geometry import Geometry
from napari_slmsam2.io.raw import Colours

METADATA_KEY = "napari_slmsam2"
"""Where `Layer.metadata` holds a grid. A layer on the same grid has a copy of it."""


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
        "template": template,
        "label_table": table or LabelTable(),
    }


def loaded_image(grid: Mapping[str, Any], data: Any) -> LoadedImage:
    """The image of a grid as `io.write_labels` takes it; its voxels are those of ``data``."""
    geometry = Geometry(tuple(grid["spacing"]), grid["unit"], grid["affine"], grid["origin"])
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
