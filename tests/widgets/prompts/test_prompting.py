"""Clicks and boxes in a real viewer; the mouse of the window system is in `test_mouse`."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels, Points, Vectors
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)
from qtpy.QtWidgets import QApplication
from tests.fakes import FakeSegmenter
from tests.widgets.conftest import SHAPE, Bench, FakeModels

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import PromptKind
from napari_slmsam2.engine.classical.flow import FlowSegmenter
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.widgets import AnnotateWidget

BLOB = np.s_[4:11, 6:16]


class Gated(FakeSegmenter):
    """Answers clicks as `FlowSegmenter` does, when the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[Any] = []
        self.problem: Exception | None = None

    def encode_seed(self, embedding: Any, prompt: Any, shape: Any) -> Any:
        if prompt.mask is None and prompt.kind is PromptKind.POINTS:
            self.asked.append(prompt)
            assert self.gate.wait(20)
            if self.problem is not None:
                raise self.problem
            found = FlowSegmenter().encode_seed(embedding, prompt, shape)
            return self._answer(found.patch.mask(shape), 8.0, 1.0)
        return super().encode_seed(embedding, prompt, shape)


class Wrapped:
    """An event as napari hands it on: what it wraps changes while the mouse moves."""

    def __init__(self, event: Any) -> None:
        self.__wrapped__ = event

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)


class Clicker(Bench):
    """Presses the mouse at voxels of the slice on screen."""

    def press(self, *places: tuple[float, float], modifiers: tuple[str, ...] = ()) -> None:
        """A click, or a drag along several places."""
        index = self.panel.workspace.index
        self.press_at(*((index, *place) for place in places), modifiers=modifiers)

    def press_at(
        self, *voxels: tuple[float, float, float], modifiers: tuple[str, ...] = ()
    ) -> None:
        def event(kind: str, voxel: tuple[float, float, float]) -> Any:
            position = self.panel.workspace.image.data_to_world(voxel)
            values = {"type": kind, "button": 1, "pos": 10.0 * np.array(voxel[1:])}
            values |= {"position": position, "modifiers": modifiers, "is_dragging": True}
            return Wrapped(SimpleNamespace(**values))

        mouse_press_callbacks(self.viewer, event("mouse_press", voxels[0]))
        for voxel in voxels[1:]:
            mouse_move_callbacks(self.viewer, event("mouse_move", voxel))
        mouse_release_callbacks(self.viewer, event("mouse_release", voxels[-1]))
        QApplication.processEvents()

    def wait(self) -> None:
        self.qtbot.waitUntil(lambda: not self.panel.prompting.busy, timeout=60_000)

    def click(self, *place: float, modifiers: tuple[str, ...] = ()) -> None:
        self.press(place, modifiers=modifiers)
        self.wait()

    def mask(self, index: int, label: int = 1) -> np.ndarray:
        return np.asarray(self.layer.data[index]) == label

    @property
    def told(self) -> str:
        return self.panel.prompt_bar.hint

    @property
    def marks(self) -> list[Any]:
        return [x for x in self.viewer.layers if isinstance(x, Points | Vectors)]


def blobs() -> np.ndarray:
    rng = np.random.default_rng(2)
    data = np.full(SHAPE, 0.3, np.float32)
    data[(slice(None), *BLOB)] = 0.8
    return np.clip(data + rng.normal(0, 0.02, SHAPE), 0, 1).astype(np.float32)


@pytest.fixture
def model() -> Gated:
    return Gated()


@pytest.fixture
def clicker(viewer: Any, qtbot: Any, model: Gated) -> Clicker:
    viewer.add_image(blobs(), name="scan", scale=(3, 1, 1), translate=(5, 0, 2))
    bench = Clicker(viewer, qtbot, model)
    bench.show(5)
    return bench


def truth() -> np.ndarray:
    mask = np.zeros(SHAPE[1:], bool)
    mask[BLOB] = True
    return mask


def overlap(mask: np.ndarray) -> float:
    return 2 * (mask & truth()).sum() / (mask.sum() + truth().sum())


def test_a_click_is_a_mask_and_a_seed_at_once(clicker):
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    assert overlap(clicker.mask(5)) > 0.9
    assert clicker.panel.seeds.rows == [(5, 1, "points")]
    assert not clicker.layer.data[[4, 6]].any()


