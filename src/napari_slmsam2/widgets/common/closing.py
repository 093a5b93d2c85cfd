"""A dock widget that disconnects from the viewer when it is closed."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget


class Part(Protocol):
    """A part with connections to the viewer, to layers or to threads."""

    def close_connections(self) -> None:
        """Disconnect from all of them."""


class ClosingWidget(QWidget):
    """Closes the connections of its parts once: when it is closed, or deleted without that."""

    _closed = False

    def release_at_end(self, *parts: Part) -> None:
        """Name the parts whose connections are closed at the end, in this order."""
        self._release = partial(_release, parts)
        # A window may be deleted without the panel ever being closed.
        self.destroyed.connect(self._release)

    def event(self, event: QEvent) -> bool:
        """Shut down when the dock widget is closed: napari removes the panel from it."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.shut_down()
        return bool(super().event(event))

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
