"""Names of array axes, where voxels lie, and when they were taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.io.units import NO_UNIT

SPATIAL = "xyz"


@dataclass(frozen=True)
class TimeAxis:
    """When the volumes of a time series were taken.

    Attributes
    ----------
    step : float
        Time between two volumes, in ``unit``.
    unit : str
        ``s``, ``ms``, ...; ``pixel`` where it is not known.
    start : float
        Time of the first volume.
    """

    step: float = 1.0
    unit: str = NO_UNIT
    start: float = 0.0

    @classmethod
    def usable(cls, step: object, unit: str, start: object = 0.0) -> TimeAxis | None:
        """The axis of what a header specifies; None where the step is no positive number."""
        try:
            values = float(step), float(start)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return None
        if not np.isfinite(values).all() or values[0] <= 0:
            return None
        return cls(values[0], unit, values[1])


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a 3D array lie, and when the volumes of a series were taken.

    Attributes
    ----------
    spacing : tuple of float
        Distance of voxel centres along the three axes, in ``unit``.
    unit : str
        ``um``, ``mm``, ...; ``pixel`` where it is not known.
    affine : ndarray of float64, shape (4, 4), or None
        Voxel indices to world coordinates (x to the right, y anterior, z superior) in ``unit``.
        None where the file does not specify it.
    origin : tuple of float or None
        Position of the first voxel along the three axes, in ``unit``, in a file that specifies
        this but not the directions of the axes in the world.
    time : TimeAxis or None
        Of a time series; None where the file does not specify it.
    """

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = NO_UNIT
    affine: npt.NDArray[np.float64] | None = None
    origin: tuple[float, float, float] | None = None
    time: TimeAxis | None = None

    def transposed(self, axes: Sequence[int]) -> Geometry:
        """The geometry of ``array.transpose(axes)``."""
        i, j, k = axes
        affine = None if self.affine is None else self.affine[:, [i, j, k, 3]]
        origin = None
        if self.origin is not None:
            origin = self.origin[i], self.origin[j], self.origin[k]
        spacing = self.spacing[i], self.spacing[j], self.spacing[k]
        return Geometry(spacing, self.unit, affine, origin, self.time)

    def reordered(self, order: str, new: str) -> Geometry:
        """The geometry of an array of axes ``order`` after its transposition to axes ``new``."""
        return self.transposed(transposition(order, new))

    def origin_along(self, order: str) -> tuple[float, float, float] | None:
        """Position of the first voxel along the axes of the array.

        Parameters
        ----------
        order : str
            Names of the axes, ``"xyz"`` in any order.

        Returns
        -------
        tuple of float or None
            None where it is not known, or the axes are not parallel to those of the world.
        """
        if self.affine is None:
            return self.origin
        affine = self.affine[[*(SPATIAL.index(axis) for axis in order), 3]]
        if not np.allclose(affine[:3, :3], np.diag(self.spacing), rtol=1e-4, atol=1e-6):
            return None
        first, second, third = affine[:3, 3].tolist()
        return first, second, third


def transposition(order: str, new: str) -> list[int]:
    """The argument of ``transpose`` that brings axes of one order into another one."""
    return [order.index(axis) for axis in new]


def name_axes(roles: str, names: Sequence[object], default: str) -> str:
    """The letter of every dimension of an array.

    Parameters
    ----------
    roles : str
        One letter per dimension: ``s`` space, ``c`` channel, ``t`` time, ``?`` not known.
    names : sequence
        What the file calls the dimensions; may be empty.
    default : {"zyx", "xyz"}
        The order of spatial axes that are not called x, y and z.

    Returns
    -------
    str
        ``x``, ``y`` and ``z`` in the place of ``s``.
    """
    spatial = [i for i, role in enumerate(roles) if role == "s"]
    letters = [str(names[i]).strip().lower() for i in spatial] if names else []
    if len(set(letters)) != len(spatial) or not set(letters) <= set(SPATIAL):
        letters = list(default[-len(spatial) :] if default == "zyx" else default[: len(spatial)])
        letters = letters if spatial else []
    if len(letters) != len(spatial):  # more than three: `pick_volume` refuses them
        letters = ["?"] * (len(spatial) - 3) + list(default)
    axes = list(roles)
    for i, letter in zip(spatial, letters, strict=True):
        axes[i] = letter
    return "".join(axes)


def default_axes(n_dims: int, order: str = "zyx") -> str:
    """Letters of the dimensions of an array without a description: the last three are space."""
    return name_axes("?" * (n_dims - 3) + "s" * min(n_dims, 3), (), order)
