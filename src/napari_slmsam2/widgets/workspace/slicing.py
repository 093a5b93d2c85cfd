"""Which voxels of a layer napari draws: its composed transform and the sliders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.components import Dims
from napari.layers import Layer

from napari_slmsam2.core.errors import VolumeError

PLACE = ("units", "scale", "translate", "rotate", "shear", "affine")
"""What places a layer; also the names of the layer's events."""

_FLAT = 1e-6

_Floats = npt.NDArray[np.float64]


def composed_transform(layer: Layer) -> tuple[_Floats, _Floats]:
    """Voxel indices to world coordinates: scale, rotate, shear, translate and affine in one.

    Returns
    -------
    matrix : ndarray of float, shape (ndim, ndim)
    offset : ndarray of float, shape (ndim,)
        In the units of the layer.

    Raises
    ------
    VolumeError
        The transform has no inverse: voxels have no extent along some direction.
    """
    offset = np.asarray(layer.data_to_world(np.zeros(layer.ndim)), float)
    steps = [np.asarray(layer.data_to_world(unit), float) for unit in np.eye(layer.ndim)]
    matrix = np.stack(steps, axis=1) - offset[:, None]
    if not np.isfinite(matrix).all() or _is_flat(_directions(matrix)):
        raise VolumeError(
            f"layer {layer.name!r}",
            "has a transform without an inverse",
            expected="a finite scale other than 0 along each axis",
            found=f"scale {tuple(float(s) for s in layer.scale)}",
            hint="Set layer.scale (and layer.affine) to the voxel size of the image.",
        )
    return matrix, offset


def unit_factors(layer: Layer, unit: Any) -> _Floats:
    """What one unit of each axis of a layer is in another unit; 1 where they do not compare."""
    return np.array([_factor(own, unit) for own in layer.units])


def voxel_size(layer: Layer, axes: Sequence[int], unit: Any) -> tuple[float, float, float]:
    """Distance of voxel centres along three axes of a layer, by its composed transform.

    Parameters
    ----------
    layer : Layer
    axes : sequence of int
        The three spatial axes.
    unit : pint.Unit
        The unit of the result.

    Raises
    ------
    VolumeError
        The transform has no inverse.
    """
    matrix, _ = composed_transform(layer)
    steps = (matrix * unit_factors(layer, unit)[:, None])[np.ix_(list(axes), list(axes))]
    i, j, k = (float(length) for length in np.linalg.norm(steps, axis=0))
    return i, j, k


def transform_of(layer: Layer) -> dict[str, Any]:
    """The arguments that place a new layer on the grid of another one."""
    return {name: getattr(layer, name) for name in (*PLACE, "axis_labels")}


def copy_transform(source: Layer, target: Layer) -> None:
    """Place a layer on the grid of another one; only what differs is set."""
    now = transform_of(target)
    for name, value in transform_of(source).items():
        if not _is_equal(now[name], value):
            setattr(target, name, value)


def is_placed(layer: Layer, transform: Mapping[str, Any]) -> bool:
    """Whether a layer lies exactly where a transform of `transform_of` puts it."""
    now = transform_of(layer)
    return all(_is_equal(now[name], transform[name]) for name in PLACE)


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):  # of names or units
        return bool(one == other)
    return np.array_equal(np.asarray(one), np.asarray(other))


