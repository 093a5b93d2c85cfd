"""What runs left behind, and which seeds and slices have changed since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.plan import find_gaps, gaps_beside
from napari_slmsam2.core.prompts import PromptKind, PromptSet
from napari_slmsam2.core.quality import SliceQuality
from napari_slmsam2.engine.propagation.result import PropagationResult
from napari_slmsam2.session.run_records import RunRecord

Key = tuple[int, int]
"""Label and slice index."""


@dataclass(frozen=True, slots=True)
class PromptChanges:
    """What a change of seeds and extents affects.

    Attributes
    ----------
    dirty : set of (label, index)
        Seeds that were set, changed or removed, and one slice of each open gap whose extent
        changed: the gaps beside them are to be run.
    stale : set of (label, index)
        Slices whose propagated results are void.
    outside : set of (label, index)
        Slices that an extent excludes; there is nothing to run on them any more.
    """

    dirty: set[Key]
    stale: set[Key]
    outside: set[Key]

    @classmethod
    def between(cls, old: PromptSet, new: PromptSet, n_slices: int) -> PromptChanges:
        """The changes from one set to another one, of a volume of so many slices."""
        dirty = {
            key
            for key in (*old.prompts, *new.prompts)
            if old.prompts.get(key) is not new.prompts.get(key)
        }
        stale, outside = set(dirty), set[Key]()
        for label in {*old.extents, *new.extents}:
            if old.extents.get(label) == new.extents.get(label):
                continue
            first, last = new.extents.get(label, (0, n_slices - 1))
            outside |= {(label, i) for i in range(n_slices) if not first <= i <= last}
            dirty |= _open_ends(label, old, new, n_slices)
        return cls(dirty, stale | outside, outside - new.prompts.keys())


def _open_ends(label: int, old: PromptSet, new: PromptSet, n_slices: int) -> set[Key]:
    """The outermost slice of each open gap of a label that another extent affects.

    The gaps between two seeds do not depend on the extent.
    """
    seeds = new.seeds(label)
    if not seeds:
        return set()
    everything = (0, n_slices - 1)
    before, after = old.extents.get(label, everything), new.extents.get(label, everything)
    # A sweep goes further where the end of the object is known.
    known = (label in old.extents) != (label in new.extents)
    ends = set()
    for side, seed in ((0, seeds[0]), (1, seeds[-1])):
        end = after[side]
        moved = known or before[side] != end
        is_open = end < seed if side == 0 else end > seed
        if moved and is_open and new.prompts[label, seed].kind is not PromptKind.ABSENT:
            ends.add((label, end))
    return ends


def cleaned_by(record: RunRecord, now: PromptSet, dirty: set[Key], n_slices: int) -> set[Key]:
    """The dirty seeds and slices that a completed run has read, as they are now.

    Parameters
    ----------
    record : RunRecord
    now : PromptSet
        Seeds and extents at the end of the run.
    dirty : set of (label, index)
    n_slices : int

    Returns
    -------
    set of (label, index)
        Empty for a run that was limited to a range of slices.
    """
    then = record.prompts
    if record.write_range is not None:
        return set()
    covered = {
        (gap.label, index)
        for gap in record.gaps
        for index in (gap.before, gap.after, *range(gap.start, gap.stop + 1))
        if index is not None
    }
    labels = {gap.label for gap in record.gaps}
    # No run can reach what lies beside no gap.
    gaps = find_gaps(then, n_slices, labels=labels) if labels else ()
    unreachable = {key for key in dirty if key[0] in labels and not gaps_beside(gaps, [key])}
    return {
        (label, index)
        for label, index in (covered | unreachable) & dirty
        if now.get(label, index) is then.get(label, index)
        and now.extents.get(label) == then.extents.get(label)
    }


class Propagated:
    """Records and results of the runs of an annotation.

    Results whose seeds have changed are void: they are hidden at once, and removed by the thread
    that runs the propagation, because no other thread may change a result that is being written.

    Parameters
    ----------
    runs : list of RunRecord
    dirty : set of (label, index)
        Seeds and slices that changed since they were last run.

    Attributes
    ----------
    result : PropagationResult
    stale : set of (label, index)
        Void results that are not removed yet.
    void : set of (label, index)
        Slices whose soft masks are void, because an edit changed the pixels; their scores stand.
    saved_scores : dict of label to dict of slice index to SliceQuality
        Scores of an earlier session, without soft masks; those of later runs replace them.
    """

    def __init__(self, runs: list[RunRecord], dirty: set[Key]) -> None:
        self.runs, self.dirty = runs, dirty
        self.result = PropagationResult()
        self.stale: set[Key] = set()
        self.void: set[Key] = set()
        self.saved_scores: dict[int, dict[int, SliceQuality]] = {}
        self._without_mask: set[Key] = set()

    @property
    def quality(self) -> dict[int, dict[int, SliceQuality]]:
        """Scores by label and slice index; in any thread."""
        # Copies: a run may add slices meanwhile.
        scores = {label: dict(slices) for label, slices in list(self.result.scores.items())}
        found = replace(self.result, scores=scores).quality
        for label, slices in self.saved_scores.items():
            known = scores.get(label, {})
            earlier = {i: one for i, one in slices.items() if i not in known}
            if earlier:
                found[label] = {**earlier, **found.get(label, {})}
        return {
            label: {i: one for i, one in slices.items() if (label, i) not in self.stale}
            for label, slices in found.items()
        }

    def logits_on_slice(self, index: int) -> dict[int, npt.NDArray[np.float32]]:
        """Mask logits of every label that was propagated to a slice, before overlaps.

        Returns
        -------
        dict of label to ndarray of float32, shape (H, W)
            Within -8 and 8; above 0 is the object.
        """
        logits = self.result.label_logits(index)
        hidden = self.stale | self.void
        return {label: x for label, x in logits.items() if (label, index) not in hidden}

    @property
    def known(self) -> frozenset[Key]:
        """``(label, index)`` of everything that runs left in memory."""
        soft = set(self.result.soft)
        return self.result.known() - self.stale - self.void - (self._without_mask - soft)

    def mean_confidence(self) -> dict[int, float]:
        """Mean confidence of each label over its propagated slices; in any thread.

        Slices where another label has taken over the object do not count.
        """
        means = {}
        # Copies: a run may add slices meanwhile.
        for label, slices in list(self.result.scores.items()):
            found = [
                one.confidence
                for index, one in list(slices.items())
                if (label, index) not in self.stale and (label, index) not in self.result.suppressed
            ]
            if found:
                means[label] = float(np.mean(found))
        return means

    def note(self, changes: PromptChanges) -> None:
        """Take account of other seeds and extents."""
        self.dirty = (self.dirty - changes.outside) | changes.dirty
        self.stale = self.stale | changes.stale

    def void_masks(
        self, index: int, before: npt.NDArray[np.integer], after: npt.NDArray[np.integer]
    ) -> None:
        """Note that an edit changed a slice, shape (H, W): no run may restore what it removed."""
        changed = before != after
        labels = np.union1d(before[changed], after[changed]).tolist()
        self.void = self.void | {(label, index) for label in labels if label > 0}

    def set_scores(
        self, scores: Mapping[Key, SliceQuality | None]
    ) -> dict[Key, SliceQuality | None]:
        """Set (or remove) scores of propagated slices; not during a run, if there are any.

        Returns
        -------
        dict of (label, index) to SliceQuality or None
            The scores before.
        """
        if not scores:
            return {}
        known = self.quality
        self.drop_stale()
        for (label, index), one in scores.items():
            for stored in (self.result.scores, self.saved_scores):
                stored.get(label, {}).pop(index, None)
            if one is not None:
                self.result.scores.setdefault(label, {})[index] = one
        return {(label, index): known.get(label, {}).get(index) for label, index in scores}

    def drop_labels(self, labels: Iterable[int]) -> None:
        """Declare all results of some labels void."""
        removed = set(labels)
        self.stale = self.stale | {key for key in self.result.known() if key[0] in removed}

    def mark_clean(self, record: RunRecord, prompts: PromptSet, n_slices: int) -> frozenset[Key]:
        """Mark what a completed run has read as clean; see `cleaned_by`."""
        cleaned = cleaned_by(record, prompts, self.dirty, n_slices)
        self.dirty = self.dirty - cleaned
        return frozenset(cleaned)

    def drop_stale(self) -> None:
        """Remove void results; only for the thread that runs, or while nothing runs."""
        stale, self.stale = self.stale, set()
        void, self.void = self.void, set()
        self._without_mask |= void
        for label, index in void:
            self.result.soft.discard(label, index)
        for label, index in stale:
            self.result.forget(label, index)
            self.saved_scores.get(label, {}).pop(index, None)

    def exchange(
        self, result: PropagationResult, runs: Iterable[RunRecord]
    ) -> tuple[PropagationResult, tuple[RunRecord, ...]]:
        """Put the results and records of another time in place of these, which are returned."""
        self.drop_stale()
        now = self.result, tuple(self.runs)
        self.result, self.runs = result, list(runs)
        return now
