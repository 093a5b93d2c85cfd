"""The end of a run: sweeps that follow the object of another label are ended there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.events import SliceSegmented
from napari_slmsam2.core.quality import SliceQuality
from napari_slmsam2.engine.propagation.competition import (
    find_open_gaps,
    find_taken_over,
    suppressed_slices,
)
from napari_slmsam2.engine.propagation.compositor import Compositor
from napari_slmsam2.engine.propagation.result import PropagationInput, PropagationResult


class TakeoverCheck:
    """Checks slice by slice, then corrects slice by slice.

    Parameters
    ----------
    compositor : Compositor
    task : PropagationInput
    config : PropagationConfig
    result : PropagationResult
        Its ``suppressed`` slices are updated.
    """

    def __init__(
        self,
        compositor: Compositor,
        task: PropagationInput,
        config: PropagationConfig,
        result: PropagationResult,
    ) -> None:
        self._compositor = compositor
        self._task = task
        self._result = result
        self._labels = compositor.running
        if config.overlap == "highest":
            self._labels = self._labels.union(label for label, _ in result.soft)
        n_slices = task.volume.n_slices
        self._gaps = find_open_gaps(task.prompts_now(), n_slices, self._labels)
        self._unchecked = sorted(
            {i for gap in self._gaps for i in range(gap.start, gap.stop + 1)}, reverse=True
        )
        self._taken_over: dict[int, set[int]] = {}
        self._corrections: list[tuple[int, set[int], dict[int, SliceQuality]]] | None = None

    @property
    def left(self) -> int:
        """Slices that are still to be checked."""
        return len(self._unchecked)

    @property
    def finished(self) -> bool:
        """Whether everything is checked and corrected."""
        return self._corrections == []

    @property
    def state(self) -> tuple[Any, ...]:
        """What is checked and corrected so far; can be assigned to another check of the run."""
        return self._unchecked, self._taken_over, self._corrections

    @state.setter
    def state(self, state: tuple[Any, ...]) -> None:
        self._unchecked, self._taken_over, self._corrections = state

    def advance(self) -> SliceSegmented | None:
        """Check or correct one slice; the event of a corrected one."""
        if self._unchecked:
            index = self._unchecked.pop()
            self._taken_over[index] = self._check(index)
            return None
        if self._corrections is None:
            self._corrections = self._find_corrections()
            return None
        index, labels, quality = self._corrections.pop()
        self._result.suppressed ^= {(label, index) for label in labels}
        return self._compositor.slice_event(index, quality, final=True, cleared=labels)

    def _check(self, index: int) -> set[int]:
        label_logits = self._result.soft.on_slice(index)
        if not label_logits:
            return set()
        existing = self._task.read_labels(index)
        winner = self._compositor.resolve(existing, index, label_logits, self._labels)
        return find_taken_over(label_logits, winner)

    def _find_corrections(self) -> list[tuple[int, set[int], dict[int, SliceQuality]]]:
        """Slices, the labels to suppress or to show again on them, and their scores afterwards.

        The last one is to be done first.
        """
        found = suppressed_slices(self._gaps, self._taken_over)
        changed = {
            (label, index)
            for label, index in found ^ self._result.suppressed
            if label in self._labels and self._compositor.writes(label, index)
        }
        by_slice: dict[int, set[int]] = {}
        for label, index in changed:
            by_slice.setdefault(index, set()).add(label)
        shown = replace(self._result, suppressed=self._result.suppressed ^ changed).quality
        return [
            (
                index,
                labels,
                {x: shown[x][index] for x in sorted(labels) if index in shown.get(x, {})},
            )
            for index, labels in sorted(by_slice.items(), reverse=True)
        ]
