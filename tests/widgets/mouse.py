"""A person at work on a real window: mouse and key events of the window system on the canvas.

Run as a program of its own, on a display; prints what came of it as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QKeyEvent, QMouseEvent
from qtpy.QtWidgets import QApplication, QWidget

from napari_slmsam2.widgets import AnnotateWidget
from tests.widgets.conftest import FakeModels, SlowFake

SHAPE = (12, 64, 96)
LEFT, NONE = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
PLAIN, SHIFT = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ShiftModifier
ALT = Qt.KeyboardModifier.AltModifier


class Person:
    """Uses mouse and keys; places are voxels (row, column) of the slice on screen."""

    def __init__(self, viewer: Any, panel: AnnotateWidget) -> None:
        self.viewer, self.panel = viewer, panel
        self.canvas = _canvas()
        viewer.reset_view()
        self.live()

    @property
    def layer(self) -> Any:
        return self.panel.workspace.labels

    def live(self, until: Callable[[], bool] = lambda: False, seconds: float = 0.2) -> None:
        """Let the window live until something is so, or for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            QApplication.processEvents()
            time.sleep(0.005)

    def drag(self, *places: tuple[float, float], modifier: Any = PLAIN) -> None:
        points, kind = [self._on_canvas(*place) for place in places], QEvent.Type
        self._send(kind.MouseMove, points[0], NONE, NONE, modifier)
        self._send(kind.MouseButtonPress, points[0], LEFT, LEFT, modifier)
        for point in points[1:]:
            self._send(kind.MouseMove, point, NONE, LEFT, modifier)
        self._send(kind.MouseButtonRelease, points[-1], LEFT, NONE, modifier)
        self.live()

    def click_twice(self, place: tuple[float, float]) -> None:
        """As fast as the window system makes it a double click."""
        point, kind = self._on_canvas(*place), QEvent.Type
        for press in (kind.MouseButtonPress, kind.MouseButtonDblClick):
            self._send(press, point, LEFT, LEFT, PLAIN)
            self._send(kind.MouseButtonRelease, point, LEFT, NONE, PLAIN)
        self.live(lambda: not self.panel.prompting.busy, seconds=60)
        self.live()

    def press(self, key: Qt.Key, modifier: Any = PLAIN) -> None:
        for kind in (QEvent.Type.KeyPress, QEvent.Type.KeyRelease):
            QApplication.sendEvent(self.canvas, QKeyEvent(kind, key, modifier))
        self.live()

    def _on_canvas(self, row: float, column: float) -> QPointF:
        camera = self.viewer.scene.camera
        y, x = (np.array([row, column]) - np.array(camera.center[-2:])) * camera.zoom
        return QPointF(self.canvas.width() / 2 + x, self.canvas.height() / 2 + y)

    def _send(
        self, kind: QEvent.Type, point: QPointF, button: Any, buttons: Any, modifier: Any
    ) -> None:
        place = QPointF(self.canvas.mapToGlobal(point.toPoint()))
        event = QMouseEvent(kind, point, place, button, buttons, modifier)
        QApplication.sendEvent(self.canvas, event)
        QApplication.processEvents()

    def state(self, index: int) -> dict[str, Any]:
        """Seeds, and the labels of a slice."""
        plane = np.asarray(self.layer.data[index])
        where = np.argwhere(plane)
        return {
            "seeds": [list(row) for row in self.panel.seeds.rows],
            "slices": np.flatnonzero(self.layer.data.any(axis=(1, 2))).tolist(),
            "voxels": int((plane != 0).sum()),
            "box": [*where.min(0).tolist(), *where.max(0).tolist()] if len(where) else None,
        }


def _canvas() -> QWidget:
    [found] = [w for w in QApplication.allWidgets() if type(w).__name__ == "CanvasBackendDesktop"]
    return found


def work(person: Person) -> dict[str, Any]:
    """Paint, propagate by key, erase, undo by key, fill, pan."""
    told: dict[str, Any] = {}
    layer, panel = person.layer, person.panel
    layer.selected_label, layer.brush_size, layer.mode = 1, 5, "paint"
    panel.workspace.go_to(5)
    person.drag((20, 30), (20, 45), (20, 60))
    told["painted"] = person.state(5)
    stroke = layer.data[5].copy()

    person.press(Qt.Key.Key_G)
    seeded = told["painted"]["slices"]
    person.live(
        lambda: person.state(5)["slices"] != seeded and not panel.runner.running, seconds=60
    )
    told["propagated"] = person.state(5)
    told["the stroke stays"] = bool(np.array_equal(layer.data[5], stroke))

    panel.workspace.go_to(8)
    told["before erasing"] = person.state(8)
    layer.mode = "erase"
    person.drag((20, 40), (20, 50))
    told["erased"] = person.state(8)
    person.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    told["undone"] = person.state(8)
    person.press(
        Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    )
    told["redone"] = person.state(8)

    panel.workspace.go_to(10)
    layer.selected_label, layer.mode = 2, "fill"
    person.drag((50, 50))
    told["filled"] = person.state(10)

    panel.workspace.go_to(2)
    before = person.state(2)
    layer.mode = "pan_zoom"
    person.drag((50, 50), (55, 60))
    told["panning changes nothing"] = person.state(2) == before
    told |= click(person)
    return told


