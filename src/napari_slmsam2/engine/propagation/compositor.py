"""From the masks of single sweeps to the labels of a slice."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.events import SliceSegmented
from napari_slmsam2.core.overlap import resolve_labels
from napari_slmsam2.core.plan import BACKWARD, Gap
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt
from napari_slmsam2.core.quality import SliceQuality, mean_quality, measured
from napari_slmsam2.engine.features.interpolation import interpolated_logits
from napari_slmsam2.engine.propagation.competition import (
    LabelLogits,
    find_taken_over_slices,
    weight_by_seed_distance,
)
from napari_slmsam2.engine.propagation.merge import dice, merge_logits, sweep_weights
from napari_slmsam2.engine.propagation.result import PropagationInput, PropagationResult
from napari_slmsam2.engine.propagation.sweep import Sweep

#: Weight of the interpolated shape against the two sweeps together.
INTERPOLATION_SHARE = 0.5

_BY_SLICE = itemgetter(1)


class Compositor:
    """Merges the sweeps of a gap, and resolves the labels of a slice against each other.

    Parameters
    ----------
    task : PropagationInput
    config : PropagationConfig
    result : PropagationResult
        Updated in place.
    running : collection of int
        Labels of the run.
    merge : {"sweeps", "interpolation"}
        Whether the shape interpolated between two seeds has a share in a merged mask.
    """

    def __init__(
        self,
        task: PropagationInput,
        config: PropagationConfig,
        result: PropagationResult,
        *,
        running: Collection[int],
        merge: str,
    ) -> None:
        self._task = task
        self._config = config
        self._result = result
        self._running = frozenset(running)
        self._merge_rule = merge
        self._seed_masks: dict[tuple[int, int], npt.NDArray[np.bool_]] = {}

    def add_seed(self, prompt: SlicePrompt, mask: npt.NDArray[np.bool_]) -> None:
        """Keep the mask, shape (H, W), of a seed that the model has read."""
        key = prompt.label, prompt.index
        self._seed_masks[key] = mask
        if self._prompts_now().get(*key) is prompt:
            self._result.forget(*key)
            self._result.seed_masks[key] = mask

    def add(
        self, sweep: Sweep, index: int, logits: npt.NDArray[np.float32], quality: SliceQuality
    ) -> SliceQuality | None:
        """Store what a sweep found on a slice, merged with the earlier sweep of the gap.

        Parameters
        ----------
        sweep : Sweep
        index : int
        logits : ndarray of float32, shape (H, W)
        quality : SliceQuality

        Returns
        -------
        SliceQuality or None
            Of the stored mask; None where the label is not to be written on this slice.
        """
        label = sweep.label
        if not self._writes(label, index):
            return None
        if sweep.gap.closed and sweep.is_final:
            logits, quality = self._merge(sweep, index, logits, quality)
        self._result.soft.put(label, index, logits)
        self._result.suppressed.discard((label, index))
        self._result.scores.setdefault(label, {})[index] = quality
        return quality

    def clear_rest(self, sweep: Sweep, index: int) -> Iterator[SliceSegmented]:
        """Remove what an earlier run left beyond the slice on which a sweep ended."""
        for i in sweep.rest(index):
            if not self._writes(sweep.label, i):
                continue
            self._result.forget(sweep.label, i)
            if (self._task.read_labels(i) == sweep.label).any():
                yield self.slice_event(i, {}, final=True)

    def suppress_taken_over(self) -> Iterator[SliceSegmented]:
        """End sweeps that follow the object of another label, from there on."""
        labels = set(self._running)
        if self._config.overlap == "highest":
            labels |= {label for label, _ in self._result.soft}
        found = find_taken_over_slices(
            self._result.soft,
            self._prompts_now(),
            self._task.volume.n_slices,
            labels,
            lambda index, label_logits: self._resolve(
                self._task.read_labels(index), index, label_logits, labels
            ),
        )
        changed = {
            (label, index)
            for label, index in found ^ self._result.suppressed
            if label in labels and self._writes(label, index)
        }
        shown = replace(self._result, suppressed=self._result.suppressed ^ changed).quality
        for index, here in groupby(sorted(changed, key=_BY_SLICE), key=_BY_SLICE):
            switched = set(here)
            cleared = {label for label, _ in switched}
            quality = {x: shown[x][index] for x in cleared if index in shown.get(x, {})}
            self._result.suppressed ^= switched
            yield self.slice_event(index, quality, final=True, cleared=cleared)

    def slice_event(
        self,
        index: int,
        quality: Mapping[int, SliceQuality],
        *,
        final: bool,
        cleared: Collection[int] = (),
    ) -> SliceSegmented:
        """The labels of a slice as they are now, and where they differ from those before."""
        existing = self._task.read_labels(index)
        running = self._running.union(cleared)
        resolved = self._resolve(existing, index, self._result.label_logits(index), running)
        changed = resolved != existing
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        bbox = (
            (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            if len(rows)
            else (slice(0, 0), slice(0, 0))
        )
        return SliceSegmented(index, resolved[bbox], bbox, dict(quality), final)

    def _merge(
        self,
        sweep: Sweep,
        index: int,
        logits: npt.NDArray[np.float32],
        quality: SliceQuality,
    ) -> tuple[npt.NDArray[np.float32], SliceQuality]:
        gap, label = sweep.gap, sweep.label
        assert gap.before is not None
        assert gap.after is not None
        weighted_logits = [(logits, 1.0)]
        agreement = None
        first = None
        if sweep.direction == BACKWARD and gap.from_before:
            # None where a seed was set and removed again since the forward sweep.
            first = self._result.scores.get(label, {}).get(index)
        if first is not None:
            earlier = self._result.soft.get(label, index)
            if earlier is None:
                earlier = np.full_like(logits, -8.0)
            agreement = dice(earlier > 0, logits > 0)
            forward, backward = sweep_weights(
                index, gap.before, gap.after, first.confidence, quality.confidence
            )
            weighted_logits = [(earlier, forward), (logits, backward)]
            quality = mean_quality(first, quality)
        if self._interpolates(gap):
            share = INTERPOLATION_SHARE * sum(weight for _, weight in weighted_logits)
            masks = {i: mask for (x, i), mask in self._seed_masks.items() if x == label}
            weighted_logits.append((interpolated_logits(masks, index), share))
        if len(weighted_logits) == 1:
            return logits, quality
        merged = merge_logits(weighted_logits)
        return merged, replace(measured(quality, merged), agreement=agreement)

    def _interpolates(self, gap: Gap) -> bool:
        return self._merge_rule == "interpolation" and all(
            self._seed_masks[gap.label, i].any() for i in (gap.before, gap.after) if i is not None
        )

    def _resolve(
        self,
        existing: npt.NDArray[np.integer],
        index: int,
        label_logits: LabelLogits,
        running: Collection[int],
    ) -> npt.NDArray[np.integer]:
        prompts = self._prompts_now()
        seeds = {
            p.label: mask
            for p in prompts.on_slice(index)
            if (mask := self._seed_mask(p)) is not None
        }
        weighted = weight_by_seed_distance(label_logits, prompts, index)
        return resolve_labels(existing, weighted, running, seeds, self._config.overlap)

    def _seed_mask(self, prompt: SlicePrompt) -> npt.NDArray[np.bool_] | None:
        if prompt.mask is not None:
            return prompt.mask
        if prompt.kind is PromptKind.ABSENT:
            return np.zeros(self._task.volume.slice_shape, dtype=bool)
        return self._result.seed_masks.get((prompt.label, prompt.index))

    def _writes(self, label: int, index: int) -> bool:
        """Whether a slice of a gap is to be filled: in the range, and not annotated since."""
        everything = (0, self._task.volume.n_slices - 1)
        prompts = self._prompts_now()
        return prompts.get(label, index) is None and all(
            first <= index <= last
            for first, last in (
                self._task.write_range or everything,
                prompts.extents.get(label, everything),
            )
        )

    def _prompts_now(self) -> PromptSet:
        now = self._task.current_prompts
        return self._task.prompts if now is None else now()
