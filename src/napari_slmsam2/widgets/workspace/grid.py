"""Layers as volumes: the stack of slices on screen, its voxels, and labels on the same grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from napari.components import Dims
from napari.layers import Image, Labels

from napari_slmsam2.core.errors import GridMismatchError, SlmSam2Error, VolumeError
from napari_slmsam2.core.volume import Volume, default_axis
from napari_slmsam2.io.units import IN_MM, unit_name
from napari_slmsam2.widgets.workspace.slicing import (
    LayerSlicing,
    composed_transform,
    transform_of,
    unit_factors,
    voxel_size,
)

_SAME_VOXEL = 0.05
"""Voxels of two layers that lie closer, in voxel steps, are the same."""
_TILTED = 0.5
"""The brush meets another voxel than the one on screen from here on, in voxel steps."""
_NOT_SPACE = ("t", "time", "c", "channel", "ch")
_LUMINANCE = np.array([0.2125, 0.7154, 0.0721], np.float32)


@dataclass(frozen=True, slots=True)
class SliceView:
    """A stack of slices in a layer's array: three axes; the other ones are held at an index.

    Attributes
    ----------
    axes : tuple of int
        The three axes of the layer's array, ascending.
    axis : int
        Which of them, 0 to 2, the slices are stacked along.
    held : tuple of (axis, index)
        The other axes (time, channel) and where their sliders stand.
    """

    axes: tuple[int, int, int]
    axis: int
    held: tuple[tuple[int, int], ...] = ()

    @property
    def layer_axis(self) -> int:
        """The layer's axis that the slices are stacked along."""
        return self.axes[self.axis]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        i, j, k = (int(axis) for axis in values["axes"])
        held = tuple((int(axis), int(index)) for axis, index in values["held"])
        return cls((i, j, k), int(values["axis"]), held)

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return {"axes": list(self.axes), "axis": self.axis, "held": [list(h) for h in self.held]}

    def key(self, volume_key: tuple[Any, ...]) -> tuple[Any, ...]:
        """The index expression into the layer's array for one into the stack."""
        full: dict[int, Any] = dict(self.held)
        full.update(zip(self.axes, volume_key, strict=True))
        return tuple(full[axis] for axis in sorted(full))

    def slice_key(
        self, index: int, bbox: tuple[slice, slice] = (slice(None), slice(None))
    ) -> tuple[Any, ...]:
        """The index expression into the layer's array for a part of one slice."""
        key: list[Any] = list(bbox)
        key.insert(self.axis, index)
        return self.key(tuple(key))


class StackArray:
    """The three axes of a `SliceView` of any array-like; read when it is indexed.

    Parameters
    ----------
    data : array_like
    view : SliceView
    rgb : bool
        The last axis holds colours; what is read is their luminance (Rec. 709).
    """

    def __init__(self, data: Any, view: SliceView, *, rgb: bool = False) -> None:
        self._data = data
        self._view = view
        self._rgb = rgb
        self.shape = tuple(int(data.shape[axis]) for axis in view.axes)
        self.dtype = np.dtype(np.float32) if rgb else np.dtype(data.dtype)

    def __getitem__(self, key: tuple[Any, ...]) -> npt.NDArray[Any]:
        values = np.asarray(self._data[self._view.key(key)])
        return values[..., :3].astype(np.float32) @ _LUMINANCE if self._rgb else values


def finest(layer: Image | Labels) -> Any:
    """The array of a layer; of a multiscale one the finest level."""
    return layer.data[0] if layer.multiscale else layer.data


def grid_shape(layer: Image | Labels) -> tuple[int, ...]:
    """Voxels along each axis of a layer, without colours."""
    return tuple(int(n) for n in finest(layer).shape[: layer.ndim])


def view_on_screen(layer: Image | Labels, dims: Dims) -> SliceView:
    """The stack of slices that the sliders move through.

    The plane on screen is the slice. Slices are stacked along the innermost slider axis that is
    no time and no channel by its label; all other axes are held where their sliders stand. In a
    3D view the first of the three displayed axes is taken.

    Raises
    ------
    VolumeError
        There is no axis for the slices, or the sliders do not reach the voxels.
    """
    shape = grid_shape(layer)
    offset = dims.ndim - layer.ndim
    order = [axis - offset for axis in dims.order if axis >= offset]
    plane = order[-2:]
    labels = [str(name).lower() for name in layer.axis_labels]
    stacks = [a for a in order[:-2] if shape[a] > 1 and labels[a] not in _NOT_SPACE]
    if not stacks:
        raise VolumeError(
            f"layer {layer.name!r}",
            "has no stack of slices in this view",
            expected="three dimensions with the slices along a slider",
            found=f"shape {shape}",
            hint="Open a 3D image, or roll the axes (Ctrl+E) to show another plane.",
        )
    axes = sorted([stacks[-1], *plane])
    position = LayerSlicing(layer, dims).hidden_position(dims.point)
    held = tuple((a, _nearest(position[a], shape[a])) for a in range(layer.ndim) if a not in axes)
    return SliceView((axes[0], axes[1], axes[2]), axes.index(stacks[-1]), held)


