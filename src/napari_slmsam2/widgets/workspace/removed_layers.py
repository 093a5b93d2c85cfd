"""Keeps napari from crashing when a layer is removed."""

from __future__ import annotations

from typing import Any

from napari import Viewer
from qtpy.QtCore import QObject, QTimer

_KEEP_MS = 10_000


class RemovedLayers(QObject):
    """Keeps what draws a removed layer for some seconds.

    Removing a layer deletes its OpenGL program. If that program drew last, vispy (0.17) does not
    notice that it is gone, and the next redraw of a Labels layer ends the process with a
    segmentation fault, whoever asks for it. After a redraw the program can be deleted safely.

    Parameters
    ----------
    viewer : Viewer
    parent : QObject
    """

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._kept: list[object] = []
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_KEEP_MS)
        self._timer.timeout.connect(self._kept.clear)
        viewer.layers.events.removing.connect(self._on_removing)

    def close_connections(self) -> None:
        """Disconnect from the layer list."""
        self._timer.stop()
        self._viewer.layers.events.removing.disconnect(self._on_removing)

    def _on_removing(self, event: Any) -> None:
        # What draws a layer listens to it, and has no public name of its own.
        callbacks = self._viewer.layers[event.index].events.refresh.callbacks
        self._kept += [one[0]() for one in callbacks if isinstance(one, tuple)]
        self._timer.start()