def test_a_slice_without_clicks_shows_no_point(clicker):
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    [points] = clicker.marks
    smallest, largest = points.canvas_size_limits
    assert smallest == largest > 5
    clicker.show(6)
    # napari draws a point of no size at the first voxel there.
    assert points.canvas_size_limits == (0, largest)
    clicker.panel.prompting.set_mode("box")
    clicker.press((3, 5), (11, 16))
    clicker.wait()
    clicker.panel.click_points()
    [points] = [x for x in clicker.marks if x.name == "clicks"]
    assert points.canvas_size_limits == (0, largest), "a box has no click"
    clicker.show(5)
    assert points.canvas_size_limits == (largest, largest)


def test_a_message_about_a_slice_ends_with_it(clicker):
    clicker.paint(5)
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    assert "is painted on this slice" in clicker.told
    clicker.show(6)
    assert "is painted on this slice" not in clicker.told


def test_a_box_and_its_correction(clicker):
    clicker.panel.prompt_bar.box.click()
    clicker.press((3, 5), (8, 11), (11, 16))
    clicker.wait()
    assert overlap(clicker.mask(5)) > 0.9
    assert clicker.panel.seeds.rows == [(5, 1, "box")]
    first = clicker.mask(5)
    clicker.click(7, 15, modifiers=("Shift",))
    assert clicker.panel.seeds.rows == [(5, 1, "points")]
    assert first[7, 15]
    assert not clicker.mask(5)[7, 15]


def test_a_drag_among_points_moves_the_picture_only(clicker):
    clicker.panel.prompt_bar.points.click()
    assert clicker.viewer.scene.camera.mouse_pan
    clicker.press((7, 10), (9, 14))
    clicker.wait()
    assert clicker.seeds == set()
    clicker.panel.prompt_bar.box.click()
    assert not clicker.viewer.scene.camera.mouse_pan
    clicker.panel.draw_box()
    assert str(clicker.layer.mode) == "pan_zoom"
    assert clicker.viewer.scene.camera.mouse_pan


def test_clicks_are_undone_one_by_one_and_redone(clicker):
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    one = clicker.mask(5)
    clicker.click(1, 20)
    two = clicker.mask(5)
    assert two[1, 20]
    assert clicker.panel.undo_button.text() == "Undo click"
    clicker.panel.undo_button.click()
    np.testing.assert_array_equal(clicker.mask(5), one)
    assert clicker.seeds == {(5, 1)}
    clicker.panel.undo_button.click()
    assert not clicker.layer.data.any()
    assert clicker.seeds == set()
    clicker.panel.redo_button.click()
    clicker.panel.redo_button.click()
    np.testing.assert_array_equal(clicker.mask(5), two)
    clicker.click(2, 2, modifiers=("Shift",))
    assert len(clicker.panel.workspace.annotation.prompts.get(1, 5).points) == 3


def test_undo_brings_back_what_the_click_took_over(clicker):
    labels = clicker.layer.data.copy()
    labels[5][BLOB] = 2
    clicker.layer.data = labels
    before = clicker.layer.data.copy()
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    assert not clicker.mask(5, 2)[7, 10]
    clicker.panel.undo_button.click()
    np.testing.assert_array_equal(clicker.layer.data, before)


def test_painted_pixels_of_another_label_are_never_taken(clicker):
    clicker.paint(5, label=2, at=(5, 8), size=3)
    painted = clicker.mask(5, 2)
    assert (painted & truth()).any()
    clicker.layer.selected_label = 1
    clicker.panel.prompt_bar.points.click()
    clicker.click(8, 12)
    np.testing.assert_array_equal(clicker.mask(5, 2), painted)
    assert overlap(clicker.mask(5) | painted) > 0.85


def test_a_painted_seed_of_the_label_is_not_replaced(clicker):
    clicker.paint(5, at=(1, 1), size=1)
    painted = clicker.layer.data.copy()
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    assert "Label 1 is painted on this slice" in clicker.told
    np.testing.assert_array_equal(clicker.layer.data, painted)
    clicker.panel.seeds.selectRow(0)
    clicker.panel.delete_seed.click()
    clicker.click(7, 10)
    assert overlap(clicker.mask(5)) > 0.9


def test_painting_on_clicks_makes_a_painted_seed_and_undo_brings_the_clicks_back(clicker):
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    clicked = clicker.mask(5)
    clicker.layer.mode = "paint"
    assert clicker.panel.prompting.mode == "off"
    assert clicker.panel.prompt_bar.paint.isChecked()
    clicker.paint(5, at=(14, 20), size=2)
    assert clicker.panel.seeds.rows == [(5, 1, "painted")]
    assert clicker.mask(5)[clicked].all()
    clicker.layer.undo()
    clicker.panel.tracker.flush()
    assert clicker.panel.seeds.rows == [(5, 1, "points")]


