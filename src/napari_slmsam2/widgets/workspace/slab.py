"""A few slices of a stack as a layer of their own, exactly where the stack has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Image, Labels
from napari.utils.transforms import Affine

from napari_slmsam2.widgets.workspace.grid import SliceView, grid_shape
from napari_slmsam2.widgets.workspace.slicing import transform_of


def slab_shape(layer: Image | Labels, view: SliceView, n_slices: int) -> tuple[int, ...]:
    """The shape of an array for some slices of a stack; axes beside the stack have one index."""
    sizes = dict(enumerate(grid_shape(layer)))
    sizes |= {axis: 1 for axis, _ in view.held}
    sizes[view.layer_axis] = n_slices
    return tuple(sizes[axis] for axis in range(layer.ndim))


def slab_key(view: SliceView, number: int) -> tuple[Any, ...]:
    """The index expression into such an array for one of its slices."""
    return replace(view, held=tuple((axis, 0) for axis, _ in view.held)).slice_key(number)


def slab_transform(layer: Image | Labels, view: SliceView, first: int) -> dict[str, Any]:
    """The arguments that place a layer with such an array, which begins at a slice."""
    start = np.zeros(layer.ndim)
    start[view.layer_axis] = first
    for axis, index in view.held:
        start[axis] = index
    transform = transform_of(layer)
    steps = Affine(scale=layer.scale, rotate=layer.rotate, shear=layer.shear).linear_matrix
    transform["translate"] = np.asarray(layer.translate) + steps @ start
    return transform
