"""Strokes in another plane than that of the slices, in a real viewer."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication
from tests.widgets.conftest import SHAPE, Bench


class OtherView:
    """Another canvas with a Labels layer over the same array, as that of three linked views."""

    def __init__(self, bench: Bench) -> None:
        layer = bench.layer
        self.bench = bench
        self.model = ViewerModel()
        self.layer = self.model.add_layer(
            Labels(layer.data, scale=layer.scale, translate=layer.translate)
        )
        self.model.dims.order = (2, 0, 1)
        # Linked views draw each other again when the array was written.
        for event in (self.layer.events.set_data, self.layer.events.labels_update):
            event.connect(lambda: layer.refresh())

    def paint(self, *place: int, label: int = 1, size: int = 10) -> None:
        self.model.dims.set_point(2, self.layer.data_to_world(place)[2])
        self.layer.selected_label, self.layer.brush_size = max(label, 1), size
        self.layer.paint(place, label)
        self.settle()

    def undo(self) -> None:
        self.layer.undo()
        self.settle()

    def settle(self) -> None:
        self.bench.qtbot.wait(150)


@pytest.fixture
def sagittal(bench: Bench) -> OtherView:
    return OtherView(bench)


def roll(bench: Bench, order: tuple[int, int, int], index: int) -> None:
    bench.viewer.dims.order = order
    bench.show(index)


def paint(bench: Bench, *place: int, label: int = 1, size: int = 10) -> None:
    bench.layer.selected_label, bench.layer.brush_size = label, size
    bench.layer.paint(place, label)
    bench.qtbot.wait(150)


def asked(bench: Bench) -> bool:
    return not bench.panel.plane_bar.isHidden()


def test_a_stroke_of_another_view_makes_no_seeds_of_the_slices_and_is_asked_about(bench, sagittal):
    bench.paint(2)
    assert not asked(bench)
    sagittal.paint(6, 4, 18)
    assert np.count_nonzero(bench.layer.data.any(axis=(1, 2))) > 3
    assert bench.seeds == {(2, 1)}
    assert asked(bench)
    text = bench.panel.plane_bar.text.text()
    assert "Painted on a plane of axis 2" in text
    assert "slices run along axis 0" in text


def test_a_linked_view_that_announces_its_array_is_asked_about_too(bench, sagittal):
    bench.paint(2)
    bench.layer.data[4:9, 4:9, 10] = 1
    bench.layer.events.data(value=bench.layer.data)
    bench.qtbot.wait(150)
    assert asked(bench)
    assert bench.seeds == {(2, 1)}
    bench.run()
    assert bench.layer.data[4:9, 4:9, 10].all()


def test_no_run_overwrites_a_stroke_before_it_is_decided(bench, sagittal):
    bench.paint(2)
    sagittal.paint(6, 8, 10)
    painted = bench.layer.data[:, :, 10].copy()
    bench.run()
    assert bench.layer.data[11].any()
    np.testing.assert_array_equal(bench.layer.data[:, :, 10], painted)
    assert asked(bench)
    assert bench.seeds == {(2, 1)}


def test_a_stroke_that_is_undone_is_not_asked_about(bench, sagittal):
    bench.paint(2)
    before = bench.layer.data.copy()
    sagittal.paint(6, 8, 10)
    assert asked(bench)
    sagittal.undo()
    np.testing.assert_array_equal(bench.layer.data, before)
    assert not asked(bench)
    assert bench.seeds == {(2, 1)}
    sagittal.layer.redo()
    sagittal.settle()
    assert asked(bench)


def test_a_seed_that_a_redone_stroke_crosses_can_be_corrected(bench, sagittal):
    bench.paint(6)
    sagittal.paint(6, 2, 20)
    assert bench.panel.plane_bar.correct_button.isEnabled()
    sagittal.undo()
    sagittal.layer.redo()
    sagittal.settle()
    assert bench.panel.plane_bar.correct_button.isEnabled()
    paint(bench, 6, 12, 3, label=2, size=4)
    assert bench.panel.plane_bar.correct_button.isEnabled()


def test_a_stroke_across_a_seed_belongs_to_the_seed_too(bench, sagittal):
    bench.paint(6)
    sagittal.paint(6, 2, 20)
    bench.run()
    assert bench.layer.data[6, 2, 20] == 1
    seed = bench.panel.workspace.annotation.prompts.get(1, 6)
    np.testing.assert_array_equal(seed.mask, bench.layer.data[6] == 1)


def test_corrections_make_seeds_where_the_label_had_a_mask_and_are_one_undo_step(bench, sagittal):
    bench.paint(2)
    bench.run()
    bench.layer.data[5] = 0
    bench.layer.refresh()
    bench.qtbot.wait(150)  # slice 5: the label is absent
    bench.panel.workspace.remove_seed(1, 5)
    before = bench.layer.data.copy()
    sagittal.paint(6, 2, 20)
    crossed = np.flatnonzero((bench.layer.data != before).any(axis=(1, 2))).tolist()
    assert 5 in crossed
    painted = bench.layer.data.copy()
    bar = bench.panel.plane_bar
    assert f"{len(crossed) - 1} of {len(crossed)}" in bar.correct_button.toolTip()
    bar.correct_button.click()
    assert not asked(bench)
    corrected = {(index, 1) for index in crossed if index != 5}
    assert bench.seeds == {(2, 1)} | corrected
    np.testing.assert_array_equal(bench.layer.data, painted)
    assert bench.panel.undo_button.text() == "Undo correction"
    bench.panel.undo_button.click()
    assert bench.seeds == {(2, 1)}
    assert asked(bench), "it is to be decided again"
    bench.panel.redo_button.click()
    assert bench.seeds == {(2, 1)} | corrected
    bench.run()
    for index, _ in corrected:
        np.testing.assert_array_equal(bench.layer.data[index], painted[index])


def test_a_stroke_over_slices_without_a_mask_is_no_correction(bench, sagittal):
    bench.paint(2)
    sagittal.paint(8, 8, 10)
    assert not bench.panel.plane_bar.correct_button.isEnabled()
    assert bench.panel.plane_bar.along_button.isEnabled()


def test_the_painted_plane_becomes_the_plane_of_slices(bench, sagittal):
    bench.paint(2)
    sagittal.paint(6, 8, 10)
    bench.panel.plane_bar.along_button.click()
    assert not asked(bench)
    assert bench.panel.workspace.view.axis == 2
    assert bench.seeds == {(10, 1)}
    bench.run()
    assert bench.layer.data.any(axis=(0, 1)).all()
    bench.show(15)
    paint(bench, 3, 3, 15, label=2)
    assert not asked(bench), "decided once"


def test_removed_strokes_leave_what_was_there_and_come_back_by_undo(bench, sagittal):
    bench.paint(6)
    bench.run()
    before, seeds = bench.layer.data.copy(), bench.seeds
    sagittal.paint(6, 2, 20, label=2)
    sagittal.paint(6, 8, 10, label=0)
    painted = bench.layer.data.copy()
    assert (painted != before).any()
    bench.panel.plane_bar.remove_button.click()
    np.testing.assert_array_equal(bench.layer.data, before)
    assert bench.seeds == seeds
    assert not asked(bench)
    bench.panel.undo_button.click()
    np.testing.assert_array_equal(bench.layer.data, painted)
    assert asked(bench)
    bench.panel.redo_button.click()
    np.testing.assert_array_equal(bench.layer.data, before)


def test_what_was_painted_on_the_slices_afterwards_is_not_removed(bench, sagittal):
    bench.paint(6)
    sagittal.paint(6, 2, 20)
    bench.paint(6, at=(12, 20), size=3)
    bench.panel.plane_bar.remove_button.click()
    assert bench.layer.data[6, 12, 20] == 1
    assert bench.layer.data[6, 2, 20] == 0


@pytest.mark.parametrize("answer", ["correct", "along", "remove"])
def test_a_stroke_after_rolling_the_axes_is_asked_about(bench, answer):
    bench.paint(2)
    bench.run()
    before = bench.layer.data.copy()
    roll(bench, (1, 0, 2), 3)
    paint(bench, 6, 3, 10)
    assert asked(bench)
    assert bench.seeds == {(3, 1)}
    painted = bench.layer.data.copy()
    bar = bench.panel.plane_bar
    getattr(bar, f"{answer}_button").click()
    assert not asked(bench)
    assert bench.panel.workspace.view.axis == (1 if answer == "along" else 0)
    np.testing.assert_array_equal(bench.layer.data, before if answer == "remove" else painted)
    if answer == "correct":
        crossed = np.flatnonzero((painted != before).any(axis=(1, 2)))
        assert bench.seeds == {(2, 1)} | {(int(index), 1) for index in crossed}


def test_a_plane_that_had_seeds_first_is_no_question(bench):
    roll(bench, (1, 0, 2), 3)
    paint(bench, 6, 3, 10)
    paint(bench, 6, 3, 14)
    assert not asked(bench)


def test_one_press_of_the_keyboard_answers(bench, sagittal):
    bench.paint(2)
    sagittal.paint(6, 8, 10)
    bar = bench.panel.plane_bar
    for widget in (bar.correct_button, bar.along_button, bar.remove_button):
        assert widget.focusPolicy() & Qt.FocusPolicy.TabFocus
        assert widget.toolTip()
    bench.qtbot.keyClick(bar.remove_button, Qt.Key.Key_Space)
    QApplication.processEvents()
    assert not asked(bench)
    assert not bench.layer.data[6, 8, 10]


def test_nothing_is_removed_during_a_run(bench, sagittal):
    bench.paint(0)
    sagittal.paint(6, 8, 10)
    bench.segmenter.delay = 0.05
    bench.panel.propagate()
    bench.until_slices(2)
    assert not bench.panel.plane_bar.remove_button.isEnabled()
    bench.segmenter.delay = 0.0
    bench.finish()
    assert bench.panel.plane_bar.remove_button.isEnabled()
    assert bench.layer.data.shape == SHAPE
