"""What a prompt marks on a slice: pixels inside and outside, a box, the interior of a lasso."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon2mask

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.clicks.region import Region, box_region, lasso_region
from napari_slmsam2.engine.features.resampling import resample

Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int64]
Window = tuple[slice, slice]

STROKE_AREA, STROKE_AREA_SPREAD = 0.9, 0.6
"""Area of an object over the squared length of strokes through it, and the spread of its logarithm.

Measured on training volumes with strokes from end to end of the inner half of objects; the spread
there was 0.43, and people draw shorter strokes, too."""

SLENDER = 4.0
"""Squared length of strokes over their pixels from which on they describe the size of an object."""


@dataclass(frozen=True, slots=True, eq=False)
class Hints:
    """Marks in pixels of an image.

    Attributes
    ----------
    inside, outside : ndarray of int, shape (N, 2)
        Pixels that were clicked or that strokes cover.
    box : ndarray of float, shape (4,), or None
        ``(row_min, column_min, row_max, column_max)``, with the pixels inside the object.
    lasso : ndarray of bool, shape (H, W), or None
        The interior of a polygon.
    stroke_area : float or None
        Expected area of the object, in pixels, by the strokes through it; None without a stroke.
    """

    inside: Pixels
    outside: Pixels
    box: Field | None = None
    lasso: Mask | None = None
    stroke_area: float | None = None

    @classmethod
    def drawn_by(cls, prompt: SlicePrompt, shape: tuple[int, ...]) -> Self:
        """Box, lasso and strokes of a prompt, without its clicks, on a slice of a shape."""
        rim, nothing = np.array(shape) - 1, np.empty((0, 2), np.int64)
        inside = outside = nothing
        if prompt.scribble is not None and prompt.scribble_labels is not None:
            pixels = np.clip(prompt.scribble, 0, rim)
            inside = pixels[prompt.scribble_labels == 1]
            outside = pixels[prompt.scribble_labels == 0]
        box = None
        if prompt.box is not None:
            box = np.clip(np.array(prompt.box), -0.5, np.tile(rim + 0.5, 2))
        lasso = None if prompt.lasso is None else lasso_interior(prompt.lasso, shape)
        return cls(inside, outside, box, lasso, _stroke_area(inside))

    @property
    def marks_inside(self) -> bool:
        """Whether these marks are enough to find an object."""
        return self.box is not None or self.lasso is not None or len(self.inside) > 0

    def with_clicks(self, pixels: Pixels, signs: Mask) -> Hints:
        """These marks and clicks, shape (N, 2) and (N,); where they differ, the clicks count."""
        clicked = {tuple(p) for p in pixels.tolist()}

        def free(strokes: Pixels) -> Pixels:
            kept = [tuple(p) not in clicked for p in strokes.tolist()]
            return strokes[np.array(kept, bool)]

        inside = np.concatenate([pixels[signs], free(self.inside)])
        outside = np.concatenate([pixels[~signs], free(self.outside)])
        box = self.box
        if box is not None:
            for row, column in inside:
                here = (row - 0.5, column - 0.5, row + 0.5, column + 0.5)
                box = np.r_[np.minimum(box[:2], here[:2]), np.maximum(box[2:], here[2:])]
        return replace(self, inside=inside, outside=outside, box=box)

    @property
    def extent(self) -> Field | None:
        """The box around box, lasso and pixels inside; None without box and lasso."""
        if self.lasso is None:
            return self.box
        places = np.concatenate([np.argwhere(self.lasso), self.inside])
        around = np.r_[places.min(0) - 0.5, places.max(0) + 0.5]
        if self.box is None:
            return around
        return np.r_[np.minimum(around[:2], self.box[:2]), np.maximum(around[2:], self.box[2:])]

    def region(self, shape: tuple[int, int]) -> Region:
        """Where the object surely is and is not; for a lasso or a box."""
        if self.lasso is not None:
            return lasso_region(self.lasso, self.inside, self.outside)
        assert self.box is not None
        return box_region(shape, self.box, self.inside, self.outside)

    def on_grid(self, window: Window, shape: tuple[int, int]) -> Hints:
        """These marks on another grid that covers a window of the image."""
        start = np.array([side.start for side in window])
        size = np.array([side.stop - side.start for side in window])
        scale = np.array(shape) / size

        def scaled(places: npt.NDArray[np.generic]) -> Field:
            return np.asarray((places - start + 0.5) * scale - 0.5)

        def pixels(places: Pixels) -> Pixels:
            there = np.clip(np.rint(scaled(places)), 0, np.array(shape) - 1).astype(np.int64)
            # In their order: the first click inside has a meaning of its own.
            first = np.unique(there, axis=0, return_index=True)[1]
            return there[np.sort(first)]

        seen = ((self.outside >= start) & (self.outside < start + size)).all(1)
        inside, outside = pixels(self.inside), pixels(self.outside[seen])
        # On a coarse grid a pixel may be both: pixels inside have priority.
        outside = outside[~(outside[:, None] == inside[None]).all(2).any(1)]
        box = lasso = None
        if self.box is not None:
            box = np.concatenate([scaled(self.box[:2]), scaled(self.box[2:])])
        if self.lasso is not None:
            lasso = resample(self.lasso[window].astype(np.float32), shape) > 0.5
        area = None if self.stroke_area is None else self.stroke_area * float(scale.prod())
        return Hints(inside, outside, box, lasso, area)


def _stroke_area(inside: Pixels) -> float | None:
    """The expected area of an object that strokes run through; None for dabs."""
    if not len(inside):
        return None
    squared = float((np.ptp(inside, axis=0) ** 2).sum())
    return STROKE_AREA * squared if squared > SLENDER * len(inside) else None


def lasso_interior(outline: Field, shape: tuple[int, ...]) -> Mask:
    """The pixels inside a polygon with these corners; at least one."""
    interior = np.asarray(polygon2mask(shape, outline), bool)
    if not interior.any():  # it is thinner than a pixel
        rows, columns = np.clip(np.rint(outline), 0, np.array(shape) - 1).astype(int).T
        interior[rows, columns] = True
    return interior
