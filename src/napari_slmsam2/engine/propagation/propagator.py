"""Carries seeds through a volume, one slice and one event at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import DeviceMemoryError, PromptError
from napari_slmsam2.core.events import (
    FellBack,
    Finished,
    FinishReason,
    PropagationEvent,
    SliceSegmented,
    SweepEnded,
)
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.overlap import resolve_labels
from napari_slmsam2.core.plan import BACKWARD, FORWARD, Gap, Step, make_steps
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt
from napari_slmsam2.core.quality import SliceQuality, mean_quality, measured
from napari_slmsam2.core.segmenter import SegmentedSlice, SliceSegmenter, SweepContext
from napari_slmsam2.engine.features.interpolation import interpolated_logits
from napari_slmsam2.engine.propagation.competition import (
    LabelLogits,
    find_taken_over_slices,
    weight_by_seed_distance,
)
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.propagation.merge import dice, merge_logits, sweep_weights
from napari_slmsam2.engine.propagation.result import PropagationInput, PropagationResult

#: Weight of the interpolated shape against the two sweeps together.
INTERPOLATION_SHARE = 0.5

_T = TypeVar("_T")
_Sweep = tuple[Gap, int]
_BY_SLICE = itemgetter(1)


@dataclass(slots=True)
class _SweepState:
    """One gap in one direction."""

    bank: MemoryBank
    absent_in_a_row: int = 0
    ended: bool = False


class Propagator:
    """Drives a `SliceSegmenter` along the gaps between seeds.

    Each gap is swept from its own seeds, each direction with a state of its own, so that the
    result does not depend on the order of sweeps and a gap can be run again alone. Where two
    sweeps meet they are merged.

    Parameters
    ----------
    segmenter : SliceSegmenter
    task : PropagationInput
    config : PropagationConfig
    result : PropagationResult, optional
        Of earlier runs on the same volume; updated in place.
    embeddings : EmbeddingCache, optional
        Shared with other runs of the same model on the same volume.
    """

    def __init__(
        self,
        segmenter: SliceSegmenter,
        task: PropagationInput,
        config: PropagationConfig | None = None,
        *,
        result: PropagationResult | None = None,
        embeddings: EmbeddingCache | None = None,
    ) -> None:
        self.config = config or PropagationConfig()
        self.result = PropagationResult() if result is None else result
        self._segmenter = segmenter
        self._task = task
        if embeddings is None:
            embeddings = EmbeddingCache(self.config.embedding_budget * 2**20)
        self._embeddings = embeddings
        self._context = SweepContext(
            task.volume.n_slices,
            task.volume.slice_shape,
            task.volume.slice_spacing,
            task.prompts.extents,
            self._embedding,
        )
        gaps = tuple(self._one_sweep(gap) for gap in task.gaps)
        self._steps = make_steps(gaps)
        self._next_step = 0
        self._running = {gap.label for gap in gaps}
        self._pending_seeds = [
            p for p in task.prompts if p.label in self._running or self._unanswered(p)
        ]
        self._total = len(self._steps) + len(self._pending_seeds)
        self._seeds: dict[int, dict[int, MemoryEntry]] = {}
        self._seed_masks: dict[tuple[int, int], npt.NDArray[np.bool_]] = {}
        self._sweeps: dict[_Sweep, _SweepState] = {}
        self._batch_size = self.config.batch_size
        self._notes: list[str] = []
        self._events: Iterator[PropagationEvent] = iter(())
        self._check_prompt_kinds()

    def propagate(
        self, should_stop: Callable[[], bool] | None = None
    ) -> Iterator[PropagationEvent]:
        """Run to the end, or until asked to stop; call again to go on where it stopped.

        Parameters
        ----------
        should_stop : callable, optional
            Asked between slices.

        Yields
        ------
        PropagationEvent
            The last one is `Finished`.

        Raises
        ------
        DeviceMemoryError
            Memory ran out and no fallback is left. Finished slices stay.
        """
        stopped = should_stop or (lambda: False)
        while True:
            # Not "yield from": that would close the step when a reader leaves in the middle of it.
            for event in self._events:  # noqa: UP028
                yield event
            while self._notes:
                yield FellBack(self._notes.pop(0))
            if not self._pending_seeds and self._next_step == len(self._steps):
                yield Finished(FinishReason.COMPLETED)
                return
            if stopped():
                yield Finished(FinishReason.STOPPED)
                return
            self._events = self._advance()

    @property
    def done(self) -> int:
        """Steps done so far, seeds included."""
        return self._total - len(self._pending_seeds) - len(self._steps) + self._next_step

    @property
    def total(self) -> int:
        """Steps of the whole run; sweeps that end early make it an upper bound."""
        return self._total

    def _one_sweep(self, gap: Gap) -> Gap:
        once = not self._segmenter.bidirectional and gap.from_before and gap.from_after
        return replace(gap, from_after=False) if once else gap

    def _unanswered(self, prompt: SlicePrompt) -> bool:
        """Whether these are points that no run has turned into a mask yet."""
        return (
            prompt.is_open
            and prompt.kind in self._segmenter.prompt_kinds
            and (prompt.label, prompt.index) not in self.result.seed_masks
        )

    def _check_prompt_kinds(self) -> None:
        for prompt in self._pending_seeds:
            kind = prompt.kind if prompt.mask is None else PromptKind.MASK
            if kind not in self._segmenter.prompt_kinds:
                raise PromptError(
                    f"seed of label {prompt.label} on slice {prompt.index}",
                    f"the model {self._segmenter.name!r} cannot read {kind.value}",
                    expected=" or ".join(sorted(k.value for k in self._segmenter.prompt_kinds)),
                    hint="Paint a mask on this slice, or choose a network as the model.",
                )

    def _advance(self) -> Iterator[PropagationEvent]:
        if self._pending_seeds:
            prompt = self._pending_seeds[0]
            self._read_seed(prompt.label, prompt.index)
            self._pending_seeds.pop(0)
            if prompt.is_open:
                yield self._slice_event(prompt.index, {}, final=True)
            return
        yield from self._visit(self._steps[self._next_step])
        if self._next_step == len(self._steps):
            yield from self._suppress_taken_over()

    def _visit(self, step: Step) -> Iterator[PropagationEvent]:
        active = [
            (gap, step.direction)
            for gap in step.gaps
            if not self._sweep((gap, step.direction)).ended
        ]
        outputs = self._segment(step, active) if active else []
        self._next_step += 1
        if not active:
            return
        quality = {}
        for sweep, output in zip(active, outputs, strict=True):
            score = self._take_over(sweep, step.index, output)
            if score is not None:
                quality[sweep[0].label] = score
        if quality:
            final = all(self._is_final(gap, direction) for gap, direction in active)
            yield self._slice_event(step.index, quality, final=final)
        for sweep in active:
            if self._sweep(sweep).ended:
                yield from self._clear_rest(sweep, step.index)
            if self._sweep(sweep).ended or step.index == sweep[0].indices(sweep[1])[-1]:
                self._sweep(sweep).bank.clear_visited()

    def _read_seed(self, label: int, index: int) -> None:
        prompt = self._task.prompts.get(label, index)
        assert prompt is not None
        embedding = self._embedding(index)
        output = self._with_memory_fallback(
            lambda: self._segmenter.encode_seed(embedding, prompt, self._context.shape)
        )
        entry = MemoryEntry(index, is_seed=True, content=output.content)
        self._seeds.setdefault(label, {})[index] = entry
        mask = prompt.mask if prompt.mask is not None else output.logits > 0
        self._seed_masks[label, index] = mask
        if self._prompts_now().get(label, index) is prompt:
            self.result.forget(label, index)
            self.result.seed_masks[label, index] = mask

    def _sweep(self, sweep: _Sweep) -> _SweepState:
        if sweep not in self._sweeps:
            label = sweep[0].label
            self._sweeps[sweep] = _SweepState(MemoryBank(label, dict(self._seeds[label])))
        return self._sweeps[sweep]

    def _segment(self, step: Step, active: Sequence[_Sweep]) -> list[SegmentedSlice]:
        embedding = self._embedding(step.index)
        banks = [self._sweep(sweep).bank for sweep in active]
        outputs: list[SegmentedSlice] = []
        while len(outputs) < len(banks):
            chunk = banks[len(outputs) : len(outputs) + self._batch_size]
            try:
                outputs += self._segmenter.segment(
                    embedding, step.index, step.direction, chunk, self._context
                )
            except DeviceMemoryError as error:
                self._free_memory(error, len(chunk))
        return outputs

    def _embedding(self, index: int) -> object:
        def encode(i: int) -> object:
            image = self._task.window.apply(self._task.volume.take(i))
            return self._with_memory_fallback(lambda: self._segmenter.encode_image(image))

        return self._embeddings.get(index, encode)

    def _with_memory_fallback(self, compute: Callable[[], _T]) -> _T:
        while True:
            try:
                return compute()
            except DeviceMemoryError as error:
                self._free_memory(error, 1)

    def _free_memory(self, error: DeviceMemoryError, batch: int) -> None:
        """Make room: smaller batch, then fewer stored embeddings and whatever the model can do."""
        if batch > 1:
            self._batch_size = max(1, batch // 2)
            labels = "1 label" if self._batch_size == 1 else f"{self._batch_size} labels"
            self._notes.append(f"memory is short: {labels} at a time now")
            return
        self._embeddings.clear()
        note = self._segmenter.free_memory()
        if note is None:
            raise error
        self._notes.append(note)

    def _take_over(self, sweep: _Sweep, index: int, output: SegmentedSlice) -> SliceQuality | None:
        """Remember a result, judge whether the object is there, merge the two sweeps.

        Returns
        -------
        SliceQuality or None
            None where the label is not to be written on this slice.
        """
        gap, direction = sweep
        state = self._sweep(sweep)
        logits = output.logits if output.presence >= 0.5 else np.full_like(output.logits, -8.0)
        quality = measured(
            SliceQuality(output.presence, output.predicted_iou, output.stability), logits
        )
        state.bank.add(
            MemoryEntry(index, is_seed=False, content=output.content, confidence=quality.confidence)
        )
        state.bank.retain(index + direction, direction, self._segmenter.reach)
        state.absent_in_a_row = 0 if quality.area else state.absent_in_a_row + 1
        end_is_known = gap.closed or gap.label in self._task.prompts.extents
        state.ended = not end_is_known and state.absent_in_a_row >= self.config.stop_after_absent
        if not self._writes(gap.label, index):
            return None
        if gap.closed:
            logits, quality = self._merge(sweep, index, logits, quality)
        self.result.soft.put(gap.label, index, logits)
        self.result.suppressed.discard((gap.label, index))
        self.result.scores.setdefault(gap.label, {})[index] = quality
        return quality

    def _merge(
        self,
        sweep: _Sweep,
        index: int,
        logits: npt.NDArray[np.float32],
        quality: SliceQuality,
    ) -> tuple[npt.NDArray[np.float32], SliceQuality]:
        gap, direction = sweep
        assert gap.before is not None
        assert gap.after is not None
        if not self._is_final(gap, direction):
            return logits, quality
        weighted_logits = [(logits, 1.0)]
        agreement = None
        first = None
        if direction == BACKWARD and gap.from_before:
            # None where a seed was set and taken back since the forward sweep.
            first = self.result.scores.get(gap.label, {}).get(index)
        if first is not None:
            earlier = self.result.soft.get(gap.label, index)
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
            masks = {i: m for (label, i), m in self._seed_masks.items() if label == gap.label}
            weighted_logits.append((interpolated_logits(masks, index), share))
        if len(weighted_logits) == 1:
            return logits, quality
        merged = merge_logits(weighted_logits)
        return merged, replace(measured(quality, merged), agreement=agreement)

    def _interpolates(self, gap: Gap) -> bool:
        chosen = self.config.merge
        merge = self._segmenter.default_merge if chosen == "auto" else chosen
        return merge == "interpolation" and all(
            self._seed_masks[gap.label, i].any() for i in (gap.before, gap.after) if i is not None
        )

    def _is_final(self, gap: Gap, direction: int) -> bool:
        return direction == BACKWARD or not gap.from_after

    def _writes(self, label: int, index: int) -> bool:
        """Whether a slice of a gap is to be filled: in the range, and not annotated since."""
        everything = (0, self._context.n_slices - 1)
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

    def _clear_rest(self, sweep: _Sweep, index: int) -> Iterator[PropagationEvent]:
        """Remove what an earlier run left beyond the end that was found now."""
        gap, direction = sweep
        yield SweepEnded(gap.label, index, direction)
        rest = range(index + 1, gap.stop + 1) if direction == FORWARD else range(gap.start, index)
        for i in rest:
            if not self._writes(gap.label, i):
                continue
            self.result.forget(gap.label, i)
            if (self._task.read_labels(i) == gap.label).any():
                yield self._slice_event(i, {}, final=True)

    def _suppress_taken_over(self) -> Iterator[PropagationEvent]:
        """End sweeps that have gone over to other labels where that happened."""
        labels = set(self._running)
        if self.config.overlap == "highest":
            labels |= {label for label, _ in self.result.soft}
        found = find_taken_over_slices(
            self.result.soft,
            self._prompts_now(),
            self._context.n_slices,
            labels,
            lambda index, label_logits: self._resolve(
                self._task.read_labels(index), index, label_logits, labels
            ),
        )
        changed = {
            (label, index)
            for label, index in found ^ self.result.suppressed
            if label in labels and self._writes(label, index)
        }
        shown = replace(self.result, suppressed=self.result.suppressed ^ changed).quality
        for index, here in groupby(sorted(changed, key=_BY_SLICE), key=_BY_SLICE):
            switched = set(here)
            cleared = {label for label, _ in switched}
            quality = {x: shown[x][index] for x in cleared if index in shown.get(x, {})}
            self.result.suppressed ^= switched
            yield self._slice_event(index, quality, final=True, cleared=cleared)

    def _slice_event(
        self,
        index: int,
        quality: Mapping[int, SliceQuality],
        *,
        final: bool,
        cleared: Collection[int] = (),
    ) -> SliceSegmented:
        existing = self._task.read_labels(index)
        running = self._running.union(cleared)
        resolved = self._resolve(existing, index, self.result.label_logits(index), running)
        changed = resolved != existing
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        bbox = (
            (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            if len(rows)
            else (slice(0, 0), slice(0, 0))
        )
        return SliceSegmented(
            index, resolved[bbox], bbox, dict(quality), final, self.done, self.total
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
        weighed = weight_by_seed_distance(label_logits, prompts, index)
        return resolve_labels(existing, weighed, running, seeds, self.config.overlap)

    def _seed_mask(self, prompt: SlicePrompt) -> npt.NDArray[np.bool_] | None:
        if prompt.mask is not None:
            return prompt.mask
        if prompt.kind is PromptKind.ABSENT:
            return np.zeros(self._context.shape, dtype=bool)
        return self.result.seed_masks.get((prompt.label, prompt.index))
