"""A dock widget that shares its place with others, and disconnects when it is closed."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from qtpy.QtCore import QEvent, QTimer
from qtpy.QtWidgets import QWidget

from napari_slmsam2.widgets.common.docking import tabify


class Part(Protocol):
    """A part with connections to the viewer, to layers or to threads."""

    def close_connections(self) -> None:
        """Disconnect from all of them."""


class ClosingWidget(QWidget):
    """Closes the connections of its parts once: when it is closed, or deleted without that.

    Panels that are docked on the same side of the window are tabs of one place.
    """

    _closed = False
    _docking: QTimer | None = None

    def release_at_end(self, *parts: Part) -> None:
        """Name the parts whose connections are closed at the end, in this order."""
        self._release = partial(_release, parts)
        # A window may be deleted without the panel ever being closed.
        self.destroyed.connect(self._release)

    def event(self, event: QEvent) -> bool:
        """Find a place when napari docks the panel; shut down when napari removes it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.shut_down()
        if event.type() == QEvent.Type.ParentChange and self._docking is None:
            # napari adds the dock to its window after the panel to the dock.
            self._docking = QTimer(self)
            self._docking.setSingleShot(True)
            self._docking.timeout.connect(self._share_place)
            self._docking.start(0)
        return bool(super().event(event))

    def _share_place(self) -> None:
        tabify(self, ClosingWidget)

    def shut_down(self) -> None:
        """End the work and disconnect from viewer and layers."""
        if self._closed:
            return
        self._closed = True
        self.destroyed.disconnect(self._release)
        self._release()


def _release(parts: tuple[Part, ...], destroyed: object = None) -> None:
    for part in parts:
        part.close_connections()
