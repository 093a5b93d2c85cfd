"""A dock widget that lets go of the viewer when it is closed."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget


class Part(Protocol):
    """What holds on to the viewer, to a layer or to a thread."""

    def close_connections(self) -> None:
        """Release them."""


class ClosingWidget(QWidget):
    """Releases its parts once: when it is closed, or deleted without being closed."""

    _closed = False

    def release_at_end(self, *parts: Part) -> None:
        """Tell the parts to let go at the end, in this order."""
        self._release = partial(_release, parts)
        # A window may be deleted without the panel ever being closed.
        self.destroyed.connect(self._release)

    def event(self, event: QEvent) -> bool:
        """Let go of the viewer when the dock widget is closed: napari takes the panel out."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.shut_down()
        return bool(super().event(event))

    def shut_down(self) -> None:
        """End the work and let go of viewer and layers."""
        if self._closed:
            return
        self._closed = True
        self.destroyed.disconnect(self._release)
        self._release()


def _release(parts: tuple[Part, ...], destroyed: object = None) -> None:
    for part in parts:
        part.close_connections()
