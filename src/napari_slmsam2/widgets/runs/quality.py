"""Scores of the slices, and which one to correct next."""

from __future__ import annotations

from collections import Counter

from qtpy.QtCore import QObject

from napari_slmsam2.core.events import SliceSegmented
from napari_slmsam2.core.plan import find_gaps, gaps_beside
from napari_slmsam2.core.quality import FLAG_SCORE, Suggestion, trusted_slices
from napari_slmsam2.session.annotation import Annotation


class Scores(QObject):
    """Confidence per slice: the lowest of all labels on it, or that of one label.

    Attributes
    ----------
    label : int or None
        The only label that `lowest` shows; None for all.
    visited : set of int
        Slices that the present run has segmented.
    """

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.label: int | None = None
        self._of_labels: dict[int, dict[int, float]] = {}
        self._offered: set[tuple[int, int]] = set()
        self.visited: set[int] = set()

    def take_over(self, annotation: Annotation | None) -> None:
        """Show the scores of an annotation; not during a run of it."""
        self._of_labels, self.visited, self._offered = {}, set(), set()
        if annotation is None:
            return
        for label, slices in annotation.quality.items():
            for index, quality in slices.items():
                self._of_labels.setdefault(index, {})[label] = quality.confidence

    def add(self, event: SliceSegmented) -> None:
        """Add the scores of a slice that was just segmented."""
        self.visited.add(event.index)
        for label, quality in event.quality.items():
            self._of_labels.setdefault(event.index, {})[label] = quality.confidence

    def lowest(self, annotation: Annotation | None) -> dict[int, float]:
        """Confidence by slice; labels with a seed on the slice do not count."""
        found = {}
        for index, labels in self._of_labels.items():
            scores = [
                score
                for label, score in labels.items()
                if (self.label is None or label == self.label)
                and (annotation is None or annotation.prompts.get(label, index) is None)
            ]
            if scores:
                found[index] = min(scores)
        return found

    def next_to_fix(self, annotation: Annotation | None) -> Suggestion | None:
        """The most urgent slice that was not offered yet; after all of them, the first again.

        Labels with doubtful slices take turns.
        """
        if annotation is None:
            return None
        open_ones = [
            s for s in annotation.suggestions() if annotation.prompts.get(s.label, s.index) is None
        ]
        fresh = [s for s in open_ones if (s.label, s.index) not in self._offered]
        if not fresh:
            self._offered.clear()
            fresh = open_ones
        if not fresh:
            return None
        doubtful = [s for s in fresh if s.score >= FLAG_SCORE] or fresh
        turns = Counter(label for label, _ in self._offered)
        # Of the labels that were offered least often the most urgent slice: they are sorted.
        found = min(doubtful, key=lambda s: turns[s.label])
        self._offered.add((found.label, found.index))
        return found


def confident_slices(annotation: Annotation) -> dict[int, tuple[int, ...]]:
    """Propagated slices whose scores raise no doubt, by label; not during a run.

    Only labels that a person painted are included. Seeds are excluded, as are slices beside a
    seed that has changed since it was run, and slices whose pixels were replaced since.

    Parameters
    ----------
    annotation : Annotation
    """
    prompts = annotation.prompts
    painted = {p.label for p in prompts if p.mask is not None}
    if not painted:
        return {}
    gaps = find_gaps(prompts, annotation.volume.n_slices, labels=painted)
    gaps = gaps_beside(gaps, annotation.dirty)
    doubtful = {(gap.label, i) for gap in gaps for i in range(gap.start, gap.stop + 1)}
    doubtful |= prompts.prompts.keys()
    found = {
        label: tuple(i for i in indices if (label, i) not in doubtful)
        for label, indices in trusted_slices(annotation.quality).items()
        if label in painted
    }
    return {label: indices for label, indices in found.items() if indices}
