"""Starts runs, shows their slices on the layer, and measures their progress."""

from __future__ import annotations

import time
from typing import Any

from napari.layers import Labels
from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, QTimer, Signal

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.core.events import (
    VISIT_UNITS,
    FellBack,
    Finished,
    FinishReason,
    Progressed,
    SliceSegmented,
)
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.common.workers import report_defect
from napari_slmsam2.widgets.runs.estimate import ENOUGH_STEPS
from napari_slmsam2.widgets.runs.task import (
    Broken,
    Failed,
    Models,
    NotLoaded,
    Ready,
    RunControl,
    RunEvent,
    RunRequest,
    run_events,
)
from napari_slmsam2.widgets.workspace.stacks import Stack

_TICK_MS = 125
_DRAWING_SHARE = 0.2
"""Of the time; where drawing takes long, there are fewer ticks."""


class Runner(QObject):
    """One run at a time, in a worker thread.

    Attributes
    ----------
    models : Models
        Where models come from.
    latest : tuple of int
        The two slices that were written last: models may run a sweep of each direction in turn.
    """

    started = Signal()
    ready = Signal(object)
    """The model is loaded: `Ready`."""
    segmented = Signal(object)
    """A slice was written: `SliceSegmented`."""
    ticked = Signal()
    """At most eight times a second during a run, and at its end: the time to draw."""
    noted = Signal(str)
    """A message about the present run."""
    ended = Signal(object)
    """`FinishReason`, `Failed`, `NotLoaded`, or None after a defect."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.models = Models()
        self.control = RunControl()
        self.request: RunRequest | None = None
        self.stack: Stack | None = None
        self.latest: tuple[int, ...] = ()
        self.done = self.total = 0
        self.seconds_left: float | None = None
        self._worker: GeneratorWorker[Any, Any, Any] | None = None
        self._layer: Labels | None = None
        self.outcome: FinishReason | Failed | NotLoaded | None = None
        self._first: tuple[float, int] | None = None
        self._paused_s = 0.0
        self._paused_since = 0.0
        self._timer, self._drawn = QTimer(self), QTimer(self)
        for timer, slot in ((self._timer, self._tick), (self._drawn, self._on_drawn)):
            timer.setSingleShot(True)
            timer.timeout.connect(slot)
        self._tick_began = 0.0

    @property
    def running(self) -> bool:
        """Whether a worker is running, paused or not."""
        return self._worker is not None

    @property
    def paused(self) -> bool:
        """Whether the run is paused."""
        return self.running and self.control.paused

    @property
    def rate(self) -> float | None:
        """Labels on slices per second, without pauses; None before there are enough of them."""
        if self._first is None:
            return None
        visits = (self.done - self._first[1]) / VISIT_UNITS
        if visits < ENOUGH_STEPS:
            return None
        paused = self._paused_s + (time.perf_counter() - self._paused_since if self.paused else 0.0)
        seconds = time.perf_counter() - self._first[0] - paused
        return visits / seconds if seconds > 0 else None

    @property
    def annotation(self) -> Annotation | None:
        """The annotation of the present or last run."""
        return None if self.stack is None else self.stack.annotation

    def start(self, stack: Stack, request: RunRequest) -> None:
        """Start a run; there must be none."""
        assert self._worker is None
        self.control = RunControl()
        self.request, self.stack = request, stack
        self._layer = stack.sink.layer  # held until the run ends, even if it is removed
        self.done = self.total = 0
        self.latest = ()
        self._first = self.outcome = self.seconds_left = None
        self._paused_s = 0.0
        worker = create_worker(
            run_events,
            stack,
            request,
            self.models,
            self.control,
            _start_thread=False,
            _ignore_errors=True,
        )
        assert isinstance(worker, GeneratorWorker)
        # napari stops workers by their own flag when the viewer closes.
        self.control.aborted = lambda: bool(worker.abort_requested)
        worker.yielded.connect(self._on_event)
        worker.finished.connect(self._on_finished)
        self._worker = worker
        self._timer.start(_TICK_MS)
        self.started.emit()
        worker.start()

    def stop(self) -> None:
        """End the run after the present slice."""
        self.control.stop()

    def close_connections(self) -> None:
        """End the run: its panel is closing."""
        self.stop()

    def toggle_pause(self) -> None:
        """Pause the run, or continue it."""
        if not self.running:
            return
        if self.control.paused:
            self._paused_s += time.perf_counter() - self._paused_since
        else:
            self._paused_since = time.perf_counter()
        self.control.pause(not self.control.paused)

    def _on_event(self, event: RunEvent) -> None:
        if isinstance(event, SliceSegmented | Progressed):
            self.done, self.total, self.seconds_left = event.done, event.total, event.seconds_left
        if isinstance(event, SliceSegmented):
            self.latest = (*self.latest[-1:], event.index)
            if self._first is None:
                self._first = time.perf_counter(), event.done
            if not isinstance(self.outcome, Failed):
                self._show(event)
        elif isinstance(event, Finished):
            if not isinstance(self.outcome, Failed):
                self.outcome = event.reason
        elif isinstance(event, Failed | NotLoaded):
            self.outcome = event
        elif isinstance(event, Broken):
            report_defect(event.error)
        elif isinstance(event, FellBack):
            self.noted.emit(event.message)
        elif isinstance(event, Ready):
            self.ready.emit(event)

    def _show(self, event: SliceSegmented) -> None:
        """Show a slice on the layer; a layer that cannot be written ends the run."""
        assert self.stack is not None
        try:
            self.stack.sink.show([event.index])
        except SlmSam2Error as error:
            self.outcome = Failed(str(error))
            self.stop()
        else:
            self.segmented.emit(event)

    def _tick(self) -> None:
        self._tick_began = time.perf_counter()
        # The view moves before the labels are drawn: both make one picture.
        self.ticked.emit()
        if self.stack is not None:
            self.stack.sink.flush()
        self._drawn.start(0)

    def _on_drawn(self) -> None:
        """The tick is on screen: Qt draws before it serves timers without delay."""
        if self.running:
            took = 1000 * (time.perf_counter() - self._tick_began)
            self._timer.start(max(_TICK_MS, round(took / _DRAWING_SHARE)))

    def _on_finished(self) -> None:
        self._worker = None
        self._timer.stop()
        self._tick()
        self.ended.emit(self.outcome)
        self._layer = None
