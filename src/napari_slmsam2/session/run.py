"""One propagation run of an annotation: from its seeds to slices in its labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.events import Finished, FinishReason, PropagationEvent, SliceSegmented
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.plan import Gap
from napari_slmsam2.core.prompts import PromptSet
from napari_slmsam2.core.segmenter import SliceSegmenter
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.propagation.propagator import Propagator
from napari_slmsam2.engine.propagation.result import PropagationInput
from napari_slmsam2.engine.propagation.state import PropagatorState
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.label_array import Plane, with_room_for
from napari_slmsam2.session.run_records import CHANGED, RunRecord, edits_since, slice_digest


def new_record(
    annotation: Annotation,
    prompts: PromptSet,
    gaps: tuple[Gap, ...],
    config: PropagationConfig,
    write_range: tuple[int, int] | None,
    model: str,
    sha256: str | None,
) -> RunRecord:
    """The record of a run that is about to begin, with the edits since the last one."""
    digests = annotation.runs[-1].digests if annotation.runs else None
    edits, now = edits_since(annotation.slices.read, annotation.volume.n_slices, digests)
    known = annotation.propagated.known
    return RunRecord(
        prompts, gaps, config, write_range, model, sha256, edits, now, known,
        locked=annotation.table.locked,
    )  # fmt: skip


class Run:
    """A run that was recorded in an annotation; it can be stopped and continued.

    Parameters
    ----------
    annotation : Annotation
    record : RunRecord
        What to run.
    segmenter : SliceSegmenter
    window : IntensityWindow
    embeddings : EmbeddingCache
        Shared with other runs of the same model on the same volume.

    Raises
    ------
    PromptError
        The model cannot read a seed.
    """

    def __init__(
        self,
        annotation: Annotation,
        record: RunRecord,
        segmenter: SliceSegmenter,
        window: IntensityWindow,
        embeddings: EmbeddingCache,
    ) -> None:
        self.record = record
        self._annotation = annotation
        highest = max(record.prompts.labels, default=0)

        def read_labels(index: int) -> Plane:
            return with_room_for(annotation.slices.read(index), highest)

        task = PropagationInput(
            annotation.volume,
            window,
            record.prompts,
            record.gaps,
            read_labels,
            record.write_range,
            lambda: annotation.prompts,
            record.locked,
        )
        annotation.drop_stale_results()
        self._propagator = Propagator(
            segmenter,
            task,
            record.config,
            result=annotation.propagated.result,
            embeddings=embeddings,
        )
        record.config = self._propagator.config
        self._step = annotation.history.start_run(record)

    @property
    def steps(self) -> int:
        """Steps done so far."""
        return self._propagator.done

    @property
    def state(self) -> PropagatorState:
        """What another run of the same record needs to continue this one, see `restore`."""
        return self._propagator.state

    def restore(self, state: PropagatorState) -> None:
        """Continue where another run of the same record was stopped."""
        self._propagator.restore(state)

    @property
    def can_continue(self) -> bool:
        """Whether the run was stopped, is not undone, and has the seeds that it began with."""
        return not self.record.finished and self.is_current and self.has_same_seeds

    @property
    def is_current(self) -> bool:
        """Whether the run has not been undone."""
        return self._step in self._annotation.history

    @property
    def has_same_seeds(self) -> bool:
        """Whether seeds and extents are those at the start of the run."""
        return self._annotation.prompts is self.record.prompts

    def events(self, should_stop: Callable[[], bool] | None = None) -> Iterator[PropagationEvent]:
        """Run to the end, or until asked to stop; call again to continue."""
        annotation, record = self._annotation, self.record
        events = self._propagator.propagate(should_stop)
        while True:
            annotation.drop_stale_results()
            started = time.perf_counter()
            event = next(events)
            record.seconds += time.perf_counter() - started
            record.steps = self._propagator.done
            if isinstance(event, SliceSegmented):
                before, after = annotation.slices.overlay(event.index, event.bbox, event.labels)
                self._step.states.keep(event.index, before)
                record.digests[event.index] = slice_digest(after)
            is_same = self.has_same_seeds and annotation.table.locked == record.locked
            if not is_same or annotation.is_crossed:
                # Repeated without these seeds and locks, the run may differ on any slice.
                record.digests[:] = [CHANGED] * len(record.digests)
            if isinstance(event, Finished) and event.reason is FinishReason.COMPLETED:
                record.finished = True
                annotation.history.finish_run(self._step, record)
            yield event
            if isinstance(event, Finished):
                return
