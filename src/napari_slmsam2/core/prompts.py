"""Seeds: the annotation of one slice. Immutable; arrays are copied on entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompt_checks import (
    check_inside,
    check_reaches,
    checked_box,
    checked_outline,
    checked_places,
    checked_signs,
    frozen,
)


class PromptKind(Enum):
    """What a seed consists of."""

    MASK = "mask"
    POINTS = "points"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, eq=False)
class SlicePrompt:
    """One annotated slice of one label (SAM 2: a conditioning frame with its prompt).

    Make one with `from_mask`, `from_points`, `from_box`, `from_lasso`, `from_scribble` or
    `absent_at`. Points, box, lasso and scribble may come together.

    Attributes
    ----------
    label : int
        Label value, at least 1.
    index : int
        Slice index along the propagation axis.
    kind : PromptKind
    mask : ndarray of bool, shape (H, W), or None
        Exactly what the person drew, or what was found for their clicks, see `answered`.
    points : ndarray of float, shape (N, 2), or None
        ``(row, column)`` in slice pixels; the centre of the first pixel is ``(0, 0)``.
    point_labels : ndarray of int, shape (N,), or None
        1 inside the object, 0 outside.
    box : tuple of float, or None
        ``(row_min, column_min, row_max, column_max)`` in slice pixels.
    lasso : ndarray of float, shape (N, 2), or None
        Corners of a polygon, ``(row, column)``, whose interior is roughly the object.
    scribble : ndarray of int, shape (N, 2), or None
        Pixels under strokes, ``(row, column)``.
    scribble_labels : ndarray of int, shape (N,), or None
        1 inside the object, 0 outside.
    previous : SlicePrompt or None
        The prompt that these points refine: its mask logits are fed back to the network.
    """

    label: int
    index: int
    kind: PromptKind
    mask: npt.NDArray[np.bool_] | None = None
    points: npt.NDArray[np.float64] | None = None
    point_labels: npt.NDArray[np.int32] | None = None
    box: tuple[float, float, float, float] | None = None
    lasso: npt.NDArray[np.float64] | None = None
    scribble: npt.NDArray[np.int64] | None = None
    scribble_labels: npt.NDArray[np.int32] | None = None
    previous: SlicePrompt | None = None

    def __post_init__(self) -> None:
        if int(self.label) < 1:
            raise PromptError(
                "label", "is not a label value", expected="1 or more", found=self.label
            )
        if int(self.index) < 0:
            raise PromptError("slice index", "is negative", expected="0 or more", found=self.index)

    @classmethod
    def from_mask(cls, label: int, index: int, mask: npt.ArrayLike) -> SlicePrompt:
        """A painted slice; an empty mask marks the object as absent.

        Parameters
        ----------
        label, index : int
        mask : array_like of bool, shape (H, W)

        Raises
        ------
        PromptError
            The mask is not two-dimensional.
        """
        array = np.asarray(mask)
        if array.ndim != 2:
            raise PromptError(
                f"mask of label {label} on slice {index}",
                "is not a slice",
                expected="2 dimensions",
                found=f"shape {array.shape}",
            )
        drawn = frozen(array != 0, bool)
        kind = PromptKind.MASK if drawn.any() else PromptKind.ABSENT
        return cls(int(label), int(index), kind, mask=drawn if kind is PromptKind.MASK else None)

    @classmethod
    def of_labels(cls, plane: npt.NDArray[np.integer], index: int) -> tuple[SlicePrompt, ...]:
        """A painted slice of every label on it, in the order of the labels.

        Parameters
        ----------
        plane : ndarray of int, shape (H, W)
            Values up to 0 are background.
        index : int
        """
        labels = np.unique(plane[plane > 0]).tolist()
        return tuple(cls.from_mask(label, index, plane == label) for label in labels)

    @classmethod
    def absent_at(cls, label: int, index: int) -> SlicePrompt:
        """The object is not on this slice."""
        return cls(int(label), int(index), PromptKind.ABSENT)

    @classmethod
    def from_points(
        cls,
        label: int,
        index: int,
        points: npt.ArrayLike,
        point_labels: npt.ArrayLike | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> SlicePrompt:
        """Clicks on one slice, with or without a box.

        Parameters
        ----------
        label, index : int
        points : array_like of float, shape (N, 2)
            ``(row, column)``.
        point_labels : array_like of int, shape (N,), optional
            1 inside, 0 outside the object. Default: all inside.
        box : tuple of float, optional
            ``(row_min, column_min, row_max, column_max)``.

        Raises
        ------
        PromptError
            The arrays do not fit each other, a point label is neither 0 nor 1, or the box is empty.
        """
        where = f"prompt of label {label} on slice {index}"
        coordinates = checked_places(where, points)
        if box is None and len(coordinates) == 0:
            raise PromptError(where, "has neither a point nor a box")
        return cls(
            int(label),
            int(index),
            PromptKind.POINTS,
            points=coordinates,
            point_labels=checked_signs(where, coordinates, point_labels),
            box=None if box is None else checked_box(where, box),
        )

    @classmethod
    def from_box(
        cls, label: int, index: int, box: tuple[float, float, float, float]
    ) -> SlicePrompt:
        """A box ``(row_min, column_min, row_max, column_max)`` round the object."""
        return cls.from_points(label, index, np.empty((0, 2)), box=box)

    @classmethod
    def from_lasso(cls, label: int, index: int, outline: npt.ArrayLike) -> SlicePrompt:
        """A polygon drawn around the object, roughly.

        Parameters
        ----------
        label, index : int
        outline : array_like of float, shape (N, 2)
            Its corners, ``(row, column)``.

        Raises
        ------
        PromptError
            It has fewer than three corners, or encloses nothing.
        """
        nothing = cls(int(label), int(index), PromptKind.POINTS, *_no_clicks())
        return nothing.with_lasso(outline)

    @classmethod
    def from_scribble(
        cls,
        label: int,
        index: int,
        pixels: npt.ArrayLike,
        pixel_labels: npt.ArrayLike | None = None,
    ) -> SlicePrompt:
        """Strokes through the object, and through what it is not.

        Parameters
        ----------
        label, index : int
        pixels : array_like of int, shape (N, 2)
            Pixels under the strokes, ``(row, column)``.
        pixel_labels : array_like of int, shape (N,), optional
            1 inside, 0 outside the object. Default: all inside.

        Raises
        ------
        PromptError
            The arrays do not fit each other, or there is no pixel.
        """
        nothing = cls(int(label), int(index), PromptKind.POINTS, *_no_clicks())
        return nothing.with_scribble(pixels, pixel_labels)

    @property
    def is_open(self) -> bool:
        """Whether these are points or a drawing for which no mask is known yet."""
        return self.kind is PromptKind.POINTS and self.mask is None

    def answered(self, mask: npt.ArrayLike) -> SlicePrompt:
        """These points and box with the mask that they stand for from now on.

        Parameters
        ----------
        mask : array_like of bool, shape (H, W)
        """
        return replace(self, mask=frozen(np.asarray(mask) != 0, bool))

    def unanswered(self) -> SlicePrompt:
        """These points and box without a mask, see `answered`."""
        return self if self.mask is None else replace(self, mask=None)

    def with_lasso(self, outline: npt.ArrayLike) -> SlicePrompt:
        """The same points and drawings with another lasso, and no mask; see `from_lasso`."""
        corners = checked_outline(self._described(), outline)
        return replace(self._refined(), lasso=corners)

    def with_scribble(
        self, pixels: npt.ArrayLike, pixel_labels: npt.ArrayLike | None = None
    ) -> SlicePrompt:
        """The same points and drawings with another scribble, and no mask; see `from_scribble`."""
        where = self._described()
        places = checked_places(where, pixels)
        if not len(places):
            raise PromptError(where, "the scribble has no pixel")
        signs = checked_signs(where, places, pixel_labels)
        scribble = frozen(np.rint(places), np.int64)
        return replace(self._refined(), scribble=scribble, scribble_labels=signs)

    def _described(self) -> str:
        return f"prompt of label {self.label} on slice {self.index}"

    def _refined(self) -> SlicePrompt:
        """The start of a prompt that refines this one; a network is fed back what it found."""
        if self.kind is not PromptKind.POINTS:
            raise PromptError(
                self._described(),
                "only points and boxes, lassos and scribbles can be refined",
                found=self.kind.value,
                hint="Replace the seed instead.",
            )
        drawn = (self.points is not None and len(self.points)) or self.box is not None
        drawn = drawn or self.lasso is not None or self.scribble is not None
        return replace(self, mask=None, previous=self.unanswered() if drawn else None)

    def refine(
        self, points: npt.ArrayLike, point_labels: npt.ArrayLike | None = None
    ) -> SlicePrompt:
        """Further clicks on the same slice; a network is fed back what it found so far.

        The new prompt holds all points so far, as SAM 2 repeats the earlier ones, and no mask.
        """
        refined = self._refined()
        more = self.from_points(self.label, self.index, points, point_labels)
        assert self.points is not None
        assert self.point_labels is not None
        assert more.points is not None
        assert more.point_labels is not None
        return replace(
            refined,
            points=frozen(np.concatenate([self.points, more.points]), np.float64),
            point_labels=frozen(np.concatenate([self.point_labels, more.point_labels]), np.int32),
        )


def _no_clicks() -> tuple[None, npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    """Mask, points and point labels of a prompt that is only drawn."""
    return None, frozen(np.empty((0, 2)), np.float64), frozen(np.empty(0), np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class PromptSet:
    """All seeds and extents of a volume.

    Attributes
    ----------
    prompts : mapping of (label, index) to SlicePrompt
    extents : mapping of label to (first, last)
        First and last slice of a label; outside of it the object is absent.
    """

    prompts: Mapping[tuple[int, int], SlicePrompt] = field(default_factory=dict)
    extents: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", MappingProxyType(dict(self.prompts)))
        object.__setattr__(self, "extents", MappingProxyType(dict(self.extents)))

    def __iter__(self) -> Iterator[SlicePrompt]:
        return iter(self.prompts.values())

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def labels(self) -> tuple[int, ...]:
        """Label values that have at least one seed, ascending."""
        return tuple(sorted({label for label, _ in self.prompts}))

    def seeds(self, label: int) -> tuple[int, ...]:
        """Slice indices of the seeds of a label, ascending (absent ones too)."""
        return tuple(sorted(index for lab, index in self.prompts if lab == label))

    def get(self, label: int, index: int) -> SlicePrompt | None:
        """The seed of a label on a slice, if there is one."""
        return self.prompts.get((label, index))

    def on_slice(self, index: int) -> tuple[SlicePrompt, ...]:
        """All seeds on one slice."""
        return tuple(p for p in self.prompts.values() if p.index == index)

    def with_prompt(self, prompt: SlicePrompt) -> PromptSet:
        """A copy with this seed added, in place of an older one of the same label and slice."""
        extent = self.extents.get(prompt.label)
        if (
            extent
            and prompt.kind is not PromptKind.ABSENT
            and not extent[0] <= prompt.index <= extent[1]
        ):
            raise PromptError(
                f"seed of label {prompt.label} on slice {prompt.index}",
                "lies outside the marked extent of the label",
                expected=f"slices {extent[0]} to {extent[1]}",
            )
        prompts = dict(self.prompts)
        # The latest comes last: where seeds overlap, it is on top.
        prompts.pop((prompt.label, prompt.index), None)
        prompts[prompt.label, prompt.index] = prompt
        return PromptSet(prompts, self.extents)

    def without(self, label: int, index: int) -> PromptSet:
        """A copy without this seed."""
        return PromptSet(
            {key: p for key, p in self.prompts.items() if key != (label, index)},
            self.extents,
        )

    def with_extent(self, label: int, first: int, last: int) -> PromptSet:
        """A copy in which a label begins on slice ``first`` and ends on slice ``last``."""
        if not 0 <= first <= last:
            raise PromptError(
                f"extent of label {label}",
                "first and last slice are not in order",
                expected="0 <= first <= last",
                found=(first, last),
            )
        outside = [
            p.index
            for p in self
            if p.label == label and p.kind is not PromptKind.ABSENT and not first <= p.index <= last
        ]
        if outside:
            raise PromptError(
                f"extent {first} to {last} of label {label}",
                "leaves out slices that hold a seed",
                found=f"seeds on {outside}",
            )
        return PromptSet(self.prompts, {**self.extents, label: (first, last)})

    def without_extent(self, label: int) -> PromptSet:
        """A copy in which the ends of a label are not known."""
        return PromptSet(self.prompts, {key: e for key, e in self.extents.items() if key != label})

    def check(self, n_slices: int, slice_shape: tuple[int, int]) -> None:
        """Raise `PromptError` where a seed does not fit a volume of this size."""
        for prompt in self:
            where = f"seed of label {prompt.label} on slice {prompt.index}"
            if prompt.index >= n_slices:
                raise PromptError(
                    where, "lies outside the volume", expected=f"a slice from 0 to {n_slices - 1}"
                )
            if prompt.mask is not None and prompt.mask.shape != tuple(slice_shape):
                raise PromptError(
                    where,
                    "the mask has another size than the slice",
                    expected=tuple(slice_shape),
                    found=prompt.mask.shape,
                )
            places = prompt.points, prompt.scribble
            check_inside(where, [x for x in places if x is not None], slice_shape)
            if prompt.box is not None:
                check_reaches(where, "box", np.array(prompt.box).reshape(2, 2), slice_shape)
            if prompt.lasso is not None:
                check_reaches(where, "lasso", prompt.lasso, slice_shape)
        for label, (first, last) in self.extents.items():
            if last >= n_slices:
                raise PromptError(
                    f"extent of label {label}",
                    "ends outside the volume",
                    expected=f"slices from 0 to {n_slices - 1}",
                    found=(first, last),
                )
