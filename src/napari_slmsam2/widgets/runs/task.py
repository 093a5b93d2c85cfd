"""A run in a worker thread: its request, its events, and how it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import DeviceMemoryError, DownloadError, SlmSam2Error
from napari_slmsam2.core.events import PropagationEvent
from napari_slmsam2.core.intensity import DEFAULT_WINDOW, check_contrast
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.workspace.stacks import Stack

if TYPE_CHECKING:
    from napari_slmsam2.engine.loading import ReadyModel
    from napari_slmsam2.session.session import SegmentationSession

_PAUSE_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """Model, settings and labels of a run.

    Attributes
    ----------
    model : str
        A name of the registry, or a file of weights.
    device : str
    config : PropagationConfig
    window : str
        The intensity window, as `parse_window` reads it.
    models_folder : str or None
    labels : tuple of int
    mode : {"auto", "gaps", "all", "resume"}
        ``auto`` runs only the gaps beside dirty seeds where a run was made before.
    write_range : tuple of int or None
    """

    model: str
    device: str = "auto"
    config: PropagationConfig = field(default_factory=PropagationConfig)
    window: str = DEFAULT_WINDOW
    models_folder: str | None = None
    labels: tuple[int, ...] = ()
    mode: str = "auto"
    write_range: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded; the first slice is next."""

    model: str
    device: str
    precision: str
    gaps_only: bool
    chosen_size: str = ""
    """Which input size was chosen for this computer, and why; empty where none was."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended early, for a reason that the message explains."""

    message: str


@dataclass(frozen=True, slots=True)
class NotLoaded:
    """The run was stopped while its model was being downloaded or loaded."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The run ended early because of a defect in the program."""

    error: Exception


RunEvent = PropagationEvent | Ready | Failed | NotLoaded | Broken


class RunControl:
    """Stop and pause, checked by the worker between slices; safe to use from any thread."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._go = threading.Event()
        self._go.set()
        self.download: tuple[int, int] | None = None
        self.aborted: Callable[[], bool] = lambda: False

    def stop(self) -> None:
        """End the run after the present slice; what is done stays."""
        self._stop.set()

    def pause(self, paused: bool) -> None:
        """Pause the run after the present slice, or continue it."""
        if paused:
            self._go.clear()
        else:
            self._go.set()

    @property
    def paused(self) -> bool:
        """Whether the run is paused."""
        return not self._go.is_set()

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped."""
        return self._stop.is_set()

    def note_download(self, done: int, total: int) -> None:
        """Record how many bytes of the weights were downloaded."""
        self.download = done, total

    def should_stop(self) -> bool:
        """Whether to end; waits while the run is paused."""
        while not (self._stop.is_set() or self.aborted()):
            if self._go.wait(_PAUSE_POLL_S):
                return self._stop.is_set()
        return True


class Models:
    """Keeps the model that was used last, so that it is loaded once."""

    def __init__(self) -> None:
        # A run and a click may ask for it at the same time.
        self._lock = threading.Lock()
        self._key: tuple[object, ...] | None = None
        self._ready: ReadyModel | None = None

    def is_loaded(self, request: RunRequest) -> bool:
        """Whether the model of a request is loaded."""
        return self._ready is not None and self._key == _model_key(request)

    def get(self, request: RunRequest, control: RunControl) -> ReadyModel:
        """The model of a request; downloaded and loaded where needed."""
        with self._lock:
            if self._ready is None or not self.is_loaded(request):
                from napari_slmsam2.engine.loading import make_segmenter

                self._ready = make_segmenter(
                    request.model,
                    device=request.device,
                    config=request.config,
                    folder=request.models_folder,
                    progress=control.note_download,
                    should_stop=control.should_stop,
                    fit_cpu=True,
                )
                self._key = _model_key(request)
            return self._ready


def _model_key(request: RunRequest) -> tuple[object, ...]:
    """What a model has to be loaded again for."""
    config = request.config
    return (
        request.model, request.device, request.models_folder, config.precision,
        config.memory_dtype, config.image_size, config.memory_pooling, config.memory,
    )  # fmt: skip


def load_model(models: Models, request: RunRequest, control: RunControl) -> Ready | None:
    """Load a model in a worker thread, before a run needs it; None where that fails.

    The run that needs it reports why.
    """
    try:
        ready = models.get(request, control)
    except Exception:  # noqa: BLE001 - the run that needs the model reports it
        return None
    return _ready_event(ready, gaps_only=False)


def _ready_event(ready: ReadyModel, *, gaps_only: bool) -> Ready:
    chosen = "" if ready.chosen_size is None else ready.chosen_size.describe("Input size")
    return Ready(ready.name, ready.device, ready.precision, gaps_only, chosen)


def run_events(
    stack: Stack, request: RunRequest, models: Models, control: RunControl
) -> Iterator[RunEvent]:
    """Run in a worker thread; one event per slice.

    Nothing is raised: a worker that sees a ``RuntimeError`` ends without any signal.
    """
    try:
        yield from _events(stack, request, models, control)
    except DownloadError as error:
        if control.stopped or control.aborted():
            yield NotLoaded()
        else:
            yield Failed(str(error))
    except Exception as error:  # noqa: BLE001 - a worker that raises may end without a signal
        yield failure_of(error)


def failure_of(error: Exception) -> Failed | Broken:
    """The event that reports an error of a worker."""
    if isinstance(error, SlmSam2Error):
        return Failed(str(error))
    if isinstance(error, MemoryError):
        return Failed(str(DeviceMemoryError("this computer", f"ran out of memory ({error})")))
    return Broken(error)


def _events(
    stack: Stack, request: RunRequest, models: Models, control: RunControl
) -> Iterator[RunEvent]:
    check_contrast(stack.annotation.volume)
    ready = models.get(request, control)
    session = _open_session(stack, request, ready)
    if request.mode == "resume":
        yield _ready_event(ready, gaps_only=False)
        yield from session.resume(control.should_stop)
        return
    gaps_only = runs_gaps_only(stack.annotation, request)
    events = session.propagate(
        labels=request.labels,
        gaps_only=gaps_only,
        write_range=request.write_range,
        should_stop=control.should_stop,
    )
    yield _ready_event(ready, gaps_only=gaps_only)
    yield from events


def runs_gaps_only(annotation: Annotation, request: RunRequest) -> bool:
    """Whether a request runs only the gaps beside dirty seeds."""
    if request.mode == "gaps":
        return True
    if not annotation.runs or request.mode == "all" or request.write_range is not None:
        return False
    last = annotation.runs[-1]
    same = request.config.covers(last.config) and last.model == request.model
    return same and bool(annotation.dirty)


def _open_session(stack: Stack, request: RunRequest, ready: ReadyModel) -> SegmentationSession:
    """The session that runs a stack, with the settings of a request and a loaded model."""
    from napari_slmsam2.session.session import SegmentationSession

    annotation = stack.annotation
    window = annotation.intensity_window(request.window)
    session = stack.session
    if session is None:
        session = stack.session = SegmentationSession(
            annotation.volume, window=window, annotation=annotation
        )
    session.window, session.config, session.device = window, request.config, request.device
    session.use_model(ready)
    # A file keeps its path: it could not be found again by its name alone.
    session.model = request.model
    return session