def test_the_checkbox_turns_clicks_around(clicker):
    clicker.panel.prompt_bar.points.click()
    assert not clicker.panel.prompt_bar.outside.isHidden()
    clicker.click(7, 10)
    clicker.panel.prompt_bar.outside.setChecked(True)
    clicker.click(4, 6)
    clicker.click(1, 1, modifiers=("Shift",))
    prompt = clicker.panel.workspace.annotation.prompts.get(1, 5)
    assert prompt.point_labels.tolist() == [1, 0, 1]
    clicker.panel.prompt_bar.paint.click()
    assert clicker.panel.prompt_bar.outside.isHidden()


def test_what_cannot_be_asked_is_told(clicker, model):
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10, modifiers=("Shift",))
    assert clicker.told == "Mark the object first."
    model.problem = PromptError("clicks", "cannot be read today")
    clicker.click(7, 10)
    assert "cannot be read today" in clicker.told
    assert clicker.seeds == set()
    model.problem = None
    clicker.press((40, 10))
    clicker.wait()
    assert len(model.asked) == 1, "a click beside the image is none"
    clicker.click(7, 10)
    assert clicker.seeds == {(5, 1)}


def test_a_defect_of_the_model_is_shown_and_clicking_goes_on(clicker, model, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "napari.utils.notifications.notification_manager.receive_error",
        lambda *error: shown.append(error[1]),
    )
    clicker.panel.prompt_bar.points.click()
    model.problem = RuntimeError("a defect")
    clicker.click(7, 10)
    assert shown == [model.problem]
    model.problem = None
    clicker.click(7, 10)
    assert clicker.seeds == {(5, 1)}


@pytest.mark.parametrize("what", ["slice", "label", "layer"])
def test_an_answer_that_comes_too_late_is_dropped(clicker, model, what):
    clicker.panel.prompt_bar.points.click()
    model.gate.clear()
    clicker.press((7, 10))
    clicker.press((8, 11))
    clicker.qtbot.waitUntil(lambda: len(model.asked) == 1, timeout=10_000)
    assert "Asking" in clicker.told
    old = clicker.layer
    if what == "slice":
        clicker.show(6)
    elif what == "label":
        clicker.layer.selected_label = 2
    else:
        clicker.panel.add_labels.click()
    model.gate.set()
    clicker.wait()
    assert not old.data.any()
    assert clicker.seeds == set()
    assert len(model.asked) == 1, "the second click was dropped too"
    if what != "layer":
        clicker.click(7, 10)
        assert len(clicker.seeds) == 1


def test_quick_clicks_are_answered_one_after_the_other(clicker, model):
    clicker.panel.prompt_bar.points.click()
    model.gate.clear()
    clicker.press((7, 10))
    clicker.press((8, 12))
    clicker.press((1, 1), modifiers=("Shift",))
    model.gate.set()
    clicker.wait()
    assert [len(p.points) for p in model.asked] == [1, 2, 3]
    assert overlap(clicker.mask(5)) > 0.9


def test_an_edit_under_a_pending_click_wins(clicker, model):
    clicker.panel.prompt_bar.points.click()
    model.gate.clear()
    clicker.press((7, 10))
    clicker.qtbot.waitUntil(lambda: len(model.asked) == 1, timeout=10_000)
    clicker.layer.paint((5, 1, 1), 1)
    painted = clicker.layer.data.copy()
    model.gate.set()
    clicker.wait()
    np.testing.assert_array_equal(clicker.layer.data, painted)
    assert clicker.panel.seeds.rows == [(5, 1, "painted")]


def test_clicks_propagate_and_are_never_overwritten(clicker):
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    clicked = clicker.mask(5)
    clicker.run()
    np.testing.assert_array_equal(clicker.mask(5), clicked)
    assert clicker.layer.data.any(axis=(1, 2)).all()
    clicker.panel.undo_button.click()
    np.testing.assert_array_equal(clicker.mask(5), clicked)
    assert clicker.panel.undo_button.text() == "Undo click"


