"""Undo and redo of runs and edits. Brush strokes are not part of it: napari undoes them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import EllipsisType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.label_table import LabelEntry
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt
from napari_slmsam2.core.quality import SliceQuality
from napari_slmsam2.engine.propagation.result import PropagationResult
from napari_slmsam2.session.label_array import with_room_for
from napari_slmsam2.session.run_records import RunRecord, SliceStates

if TYPE_CHECKING:
    from napari_slmsam2.session.annotation import Annotation


@dataclass(frozen=True, slots=True)
class Change:
    """The pixels of a slice that an edit changed, compressed.

    Attributes
    ----------
    where : bytes
    before, after : bytes
        Their labels.
    """

    where: bytes
    before: bytes
    after: bytes

    @classmethod
    def between(cls, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Self | None:
        """What differs between two states of a slice, shape (H, W); None where nothing does."""
        changed = before != after
        if not changed.any():
            return None
        values = (plane[changed].astype(np.int64).tobytes() for plane in (before, after))
        return cls(zlib.compress(np.packbits(changed).tobytes()), *map(zlib.compress, values))

    def reverted(self, plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A slice with the earlier labels of the pixels that have not changed since."""
        bits = np.frombuffer(zlib.decompress(self.where), np.uint8)
        changed = np.unpackbits(bits, count=plane.size).reshape(plane.shape).astype(bool)
        before, after = (
            np.frombuffer(zlib.decompress(values), np.int64) for values in (self.before, self.after)
        )
        plane = with_room_for(plane, int(before.max()))
        plane[changed] = np.where(plane[changed] == after, before, plane[changed])
        return plane


@dataclass(frozen=True, slots=True)
class EditStep:
    """An edit of seeds, extents, pixels or the label table; or what takes it back.

    Attributes
    ----------
    extents : mapping of label to tuple of int or None
        First and last slice.
    seeds : mapping of (label, index) to SlicePrompt or None
        Seeds to set, or (None) to remove.
    pixels : mapping of slice index to Change
        Pixels to restore.
    entries : mapping of label to LabelEntry
        Names, colours and states to set.
    scores : mapping of (label, index) to SliceQuality or None
        Scores of propagated slices to set, or (None) to remove.
    word : str
        What the user interface calls it, for example ``mark``, ``click`` or ``merge``.
    beside : tuple of (Annotation, EditStep)
        Edits of annotations of the same labels along other axes.
    beside_last : bool
        Whether they are applied after this one, not before. What takes an edit back is in the
        opposite order.
    """

    extents: Mapping[int, tuple[int, int] | None] = field(default_factory=dict)
    seeds: Mapping[tuple[int, int], SlicePrompt | None] = field(default_factory=dict)
    pixels: Mapping[int, Change] = field(default_factory=dict)
    entries: Mapping[int, LabelEntry] = field(default_factory=dict)
    scores: Mapping[tuple[int, int], SliceQuality | None] = field(default_factory=dict)
    word: str = "mark"
    beside: tuple[tuple[Annotation, EditStep], ...] = ()
    beside_last: bool = False


@dataclass(slots=True, eq=False)
class RunStep:
    """A run: the state of its slices, its result and the list of runs before it (or after it).

    Attributes
    ----------
    states : SliceStates
    result : PropagationResult
    runs : tuple of RunRecord
    cleaned : frozenset of (label, index)
        The seeds that were dirty before the run and clean after it.
    """

    states: SliceStates
    result: PropagationResult
    runs: tuple[RunRecord, ...]
    cleaned: frozenset[tuple[int, int]] = frozenset()
    word: ClassVar[str] = "run"


Step = EditStep | RunStep


@dataclass(frozen=True, slots=True)
class Swapped:
    """What an undo or redo changed.

    Attributes
    ----------
    word : str
        ``run``, or the word of an `EditStep`.
    slices : tuple of int
        Indices of the slices whose labels changed.
    """

    word: str
    slices: tuple[int, ...]


