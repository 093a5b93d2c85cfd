"""Loads the model in the background, so that the first run begins at once."""

from __future__ import annotations

from collections.abc import Callable

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, Signal

from napari_slmsam2.widgets.runs.task import Models, Ready, RunControl, RunRequest, load_model


class Preloader(QObject):
    """Loads one model at a time in a worker thread.

    Parameters
    ----------
    models : callable
        Returns the `Models` to load with.
    parent : QObject
    """

    ended = Signal(object)
    """`Ready`, or None where the model cannot be loaded."""

    def __init__(self, models: Callable[[], Models], parent: QObject) -> None:
        super().__init__(parent)
        self._models = models
        self._control = RunControl()
        self._asked: RunRequest | None = None
        self._loading = False
        self._closed = False

    @property
    def loading(self) -> bool:
        """Whether a model is being loaded."""
        return self._loading

    def close_connections(self) -> None:
        """Ignore the model that is being loaded: the panel is closing."""
        self._closed = True
        self._control.stop()

    def load(self, request: RunRequest) -> bool:
        """Load the model of a request, unless it is loaded, or was tried last.

        Returns
        -------
        bool
            Whether loading has begun.
        """
        tried = self._asked is not None and self._asked.model == request.model
        if self._closed or self._loading or tried or self._models().is_loaded(request):
            return False
        self._asked, self._loading = request, True
        worker = create_worker(
            load_model, self._models(), request, self._control, _start_thread=False
        )
        worker.returned.connect(self._on_returned)
        worker.start()
        return True

    def _on_returned(self, ready: Ready | None) -> None:
        self._loading = False
        if not self._closed:
            self.ended.emit(ready)