class LayerSlicing:
    """How the sliders of a viewer cut a layer, as napari draws it in 2D.

    napari applies to the sliders the part of the inverse transform that belongs to the axes that
    are not displayed, and to the picture the part of the transform that belongs to the displayed
    ones. Where the transform mixes the two (a rotation or shear out of the plane), that is not
    what `Layer.world_to_data` gives.

    Parameters
    ----------
    layer : Layer
    dims : Dims
        Of the viewer; in a 3D view the first of the three displayed axes counts as hidden.

    Raises
    ------
    VolumeError
        The transform has no inverse, or the sliders do not move through the slices.
    """

    def __init__(self, layer: Layer, dims: Dims) -> None:
        self._first = dims.ndim - layer.ndim
        if self._first < 0:
            raise VolumeError(f"layer {layer.name!r}", "is not in the viewer")
        order = [axis - self._first for axis in dims.order if axis >= self._first]
        self._hidden, self._shown = order[:-2], order[-2:]
        matrix, offset = composed_transform(layer)
        factors = np.ones(layer.ndim)
        if dims.units is not None:
            factors = np.array(
                [_factor(u, v) for u, v in zip(layer.units, dims.units[-layer.ndim :], strict=True)]
            )
        # From here on in the units of the viewer.
        self._matrix, self._offset = matrix * factors[:, None], offset * factors
        self._inverse = np.linalg.inv(self._matrix)
        self._start = -self._inverse @ self._offset
        hidden, shown = np.ix_(self._hidden, self._hidden), np.ix_(self._shown, self._shown)
        through, flat = self._inverse[hidden], self._matrix[shown]
        directions = _directions(self._matrix)
        if _is_flat(np.linalg.inv(directions)[hidden]) or _is_flat(directions[shown]):
            raise VolumeError(
                f"layer {layer.name!r}",
                "is turned out of the plane on screen so far that the sliders do not move through "
                "its slices",
                expected="a rotation, shear or affine that keeps each axis on its slider",
                found=f"affine {np.round(self._matrix, 3).tolist()}",
                hint="Remove the rotation from the layer, or open the file with the SLM-SAM 2 "
                "reader, which shows slices as they are in the file.",
            )
        self._through, self._back = through, np.linalg.inv(through)
        self._flat, self._unflat = flat, np.linalg.inv(flat)

    def hidden_position(self, point: Sequence[float]) -> dict[int, float]:
        """Voxel coordinates, by axis that is not displayed, of a point of the viewer."""
        world = np.array([point[axis + self._first] for axis in self._hidden])
        position = self._through @ world + self._start[self._hidden]
        return dict(zip(self._hidden, position.tolist(), strict=True))

    def point_at(self, point: Sequence[float], voxels: dict[int, float]) -> dict[int, float]:
        """Where the sliders stand, by axis of the viewer, to show other voxel coordinates.

        Parameters
        ----------
        point : sequence of float
            Where they stand now.
        voxels : dict of {axis of the layer: coordinate}
            Of axes that are not displayed; the other ones stay.
        """
        position = {**self.hidden_position(point), **voxels}
        wanted = np.array([position[axis] for axis in self._hidden])
        world = self._back @ (wanted - self._start[self._hidden])
        return {
            axis + self._first: float(value)
            for axis, value in zip(self._hidden, world, strict=True)
        }

    def plane_position(self, position: Sequence[float]) -> dict[int, float]:
        """Voxel coordinates, by displayed axis, of a world position on the canvas."""
        world = np.array([position[axis + self._first] for axis in self._shown])
        place = self._unflat @ (world - self._offset[self._shown])
        return dict(zip(self._shown, place.tolist(), strict=True))

    def tilt(self, shape: Sequence[int]) -> float:
        """How far, in voxels, the picture lies from where the transform puts its voxels.

        0 where the transform keeps the slices on the sliders; the largest of the corners of the
        grid otherwise.

        Parameters
        ----------
        shape : sequence of int
            Voxels along each axis of the layer.
        """
        corners = np.array(list(product(*((0.0, float(n - 1)) for n in shape))))
        world = np.empty_like(corners)
        hidden = corners[:, self._hidden] - self._start[self._hidden]
        world[:, self._hidden] = hidden @ self._back.T
        world[:, self._shown] = corners[:, self._shown] @ self._flat.T + self._offset[self._shown]
        return float(np.abs(world @ self._inverse.T + self._start - corners).max())


def _factor(own: Any, wanted: Any) -> float:
    """What one unit is in another one; 1 where they do not compare (pixels)."""
    if own == wanted or not own.is_compatible_with(wanted):
        return 1.0
    return float((1.0 * own).to(wanted).magnitude)


def _directions(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The steps from voxel to voxel, each of length 1 (0 where there is none)."""
    lengths = np.sqrt((matrix**2).sum(axis=0))
    return matrix / np.where(lengths == 0, 1.0, lengths)


def _is_flat(directions: npt.NDArray[Any]) -> bool:
    """Whether steps do not span all axes, whatever their lengths and units."""
    return abs(float(np.linalg.det(directions))) < _FLAT
