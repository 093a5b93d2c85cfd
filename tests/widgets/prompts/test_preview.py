"""The 3D preview of a click in a real viewer."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication
from scipy.ndimage import binary_erosion
from tests.widgets.prompts.test_prompting import Clicker, Gated, blobs

REACH = 3
BESIDE = [2, 3, 4, 6, 7, 8]


class Sweeper(Gated):
    """Sweeps slice by slice when its gate is open; the gate of `Gated` is that of clicks."""

    def __init__(self) -> None:
        super().__init__()
        self.sweep_gate = threading.Event()
        self.sweep_gate.set()

    def segment(self, *args):
        assert self.sweep_gate.wait(20)
        return super().segment(*args)


@pytest.fixture
def model():
    return Sweeper()


@pytest.fixture
def clicker(viewer, qtbot, model):
    viewer.add_image(blobs(), name="scan", scale=(3, 1, 1), translate=(5, 0, 2))
    bench = Clicker(viewer, qtbot, model)
    bench.show(5)
    bench.panel.prompt_bar.points.click()
    bench.panel.prompt_bar.reach.setValue(REACH)
    return bench


def preview_layers(clicker):
    return [x for x in clicker.viewer.layers if "preview" in x.name]


def wait_for_preview(clicker):
    preview = clicker.panel.prompting.preview
    clicker.qtbot.waitUntil(lambda: not preview.running and bool(preview.slices), timeout=20_000)


def scores(clicker):
    return clicker.panel.scores.lowest(clicker.panel.workspace.annotation)


def key(clicker, name):
    return {s.key: s.action for s in clicker.panel.shortcuts.bound}[name]


def escape(clicker):
    next(f for k, f in clicker.layer.keymap.items() if str(k) == "Escape")(clicker.layer)


def test_a_click_is_previewed_to_both_sides_beside_the_labels(clicker):
    clicker.click(7, 10)
    wait_for_preview(clicker)
    [layer] = preview_layers(clicker)
    assert isinstance(layer, Labels)
    assert not clicker.layer.data[BESIDE].any()
    assert clicker.panel.prompt_bar.preview_text == "3D preview on slices 2 to 8"
    np.testing.assert_array_equal(layer.data[3], 0)  # the slice of the seed
    mask = clicker.mask(5)
    mask[2:6, 3:8] = True  # the fake adds it to every seed of clicks
    mask = np.roll(mask, 1, 1)
    np.testing.assert_array_equal(layer.data[4] > 0, mask & ~binary_erosion(mask))
    np.testing.assert_allclose(
        layer.data_to_world((4, 0, 0)), clicker.layer.data_to_world((6, 0, 0))
    )
    # It is no layer to work on.
    names = [clicker.panel.labels.itemText(i) for i in range(clicker.panel.labels.count())]
    assert names == [clicker.layer.name]
    assert clicker.viewer.layers.selection.active is clicker.layer


def test_the_key_that_accepts_a_slice_takes_it_as_one_undo_step(clicker):
    clicker.click(7, 10)
    wait_for_preview(clicker)
    key(clicker, "K")()
    assert preview_layers(clicker) == []
    assert clicker.layer.data[BESIDE].any((1, 2)).all()
    assert clicker.seeds == {(5, 1)}
    assert set(scores(clicker)) == set(BESIDE)
    assert clicker.told == "Slices 2 to 8 are filled; Undo removes them."
    assert clicker.panel.undo_button.text() == "Undo 3D result"
    clicker.panel.undo()
    assert "are filled" not in clicker.told
    assert not clicker.layer.data[BESIDE].any()
    assert clicker.seeds == {(5, 1)}
    assert scores(clicker) == {}
    clicker.panel.redo()
    assert clicker.layer.data[BESIDE].any((1, 2)).all()


def test_escape_drops_it_and_the_next_escape_ends_clicking(clicker):
    clicker.click(7, 10)
    wait_for_preview(clicker)
    clicked = clicker.mask(5)
    escape(clicker)
    assert preview_layers(clicker) == []
    assert clicker.panel.prompting.mode == "points"
    np.testing.assert_array_equal(clicker.mask(5), clicked)
    assert not clicker.layer.data[BESIDE].any()
    key(clicker, "K")()  # accepts the slice again
    assert "checked already" in clicker.panel.hint.text()
    escape(clicker)
    assert clicker.panel.prompting.mode == "off"


def test_a_new_click_replaces_the_running_preview_and_the_window_answers_meanwhile(clicker, model):
    model.sweep_gate.clear()
    clicker.click(7, 10)
    preview = clicker.panel.prompting.preview
    assert preview.sweeping
    longest, last = [0.0], [time.perf_counter()]

    def beat() -> None:
        now = time.perf_counter()
        longest[0], last[0] = max(longest[0], now - last[0]), now

    timer = QTimer()
    timer.timeout.connect(beat)
    timer.start(5)
    clicker.qtbot.wait(300)
    assert longest[0] < 0.2
    timer.stop()
    clicker.press((1, 1), modifiers=("Shift",))  # waits for the sweep to end
    assert not preview.active
    model.sweep_gate.set()
    clicker.wait()
    wait_for_preview(clicker)
    assert len(clicker.panel.workspace.annotation.prompts.get(1, 5).points) == 2
    assert list(preview.slices) == BESIDE
    assert len(preview_layers(clicker)) == 1


def test_accepting_early_takes_the_slices_that_are_there(clicker, model):
    model.sweep_gate.clear()
    clicker.click(7, 10)
    preview = clicker.panel.prompting.preview
    assert not clicker.panel.prompt_bar.take.isEnabled()
    clicker.panel.prompting.take_preview()
    assert preview.active, "there is nothing to take yet"
    model.sweep_gate.set()
    wait_for_preview(clicker)
    clicker.panel.prompt_bar.take.click()
    assert clicker.layer.data[BESIDE].any()


@pytest.mark.parametrize("what", ["undo", "label", "mode", "run", "drop", "layer", "view"])
def test_it_goes_where_it_does_not_apply_any_more(clicker, what):
    clicker.click(7, 10)
    wait_for_preview(clicker)
    if what == "undo":
        clicker.panel.undo()
    elif what == "label":
        clicker.layer.selected_label = 2
    elif what == "mode":
        clicker.panel.prompt_bar.paint.click()
    elif what == "run":
        clicker.run()
    elif what == "drop":
        clicker.panel.prompt_bar.drop.click()
    elif what == "layer":
        clicker.viewer.layers.remove(clicker.layer)
    else:
        clicker.viewer.dims.order = (2, 0, 1)
    assert not clicker.panel.prompting.preview.active
    assert preview_layers(clicker) == []
    assert clicker.panel.prompt_bar.preview_text == ""


def test_scrolling_keeps_it_and_it_is_drawn_on_the_next_slice(clicker):
    clicker.click(7, 10)
    wait_for_preview(clicker)
    clicker.show(7)
    assert len(preview_layers(clicker)) == 1
    clicker.panel.accept()
    assert clicker.layer.data[BESIDE].any((1, 2)).all()


def test_a_person_may_remove_its_layer(clicker):
    clicker.click(7, 10)
    wait_for_preview(clicker)
    clicker.viewer.layers.remove(preview_layers(clicker)[0])
    clicker.panel.accept()
    assert not clicker.layer.data[BESIDE].any()
    clicker.click(1, 1, modifiers=("Shift",))
    wait_for_preview(clicker)
    assert len(preview_layers(clicker)) == 1


def test_without_slices_to_each_side_there_is_none(clicker, model):
    clicker.panel.prompt_bar.reach.setValue(0)
    clicker.click(7, 10)
    assert not clicker.panel.prompting.preview.active
    assert model.visits == []


def test_a_painted_slice_inside_it_stays(clicker):
    clicker.paint(7, at=(12, 20), size=3)
    painted = clicker.layer.data[7].copy()
    clicker.show(5)
    clicker.click(7, 10)
    wait_for_preview(clicker)
    assert clicker.panel.prompting.preview.slices == (2, 3, 4, 6)
    clicker.panel.accept()
    np.testing.assert_array_equal(clicker.layer.data[7], painted)
    assert clicker.seeds == {(5, 1), (7, 1)}


def test_in_a_time_series_it_belongs_to_its_time(viewer, qtbot, model):
    viewer.add_image(np.stack([blobs()] * 3), name="series", axis_labels=("t", "z", "y", "x"))
    bench = Clicker(viewer, qtbot, model)
    viewer.dims.set_point(0, 1)
    bench.show(5)
    bench.panel.prompt_bar.points.click()
    bench.panel.prompt_bar.reach.setValue(REACH)
    bench.press_at((1, 5, 7, 10))
    bench.wait()
    wait_for_preview(bench)
    [layer] = preview_layers(bench)
    assert layer.data.shape[:2] == (1, 2 * REACH + 1)
    np.testing.assert_allclose(
        layer.data_to_world((0, 4, 2, 2)), bench.layer.data_to_world((1, 6, 2, 2))
    )
    bench.panel.accept()
    assert bench.layer.data[1, 6].any()
    assert not bench.layer.data[[0, 2]].any()


def test_closing_the_panel_in_mid_sweep_is_clean(clicker, model):
    model.sweep_gate.clear()
    clicker.click(7, 10)
    clicker.panel.shut_down()
    model.sweep_gate.set()
    clicker.qtbot.waitUntil(lambda: not clicker.panel.prompting.preview.running, timeout=20_000)
    QApplication.processEvents()
    assert preview_layers(clicker) == []