def slice_on_screen(layer: Image | Labels, view: SliceView, dims: Dims) -> int:
    """The slice index that napari draws, within the stack."""
    position = LayerSlicing(layer, dims).hidden_position(dims.point)
    # Where the axes were just rolled, the slice axis of an older view may be displayed.
    return _nearest(position.get(view.layer_axis, 0.0), grid_shape(layer)[view.layer_axis])


def show_slice(layer: Image | Labels, view: SliceView, dims: Dims, index: int) -> None:
    """Move the slider to a slice."""
    _move(layer, dims, {view.layer_axis: float(index)})


def hold(layer: Image | Labels, dims: Dims, axis: int, index: int) -> None:
    """Move the slider of an axis beside the stack (time, channel) to an index."""
    _move(layer, dims, {axis: float(index)})


def place_on_slice(
    layer: Image | Labels, view: SliceView, dims: Dims, position: Any
) -> tuple[float, float]:
    """``(row, column)`` on the slice on screen of a world position under the mouse."""
    place = LayerSlicing(layer, dims).plane_position(position)
    row, column = (place[axis] for axis in view.axes if axis != view.layer_axis)
    return row, column


def is_tilted(layer: Image | Labels, dims: Dims) -> bool:
    """Whether the picture on screen lies beside the voxels that the brush and the world meet."""
    return LayerSlicing(layer, dims).tilt(grid_shape(layer)) > _TILTED


def _move(layer: Image | Labels, dims: Dims, voxels: dict[int, float]) -> None:
    """Move the sliders to voxel coordinates, by axis of the layer."""
    moved = LayerSlicing(layer, dims).point_at(dims.point, voxels)
    dims.set_point(tuple(moved), tuple(moved.values()))


def _nearest(position: float, n: int) -> int:
    return int(np.clip(round(position), 0, n - 1))


def show_view(layer: Image | Labels, view: SliceView, dims: Dims) -> None:
    """Order the axes so that the sliders move through a stack of slices.

    Of the plane's axes, x is shown to the right and z downwards, where the layer names them.
    """
    offset = dims.ndim - layer.ndim
    plane = [axis for axis in view.axes if axis != view.layer_axis]
    names = [str(layer.axis_labels[axis]).lower() for axis in plane]
    if set(names) <= set("xyz"):
        plane.sort(key=lambda axis: str(layer.axis_labels[axis]).lower(), reverse=True)
    last = [axis + offset for axis in (view.layer_axis, *plane)]
    dims.order = (*(axis for axis in dims.order if axis not in last), *last)
    if view.held:
        _move(layer, dims, {axis: float(index) for axis, index in view.held})


def sharpest_view(layer: Image | Labels, view: SliceView) -> SliceView:
    """The stack of the planes between which voxels are longest.

    ``view`` itself where no other axis is longer, within 1 %.
    """
    spacing = _spacing(layer, view)
    axis = default_axis(spacing)
    return view if spacing[view.axis] >= 0.99 * spacing[axis] else replace(view, axis=axis)


def axis_name(axis: int, names: tuple[str, ...]) -> str:
    """``2 (z)``, or the number alone where the axis has no name."""
    name = str(names[axis])
    return str(axis) if name.lstrip("-").isdigit() else f"{axis} ({name})"


def make_volume(image: Image, view: SliceView) -> Volume:
    """The volume of an image layer; nothing is read or copied."""
    data = finest(image)
    plain = not image.rgb and not view.held
    return Volume(
        data if plain else StackArray(data, view, rgb=image.rgb),
        view.axis,
        _spacing(image, view),
        unit_name(image.units[view.layer_axis]),
        name=f"layer {image.name!r}",
    )


def _spacing(layer: Image | Labels, view: SliceView) -> tuple[float, float, float]:
    """Voxel size along the axes of a stack, in the unit of its slice axis."""
    return voxel_size(layer, view.axes, layer.units[view.layer_axis])


