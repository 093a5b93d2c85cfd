"""Strokes on planes that lie across the slices: kept as seeds of their own planes, then decided."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.history import EditStep
from napari_slmsam2.session.label_array import Plane

_Key = tuple[int, int]
_Plane = npt.NDArray[np.int64]


class StrokesAcross:
    """A series of strokes on planes of another axis than that of the slices.

    Until it is decided what they are, they are seeds of their own planes: runs along the slices do
    not write there.

    Parameters
    ----------
    annotation : Annotation
        Of the slices.
    other : Annotation
        Of the same voxels, with slices along the axis of the painted planes.

    Attributes
    ----------
    settled : bool
        The painted planes are slices from now on.
    """

    def __init__(self, annotation: Annotation, other: Annotation) -> None:
        self.annotation, self.other = annotation, other
        self.settled = False
        self._strokes: dict[int, tuple[_Plane, _Plane]] = {}
        self._painted: dict[_Key, SlicePrompt | None] = {}
        self._crossed_seeds: dict[_Key, SlicePrompt] = {}

    @property
    def planes(self) -> tuple[int, ...]:
        """Indices of the painted planes; none where the strokes were undone or decided."""
        if self.settled:
            return ()
        now = self.other.prompts
        changed = {i for (k, i), seed in self._painted.items() if now.get(k, i) is not seed}
        return tuple(sorted(changed))

    def take(self, index: int, plane: Plane) -> tuple[int, ...]:
        """Take over what was painted on a plane across the slices.

        Parameters
        ----------
        index : int
        plane : ndarray of int, shape of a slice of ``other``

        Returns
        -------
        tuple of int
            The labels that changed.
        """
        known, seeds = self.other.plane(index).astype(np.int64), self.other.prompts
        crossed = self.annotation.prompts
        changed = known != plane
        labels = self.other.take_edit(index, plane)
        if labels:
            _, after = self._strokes.setdefault(index, (known, known.copy()))
            after[changed] = plane[changed]
        for label in labels:
            self._painted.setdefault((label, index), seeds.get(label, index))
        for key, seed in crossed.prompts.items():
            if self.annotation.prompts.get(*key) is not seed:
                self._crossed_seeds.setdefault(key, seed)
        return labels

    def count_crossed(self) -> tuple[int, int]:
        """How many slices the strokes cross, and how many of these can be corrected by them.

        A slice can be corrected where the label had a mask before, or has a seed: a stroke across
        a slice is one line of pixels, which is no mask of an object.
        """
        crossed, corrected = self._changed_slices(), {i for _, i in self._corrections()}
        seeded = {i for _, i in self._crossed_seeds}
        return len(crossed), len(crossed & (corrected | seeded))

    def correct(self) -> tuple[int, ...]:
        """Make seeds of the slices that the strokes correct, as one step of the history.

        The slices that they cross are not protected otherwise any more.

        Returns
        -------
        tuple of int
            The slices whose labels changed.

        Raises
        ------
        PromptError
            One of the labels is locked.
        """
        seeds = self._corrections()
        labels = {label for label, _ in seeds}
        extents = self.annotation.prompts.extents
        return self.annotation.history.edit_labels(
            "correction",
            labels,
            extents={label: extents[label] for label in labels & extents.keys()},
            seeds=seeds,
            beside=((self.other, self._without_strokes()),),
        )

    def remove(self) -> tuple[int, ...]:
        """Restore the pixels from before the strokes, as one step of the history.

        Pixels that were changed since stay. Not during a run.

        Returns
        -------
        tuple of int
            The slices whose labels changed.

        Raises
        ------
        PromptError
            One of the labels is locked.
        """
        return self.annotation.history.edit_labels(
            "removal",
            {label for label, _ in self._painted},
            seeds=self._seeds_before(),
            planes={index: self._slice_before(index) for index in self._changed_slices()},
            beside=((self.other, self._without_strokes()),),
        )

    def _without_strokes(self) -> EditStep:
        return EditStep(seeds=dict(self._painted))

    def _corrections(self) -> dict[_Key, SlicePrompt | None]:
        """Seeds of the slices on which a changed label had a mask before, and has no seed."""
        seeds: dict[_Key, SlicePrompt | None] = {}
        for index in sorted(self._changed_slices()):
            now, before = self.annotation.plane(index), self._slice_before(index)
            changed = now != before
            for label in np.union1d(now[changed], before[changed]).tolist():
                seeded = self.annotation.prompts.get(label, index) is not None
                if label > 0 and not seeded and (before == label).any():
                    seeds[label, index] = SlicePrompt.from_mask(label, index, now == label)
        return seeds

    def _changed_slices(self) -> set[int]:
        """The slices that the strokes cross."""
        changed: set[int] = set()
        for before, after in self._strokes.values():
            differs = (before != after).any(axis=1 - self._slice_axis)
            changed |= set(np.flatnonzero(differs).tolist())
        return changed

    def _slice_before(self, index: int) -> _Plane:
        """A slice with the pixels from before the strokes, where they have not changed since."""
        plane = self.annotation.plane(index).astype(np.int64)
        lines = np.moveaxis(plane, self._line_axis, 0)
        for across, planes in self._strokes.items():
            before, after = (one.take(index, axis=self._slice_axis) for one in planes)
            lines[across] = np.where(lines[across] == after, before, lines[across])
        return plane

    def _seeds_before(self) -> dict[_Key, SlicePrompt | None]:
        """The seeds of slices that the strokes changed, without the strokes."""
        seeds: dict[_Key, SlicePrompt | None] = {}
        for (label, index), seed in self._crossed_seeds.items():
            if self.annotation.prompts.get(label, index) is not None:
                mask = self._slice_before(index) == label
                same = not mask.any() if seed.mask is None else np.array_equal(seed.mask, mask)
                seeds[label, index] = seed if same else SlicePrompt.from_mask(label, index, mask)
        return seeds

    @property
    def _slice_axis(self) -> int:
        """The axis of a painted plane that the slices are stacked along."""
        return self.other.volume.plane_axes.index(self.annotation.volume.axis)

    @property
    def _line_axis(self) -> int:
        """The axis of a slice that the painted planes are stacked along."""
        return self.annotation.volume.plane_axes.index(self.other.volume.axis)
