"""Every slice that a person paints on becomes a seed by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject, QTimer

from napari_slmsam2.widgets.workspace.across import PaintedAcross, find_plane_across, is_line
from napari_slmsam2.widgets.workspace.grid import StackArray
from napari_slmsam2.widgets.workspace.workspace import Workspace

_DEBOUNCE_MS = 60


class SeedTracker(QObject):
    """Listens to the Labels layer and passes what a person changed to the annotation.

    Brush, polygon, fill and eraser emit an event when a stroke ends. Undo and redo do not: they
    only redraw the layer, so that the labels are compared with the accepted ones shortly after
    a redraw.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace)
        self._workspace = workspace
        self._layer: Labels | None = None
        self._array: Any = None
        self._drawn_index = -1
        self._compare_all = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.flush)
        self.across = PaintedAcross(workspace)
        workspace.target_changed.connect(self._follow)
        self._follow()

    def close_connections(self) -> None:
        """Disconnect from the layer."""
        self._timer.stop()
        self._connect(None)

    def flush(self) -> None:
        """Take over at once what changed since the last comparison."""
        self._timer.stop()
        if self._compare_all:
            self.scan_all()
        else:
            self.scan_slice()

    def scan_slice(self) -> bool:
        """Compare the slice on screen. Returns whether it changed."""
        stack, index = self._workspace.stack, self._workspace.index
        if stack is None:
            return False
        plane = stack.sink.read(index)
        changed = plane != stack.annotation.plane(index)
        if is_line(changed):  # perhaps a part of a stroke across the slices
            return self.scan_all()
        if not self.across.take(stack, index, plane):
            return False
        self._workspace.seeds_changed.emit()
        return True

    def scan_all(self) -> bool:
        """Compare all slices; labels on disk only where there are seeds, and on screen."""
        self._compare_all = False
        stack = self._workspace.stack
        if stack is None:
            return False
        annotation, sink = stack.annotation, stack.sink
        if isinstance(sink.layer.data, np.ndarray):
            indices = annotation.slices.changed_slices(StackArray(sink.layer.data, sink.view))
        else:
            indices = tuple({p.index for p in annotation.prompts} | {self._workspace.index})
        if len(indices) > 1 and sink.layer.n_edit_dimensions < 3:
            found = find_plane_across(stack, indices)
            other = None if found is None else self._workspace.stack_across(found.axis)
            if found is not None and other is not None:
                stack, indices = other, (found.index,)
        changed = [bool(self.across.take(stack, i, stack.sink.read(i))) for i in indices]
        if any(changed):
            self._workspace.seeds_changed.emit()
        return any(changed)

    def _follow(self) -> None:
        self._drawn_index = self._workspace.index
        layer = self._workspace.labels if self._workspace.stack is not None else None
        if layer is not self._layer:
            self._connect(layer)

    def _connect(self, layer: Labels | None) -> None:
        if self._layer is not None:
            events = self._layer.events
            events.paint.disconnect(self._on_paint)
            events.set_data.disconnect(self._on_drawn)
            events.data.disconnect(self._on_data)
            events.selected_label.disconnect(self._on_label)
        self._layer = layer
        self._array = None if layer is None else layer.data
        if layer is not None:
            layer.events.paint.connect(self._on_paint)
            layer.events.set_data.connect(self._on_drawn)
            layer.events.data.connect(self._on_data)
            layer.events.selected_label.connect(self._on_label)

    def _on_paint(self, event: Any = None) -> None:
        assert self._layer is not None
        if self._workspace.writing:
            return
        # A stroke has ended; but fill, and paint from a script, emit the event before they write.
        if self._layer.n_edit_dimensions > 2 or not self.scan_slice():
            self._compare_all = True
            self._timer.start(0)

    def _on_drawn(self, event: Any = None) -> None:
        if self._workspace.writing:
            return
        index = self._workspace.index
        if index == self._drawn_index:
            self._compare_all = True
        self._drawn_index = index
        if not self._timer.isActive():
            self._timer.start(_DEBOUNCE_MS)

    def _on_data(self, event: Any = None) -> None:
        if self._layer is None or self._workspace.writing:
            return
        if self._layer.data is self._array:  # a linked view announces what it wrote
            self._compare_all = True
            self._timer.start(_DEBOUNCE_MS)
            return
        self._array = self._layer.data
        self._workspace.replaced(self._layer)

    def _on_label(self, event: Any = None) -> None:
        """Make room for the next label where the last one that the array can hold is chosen.

        napari refuses to choose a label that the array cannot hold.
        """
        self._workspace.label_changed.emit()
        stack, label = self._workspace.stack, self._workspace.label
        if stack is None or self._workspace.writing:
            return
        layer = stack.sink.layer
        if label == np.iinfo(layer.data.dtype).max and stack.sink.widen(label + 1):
            show_info(f"Layer {layer.name!r} holds {layer.data.dtype} now: more labels fit.")
