"""The annotation of one volume: seeds, extents, labels, their table, results, undo.

The command line, Python and the window share this one model. It imports neither torch nor napari.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.intensity import IntensityWindow, parse_window
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt
from napari_slmsam2.core.quality import SliceQuality, Suggestion, rank_slices
from napari_slmsam2.core.seed_planes import warn_of_other_planes
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.session.history import History
from napari_slmsam2.session.label_array import (
    LabelArray,
    Plane,
    SharedLabels,
    SliceLabels,
    check_shape,
    with_room_for,
)
from napari_slmsam2.session.propagated import Key, PromptChanges, Propagated
from napari_slmsam2.session.run_records import RunRecord, SliceStates
from napari_slmsam2.session.strokes import Strokes


class Annotation:
    """Seeds, extents and labels of a volume, and what runs made of them.

    Two threads may use it: one owns the labels and changes seeds, the other one runs the
    propagation. With ``deferred=True`` nothing that a run, an edit, undo or redo writes reaches
    the accepted labels before the owner calls `commit`, so that these are always what the owner
    shows, and what differs from them was done by a person (see `take_edit`). The result of a run
    is written by the running thread only (see `Propagated`).

    Parameters
    ----------
    volume : Volume
    labels : ndarray of int or ChunkedArray, shape of the volume, or SharedLabels, optional
        Written in place, until a label does not fit the dtype. Default: an empty volume.
    key : tuple, optional
        The index expression of the volume in shared labels.
    deferred : bool
        Whether what the program writes waits for `commit`.

    Attributes
    ----------
    volume : Volume
    key : tuple
    propagated : Propagated
        Records and results of the runs.
    history : History
        Undo and redo.
    slices : SliceLabels
        Reads and writes the labels slice by slice.

    Raises
    ------
    GridMismatchError
        The labels have another shape than the volume.
    """

    def __init__(
        self,
        volume: Volume,
        labels: LabelArray | SharedLabels[Annotation] | None = None,
        *,
        key: tuple[Any, ...] = (),
        deferred: bool = False,
    ) -> None:
        self.volume, self.key = volume, key
        self.propagated = Propagated([], set())
        self.history = History(self)
        self.strokes = Strokes()
        if not isinstance(labels, SharedLabels):
            array = np.zeros(volume.shape, dtype=np.uint8) if labels is None else labels
            labels = SharedLabels(array)
        self._shared, self.lock = labels, labels.lock
        self.slices = SliceLabels(volume, labels, key, deferred, self.protected)
        self._shared.owners.add(self)
        self._prompts = PromptSet()
        self._windows: tuple[Volume, dict[str, IntensityWindow]] = volume, {}

    # -- what is known

    @property
    def prompts(self) -> PromptSet:
        """All seeds and extents."""
        return self._prompts

    @property
    def table(self) -> LabelTable:
        """Names, colours and states of the labels; shared by all annotations of a layer."""
        return self._shared.table

    @table.setter
    def table(self, table: LabelTable) -> None:
        self._shared.table = table

    @property
    def runs(self) -> list[RunRecord]:
        """Records of the runs so far."""
        return self.propagated.runs

    @property
    def dirty(self) -> frozenset[Key]:
        """``(label, index)`` of the seeds and slices that changed since they were last run."""
        return frozenset(self.propagated.dirty)

    @property
    def quality(self) -> Mapping[int, Mapping[int, SliceQuality]]:
        """Scores of every propagated slice, by label and slice index."""
        return self.propagated.quality

    def suggestions(self) -> tuple[Suggestion, ...]:
        """Slices to check, most urgent first."""
        seeds = {label: self._prompts.seeds(label) for label in self._prompts.labels}
        return rank_slices(self.quality, seeds)

    def intensity_window(self, text: str) -> IntensityWindow:
        """An intensity window of this volume, see `parse_window`; computed once."""
        if self._windows[0] is not self.volume:
            self._windows = self.volume, {}
        found = self._windows[1]
        if text not in found:
            found[text] = parse_window(text, self.volume)
        return found[text]

    def labels_to_run(self) -> tuple[int, ...]:
        """Labels that a person drew, with a slice to start from, and that are not locked.

        A label that was only painted over or erased is not among them.

        Raises
        ------
        PromptError
            There is none.
        """
        present = {p.label for p in self._prompts if p.kind is not PromptKind.ABSENT}
        drawn = present & self.strokes.drawn
        labels = tuple(sorted(drawn - self.table.locked))
        if drawn and not labels:
            raise PromptError(
                "seeds",
                "all labels that have one are locked",
                hint="Unlock a label, then propagate.",
            )
        if not labels:
            raise PromptError(
                "seeds",
                "there is nothing to propagate yet",
                hint="Paint the object on one slice of the Labels layer, then propagate.",
            )
        return labels

    # -- labels

    @property
    def labels(self) -> LabelArray:
        """The accepted labels, shape of the volume; a view where the array is shared."""
        return self.slices.array

    def plane(self, index: int) -> Plane:
        """The accepted labels of a slice, shape (H, W), not to be written."""
        return self.slices.plane(index)

    def protected(self, index: int, plane: Plane) -> Plane:
        """A slice that is to be written, with what must not be overwritten restored.

        That is: seeds, extents, seeds of slices along another axis, and locked labels, which
        neither gain nor lose a pixel.

        Parameters
        ----------
        index : int
        plane : ndarray of int, shape (H, W)

        Returns
        -------
        ndarray of int, shape (H, W)
        """
        seeds = [p for p in self._prompts.on_slice(index) if not p.is_open]
        highest = max((p.label for p in seeds), default=0)
        plane = with_room_for(plane, highest)
        for label, (first, last) in self._prompts.extents.items():
            if not first <= index <= last:
                plane[plane == label] = 0
        crossing = self.crossing_seeds(index)
        plane[crossing] = self.plane(index)[crossing]
        for seed in seeds:
            plane[plane == seed.label] = 0
            if seed.mask is not None:
                plane[seed.mask] = seed.label
        if self.table.locked:
            accepted, locked = self.plane(index), sorted(self.table.locked)
            fixed = np.isin(accepted, locked) | np.isin(plane, locked)
            plane[fixed] = accepted[fixed]
        return plane

    def check_unlocked(self, labels: Iterable[int]) -> None:
        """Refuse to change locked labels.

        Raises
        ------
        PromptError
            Names the first of them that is locked.
        """
        for label in sorted(self.table.locked.intersection(labels)):
            name = self.table.names.get(label)
            raise PromptError(
                f"label {label}" + (f" ({name})" if name else ""),
                "is locked",
                hint="Unlock it in the label table to change it.",
            )

    @property
    def is_crossed(self) -> bool:
        """Whether there are seeds on slices along another axis: runs do not write there."""
        return any(len(other.prompts) for other in self._crossing())

    def crossing_seeds(self, index: int) -> npt.NDArray[np.bool_]:
        """Pixels of a slice, shape (H, W), that lie on seeds of slices along another axis."""
        crossed = np.zeros(self.volume.slice_shape, bool)
        for other in self._crossing():
            seeded = sorted({p.index for p in other.prompts if not p.is_open})
            if other.volume.axis == self.volume.plane_axes[0]:
                crossed[seeded, :] = True
            else:
                crossed[:, seeded] = True
        return crossed

    def _crossing(self) -> list[Annotation]:
        """The annotations of the same voxels with slices along another axis."""
        axis = self.volume.axis
        return [x for x in self._shared.owners if x.key == self.key and x.volume.axis != axis]

    def take_edit(self, index: int, plane: Plane) -> tuple[int, ...]:
        """Turn what a person did to a slice into seeds, and accept its pixels.

        Every label whose pixels changed becomes a seed with the pixels that it has now; a label
        that is no longer on the slice is absent. Strokes that were undone remove their seed, see
        `Strokes`. Seeds of slices along another axis that the changed pixels cross adopt them.

        Parameters
        ----------
        index : int
        plane : ndarray of int, shape (H, W)
            The labels of the slice now.

        Returns
        -------
        tuple of int
            The labels that changed.
        """
        with self.lock:
            known = self.plane(index)
            changed = plane != known
            if not changed.any():
                return ()
            values = np.union1d(known[changed], plane[changed])
            labels = tuple(int(v) for v in values if v > 0)
            prompts = self._prompts
            for label in labels:
                prompts = self.strokes.take(prompts, label, index, known == label, plane == label)
            self.set_prompts(prompts)
            self.slices.accept(index, plane, changed)
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            for other in self._crossing():
                crossed = rows if other.volume.axis == self.volume.plane_axes[0] else columns
                other.set_prompts(other._with_pixels(crossed.tolist()))
        return labels

    def adopt(self, labels: Any) -> None:
        """Accept labels as they are, without making seeds of them; seeds adopt their pixels.

        Parameters
        ----------
        labels : array_like of int, shape of the volume
        """
        changed = self.slices.replace(labels)
        with self.lock:
            self.set_prompts(self._with_pixels(range(self.volume.n_slices)))
            self.propagated.stale |= changed

    def _with_pixels(self, indices: Container[int]) -> PromptSet:
        """The seeds, those of some slices with the pixels that their label has there now."""
        prompts = self._prompts
        for prompt in list(prompts):
            if prompt.is_open or prompt.index not in indices:
                continue
            now = self.plane(prompt.index) == prompt.label
            mask = np.zeros_like(now) if prompt.mask is None else prompt.mask
            first, last = prompts.extents.get(prompt.label, (prompt.index, prompt.index))
            if not np.array_equal(now, mask) and first <= prompt.index <= last:
                prompts = prompts.with_prompt(
                    SlicePrompt.from_mask(prompt.label, prompt.index, now)
                )
        return prompts

    # -- seeds and extents

    def set_prompts(self, prompts: PromptSet) -> None:
        """Replace all seeds and extents; those that differ become dirty."""
        with self.lock:
            changes = PromptChanges.between(self._prompts, prompts, self.volume.n_slices)
            self._prompts = prompts
            self.propagated.note(changes)

    def add_prompt(self, prompt: SlicePrompt) -> None:
        """Set a seed; a mask is written into the labels at once.

        Raises
        ------
        PromptError
            It does not fit the volume or the extent of its label, or the label is locked.
        """
        self.check_unlocked([prompt.label])
        prompts = self._prompts.with_prompt(prompt)
        prompts.check(self.volume.n_slices, self.volume.slice_shape)
        self.strokes.set_seed(prompt)
        self.set_prompts(prompts)
        if not prompt.is_open:
            self.slices.write(prompt.index, self.slices.read(prompt.index))

    def add_seed_volume(self, seeds: LabelArray) -> None:
        """Set every non-empty slice of a label volume as a seed, for each label on it.

        Raises
        ------
        GridMismatchError
            The shape differs from the volume's.
        PromptError
            All voxels are 0.

        Warns
        -----
        SlmSam2Warning
            The seeds were drawn on planes of another axis.
        """
        check_shape(seeds, self.volume, "seeds")
        warn_of_other_planes(seeds, self.volume.axis)
        found = False
        for index in range(self.volume.n_slices):
            plane = np.asarray(seeds[self.volume.slicer(index)])
            for label in np.unique(plane[plane != 0]).tolist():
                self.add_prompt(SlicePrompt.from_mask(label, index, plane == label))
                found = True
        if not found:
            raise PromptError(
                "seeds",
                "hold no label",
                expected="at least one annotated slice",
                found="only background",
            )

    def remove_prompt(self, label: int, index: int) -> None:
        """Remove a seed; its pixels stay until the next run."""
        self.strokes.forget(label, index)
        self.set_prompts(self._prompts.without(label, index))

    def set_extent(self, label: int, first: int, last: int) -> None:
        """Set the first and last slice of a label; its pixels outside are removed.

        Raises
        ------
        PromptError
            The extent leaves out a seed, or ends outside the volume, or the label is locked.
        """
        self.check_unlocked([label])
        prompts = self._prompts.with_extent(label, first, last)
        prompts.check(self.volume.n_slices, self.volume.slice_shape)
        self.set_prompts(prompts)
        for index in range(self.volume.n_slices):
            if not first <= index <= last and (self.plane(index) == label).any():
                self.slices.write(index, self.slices.read(index))

    def clear_extent(self, label: int) -> None:
        """Declare the first and last slice of a label unknown."""
        self.set_prompts(self._prompts.without_extent(label))

    def extent_with(self, label: int, index: int, *, first: bool) -> tuple[int, int] | None:
        """The extent of a label that begins (``first``) or ends on this slice.

        The same mark a second time removes it. None where neither end is known.

        Raises
        ------
        PromptError
            A seed of the label lies outside.
        """
        last_slice = self.volume.n_slices - 1
        begin, end = self._prompts.extents.get(label, (0, last_slice))
        if first:
            begin = 0 if begin == index and index > 0 else index
            end = max(begin, end)
        else:
            end = last_slice if end == index and index < last_slice else index
            begin = min(begin, end)
        if (begin, end) == (0, last_slice):
            return None
        return self._prompts.with_extent(label, begin, end).extents[label]

    def drop_stale_results(self) -> None:
        """Remove void results; only for the thread that runs, or while nothing runs."""
        with self.lock:
            self.propagated.drop_stale()

    # -- other states

    def restore(
        self,
        prompts: PromptSet,
        runs: Iterable[RunRecord] = (),
        dirty: Iterable[Key] = (),
        table: LabelTable | None = None,
        scores: Mapping[int, Mapping[int, SliceQuality]] | None = None,
    ) -> None:
        """Continue with seeds and records of an earlier session; the labels stay as they are.

        Parameters
        ----------
        prompts : PromptSet
        runs : iterable of RunRecord
        dirty : iterable of (label, index)
            See `dirty`.
        table : LabelTable, optional
            Default: as it is.
        scores : mapping of label to mapping of slice index to SliceQuality, optional
            See `quality`.
        """
        with self.lock:
            if table is not None:
                self.table = table
            self._prompts = prompts
            self.propagated = Propagated(list(runs), set(dirty))
            self.propagated.saved_scores = {
                label: dict(slices) for label, slices in (scores or {}).items()
            }
            self.history = History(self)
            self.strokes.reset(prompts)

    def rewind(self, record: RunRecord) -> None:
        """Restore seeds, edited slices, locks and results as a recorded run found them."""
        self.table = dataclasses.replace(self.table, locked=record.locked)
        self._prompts = record.prompts
        for index in record.edits.indices:
            self.slices.assign(index, record.edits.get(index))
        self.propagated.stale |= self.propagated.known - record.known
        self.propagated.drop_stale()

    def end_replay(
        self, prompts: PromptSet, dirty: Iterable[Key], edits: SliceStates, table: LabelTable
    ) -> None:
        """Restore seeds, edited slices and the label table of after the last recorded run."""
        self.table = table
        for index in edits.indices:
            self.slices.assign(index, edits.get(index))
        last, self._prompts = self._prompts, prompts
        changed = {k for k, x in prompts.prompts.items() if last.prompts.get(k) is not x}
        self.propagated.stale |= changed
        self.propagated.dirty = set(dirty)

    def replace_volume(self, volume: Volume) -> None:
        """Continue with other voxels of the same shape: what was computed from the old is void.

        Parameters
        ----------
        volume : Volume
        """
        with self.lock:
            self.volume = volume
            self.propagated = Propagated([], set(self._prompts.prompts))
            self.history.drop_runs()
