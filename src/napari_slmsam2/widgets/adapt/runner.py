"""Runs an adaptation in a worker thread and passes its progress to the GUI thread."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from napari.qt.threading import FunctionWorker, create_worker
from qtpy.QtCore import QObject, QTimer, Signal

from napari_slmsam2.widgets.adapt import task
from napari_slmsam2.widgets.adapt.task import AdaptEnd, AdaptRequest, Prepared, Unsaved
from napari_slmsam2.widgets.common.workers import report_defect
from napari_slmsam2.widgets.runs.task import Broken, RunControl

_TICK_MS = 80


class AdaptRunner(QObject):
    """Runs one adaptation at a time.

    Attributes
    ----------
    control : RunControl
        Of the current or the last worker.
    request : AdaptRequest or None
        Of the current or the last worker.
    estimating : bool
        A worker is running that only estimates.
    """

    progressed = Signal(object)
    """`AdaptProgress`, `Prepared`, or bytes that were downloaded, ``(done, total)``."""
    changed = Signal()
    """Work began or ended."""
    ended = Signal(object)
    """An `AdaptEnd`."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.control = RunControl()
        self.request: AdaptRequest | None = None
        self.estimating = False
        self._prepared: tuple[AdaptRequest, Prepared] | None = None
        self._worker: FunctionWorker[Any] | None = None
        # The worker reports more often than a window can draw, and may outlive it.
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._end: AdaptEnd | None = None
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK_MS)
        self._timer.timeout.connect(self._drain)

    @property
    def running(self) -> bool:
        """Whether a worker is running."""
        return self._worker is not None

    def prepare(self, request: AdaptRequest) -> None:
        """Estimate the time of a request."""
        self._prepared, self.estimating = None, True
        self._start(request, task.prepare, request)

    def adapt(self, request: AdaptRequest) -> bool:
        """Adapt; an estimate of the same request is used again.

        Returns
        -------
        bool
            Whether there was one.
        """
        prepared = None
        if self._prepared is not None and self._prepared[0].asks_the_same(request):
            prepared = self._prepared[1]
        self._prepared = None
        self._start(request, task.adapt, request, prepared)
        return prepared is not None

    def save(self, unsaved: Unsaved, request: AdaptRequest) -> None:
        """Write a model again."""
        self._start(request, _save, unsaved, request)

    def cancel(self) -> None:
        """Stop after the current step; the best model so far is kept."""
        self.control.stop()

    def close_connections(self) -> None:
        """Stop, because the window closes."""
        self._timer.stop()
        self.cancel()

    def _start(self, request: AdaptRequest, work: Callable[..., AdaptEnd], *given: Any) -> None:
        assert self._worker is None
        self.control, self.request = RunControl(), request
        self._queue, self._end = SimpleQueue(), None
        worker = create_worker(
            work, *given, self.control, self._queue.put, _start_thread=False, _ignore_errors=True
        )
        assert isinstance(worker, FunctionWorker)
        # napari stops workers by their own flag when the viewer closes.
        self.control.aborted = lambda: bool(worker.abort_requested)
        worker.returned.connect(self._on_returned)
        worker.finished.connect(self._on_finished)
        self._worker = worker
        self._timer.start()
        self.changed.emit()
        worker.start()

    def _drain(self) -> None:
        while True:
            try:
                self.progressed.emit(self._queue.get_nowait())
            except Empty:
                return

    def _on_returned(self, end: AdaptEnd) -> None:
        self._end = end

    def _on_finished(self) -> None:
        self._timer.stop()
        self._worker, self.estimating = None, False
        self._drain()
        end = self._end
        if isinstance(end, Broken):
            report_defect(end.error)
        if isinstance(end, Prepared) and self.request is not None:
            self._prepared = self.request, end
        self.ended.emit(end)
        self.changed.emit()


def _save(
    unsaved: Unsaved, request: AdaptRequest, control: RunControl, on_progress: task.OnProgress
) -> AdaptEnd:
    return task.save(unsaved.job, unsaved.report, request)