def test_clicking_goes_on_during_a_run(clicker):
    clicker.paint(0)
    slow = SlowRun()
    clicker.panel.runner.models = FakeModels(slow)
    clicker.show(8)
    clicker.panel.propagate()
    clicker.until_slices(2)
    clicker.panel.prompt_bar.points.click()
    clicker.layer.selected_label = 2
    clicker.click(7, 10)
    assert clicker.panel.runner.running
    clicked = clicker.mask(8, 2)
    assert clicked.any()
    clicker.panel.undo_button.click()
    assert not clicker.mask(8, 2).any()
    clicker.panel.redo_button.click()
    slow.go_on.set()
    clicker.finish()
    np.testing.assert_array_equal(clicker.mask(8, 2), clicked)


class SlowRun(Gated):
    """Slow from the third slice on; clicks are answered on the same thread, between slices."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def segment(self, *args: Any) -> Any:
        if len(self.visits) >= 2:
            self.go_on.wait(1.0)
        return super().segment(*args)


def test_clicks_and_boxes_are_shown_and_go_with_the_mode(clicker):
    clicker.panel.prompt_bar.box.click()
    clicker.press((3, 5), (11, 16))
    clicker.wait()
    clicker.click(4, 6, modifiers=("Shift",))
    points, lines = sorted(clicker.marks, key=lambda x: x.name == "boxes")
    np.testing.assert_allclose(points.data, [(5, 4, 6)])
    assert lines.data.shape == (4, 2, 3)
    world = points.data_to_world(points.data[0])
    np.testing.assert_allclose(world, clicker.layer.data_to_world((5, 4, 6)))
    assert clicker.viewer.layers.selection.active is clicker.layer
    clicker.panel.undo_button.click()
    assert len(points.data) == 0
    clicker.panel.prompt_bar.paint.click()
    assert clicker.marks == []


def test_marks_and_clicks_follow_an_image_that_is_moved(clicker):
    clicker.panel.click_points()
    clicker.click(7, 10)
    image = clicker.panel.workspace.image
    image.scale, image.affine = (5, 0.5, 0.5), np.diag([2, 2, 2, 1])
    [marks] = clicker.marks
    np.testing.assert_allclose(marks.data_to_world((5, 7, 10)), image.data_to_world((5, 7, 10)))
    clicker.show(6)
    clicker.click(7, 10)
    assert clicker.seeds == {(5, 1), (6, 1)}
    assert overlap(clicker.mask(6)) > 0.8


def test_marks_that_are_deleted_come_back_with_the_next_click(clicker):
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    [points] = clicker.marks
    clicker.viewer.layers.remove(points)
    clicker.click(1, 1, modifiers=("Shift",))
    [points] = clicker.marks
    assert len(points.data) == 2


@pytest.mark.parametrize("what", ["labels", "image"])
def test_layers_removed_while_clicking_end_it(clicker, model, messages, what):
    clicker.panel.prompt_bar.points.click()
    model.gate.clear()
    clicker.press((7, 10))
    clicker.viewer.layers.remove(clicker.layer if what == "labels" else "scan")
    model.gate.set()
    clicker.wait()
    assert clicker.panel.prompting.mode == "off"
    assert clicker.marks == []


def test_other_planes_and_another_tool(clicker):
    clicker.viewer.dims.order = (2, 0, 1)
    clicker.show(10)
    clicker.panel.prompt_bar.points.click()
    clicker.press_at((6, 7, 10))
    clicker.wait()
    assert clicker.seeds == {(10, 1)}
    assert clicker.layer.data[6, 7, 10] == 1
    assert not clicker.layer.data[:, :, 9].any()
    clicker.viewer.dims.ndisplay = 3
    clicker.press_at((6, 7, 10))
    clicker.wait()
    assert len(clicker.panel.workspace.annotation.prompts) == 1


def test_escape_and_keys(clicker):
    keys = {s.key: s.action for s in clicker.panel.shortcuts.bound}
    keys["Shift+C"]()
    assert clicker.panel.prompting.mode == "points"
    keys["Shift+B"]()
    assert clicker.panel.prompting.mode == "box"
    escape = next(f for k, f in clicker.layer.keymap.items() if str(k) == "Escape")
    escape(clicker.layer)
    assert clicker.panel.prompting.mode == "off"
    assert not clicker.layer.keymap
    keys["Shift+B"]()
    keys["Shift+B"]()
    assert clicker.panel.prompting.mode == "off"


def lit(clicker):
    bar = clicker.panel.prompt_bar
    return [x.text().split(" ")[0] for x in (bar.paint, bar.points, bar.box) if x.isChecked()]


def test_the_buttons_show_and_set_napari_s_own_mode(clicker):
    bar, layer = clicker.panel.prompt_bar, clicker.layer
    assert str(layer.mode) == "pan_zoom"
    assert lit(clicker) == []
    bar.paint.click()
    assert str(layer.mode) == "paint"
    assert lit(clicker) == ["Paint"]
    assert not clicker.viewer.scene.camera.mouse_pan
    for mode in ("erase", "pan_zoom", "fill"):
        layer.mode = mode
        assert lit(clicker) == []
    layer.mode = "paint"
    assert lit(clicker) == ["Paint"]
    bar.paint.click()
    assert lit(clicker) == ["Paint"]


def test_points_end_when_the_brush_is_taken_and_give_back_the_tool_before(clicker):
    bar, layer = clicker.panel.prompt_bar, clicker.layer
    layer.mode = "erase"
    bar.points.click()
    assert (lit(clicker), str(layer.mode)) == (["Points"], "pan_zoom")
    clicker.panel.prompting.toggle("points")
    assert (lit(clicker), str(layer.mode)) == ([], "erase")
    bar.box.click()
    bar.paint.click()
    assert (lit(clicker), str(layer.mode)) == (["Paint"], "paint")
    bar.points.click()
    layer.mode = "paint"
    assert (lit(clicker), clicker.panel.prompting.mode) == (["Paint"], "off")


def test_paint_is_lit_only_while_the_labels_take_the_mouse(clicker):
    layers, labels = clicker.viewer.layers, clicker.layer
    clicker.panel.prompt_bar.paint.click()
    layers.selection.active = layers["scan"]
    assert lit(clicker) == []
    layers.selection.active = labels
    assert lit(clicker) == ["Paint"]
    layers.selection.active = layers["scan"]
    clicker.panel.prompt_bar.paint.click()
    assert layers.selection.active is labels
    assert lit(clicker) == ["Paint"]
    clicker.panel.prompt_bar.points.click()
    drawn = clicker.viewer.add_shapes()
    drawn.mode = "add_rectangle"
    layers.selection.active = labels
    assert lit(clicker) == ["Points"]
    layers.selection.active = drawn
    assert lit(clicker) == []
    assert clicker.panel.prompting.mode == "off"


def test_without_labels_no_button_is_lit(clicker):
    clicker.panel.prompt_bar.paint.click()
    clicker.viewer.layers.remove(clicker.layer)
    clicker.panel.prompt_bar.points.click()
    assert lit(clicker) == []


def test_nothing_is_left_when_the_panel_is_closed(clicker, model):
    callbacks = list(clicker.viewer.mouse_drag_callbacks)
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    model.gate.clear()
    clicker.press((8, 11))
    clicker.panel.shut_down()
    model.gate.set()
    assert clicker.marks == []
    assert list(clicker.viewer.mouse_drag_callbacks) == callbacks
    assert not clicker.layer.keymap
    assert not clicker.layer.events.mode.callbacks or all(
        "Prompting" not in str(c) for c in clicker.layer.events.mode.callbacks
    )


def test_a_model_that_is_not_there_is_not_asked(viewer, qtbot):
    viewer.add_image(blobs())
    clicker = Clicker(viewer, qtbot, Gated())
    clicker.panel.model.choose("sam2.1-tiny")
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    assert "is not on this computer" in clicker.told
    assert clicker.seeds == set()


@pytest.mark.parametrize("name", ["flow", "interpolation", "compact"])
def test_models_of_the_package_answer(viewer, qtbot, name):
    viewer.add_image(blobs())
    panel = AnnotateWidget(viewer)
    viewer.window.add_dock_widget(panel)
    panel.model.choose(name)
    clicker = Clicker.__new__(Clicker)
    clicker.viewer, clicker.qtbot, clicker.panel = viewer, qtbot, panel
    qtbot.waitUntil(lambda: panel.workspace.stack is not None, timeout=10_000)
    clicker.show(5)
    panel.prompt_bar.points.click()
    clicker.click(7, 10)
    assert overlap(clicker.mask(5)) > 0.9
    assert [type(layer) for layer in viewer.layers].count(Labels) == 1


def test_the_ready_model_is_the_one_of_the_runs(clicker):
    clicker.panel.prompt_bar.reach.setValue(0)  # a preview of other slices asks for it as well
    clicker.panel.prompt_bar.points.click()
    clicker.click(7, 10)
    assert isinstance(clicker.panel.runner.models.ready, ReadyModel)
    assert len(clicker.panel.runner.models.asked) == 1
