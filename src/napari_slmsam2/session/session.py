"""One volume, its seeds and its labels: the headless core that command line and window share."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import ConfigError, PromptError
from napari_slmsam2.core.events import PropagationEvent
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.plan import BACKWARD, FORWARD, Gap, clip_gaps, find_gaps, gaps_beside
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt
from napari_slmsam2.core.quality import SliceQuality, Suggestion
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.clicks.prompt_solver import PromptSolver
from napari_slmsam2.engine.loading import ReadyModel, make_segmenter
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.label_array import LabelArray
from napari_slmsam2.session.run import Run, new_record
from napari_slmsam2.session.run_records import RunRecord

if TYPE_CHECKING:
    from napari_slmsam2.engine.propagation.state import PropagatorState
    from napari_slmsam2.engine.weights.download import Progress

#: Settings that are built into a loaded model or its stored embeddings.
_MODEL_SETTINGS = (
    "precision",
    "memory",
    "memory_dtype",
    "memory_pooling",
    "image_size",
    "embedding_budget",
    "embedding_disk",
)
_DIRECTIONS = {"both": (FORWARD, BACKWARD), "forward": (FORWARD,), "backward": (BACKWARD,)}


class SegmentationSession:
    """An annotation and the model that propagates it: seeds in, labels out.

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
    labels : ndarray of int or ChunkedArray, shape of the volume, optional
        Labels to start from; written in place, until a label does not fit their dtype: then
        `labels` becomes a wider copy. Default: an empty volume. Those of an
        `napari_slmsam2.io.LabelStream` are written to the disk slice by slice.
    models_folder : path-like, optional
        Where files of weights are searched and kept.
    annotation : Annotation, optional
        Seeds and labels of this volume to work on, instead of new ones with ``labels``.

    Attributes
    ----------
    annotation : Annotation
        Seeds, extents, labels, results and history; see there for undoable edits.

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
        labels: LabelArray | None = None,
        models_folder: str | os.PathLike[str] | None = None,
        annotation: Annotation | None = None,
    ) -> None:
        self.annotation = Annotation(volume, labels) if annotation is None else annotation
        self.model = model
        self.device = device
        self._config = config or PropagationConfig()
        self._window = window or IntensityWindow.from_percentiles(volume)
        self._models_folder = models_folder
        self._ready: ReadyModel | None = None
        self._ready_is_given = False
        self._embeddings = EmbeddingCache(self.config.embedding_budget * 2**20)
        self._run: Run | None = None

    # -- the annotation

    @property
    def volume(self) -> Volume:
        """The image."""
        return self.annotation.volume

    @volume.setter
    def volume(self, volume: Volume) -> None:
        self.annotation.replace_volume(volume)
        self._embeddings.clear()
        self._run = None

    @property
    def labels(self) -> LabelArray:
        """The labels, shape of the volume."""
        return self.annotation.labels

    @property
    def prompts(self) -> PromptSet:
        """All seeds and extents."""
        return self.annotation.prompts

    @property
    def dirty(self) -> frozenset[tuple[int, int]]:
        """``(label, index)`` of the seeds and slices that changed since they were last run."""
        return self.annotation.dirty

    @property
    def touched(self) -> frozenset[tuple[int, int]]:
        """The earlier name of `dirty`."""
        return self.dirty

    @property
    def runs(self) -> list[RunRecord]:
        """Records of the runs so far."""
        return self.annotation.runs

    @property
    def quality(self) -> Mapping[int, Mapping[int, SliceQuality]]:
        """Scores of every propagated slice, by label and slice index."""
        return self.annotation.quality

    def logits_on_slice(self, index: int) -> dict[int, npt.NDArray[np.float32]]:
        """Mask logits of every label that was propagated to a slice, before overlaps.

        Returns
        -------
        dict of label to ndarray of float32, shape (H, W)
            Within -8 and 8; above 0 is the object.
        """
        return self.annotation.propagated.logits_on_slice(index)

    def suggestions(self) -> tuple[Suggestion, ...]:
        """Slices to check, most urgent first."""
        return self.annotation.suggestions()

    def add_prompt(self, prompt: SlicePrompt) -> None:
        """Annotate one slice of one label.

        A mask is written into the labels at once; points and boxes without one (see `answer`) at
        the next run.

        Raises
        ------
        PromptError
            It does not fit the volume or the extent of its label.
        """
        self.annotation.add_prompt(prompt)

    def add_seed_volume(self, seeds: LabelArray) -> None:
        """Use every non-empty slice of a label volume as a seed, for each label on it.

        Parameters
        ----------
        seeds : ndarray of int, shape of the volume

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
        self.annotation.add_seed_volume(seeds)

    def remove_prompt(self, label: int, index: int) -> None:
        """Remove a seed; the next run fills its slice like any other."""
        self.annotation.remove_prompt(label, index)

    def set_extent(self, label: int, first: int, last: int) -> None:
        """Set the first and last slice of a label; its pixels outside are removed.

        Raises
        ------
        PromptError
            The extent leaves out a seed, or ends outside the volume.
        """
        self.annotation.set_extent(label, first, last)

    def clear_extent(self, label: int) -> None:
        """Declare the first and last slice of a label unknown."""
        self.annotation.clear_extent(label)

    def undo(self) -> tuple[int, ...]:
        """Take back the last run, on all slices and labels, or the last undoable edit.

        Seeds and extents that `add_prompt`, `set_extent` and their like set stay; those of
        `annotation.history.edit` are undone in their turn.

        Returns
        -------
        tuple of int
            The slices that changed. Empty where there was nothing to undo.
        """
        swapped = self.annotation.history.undo()
        return () if swapped is None else swapped.slices

    def redo(self) -> tuple[int, ...]:
        """Restore what was undone last; see `undo`."""
        swapped = self.annotation.history.redo()
        return () if swapped is None else swapped.slices

    # -- the model

    @property
    def config(self) -> PropagationConfig:
        """Settings of the next run; a model that they change is loaded again."""
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
        if window != self._window:
            self._window = window
            self._embeddings.clear()
            self._run = None

    @property
    def encoded_slices(self) -> int:
        """How often an image was encoded so far; stored embeddings are not encoded again."""
        return self._embeddings.encoded

    def load_model(
        self,
        *,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
        fit_cpu: bool = False,
    ) -> ReadyModel:
        """Make the model ready, with a download where needed; done by `propagate` otherwise.

        Parameters
        ----------
        progress : callable, optional
            ``progress(done_bytes, total_bytes)`` of the download.
        should_stop : callable, optional
            Checked during the download.
        fit_cpu : bool
            See `napari_slmsam2.engine.loading.make_segmenter`.
        """
        if self._ready is None:
            self._ready = make_segmenter(
                self.model,
                device=self.device,
                config=self.config,
                folder=self._models_folder,
                progress=progress,
                should_stop=should_stop,
                fit_cpu=fit_cpu,
            )
        return self._ready

    def use_model(self, model: str | os.PathLike[str] | ReadyModel) -> None:
        """Change the model; the labels so far stay."""
        if self._ready_is_given and model is self._ready:
            return
        self._ready_is_given = isinstance(model, ReadyModel)
        self._ready = model if isinstance(model, ReadyModel) else None
        self.model = model.name if isinstance(model, ReadyModel) else model
        self._embeddings.clear()
        self._run = None

    # -- runs

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
        """Propagate the seeds through the volume; the labels fill as the events come.

        Parameters
        ----------
        labels : collection of int, optional
            Only these labels. Default: all with a seed. Locked ones are left out.
        gaps_only : bool
            Only the gaps beside seeds that were added, changed or removed since they were last
            run.
        write_range : tuple of int, optional
            First and last slice to fill. Default: all.
        should_stop : callable, optional
            Checked between slices. After a stop the finished slices stay and `resume` continues.

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
        prompts, locked = self.prompts, self.annotation.table.locked
        if locked:
            labels = set(prompts.labels if labels is None else labels) - locked
        gaps = find_gaps(
            prompts,
            self.volume.n_slices,
            labels=labels,
            directions=_DIRECTIONS[self.config.direction],
        )
        if gaps_only:
            gaps = gaps_beside(gaps, self.dirty)
        if write_range is not None:
            gaps = clip_gaps(gaps, *write_range)
        return self.start_run(prompts, gaps, self.config, write_range).events(should_stop)

    def gaps(self, labels: Collection[int] | None = None) -> tuple[Gap, ...]:
        """The gaps between the seeds, in the directions of the settings; see `find_gaps`."""
        directions = _DIRECTIONS[self.config.direction]
        return find_gaps(self.prompts, self.volume.n_slices, labels=labels, directions=directions)

    @property
    def resumable(self) -> bool:
        """Whether `resume` can continue a run that was stopped."""
        return self._run is not None and self._run.can_continue

    def resume(self, should_stop: Callable[[], bool] | None = None) -> Iterator[PropagationEvent]:
        """Continue the run that was stopped; the result is that of an unbroken run.

        Raises
        ------
        PromptError
            No run was stopped, or seeds have changed since.
        """
        run = self._run
        if run is None or run.record.finished or not run.is_current:
            raise PromptError("resume", "there is no stopped run", hint="Propagate instead.")
        if not run.has_same_seeds:
            raise PromptError(
                "resume", "seeds have changed since the run was stopped", hint="Propagate instead."
            )
        return run.events(should_stop)

    @property
    def paused_state(self) -> PropagatorState | None:
        """The state of the run that was stopped, for a session file; None where there is none."""
        return self._run.state if self._run is not None and self._run.can_continue else None

    def restore_paused(self, state: PropagatorState) -> None:
        """Take over the state of the last recorded run, so that `resume` continues it."""
        propagated, ready = self.annotation.propagated, self.load_model()
        record = propagated.runs.pop()
        propagated.result = state.result
        self._run = Run(self.annotation, record, ready.segmenter, self.window, self._embeddings)
        self._run.restore(state)

    def start_run(
        self,
        prompts: PromptSet,
        gaps: tuple[Gap, ...],
        config: PropagationConfig,
        write_range: tuple[int, int] | None,
    ) -> Run:
        """Record a run of some gaps; see `propagate` for the usual way to run.

        Parameters
        ----------
        prompts : PromptSet
            The seeds to run from; those of the annotation.
        gaps : tuple of Gap
        config : PropagationConfig
        write_range : tuple of int or None
        """
        ready = self.load_model()
        settings = ready.fill(config), write_range, str(self.model), ready.sha256
        record = new_record(self.annotation, prompts, gaps, *settings)
        self._run = Run(self.annotation, record, ready.segmenter, self.window, self._embeddings)
        return self._run

    def summary(self) -> dict[str, Any]:
        """Model, volume, intensity window and settings, as values for JSON."""
        ready = self._ready
        return {
            "model": {
                "name": str(self.model) if ready is None else ready.name,
                "sha256": None if ready is None else ready.sha256,
                "device": self.device if ready is None else ready.device,
                "precision": None if ready is None else ready.precision,
                **({} if ready is None else ready.captured_calls),
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
            "chosen": {} if not self.runs else self.config.chosen_in(self.runs[-1].config),
        }
