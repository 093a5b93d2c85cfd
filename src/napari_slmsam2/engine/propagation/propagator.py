"""The core loop: seeds are propagated through a volume, one slice and one event at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.events import (
    FellBack,
    Finished,
    FinishReason,
    PropagationEvent,
    SliceSegmented,
    SweepEnded,
)
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.plan import Gap, Step, make_steps
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.core.quality import SliceQuality, measured
from napari_slmsam2.core.segmenter import SegmentedSlice, SliceSegmenter, SweepContext
from napari_slmsam2.engine.propagation.compositor import Compositor
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.propagation.memory_fallback import MemoryFallback
from napari_slmsam2.engine.propagation.result import PropagationInput, PropagationResult
from napari_slmsam2.engine.propagation.slice_encoding import encode_slice
from napari_slmsam2.engine.propagation.sweep import Sweep, SweepState


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

    Raises
    ------
    PromptError
        The segmenter cannot read one of the seeds.
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
        self._fallback = MemoryFallback(segmenter, embeddings, self.config.batch_size)
        gaps = tuple(self._sweep_once(gap) for gap in task.gaps)
        running = {gap.label for gap in gaps}
        merge = self.config.merge
        self._compositor = Compositor(
            task,
            self.config,
            self.result,
            running=running,
            merge=segmenter.default_merge if merge == "auto" else merge,
        )
        self._context = SweepContext(
            task.volume.n_slices,
            task.volume.slice_shape,
            task.volume.slice_spacing,
            task.prompts.extents,
            self._embedding,
        )
        self._pending_seeds = [
            p for p in task.prompts if p.label in running or self._is_unanswered(p)
        ]
        self._check_prompt_kinds()
        self._steps = make_steps(gaps)
        self._next_step = 0
        self._total = len(self._steps) + len(self._pending_seeds)
        self._seeds: dict[int, dict[int, MemoryEntry]] = {}
        self._states: dict[Sweep, SweepState] = {}
        self._events: Iterator[PropagationEvent] = iter(())

    def propagate(
        self, should_stop: Callable[[], bool] | None = None
    ) -> Iterator[PropagationEvent]:
        """Run to the end, or until asked to stop; call again to continue where it stopped.

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
            if self.done == self.total:
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

    def _advance(self) -> Iterator[PropagationEvent]:
        """One step: a seed is read, or a slice is segmented for all labels whose gap covers it."""
        step = self._read_seed if self._pending_seeds else self._visit
        for event in step():
            if isinstance(event, SliceSegmented):
                event = replace(event, done=self.done, total=self.total)
            yield event
        for note in self._fallback.take_notes():
            yield FellBack(note)

    def _read_seed(self) -> Iterator[PropagationEvent]:
        prompt = self._pending_seeds[0]
        embedding = self._embedding(prompt.index)
        output = self._fallback.call(
            lambda: self._segmenter.encode_seed(embedding, prompt, self._context.shape)
        )
        entry = MemoryEntry(prompt.index, is_seed=True, content=output.content)
        self._seeds.setdefault(prompt.label, {})[prompt.index] = entry
        mask = prompt.mask if prompt.mask is not None else output.logits > 0
        self._compositor.add_seed(prompt, mask)
        self._pending_seeds.pop(0)
        if prompt.is_open:
            yield self._compositor.slice_event(prompt.index, {}, final=True)

    def _visit(self) -> Iterator[PropagationEvent]:
        step = self._steps[self._next_step]
        sweeps = [Sweep(gap, step.direction) for gap in step.gaps]
        active = [sweep for sweep in sweeps if not self._state(sweep).ended]
        outputs = self._segment(step, active) if active else []
        self._next_step += 1
        quality = {}
        for sweep, output in zip(active, outputs, strict=True):
            score = self._remember(sweep, step.index, output)
            if score is not None:
                quality[sweep.label] = score
        if quality:
            final = all(sweep.is_final for sweep in active)
            yield self._compositor.slice_event(step.index, quality, final=final)
        for sweep in active:
            state = self._state(sweep)
            if state.ended:
                yield SweepEnded(sweep.label, step.index, step.direction)
                yield from self._compositor.clear_rest(sweep, step.index)
            if state.ended or step.index == sweep.last_index:
                state.bank.clear_visited()
        if self._next_step == len(self._steps):
            yield from self._compositor.suppress_taken_over()

    def _segment(self, step: Step, active: Sequence[Sweep]) -> list[SegmentedSlice]:
        embedding = self._embedding(step.index)
        return self._fallback.call_in_batches(
            lambda banks: self._segmenter.segment(
                embedding, step.index, step.direction, banks, self._context
            ),
            [self._state(sweep).bank for sweep in active],
        )

    def _remember(self, sweep: Sweep, index: int, output: SegmentedSlice) -> SliceQuality | None:
        """Store a result, and end the sweep where the object has been absent for long enough."""
        state = self._state(sweep)
        logits = output.logits if output.presence >= 0.5 else np.full_like(output.logits, -8.0)
        quality = measured(
            SliceQuality(output.presence, output.predicted_iou, output.stability), logits
        )
        state.bank.add(
            MemoryEntry(index, is_seed=False, content=output.content, confidence=quality.confidence)
        )
        state.bank.retain(index + sweep.direction, sweep.direction, self._segmenter.reach)
        state.absent_in_a_row = 0 if quality.area else state.absent_in_a_row + 1
        end_is_known = sweep.gap.closed or sweep.label in self._task.prompts.extents
        state.ended = not end_is_known and state.absent_in_a_row >= self.config.stop_after_absent
        return self._compositor.add(sweep, index, logits, quality)

    def _state(self, sweep: Sweep) -> SweepState:
        if sweep not in self._states:
            self._states[sweep] = SweepState(
                MemoryBank(sweep.label, dict(self._seeds[sweep.label]))
            )
        return self._states[sweep]

    def _embedding(self, index: int) -> object:
        return encode_slice(
            self._segmenter,
            self._task.volume,
            self._task.window,
            index,
            self._embeddings,
            self._fallback.call,
        )

    def _sweep_once(self, gap: Gap) -> Gap:
        """The gap with one sweep only, where the second would give the same."""
        once = not self._segmenter.bidirectional and gap.from_before and gap.from_after
        return replace(gap, from_after=False) if once else gap

    def _is_unanswered(self, prompt: SlicePrompt) -> bool:
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