class History:
    """Undo and redo of an annotation.

    Parameters
    ----------
    annotation : Annotation
    """

    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation
        self._done: list[Step] = []
        self._undone: list[Step] = []

    @property
    def to_undo(self) -> str | None:
        """``run``, the word of an edit, or None: what `undo` takes back."""
        return self._done[-1].word if self._done else None

    @property
    def to_redo(self) -> str | None:
        """``run``, the word of an edit, or None: what `redo` restores."""
        return self._undone[-1].word if self._undone else None

    def __contains__(self, step: Step) -> bool:
        return any(step is one for one in self._done)

    def drop_runs(self) -> None:
        """Remove all runs: the image that they were made on was replaced."""
        for steps in (self._done, self._undone):
            steps[:] = [step for step in steps if not isinstance(step, RunStep)]

    # -- steps

    def start_run(self, record: RunRecord) -> RunStep:
        """Record a run that begins.

        Returns
        -------
        RunStep
            Has to be given the state of every slice before the run changes it.
        """
        annotation, propagated = self._annotation, self._annotation.propagated
        with annotation.lock:
            step = RunStep(
                SliceStates(annotation.volume.slice_shape),
                propagated.result.copy(),
                tuple(propagated.runs),
            )
            self._add(step)
            propagated.runs.append(record)
        return step

    def finish_run(self, step: RunStep, record: RunRecord) -> None:
        """Mark what a completed run has read as clean, unless its image was replaced."""
        annotation = self._annotation
        with annotation.lock:
            if step in self:
                step.cleaned = self._mark_clean(record)
                annotation.strokes.forget_before()

    def edit(
        self,
        label: int,
        *,
        extent: tuple[int, int] | EllipsisType | None = ...,
        seeds: Mapping[int, SlicePrompt | None] | None = None,
        word: str = "mark",
    ) -> tuple[int, ...]:
        """Set the extent of a label and some of its seeds, as one step that `undo` takes back.

        Parameters
        ----------
        label : int
        extent : tuple of int or None
            First and last slice, None for unknown; seeds outside widen it. Default: as it is.
        seeds : mapping of slice index to SlicePrompt or None
            Seeds to set, or (None) to remove; other seeds stay.
        word : str
            What the user interface calls the step.

        Returns
        -------
        tuple of int
            The slices whose labels changed.

        Raises
        ------
        PromptError
            The label is locked.
        """
        if extent is ...:
            extent = self._annotation.prompts.extents.get(label)
        keyed = {(label, index): seed for index, seed in (seeds or {}).items()}
        return self.edit_labels(word, [label], extents={label: extent}, seeds=keyed)

    def edit_labels(
        self,
        word: str,
        changed: Iterable[int] = (),
        *,
        extents: Mapping[int, tuple[int, int] | None] | None = None,
        seeds: Mapping[tuple[int, int], SlicePrompt | None] | None = None,
        planes: Mapping[int, npt.NDArray[np.integer]] | None = None,
        entries: Mapping[int, LabelEntry] | None = None,
        scores: Mapping[tuple[int, int], SliceQuality | None] | None = None,
        removed: Iterable[int] = (),
        beside: tuple[tuple[Annotation, EditStep], ...] = (),
    ) -> tuple[int, ...]:
        """Edit several labels as one step that `undo` takes back.

        Parameters
        ----------
        word : str
            What the user interface calls the step.
        changed : iterable of int
            The labels whose seeds, extents or pixels change.
        extents : mapping of label to tuple of int or None
        seeds : mapping of (label, index) to SlicePrompt or None
        planes : mapping of slice index to ndarray of int, shape (H, W)
            The slices as they are to be.
        entries : mapping of label to LabelEntry
            Names, colours and states to set.
        scores : mapping of (label, index) to SliceQuality or None
            Scores of propagated slices; not during a run.
        removed : iterable of int
            Labels that the edit removes: their results are void.
        beside : tuple of (Annotation, EditStep)
            See `EditStep`.

        Returns
        -------
        tuple of int
            The slices whose labels changed.

        Raises
        ------
        PromptError
            One of the labels is locked.
        """
        annotation = self._annotation
        annotation.check_unlocked(changed)
        with annotation.lock:
            pixels = {
                index: change
                for index, plane in (planes or {}).items()
                # What restores this change makes it.
                if (change := Change.between(plane, annotation.slices.read(index))) is not None
            }
            step = EditStep(
                extents or {}, seeds or {}, pixels, entries or {}, scores or {}, word, beside
            )
            inverse = self._apply(step)
            self._add(inverse)
            annotation.propagated.drop_labels(removed)
        return tuple(inverse.pixels)

    def _add(self, step: Step) -> None:
        self._done.append(step)
        self._undone.clear()

    # -- there and back

    def undo(self, *, edits_only: bool = False) -> Swapped | None:
        """Take back the last run or edit; seeds and extents stay where it is a run.

        Parameters
        ----------
        edits_only : bool
            Do nothing where the last step is a run; for use during a run.

        Returns
        -------
        Swapped or None
            None where there was nothing to undo. Runs that changed nothing are passed over.
        """
        return self._swap(self._done, self._undone, edits_only)

    def redo(self, *, edits_only: bool = False) -> Swapped | None:
        """Restore what was undone last; see `undo`."""
        return self._swap(self._undone, self._done, edits_only)

    def _swap(self, source: list[Step], target: list[Step], edits_only: bool) -> Swapped | None:
        with self._annotation.lock:
            while source and not (edits_only and isinstance(source[-1], RunStep)):
                step = source.pop()
                if isinstance(step, EditStep):
                    inverse = self._apply(step)
                    target.append(inverse)
                    return Swapped(step.word, tuple(inverse.pixels))
                target.append(self._swap_run(step, undo=target is self._undone))
                if step.states.indices:
                    return Swapped(step.word, step.states.indices)
        return None

    def _apply(self, step: EditStep) -> EditStep:
        """Apply an edit; returns the edit that takes it back."""
        if step.beside_last:
            inverse = self._apply_here(step)
        beside = tuple((other, other.history._apply(part)) for other, part in step.beside)
        if not step.beside_last:
            inverse = self._apply_here(step)
        return replace(inverse, beside=beside, beside_last=not step.beside_last)

    def _apply_here(self, step: EditStep) -> EditStep:
        annotation, slices = self._annotation, self._annotation.slices
        prompts, n_slices = annotation.prompts, annotation.volume.n_slices
        extents = {label: prompts.extents.get(label) for label in step.extents}
        seeds = {key: prompts.get(*key) for key in step.seeds}
        entries = {label: annotation.table.entry(label) for label in step.entries}
        annotation.set_prompts(self._edited(prompts, step))  # first: it may refuse a seed
        annotation.table = annotation.table.with_entries(step.entries)
        named = {*step.pixels, *(index for _, index in step.seeds)}
        changes = {}
        for index in range(n_slices):
            outside = [
                label
                for label in step.extents
                if not self._is_inside(annotation.prompts.extents.get(label), index)
            ]
            if index not in named and not outside:
                continue
            before = slices.read(index)
            if index not in named and not np.isin(before, outside).any():
                continue
            plane = before.copy()
            if index in step.pixels:
                plane = step.pixels[index].reverted(plane)
            plane = annotation.protected(index, plane)
            change = Change.between(before, plane)
            if change is not None:
                slices.write(index, plane)
                changes[index] = change
                if index in step.pixels:
                    annotation.propagated.void_masks(index, before, plane)
        scores = annotation.propagated.set_scores(step.scores)
        return EditStep(extents, seeds, changes, entries, scores, step.word)

    @staticmethod
    def _is_inside(extent: tuple[int, int] | None, index: int) -> bool:
        return extent is None or extent[0] <= index <= extent[1]

    def _edited(self, prompts: PromptSet, step: EditStep) -> PromptSet:
        """Seeds and extents after an edit."""
        strokes = self._annotation.strokes
        for label in step.extents:
            prompts = prompts.without_extent(label)
        for key, seed in step.seeds.items():
            strokes.forget(*key)
            prompts = prompts.without(*key)
            if seed is not None:
                strokes.set_seed(seed)
                prompts = prompts.with_prompt(seed)
        for label, extent in step.extents.items():
            if extent is not None:
                own = [p for p in prompts if p.label == label and p.kind is not PromptKind.ABSENT]
                inside = [p.index for p in own]
                first, last = min([extent[0], *inside]), max([extent[1], *inside])
                prompts = prompts.with_extent(label, first, last)
        return prompts

    def _swap_run(self, step: RunStep, *, undo: bool) -> RunStep:
        """Put slices, results and records of before a run (or after it) in place."""
        annotation, propagated = self._annotation, self._annotation.propagated
        states = SliceStates(annotation.volume.slice_shape)
        for index in step.states.indices:
            states.keep(index, annotation.slices.read(index))
            annotation.slices.write(index, step.states.get(index))
        opposite = RunStep(states, *propagated.exchange(step.result, step.runs))
        if undo:
            propagated.dirty = propagated.dirty | step.cleaned
        elif propagated.runs[-1].finished:
            opposite.cleaned = self._mark_clean(propagated.runs[-1])
        n_slices = annotation.volume.n_slices
        outside = {
            (label, index)
            for label, (first, last) in annotation.prompts.extents.items()
            for index in range(n_slices)
            if not first <= index <= last
        }
        propagated.stale = propagated.dirty | outside
        propagated.drop_stale()
        return opposite

    def _mark_clean(self, record: RunRecord) -> frozenset[tuple[int, int]]:
        annotation = self._annotation
        return annotation.propagated.mark_clean(
            record, annotation.prompts, annotation.volume.n_slices
        )
