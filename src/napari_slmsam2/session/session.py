"""One volume, its seeds and its labels: the headless whole that command line and window share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import (
    CheckpointError,
    ConfigError,
    PromptError,
)
from napari_slmsam2.core.events import (
    Finished,
    FinishReason,
    PropagationEvent,
    SliceSegmented,
)
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.plan import (
    BACKWARD,
    FORWARD,
    Gap,
    clip_gaps,
    find_gaps,
    gaps_beside,
)
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.clicks.prompt_solver import PromptSolver
from napari_slmsam2.engine.loading import ReadyModel, make_segmenter
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.propagation.propagator import Propagator
from napari_slmsam2.engine.propagation.result import PropagationInput, PropagationResult
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL
from napari_slmsam2.session.annotated_volume import AnnotatedVolume
from napari_slmsam2.session.run_records import RunRecord, SliceStates, edits_since, slice_digest

if TYPE_CHECKING:
    from napari_slmsam2.engine.weights.download import Progress

#: Settings that are built into a loaded model or its stored embeddings.
_MODEL_SETTINGS = (
    "precision",
    "memory_dtype",
    "memory_pooling",
    "image_size",
    "embedding_budget",
)
_DIRECTIONS = {"both": (FORWARD, BACKWARD), "forward": (FORWARD,), "backward": (BACKWARD,)}


class SegmentationSession(AnnotatedVolume):
    """Seeds in, labels out.

    Parameters
    ----------
    volume : Volume
    model : str or path-like
        ``flow``, ``interpolation``, the name of a network, or a file of weights.
    device : str
        ``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
    config : PropagationConfig, optional
    window : IntensityWindow, optional
        Default: the 0.5 and 99.5 percentiles of the volume.
    labels : ndarray of int, shape of the volume, optional
        Labels to start from; written in place, until a label does not fit their dtype: then
        `labels` becomes a wider copy. Default: an empty volume.
    models_folder : path-like, optional
        Where files of weights are looked for and kept.

    Raises
    ------
    GridMismatchError
        The labels have another shape than the volume.
    """

    def __init__(
        self,
        volume: Volume,
        *,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        device: str = "auto",
        config: PropagationConfig | None = None,
        window: IntensityWindow | None = None,
        labels: npt.NDArray[np.integer] | None = None,
        models_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(volume, labels)
        self.model = model
        self.device = device
        self._config = config or PropagationConfig()
        self._window = window or IntensityWindow.from_percentiles(volume)
        self.runs: list[RunRecord] = []
        self._models_folder = models_folder
        self._ready: ReadyModel | None = None
        self._ready_is_given = False
        self._embeddings = EmbeddingCache(self.config.embedding_budget * 2**20)
        self._undo: list[_Undo] = []
        self._redo: list[_Undo] = []
        self._paused: tuple[Propagator, RunRecord] | None = None

    @property
    def config(self) -> PropagationConfig:
        """Settings of the next run; a model that they change is loaded anew."""
        return self._config

    @config.setter
    def config(self, config: PropagationConfig) -> None:
        previous, self._config = self._config, config
        if any(getattr(previous, name) != getattr(config, name) for name in _MODEL_SETTINGS):
            if not self._ready_is_given:
                self._ready = None
            self._embeddings = EmbeddingCache(config.embedding_budget * 2**20)

    @property
    def window(self) -> IntensityWindow:
        """Intensities that the model sees as black and white."""
        return self._window

    @window.setter
    def window(self, window: IntensityWindow) -> None:
        self._window = window
        self._embeddings.clear()
        self._paused = None

    @property
    def encoded_slices(self) -> int:
        """How often an image was encoded so far; stored embeddings are not encoded again."""
        return self._embeddings.encoded

    def load_model(
        self,
        *,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> ReadyModel:
        """Make the model ready, with a download where needed; done by `propagate` otherwise.

        Parameters
        ----------
        progress : callable, optional
            ``progress(done_bytes, total_bytes)`` of the download.
        should_stop : callable, optional
            Asked during the download.
        """
        if self._ready is None:
            self._ready = make_segmenter(
                self.model,
                device=self.device,
                config=self.config,
                folder=self._models_folder,
                progress=progress,
                should_stop=should_stop,
            )
        return self._ready

    def use_model(self, model: str | os.PathLike[str] | ReadyModel) -> None:
        """Change the model; the labels so far stay."""
        self._ready_is_given = isinstance(model, ReadyModel)
        self._ready = model if isinstance(model, ReadyModel) else None
        self.model = model.name if isinstance(model, ReadyModel) else model
        self._embeddings.clear()
        self._paused = None

    def answer(self, prompt: SlicePrompt) -> SlicePrompt:
        """Find the mask of points or a box at once; nothing is stored, see `add_prompt`.

        Returns
        -------
        SlicePrompt
            The prompt with the mask that the model finds.

        Raises
        ------
        PromptError
            It does not fit the volume, or the model finds nothing there.
        """
        ready = self.load_model()
        answers = PromptSolver(ready.segmenter, self.volume, self.window, self._embeddings)
        return answers.find(prompt)

    def propagate(
        self,
        *,
        labels: Collection[int] | None = None,
        gaps_only: bool = False,
        write_range: tuple[int, int] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Iterator[PropagationEvent]:
        """Carry the seeds through the volume; the labels fill as the events come.

        Parameters
        ----------
        labels : collection of int, optional
            Only these labels. Default: all with a seed.
        gaps_only : bool
            Only the gaps beside seeds that were added, changed or removed since they were last
            run.
        write_range : tuple of int, optional
            First and last slice to fill. Default: all.
        should_stop : callable, optional
            Asked between slices. After a stop the finished slices stay and `resume` goes on.

        Yields
        ------
        PropagationEvent
            The last one is `Finished`.

        Raises
        ------
        PromptError
            There is nothing to propagate from, or the model cannot read a seed.
        """
        if write_range is not None and not (
            0 <= write_range[0] <= write_range[1] < self.volume.n_slices
        ):
            raise ConfigError(
                "range",
                "is not in the volume",
                expected=f"0 to {self.volume.n_slices - 1}",
                found=write_range,
            )
        gaps = find_gaps(
            self._prompts,
            self.volume.n_slices,
            labels=labels,
            directions=_DIRECTIONS[self.config.direction],
        )
        if gaps_only:
            gaps = gaps_beside(gaps, self._touched)
        if write_range is not None:
            gaps = clip_gaps(gaps, *write_range)
        record = self._record(self._prompts, gaps, self.config, write_range)
        return self._run(self._propagator(record), record, should_stop)

    def resume(self, should_stop: Callable[[], bool] | None = None) -> Iterator[PropagationEvent]:
        """Go on with the run that was stopped; the result is that of an unbroken run.

        Raises
        ------
        PromptError
            No run was stopped, or seeds have changed since.
        """
        if self._paused is None:
            raise PromptError("resume", "there is no stopped run", hint="Propagate instead.")
        propagator, record = self._paused
        if record.prompts is not self._prompts:
            raise PromptError(
                "resume", "seeds have changed since the run was stopped", hint="Propagate instead."
            )
        return self._run(propagator, record, should_stop)

    def replay(self, record: RunRecord) -> Iterator[PropagationEvent]:
        """Do a recorded run again, as far as it came then.

        The labels must be as the run before it left them; its edits and seeds are brought back
        first.

        Raises
        ------
        CheckpointError
            The model has other weights than then.
        """
        if str(self.model) != record.model:
            self.use_model(record.model)
        sha256 = self.load_model().sha256
        if sha256 != record.sha256:
            raise CheckpointError(
                f"model {self.model}",
                "is not the one of the recorded run",
                expected=f"SHA-256 {record.sha256}",
                found=sha256,
            )
        self._widen(max(record.prompts.labels, default=0))
        record.edits.write(self.labels)
        self._prompts = record.prompts
        for label, index in self._result.known() - record.known:
            self._result.forget(label, index)
        mine = self._record(record.prompts, record.gaps, record.config, record.write_range)
        propagator = self._propagator(mine)
        return self._run(
            propagator, mine, lambda: not record.finished and propagator.done >= record.steps
        )

    def replay_all(self) -> Iterator[PropagationEvent]:
        """Do all runs again, from empty labels on; seeds and labels end as they are now.

        Every run ends with its own `Finished`. Whoever leaves in between leaves the session in
        between.
        """
        runs, prompts, touched = self.runs, self._prompts, self._touched
        last = runs[-1] if runs else None
        edits, _ = edits_since(self.volume, self.labels, last.digests if last else None)
        self.labels[...] = 0
        self._result = PropagationResult()
        self.restore(PromptSet(), ())
        for record in runs:
            yield from self.replay(record)
        edits.write(self.labels)
        for prompt in prompts:
            if last and last.prompts.get(prompt.label, prompt.index) is not prompt:
                self._result.forget(prompt.label, prompt.index)
        self._prompts, self._touched = prompts, touched

    def restore(
        self,
        prompts: PromptSet,
        runs: Iterable[RunRecord],
        touched: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Take over the seeds and records of an earlier session; the labels stay as they are.

        Parameters
        ----------
        prompts : PromptSet
        runs : iterable of RunRecord
        touched : iterable of (label, index)
            Seeds that changed since they were last run, see `touched`.
        """
        self._prompts, self.runs, self._touched = prompts, list(runs), set(touched)
        self._undo.clear()
        self._redo.clear()
        self._paused = None

    def undo(self) -> tuple[int, ...]:
        """Take back the last run, on all slices and labels; seeds and extents stay.

        Returns
        -------
        tuple of int
            The slices that changed. Empty where there was nothing to undo.
        """
        if self._undo:
            self._touched |= self._undo[-1].settled
        return self._swap(self._undo, self._redo)

    def redo(self) -> tuple[int, ...]:
        """Bring back the run that was undone last."""
        changed = self._swap(self._redo, self._undo)
        if changed and self.runs[-1].finished:
            self._undo[-1].settled = self._settle(self.runs[-1])
        return changed

    def _swap(self, source: list[_Undo], target: list[_Undo]) -> tuple[int, ...]:
        if not source:
            return ()
        step = source.pop()
        before = step.states.swap(self.labels)
        target.append(_Undo(before, self._result, self.runs))
        self._result, self.runs = step.result, step.runs
        self._paused = None
        for label, index in self._touched:
            self._result.forget(label, index)
        for label, (first, last) in self._prompts.extents.items():
            self._clear_outside(label, first, last)
        for prompt in self._prompts:
            if not prompt.is_open:
                self._write_seed(prompt)
        return step.states.indices

    def _record(
        self,
        prompts: PromptSet,
        gaps: tuple[Gap, ...],
        config: PropagationConfig,
        write_range: tuple[int, int] | None,
    ) -> RunRecord:
        before = self.runs[-1].digests if self.runs else None
        return RunRecord(
            prompts,
            gaps,
            config,
            write_range,
            str(self.model),
            self.load_model().sha256,
            *edits_since(self.volume, self.labels, before),
            self._result.known(),
        )

    def _propagator(self, record: RunRecord) -> Propagator:
        task = PropagationInput(
            self.volume,
            self.window,
            record.prompts,
            record.gaps,
            lambda index: np.asarray(self.labels[self.volume.slicer(index)]),
            record.write_range,
            lambda: self._prompts,
        )
        self._widen(max(record.prompts.labels, default=0))
        propagator = Propagator(
            self.load_model().segmenter,
            task,
            record.config,
            result=self._result,
            embeddings=self._embeddings,
        )
        before = self._result.copy()
        self._undo.append(_Undo(SliceStates(self.volume), before, list(self.runs)))
        self._redo.clear()
        self.runs.append(record)
        return propagator

    def _run(
        self,
        propagator: Propagator,
        record: RunRecord,
        should_stop: Callable[[], bool] | None,
    ) -> Iterator[PropagationEvent]:
        self._paused = propagator, record
        step = self._undo[-1]
        events = propagator.propagate(should_stop)
        while True:
            started = time.perf_counter()
            event = next(events)
            record.seconds += time.perf_counter() - started
            record.steps = propagator.done
            if isinstance(event, SliceSegmented):
                step.states.keep(self.labels, event.index)
                self.labels[self.volume.slicer(event.index)][event.bbox] = event.labels
                record.digests[event.index] = slice_digest(self.volume, self.labels, event.index)
            if isinstance(event, Finished) and event.reason is FinishReason.COMPLETED:
                record.finished = True
                self._paused = None
                step.settled = self._settle(record)
            yield event
            if isinstance(event, Finished):
                return

    def _settle(self, record: RunRecord) -> set[tuple[int, int]]:
        """Take the seeds that a run has read, as they are now, off the touched ones.

        Returns
        -------
        set of (label, index)
        """
        now, then = self._prompts, record.prompts
        if record.write_range is not None:
            return set()
        settled = {
            (gap.label, index)
            for gap in record.gaps
            for index in (gap.before, gap.after, *range(gap.start, gap.stop + 1))
            if index is not None
            and now.get(gap.label, index) is then.get(gap.label, index)
            and now.extents.get(gap.label) == then.extents.get(gap.label)
        }
        settled &= self._touched
        self._touched -= settled
        return settled

    def state(self) -> dict[str, Any]:
        """What is known of the session besides its arrays, for reports."""
        ready = self._ready
        return {
            "model": {
                "name": str(self.model) if ready is None else ready.name,
                "sha256": None if ready is None else ready.sha256,
                "device": self.device if ready is None else ready.device,
                "precision": None if ready is None else ready.precision,
            },
            "volume": {
                "name": self.volume.name,
                "shape": list(self.volume.shape),
                "axis": self.volume.axis,
                "spacing": list(self.volume.spacing),
                "unit": self.volume.unit,
            },
            "window": self.window.to_dict(),
            "config": self.config.to_dict(),
        }


@dataclass(slots=True)
class _Undo:
    """What a run changed; ``settled`` are the seeds that it took off the touched ones."""

    states: SliceStates
    result: PropagationResult
    runs: list[RunRecord]
    settled: set[tuple[int, int]] = field(default_factory=set)
