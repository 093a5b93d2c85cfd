"""A square window that follows the object, and reading and writing slices through it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from napari_slmsam2.engine.features.interpolation import bounding_window

Image = npt.NDArray[np.float32]

MIN_MARGIN = 8.0
"""Pixels of the slice that a window leaves around the object at least."""

SHIFT_TOLERATED = 0.06
"""Distance of the object from the middle of the window, over its side, without a new window."""

GROWTH_TOLERATED = 1.2
"""Change of the side that the object asks for, as a factor, without a new window."""


@dataclass(frozen=True, slots=True)
class ObjectCrop:
    """A square of the slice, sampled with a fixed number of pixels.

    It may reach beyond the slice; what lies there repeats the border.

    Attributes
    ----------
    row, column : float
        Centre, in pixels of the slice.
    side : float
        In pixels of the slice.
    size : int
        Pixels along one side of what the network sees.
    """

    row: float
    column: float
    side: float
    size: int

    @classmethod
    def around(cls, mask: npt.NDArray[np.bool_], size: int, margin: float) -> Self | None:
        """The window around an object; None where the mask is empty.

        Parameters
        ----------
        mask : ndarray of bool, shape (H, W)
        size : int
        margin : float
            Side of the window over the longer side of the object's box.
        """
        box = bounding_window([mask], 0)
        if box is None:
            return None
        row, column = ((s.start + s.stop - 1) / 2 for s in box)
        return cls(row, column, _side(max(s.stop - s.start for s in box), margin), size)

    def following(self, mask: npt.NDArray[np.bool_], margin: float) -> Self:
        """The window around an object that this one shows; itself while it still fits.

        A new window costs an interpolation, which wears small objects away slice by slice.

        Parameters
        ----------
        mask : ndarray of bool, shape (size, size)
            Not empty.
        margin : float
            See `around`.
        """
        box = bounding_window([mask], 0)
        assert box is not None
        middle = (self.size - 1) / 2
        row, column = (
            centre + ((s.start + s.stop - 1) / 2 - middle) / self.zoom
            for s, centre in zip(box, (self.row, self.column), strict=True)
        )
        side = _side(max(s.stop - s.start for s in box) / self.zoom, margin)
        shift = max(abs(row - self.row), abs(column - self.column)) / self.side
        growth = max(side / self.side, self.side / side)
        if shift < SHIFT_TOLERATED and growth < GROWTH_TOLERATED:
            return self
        return replace(self, row=row, column=column, side=side)

    def on_slice(self, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Which pixels of the window lie on a slice of ``shape``: (size, size)."""
        rows, columns = (
            (p >= -0.5) & (p <= n - 0.5)
            for p, n in zip((self._places(self.row), self._places(self.column)), shape, strict=True)
        )
        return rows[:, None] & columns

    def seen_from(self, there: Self, values: Image) -> Image:
        """What this window shows of values that another one shows, linearly.

        Parameters
        ----------
        there : ObjectCrop
        values : ndarray of float32, shape (there.size, there.size)
        """
        places = (
            (self._places(own) - other) * there.zoom + (there.size - 1) / 2
            for own, other in ((self.row, there.row), (self.column, there.column))
        )
        grid = np.meshgrid(*places, indexing="ij")
        return np.asarray(ndi.map_coordinates(values, grid, order=1, mode="nearest"), np.float32)

    @property
    def zoom(self) -> float:
        """Pixels of the window per pixel of the slice."""
        return self.size / self.side

    def read(self, image: Image) -> Image:
        """What the window shows of a slice, linear, smoothed first where it shrinks.

        Parameters
        ----------
        image : ndarray of float32, shape (H, W)

        Returns
        -------
        ndarray of float32, shape (size, size)
        """
        sigma = max(0.0, 0.5 * (1 / self.zoom - 1))
        rows, columns = (self._places(centre) for centre in (self.row, self.column))
        reach = int(np.ceil(4 * sigma)) + 2
        part = tuple(
            slice(
                int(np.clip(np.floor(p[0]) - reach, 0, n - 1)),
                int(np.clip(np.ceil(p[-1]) + reach + 1, 1, n)),
            )
            for p, n in zip((rows, columns), image.shape, strict=True)
        )
        crop = image[part]
        if sigma > 0.0:
            crop = ndi.gaussian_filter(crop, sigma, mode="nearest")
        grid = np.meshgrid(rows - part[0].start, columns - part[1].start, indexing="ij")
        return np.asarray(ndi.map_coordinates(crop, grid, order=1, mode="nearest"), np.float32)

    def write(self, values: Image, target: Image) -> None:
        """Put what was found in the window into the slice, linearly; the rest stays.

        Parameters
        ----------
        values : ndarray of float32, shape (size, size)
        target : ndarray of float32, shape (H, W)
            Changed in place.
        """
        part = self._inside((target.shape[0], target.shape[1]))
        grid = np.meshgrid(
            *(
                (np.arange(s.start, s.stop) - centre) * self.zoom + (self.size - 1) / 2
                for s, centre in zip(part, (self.row, self.column), strict=True)
            ),
            indexing="ij",
        )
        target[part] = ndi.map_coordinates(values, grid, order=1, mode="nearest")

    def _places(self, centre: float) -> npt.NDArray[np.floating]:
        return centre + (np.arange(self.size) - (self.size - 1) / 2) / self.zoom

    def _inside(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        first, last = (
            tuple(centre + sign * self.side / 2 for centre in (self.row, self.column))
            for sign in (-1, 1)
        )
        rows, columns = (
            slice(int(np.clip(np.ceil(a), 0, n)), int(np.clip(np.floor(b) + 1, 0, n)))
            for a, b, n in zip(first, last, shape, strict=True)
        )
        return rows, columns


def _side(longest: float, margin: float) -> float:
    return float(max(margin * longest, longest + 2 * MIN_MARGIN))