def click(person: Person) -> dict[str, Any]:
    """Click, correct, undo by key, drag a box, and back to painting by Escape."""
    told: dict[str, Any] = {}
    layer, panel = person.layer, person.panel
    layer.selected_label = 3
    panel.workspace.go_to(4)
    person.press(Qt.Key.Key_C, SHIFT)
    told["clicking"] = [panel.prompting.mode, layer.mode]
    person.drag((40, 60))
    person.live(lambda: not panel.prompting.busy, seconds=60)
    told["clicked"] = [row for row in person.state(4)["seeds"] if row[0] == 4]
    told["points"] = panel.workspace.annotation.prompts.get(3, 4).points.round(1).tolist()
    person.drag((30, 50), modifier=SHIFT)
    person.live(lambda: not panel.prompting.busy, seconds=60)
    told["signs"] = panel.workspace.annotation.prompts.get(3, 4).point_labels.tolist()
    person.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | ALT)
    told["signs after undo"] = panel.workspace.annotation.prompts.get(3, 4).point_labels.tolist()

    panel.workspace.go_to(7)
    zoom = person.viewer.scene.camera.zoom
    person.click_twice((35, 55))
    told["points of two fast clicks"] = panel.workspace.annotation.prompts.get(3, 7).points.tolist()
    told["the picture keeps its size"] = person.viewer.scene.camera.zoom == zoom

    panel.workspace.go_to(6)
    person.press(Qt.Key.Key_B, SHIFT)
    centre = person.viewer.scene.camera.center
    person.drag((30, 50), (40, 60), (50, 80))
    person.live(lambda: not panel.prompting.busy, seconds=60)
    told["boxed"] = [row for row in person.state(6)["seeds"] if row[0] == 6]
    told["box"] = np.round(panel.workspace.annotation.prompts.get(3, 6).box).tolist()
    told["the picture stays"] = person.viewer.scene.camera.center == centre
    preview = panel.prompting.preview
    person.live(lambda: preview.active and not preview.running, seconds=60)
    told["previewed"] = list(preview.slices)
    told["layers while clicking"] = [x.name for x in person.viewer.layers]
    person.press(Qt.Key.Key_Escape)
    told["after one escape"] = [panel.prompting.mode, preview.active]
    person.press(Qt.Key.Key_Escape)
    told["after escape"] = [panel.prompting.mode, *(x.name for x in person.viewer.layers)]
    layer.mode = "pan_zoom"
    person.click_twice((35, 55))
    told["a double click zooms again"] = bool(person.viewer.scene.camera.zoom > 1.5 * zoom)
    person.viewer.reset_view()
    return told | draw(person)


def draw(person: Person) -> dict[str, Any]:
    """Draw a lasso, accept its preview by key, draw a scribble, and back by Escape."""
    told: dict[str, Any] = {}
    panel, preview = person.panel, person.panel.prompting.preview
    prompts = lambda: panel.workspace.annotation.prompts  # noqa: E731
    person.layer.selected_label = 4

    def drag(*places: tuple[float, float]) -> None:
        person.drag(*places)
        person.live(lambda: not panel.prompting.busy, seconds=60)
        person.live(lambda: preview.active and not preview.running, seconds=60)

    panel.workspace.go_to(9)
    person.press(Qt.Key.Key_O, SHIFT)
    drag((10, 20), (10, 35), (10, 50), (20, 52), (30, 50), (30, 35), (30, 20), (20, 20))
    lasso = prompts().get(4, 9).lasso
    told["lasso"] = [*lasso.min(0).round().tolist(), *lasso.max(0).round().tolist()]
    told["lasso previewed"] = list(preview.slices)
    person.press(Qt.Key.Key_K)
    told["slices accepted"] = np.flatnonzero((person.layer.data == 4).any((1, 2))).tolist()

    panel.workspace.go_to(3)
    person.press(Qt.Key.Key_D, SHIFT)
    told["scribbling"] = [panel.prompting.mode, person.viewer.layers.selection.active.name]
    drag((20, 30), (20, 45), (20, 60))
    pixels = prompts().get(4, 3).scribble
    told["scribble"] = [*pixels.min(0).tolist(), *pixels.max(0).tolist()]
    person.press(Qt.Key.Key_Escape)
    told["after one escape of drawing"] = [panel.prompting.mode, preview.active]
    person.press(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | ALT)
    told["undone scribble"] = prompts().get(4, 3) is None
    person.press(Qt.Key.Key_Escape)
    active = person.viewer.layers.selection.active.name
    told["after drawing"] = [panel.prompting.mode, active, *(x.name for x in person.viewer.layers)]
    return told


def main() -> None:
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1200, 700)
    rng = np.random.default_rng(0)
    data = np.clip(0.6 + 0.05 * rng.normal(size=SHAPE), 0, 1).astype(np.float32)
    viewer.add_image(data, name="scan")
    panel = AnnotateWidget(viewer)
    panel.runner.models = FakeModels(SlowFake())
    viewer.window.add_dock_widget(panel, name="Annotate")
    person = Person(viewer, panel)
    person.live(seconds=0.5)
    told = work(person)
    viewer.close()
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