def world_affine(layer: Image | Labels, view: SliceView) -> npt.NDArray[np.float64]:
    """Stack indices to world coordinates in the order (x, y, z), shape (4, 4).

    The last axis of the layer's world is x. In the unit of the slice axis.
    """
    matrix, offset = composed_transform(layer)
    for axis, index in view.held:
        offset = offset + index * matrix[:, axis]
    factors = unit_factors(layer, layer.units[view.layer_axis])
    rows = list(view.axes)[::-1]
    affine = np.eye(4)
    affine[:3, :3] = (matrix * factors[:, None])[np.ix_(rows, list(view.axes))]
    affine[:3, 3] = (offset * factors)[rows]
    return affine


def voxel_volume(layer: Image | Labels, view: SliceView) -> float | None:
    """The volume of a voxel in mm3, exact for sheared layers too; None without a unit."""
    unit = IN_MM.get(unit_name(layer.units[view.layer_axis]))
    if unit is None:
        return None
    return float(abs(np.linalg.det(world_affine(layer, view)[:3, :3])) * unit**3)


def check_same_grid(image: Image, labels: Labels) -> None:
    """Refuse labels that are not on the voxels of an image.

    Raises
    ------
    GridMismatchError
        Names what differs and what to do.
    """
    what = f"labels {labels.name!r} on image {image.name!r}"
    hint = "Make a matching Labels layer instead."
    if labels.multiscale:
        raise GridMismatchError(what, "a multiscale Labels layer cannot be edited", hint=hint)
    if not _is_writable(labels.data):
        raise GridMismatchError(
            what,
            "these labels cannot be written",
            expected="an array that can be written",
            found=f"a read-only {type(labels.data).__name__}",
            hint=hint,
        )
    ours, theirs = grid_shape(image), grid_shape(labels)
    if ours != theirs:
        raise GridMismatchError(what, "the shapes differ", expected=ours, found=theirs, hint=hint)
    if image.units != labels.units:
        raise GridMismatchError(
            what,
            "the units differ",
            expected=", ".join(map(str, image.units)),
            found=", ".join(map(str, labels.units)),
            hint=hint,
        )
    shift = _largest_shift(image, labels)
    if shift > _SAME_VOXEL:
        raise GridMismatchError(
            what,
            f"they are not at the same place, but {shift:.3g} voxels apart",
            expected=_placement(image),
            found=_placement(labels),
            hint=f"Give the Labels layer the scale and translate of the image, or: {hint}",
        )


def _is_writable(data: Any) -> bool:
    """Whether an array can be written: neither computed (dask) nor opened read-only."""
    if not hasattr(data, "__setitem__") or hasattr(data, "dask"):
        return False
    flags = getattr(data, "flags", None)
    return bool(getattr(flags, "writeable", True)) and not getattr(data, "read_only", False)


def _largest_shift(image: Image, labels: Labels) -> float:
    """The largest distance of the corners of two layers, in voxels of the image along an axis."""
    matrix, offset = composed_transform(image)
    inverse = np.linalg.inv(matrix)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in grid_shape(image)]))
    corners = corners.reshape(image.ndim, -1).T.astype(float)
    world = np.array([labels.data_to_world(corner) for corner in corners])
    return float(np.abs((world - offset) @ inverse.T - corners).max())


def _placement(layer: Image | Labels) -> str:
    """Scale and translation of a layer, and what else moves it, for messages."""
    numbers = {"scale": layer.scale, "translate": layer.translate}
    text = ", ".join(f"{k} {tuple(round(float(x), 6) for x in v)}" for k, v in numbers.items())
    plain = not np.any(layer.shear) and np.array_equal(layer.rotate, np.eye(layer.ndim))
    if not plain or not np.array_equal(layer.affine.affine_matrix, np.eye(layer.ndim + 1)):
        text += ", rotated, sheared or with an affine"
    return text


def is_same_grid(image: Image, labels: Labels) -> bool:
    """Whether labels are on the voxels of an image and can be written."""
    try:
        check_same_grid(image, labels)
    except SlmSam2Error:
        return False
    return True


def make_labels_layer(image: Image) -> Labels:
    """An empty Labels layer on the exact grid of an image; not added to any viewer."""
    return Labels(
        np.zeros(grid_shape(image), np.uint8),
        name=f"{image.name} labels",
        # It holds the grid of the file, for writers.
        metadata=dict(image.metadata),
        **transform_of(image),
    )
