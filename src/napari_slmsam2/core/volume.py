"""A 3D image that is read one slice at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import SlmSam2Error, VolumeError


@dataclass(frozen=True, eq=False)
class Volume:
    """An array-like 3D image with a propagation axis and its voxel size.

    Attributes
    ----------
    data : array_like, shape (I, J, K)
        numpy, dask, zarr, an image proxy: anything with ``shape``, ``dtype`` and slicing. It is
        never copied; only the slices asked for are read.
    axis : int
        Propagation axis, 0 to 2.
    spacing : tuple of float
        Distance of voxel centres along the three axes of ``data``, in ``unit``.
    unit : str
    affine : ndarray of float, shape (4, 4), or None
        Voxel indices to world coordinates, where the file has one.
    name : str
        For messages.
    start : tuple of int
        The voxel of the whole image at which a part of it begins.
    """

    data: Any
    axis: int = 0
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = "pixel"
    affine: npt.NDArray[np.float64] | None = None
    name: str = "image"
    start: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        shape = tuple(getattr(self.data, "shape", ()))
        if len(shape) != 3:
            raise VolumeError(
                self.name, "is not a 3D volume", expected="3 dimensions", found=f"shape {shape}"
            )
        if min(shape) < 1:
            raise VolumeError(self.name, "has no voxels", found=f"shape {shape}")
        if self.axis not in (0, 1, 2):
            raise VolumeError(
                self.name, "has no such propagation axis", expected="0, 1 or 2", found=self.axis
            )
        if len(self.spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise VolumeError(
                self.name,
                "has no usable voxel size",
                expected="three positive numbers",
                found=self.spacing,
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the array."""
        i, j, k = self.data.shape
        return int(i), int(j), int(k)

    @property
    def n_slices(self) -> int:
        """Number of slices along the propagation axis."""
        return self.shape[self.axis]

    @property
    def first_slice(self) -> int:
        """The number, in the whole image, of the first slice."""
        return self.start[self.axis]

    @property
    def plane_axes(self) -> tuple[int, int]:
        """The axes of the array along the rows and the columns of a slice."""
        row, column = (a for a in range(3) if a != self.axis)
        return row, column

    @property
    def slice_shape(self) -> tuple[int, int]:
        """``(H, W)`` of one slice."""
        row, column = self.plane_axes
        return self.shape[row], self.shape[column]

    @property
    def slice_spacing(self) -> tuple[float, float, float]:
        """``(slice, row, column)`` distances."""
        row, column = self.plane_axes
        return self.spacing[self.axis], self.spacing[row], self.spacing[column]

    def take(self, index: int) -> np.ndarray:
        """Read one slice, in the dtype of the data.

        Returns
        -------
        ndarray, shape (H, W)

        Raises
        ------
        VolumeError
            There is no such slice, or the data behind it cannot be read (a file that is damaged
            or gone, too little memory).
        """
        if not 0 <= index < self.n_slices:
            raise VolumeError(
                self.name,
                "has no such slice",
                expected=f"0 to {self.n_slices - 1}",
                found=index,
            )
        try:
            return np.asarray(self.data[self.slicer(index)])
        except SlmSam2Error:
            raise
        except Exception as error:
            raise VolumeError(
                self.name,
                f"slice {index} along axis {self.axis} cannot be read",
                found=f"{type(error).__name__}: {error}",
            ) from error

    def slicer(self, index: int) -> tuple[Any, ...]:
        """The index expression of a slice, for this grid's image and label arrays alike."""
        return tuple(index if a == self.axis else slice(None) for a in range(3))

    def with_axis(self, axis: int) -> Volume:
        """The same data with another propagation axis."""
        return replace(self, axis=axis)


def default_axis(spacing: Sequence[float], *, ties: Literal["first", "last"] = "last") -> int:
    """The axis with the coarsest spacing.

    Parameters
    ----------
    spacing : sequence of float
        Distance of voxel centres along the axes of the array.
    ties : {"last", "first"}
        Which of several equally coarse axes (to 1 %) is taken: the one along which slices are
        stacked in the file. That is the last axis of NIfTI and its kin (x, y, z) and the first
        one of TIFF, Zarr and numpy stacks (z, y, x).

    Returns
    -------
    int
    """
    coarsest = max(spacing)
    candidates = [a for a, s in enumerate(spacing) if s >= 0.99 * coarsest]
    return candidates[0 if ties == "first" else -1]
