"""The core loop: seeds are propagated through a volume, one slice and one event at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.events import (
    FellBack,
    Finished,
    FinishReason,
    Progressed,
    PropagationEvent,
    SliceSegmented,
    SweepEnded,
)
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.plan import Gap, Step, make_steps
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.core.segmenter import SegmentedSlice, SliceSegmenter, SweepContext
from napari_slmsam2.engine.propagation.compositor import Compositor, SweptMask
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.propagation.memory_fallback import MemoryFallback
from napari_slmsam2.engine.propagation.result import PropagationInput, PropagationResult
from napari_slmsam2.engine.propagation.schedule import Schedule, Work
from napari_slmsam2.engine.propagation.slice_encoding import encode_ahead, encode_slice
from napari_slmsam2.engine.propagation.state import PropagatorState
from napari_slmsam2.engine.propagation.sweep import Sweep, SweepState
from napari_slmsam2.engine.propagation.takeover import TakeoverCheck
from napari_slmsam2.engine.propagation.visit import Visit, next_steps

LABELS_AT_ONCE = 8
"""Labels of a batch, for models that do not state how many fit into memory."""

_Work = Callable[[], Iterator[PropagationEvent]]


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
        Where ``batch_size`` is None, it is chosen now, from the free memory of the device.
    result : PropagationResult, optional
        Of earlier runs on the same volume; updated in place.
    embeddings : EmbeddingCache, optional
        Shared with other runs of the same model on the same volume.

    Attributes
    ----------
    config : PropagationConfig
        With the number of labels of a batch.

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
        gaps = tuple(self._sweep_once(gap) for gap in task.gaps)
        running = {gap.label for gap in gaps}
        batch_size = self.config.batch_size or self._labels_at_once(running)
        self.config = self.config.replace(batch_size=batch_size)
        self._fallback = MemoryFallback(segmenter, embeddings, batch_size)
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
            self._encode_next,
        )
        self._pending_seeds = [
            p for p in task.prompts if p.label in running or self._is_unanswered(p)
        ]
        self._check_prompt_kinds()
        self._segment_visits = getattr(segmenter, "segment_visits", None)
        self._steps = make_steps(gaps, alternate=self._segment_visits is not None)
        self._takeover: TakeoverCheck | None = None
        self._schedule = Schedule(
            {
                Work.SEED: len(self._pending_seeds),
                Work.VISIT: sum(len(step.gaps) for step in self._steps),
                Work.CHECK: self._new_takeover_check().left if self._steps else 0,
            }
        )
        self._done = self._next_step = 0
        self._seeds: dict[int, dict[int, MemoryEntry]] = {}
        self._states: dict[Sweep, SweepState] = {}
        self._visit: Visit | None = None
        self._events: Iterator[PropagationEvent] = iter(())

    def propagate(
        self, should_stop: Callable[[], bool] | None = None
    ) -> Iterator[PropagationEvent]:
        """Run to the end, or until asked to stop; call again to continue where it stopped.

        Parameters
        ----------
        should_stop : callable, optional
            Asked between slices, and between the batches of labels on a slice.

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
            work = self._next_work()
            if work is None:
                yield Finished(FinishReason.COMPLETED)
                return
            if stopped():
                yield Finished(FinishReason.STOPPED)
                return
            self._events = self._report(work())

    @property
    def done(self) -> int:
        """Position in the run: seeds read, slices segmented and slices corrected at the end."""
        return self._done

    @property
    def state(self) -> PropagatorState:
        """What another propagator of the same run needs to continue it, see `restore`."""
        return PropagatorState(
            self._done,
            self._next_step,
            tuple((p.label, p.index) for p in self._pending_seeds),
            self._seeds,
            self._compositor.seed_masks,
            self._states,
            None if self._visit is None else (self._visit.sweeps, self._visit.masks),
            None if self._takeover is None else self._takeover.state,
            self.result,
        )

    def restore(self, state: PropagatorState) -> None:
        """Continue where another propagator of the same run has stopped.

        Parameters
        ----------
        state : PropagatorState
            Its ``result`` is the one that this propagator was made with.
        """
        self._done, self._next_step = state.done, state.next_step
        pending = set(state.pending_seeds)
        self._pending_seeds = [p for p in self._task.prompts if (p.label, p.index) in pending]
        self._seeds, self._states = state.seeds, state.sweeps
        self._compositor.seed_masks = state.seed_masks
        segmented = 0
        if state.visit is not None:
            segmented = len(state.visit[1])
            steps = self._next_steps()
            embeddings = [self._embedding(step.index) for step in steps]
            self._visit = Visit(steps, state.visit[0], embeddings, state.visit[1])
        if state.takeover is not None:
            self._takeover = self._new_takeover_check()
            self._takeover.state = state.takeover
        self._schedule.plan(Work.SEED, len(self._pending_seeds))
        rest = [Sweep(g, s.direction) for s in self._steps[self._next_step :] for g in s.gaps]
        ended = {sweep for sweep, one in self._states.items() if one.ended}
        self._schedule.plan(Work.VISIT, sum(sweep not in ended for sweep in rest) - segmented)
        if self._takeover is not None:
            self._schedule.plan(Work.CHECK, self._takeover.left)

    def _next_work(self) -> _Work | None:
        """Seeds first, then all slices in the order of the plan, then the check at the end."""
        if self._pending_seeds:
            return self._read_seed
        if self._next_step < len(self._steps):
            return self._segment_batch
        if self._steps and (self._takeover is None or not self._takeover.finished):
            return self._check_takeover
        return None

    def _report(self, events: Iterator[PropagationEvent]) -> Iterator[PropagationEvent]:
        """The events of one piece of work, with the progress of the run."""
        schedule, is_reported = self._schedule, False
        for event in events:
            if isinstance(event, SliceSegmented):
                is_reported = True
                event = replace(
                    event,
                    done=schedule.done,
                    total=schedule.total,
                    seconds_left=schedule.seconds_left,
                )
            yield event
        if not is_reported:
            yield Progressed(schedule.done, schedule.total, schedule.seconds_left)
        for note in self._fallback.take_notes():
            yield FellBack(note)

    def _read_seed(self) -> Iterator[PropagationEvent]:
        prompt = self._pending_seeds[0]
        with self._schedule.measure(Work.SEED):
            embedding = self._embedding(prompt.index)
            output = self._fallback.call(
                lambda: self._segmenter.encode_seed(embedding, prompt, self._context.shape)
            )
        entry = MemoryEntry(prompt.index, is_seed=True, content=output.content)
        self._seeds.setdefault(prompt.label, {})[prompt.index] = entry
        mask = prompt.mask
        if mask is None:
            mask = output.patch.mask(self._context.shape)
        self._compositor.add_seed(prompt, mask)
        self._pending_seeds.pop(0)
        self._done += 1
        self._schedule.finish(Work.SEED)
        if prompt.is_open:
            yield self._compositor.slice_event(prompt.index, {}, final=True)

    def _segment_batch(self) -> Iterator[PropagationEvent]:
        """Some labels of a visit; with the last ones its slices are written."""
        with self._schedule.measure(Work.VISIT):
            visit = self._visit = self._visit or self._begin_visit()
            waiting = visit.sweeps[len(visit.masks) :]
            outputs = self._segment(visit, waiting) if waiting else []
            for sweep, output in zip(waiting, outputs, strict=False):
                visit.masks.append(self._remember(sweep, visit.step_of(sweep), output))
        self._schedule.finish(Work.VISIT, len(outputs))
        if len(visit.masks) == len(visit.sweeps):
            self._visit = None
            self._next_step += len(visit.steps)
            self._done += len(visit.steps)
            for step in visit.steps:
                yield from self._compose(visit, step)

    def _next_steps(self) -> tuple[Step, ...]:
        return next_steps(self._steps, self._next_step, pairs=self._segment_visits is not None)

    def _begin_visit(self) -> Visit:
        steps = self._next_steps()
        sweeps = [Sweep(gap, step.direction) for step in steps for gap in step.gaps]
        active = [sweep for sweep in sweeps if not self._state(sweep).ended]
        arriving = {sweep.direction for sweep in active}
        embeddings = [
            self._embedding(step.index) if step.direction in arriving else None for step in steps
        ]
        return Visit(steps, active, embeddings)

    def _segment(self, visit: Visit, waiting: Sequence[Sweep]) -> list[SegmentedSlice]:
        """As many of the waiting labels as are segmented at once."""

        def segment(sweeps: Sequence[Sweep]) -> list[SegmentedSlice]:
            slices = visit.slices_of(sweeps, lambda sweep: self._state(sweep).bank)
            if self._segment_visits is not None:
                found: list[SegmentedSlice] = self._segment_visits(slices, self._context)
                return found
            (only,) = slices
            return self._segmenter.segment(
                only.embedding, only.index, only.direction, only.banks, self._context
            )

        return self._fallback.call_batch(segment, waiting)

    def _remember(self, sweep: Sweep, step: Step, output: SegmentedSlice) -> SweptMask:
        """Put a result into the memory of its sweep."""
        state, index = self._state(sweep), step.index
        mask = self._compositor.merge(sweep, step, output)
        confidence = mask.found.confidence
        state.bank.add(
            MemoryEntry(index, is_seed=False, content=output.content, confidence=confidence)
        )
        state.bank.retain(index + sweep.direction, sweep.direction, self._segmenter.reach)
        state.absent_in_a_row = 0 if mask.found.area else state.absent_in_a_row + 1
        return mask

    def _compose(self, visit: Visit, step: Step) -> Iterator[PropagationEvent]:
        """Write a slice, and end the sweeps whose object has been absent for long enough."""
        index = step.index
        found = visit.found_on(step)
        with self._schedule.measure(Work.VISIT):
            quality = self._compositor.store(index, found)
        if quality:
            final = all(step.completes(sweep.gap) for sweep, _ in found)
            yield self._compositor.slice_event(index, quality, final=final)
        for sweep, _ in found:
            state = self._state(sweep)
            end_is_known = sweep.gap.closed or sweep.label in self._task.prompts.extents
            is_gone = state.absent_in_a_row >= self.config.stop_after_absent
            state.ended = is_gone and not end_is_known
            if state.ended:
                self._schedule.drop(Work.VISIT, len(sweep.rest(index)))
                yield SweepEnded(sweep.label, index, sweep.direction)
                yield from self._compositor.clear_rest(sweep, index)
            if state.ended or index == sweep.last_index:
                state.bank.clear_visited()

    def _check_takeover(self) -> Iterator[PropagationEvent]:
        """One slice of the check for sweeps that follow the object of another label."""
        if self._takeover is None:
            self._takeover = self._new_takeover_check()
        with self._schedule.measure(Work.CHECK):
            before = self._takeover.left
            event = self._takeover.advance()
        self._schedule.finish(Work.CHECK, before - self._takeover.left)
        self._schedule.plan(Work.CHECK, self._takeover.left)
        if event is not None:
            self._done += 1
            yield event

    def _new_takeover_check(self) -> TakeoverCheck:
        return TakeoverCheck(self._compositor, self._task, self.config, self.result)

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

    def _encode_next(
        self,
        count: int,
        encode: Callable[[Sequence[npt.NDArray[np.float32]]], Sequence[object]],
    ) -> None:
        """See `SweepContext.encode_next`."""
        upcoming = self._steps[self._next_step + 1 : self._next_step + 1 + count]
        encode_ahead(
            self._segmenter,
            self._task.volume,
            self._task.window,
            [step.index for step in upcoming],
            self._embeddings,
            encode,
        )

    def _labels_at_once(self, running: Collection[int]) -> int:
        """How many labels to segment at once where the settings leave it open."""
        measure = getattr(self._segmenter, "labels_at_once", None)
        if measure is None:
            return LABELS_AT_ONCE
        seeds = Counter(p.label for p in self._task.prompts if p.label in running)
        budget = self._embeddings.budget
        most = getattr(self._segmenter, "most_stored", None)
        stored = budget if most is None else min(most, budget)
        reserved = max(0, stored - self._embeddings.nbytes)
        shape = self._task.volume.slice_shape
        return int(measure(shape, seeds=max(seeds.values(), default=1), reserved=reserved))

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
