from __future__ import annotations

import gc
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from napari.layers import Labels
from napari.settings import get_settings
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QFileDialog,
    QMessageBox,
)
from tests.random_weights import tiny_file
from tests.widgets.conftest import SHAPE, Bench, scan

from napari_slmsam2.widgets import AnnotateWidget
from napari_slmsam2.widgets.runs.task import Models


def test_one_painted_slice_fills_the_volume(bench):
    bench.paint(5)
    painted = bench.layer.data[5].copy()
    assert bench.seeds == {(5, 1)}
    bench.run()
    filled = bench.layer.data
    assert (filled == 1).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(filled[5], painted)
    np.testing.assert_array_equal(filled[6], np.roll(painted, 1, axis=1))
    assert bench.seeds == {(5, 1)}


def test_the_panel_makes_labels_on_the_grid_of_the_image(bench):
    image = bench.panel.workspace.image
    for name in ("scale", "translate", "rotate", "shear"):
        np.testing.assert_array_equal(getattr(bench.layer, name), getattr(image, name))
    assert bench.layer.units == image.units
    assert bench.layer.axis_labels == image.axis_labels
    assert bench.layer.data.shape == SHAPE
    assert "12 slices along axis 0" in bench.panel.about_view.text()


def test_two_labels_fill_without_taking_from_each_other_s_seeds(bench):
    bench.paint(3, label=1, at=(4, 8))
    bench.paint(8, label=2, at=(10, 12))
    before = {i: bench.layer.data[i].copy() for i in (3, 8)}
    bench.run()
    assert {1, 2} <= set(np.unique(bench.layer.data[0]))
    assert (bench.layer.data[3] == 1)[before[3] == 1].all()
    assert (bench.layer.data[8] == 2)[before[8] == 2].all()


def test_a_correction_sticks_and_only_the_gaps_beside_it_run_again(bench):
    bench.paint(2)
    bench.paint(6)
    bench.run()
    bench.segmenter.visits.clear()
    bench.paint(9, at=(4, 4), size=3)
    corrected = bench.layer.data[9].copy()
    assert bench.seeds == {(2, 1), (6, 1), (9, 1)}
    bench.run()
    np.testing.assert_array_equal(bench.layer.data[9], corrected)
    assert {index for _, index, _ in bench.segmenter.visits} == {7, 8, 10, 11}
    bench.segmenter.visits.clear()
    bench.run("all")
    assert 4 in {index for _, index, _ in bench.segmenter.visits}


def test_undo_takes_back_the_whole_run_and_redo_brings_it_back(bench):
    bench.paint(5)
    bench.paint(7, label=2, at=(3, 15))
    before = bench.layer.data.copy()
    bench.run()
    after = bench.layer.data.copy()
    bench.panel.undo_button.click()
    np.testing.assert_array_equal(bench.layer.data, before)
    bench.panel.redo_button.click()
    np.testing.assert_array_equal(bench.layer.data, after)
    assert bench.seeds == {(5, 1), (7, 2)}


def test_a_stroke_keeps_its_own_undo_after_a_run(bench):
    bench.paint(5)
    bench.run()
    before = bench.layer.data.copy()
    bench.paint(8, at=(2, 2), size=2)
    bench.layer.undo()
    np.testing.assert_array_equal(bench.layer.data, before)


def test_stop_keeps_what_is_done_and_resume_goes_on(bench):
    bench.segmenter.delay = 0.02
    bench.paint(0)
    bench.panel.propagate()
    bench.until_slices(3)
    bench.panel.run_bar.stop_button.click()
    bench.finish()
    filled = set(np.flatnonzero(bench.layer.data.any(axis=(1, 2))))
    assert {0, 1, 2, 3} <= filled
    assert 11 not in filled
    assert bench.panel.run_bar.pause_button.text() == "Resume"
    bench.segmenter.visits.clear()
    bench.panel.run_bar.pause_button.click()
    bench.finish()
    assert bench.layer.data.any(axis=(1, 2)).all()
    assert min(index for _, index, _ in bench.segmenter.visits) > 2


def test_pause_holds_the_run_until_resume(bench, qtbot):
    bench.segmenter.delay = 0.01
    bench.paint(0)
    progress = bench.panel.run_bar.bar
    assert progress.isHidden()
    bench.panel.propagate()
    bench.until_slices(2)
    bench.panel.run_bar.pause_button.click()
    qtbot.wait(150)
    assert not progress.isHidden()
    held = len(bench.panel.scores.visited)
    qtbot.wait(150)
    assert len(bench.panel.scores.visited) == held < 11
    assert bench.panel.run_bar.pause_button.text() == "Resume"
    bench.panel.run_bar.pause_button.click()
    bench.finish()
    assert progress.isHidden()
    assert bench.layer.data.any(axis=(1, 2)).all()


def test_painting_during_a_run_is_never_lost(bench):
    bench.segmenter.gate = threading.Event()
    bench.paint(0)
    bench.panel.propagate()
    bench.paint(4, label=2, at=(12, 20), size=3)
    bench.paint(6, label=1, at=(2, 2), size=2)
    mine = {i: bench.layer.data[i].copy() for i in (4, 6)}
    assert {(4, 2), (6, 1)} <= bench.seeds
    bench.segmenter.gate.set()
    bench.finish()
    assert (bench.layer.data[4] == 2)[mine[4] == 2].all()
    np.testing.assert_array_equal(bench.layer.data[6] == 1, mine[6] == 1)
    bench.run()
    np.testing.assert_array_equal(bench.layer.data[6] == 1, mine[6] == 1)
    assert (bench.layer.data[10] == 2).any()


def test_a_stroke_that_has_not_ended_is_not_overwritten(bench):
    bench.segmenter.gate = threading.Event()
    bench.paint(0)
    bench.panel.propagate()
    bench.show(3)
    with bench.layer.block_history():
        bench.layer.paint((3, 2, 2), 1)
        stroke = bench.layer.data[3].copy()
        bench.segmenter.gate.set()
        bench.finish()
        np.testing.assert_array_equal(bench.layer.data[3], stroke)
    assert (3, 1) in bench.seeds


def test_marks_end_the_object(bench):
    bench.paint(5)
    bench.show(2)
    bench.panel.starts.click()
    bench.show(8)
    bench.panel.ends.click()
    assert (2, 1, "begins here") in bench.panel.seeds.rows
    assert (8, 1, "ends here") in bench.panel.seeds.rows
    bench.run()
    assert set(np.flatnonzero(bench.layer.data.any(axis=(1, 2)))) == set(range(2, 9))
    bench.panel.ends.click()
    assert (8, 1, "ends here") not in bench.panel.seeds.rows
    bench.run()
    assert bench.layer.data[11].any()


def test_an_end_removes_what_lies_beyond_it_at_once(bench):
    bench.paint(5)
    bench.run()
    bench.show(7)
    bench.panel.ends.click()
    assert not bench.layer.data[8:].any()
    assert bench.layer.data[7].any()
    assert bench.seeds == {(5, 1), (7, 1)}


def test_an_end_before_a_seed_is_refused_with_a_message(bench, messages):
    bench.paint(5)
    bench.show(3)
    bench.panel.ends.click()
    assert "leaves out slices that hold a seed" in messages[0]
    assert bench.layer.data[5].any()


def test_absent_empties_the_slice_and_stays_empty(bench):
    bench.paint(5)
    bench.run()
    bench.show(8)
    bench.panel.absent.click()
    assert not bench.layer.data[8].any()
    assert (8, 1, "absent") in bench.panel.seeds.rows
    bench.run("all")
    assert not bench.layer.data[8].any()


def test_a_click_in_the_seed_list_jumps_and_delete_takes_the_seed_back(bench):
    bench.paint(5)
    bench.paint(9, label=2)
    bench.show(0)
    bench.panel.seeds.cellClicked.emit(1, 0)
    assert bench.panel.workspace.index == 9
    bench.panel.seeds.selectRow(1)
    bench.panel.delete_seed.click()
    assert bench.seeds == {(5, 1)}
    assert (bench.layer.data[9] == 2).any(), "the pixels stay"


def test_next_slice_to_fix_goes_to_an_unseeded_slice_and_then_to_another(bench):
    bench.paint(5)
    bench.run()
    bench.panel.next_button.click()
    first = bench.panel.workspace.index
    assert first != 5
    assert f"Slice {first}" in bench.panel.hint.text()
    bench.panel.next_button.click()
    assert bench.panel.workspace.index not in (first, 5)


def test_a_hint_goes_with_its_slice(bench):
    bench.paint(5)
    bench.run()
    bench.panel.next_button.click()
    assert bench.panel.hint.text() != ""
    bench.show(5)
    assert bench.panel.hint.text() == ""


def test_the_end_of_a_run_is_not_shown_for_another_layer(bench):
    bench.paint(5)
    first = bench.layer
    bench.run()
    assert bench.panel.run_bar.status.text() == "Done."
    bench.panel.add_labels.click()
    assert bench.panel.run_bar.status.text() == ""
    bench.panel.labels.setCurrentText(first.name)
    bench.segmenter.gate = threading.Event()
    bench.panel.propagate("all")
    bench.panel.labels.setCurrentIndex(0)
    assert bench.layer is not first
    bench.segmenter.gate.set()
    bench.finish()
    assert bench.panel.run_bar.status.text() == f"{first.name}: Done."


def test_the_direction_menu_and_the_range_are_heeded(bench):
    bench.paint(5)
    bench.panel.run_bar.direction = "forward"
    bench.run()
    assert not bench.layer.data[:5].any()
    assert bench.layer.data[6:].any(axis=(1, 2)).all()
    bench.panel.undo()
    bench.panel.run_bar.direction = "both"
    bench.panel.run_bar.use_range.setChecked(True)
    bench.panel.run_bar.first.setValue(3)
    bench.panel.run_bar.last.setValue(6)
    bench.run()
    assert set(np.flatnonzero(bench.layer.data.any(axis=(1, 2)))) == {3, 4, 5, 6}


def test_only_the_selected_label_runs_where_that_is_asked(bench):
    bench.paint(5, label=1, at=(4, 6))
    bench.paint(5, label=2, at=(11, 16))
    bench.panel.run_bar.only_label.setChecked(True)
    bench.run()
    assert (bench.layer.data[9] == 2).any()
    assert not (bench.layer.data[9] == 1).any()


def test_a_label_that_was_only_painted_over_is_not_propagated(viewer, qtbot, segmenter):
    viewer.add_image(scan())
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 2:8, 2:8] = 7
    viewer.add_labels(labels)
    bench = Bench(viewer, qtbot, segmenter)
    bench.paint(5, label=1, at=(8, 8))
    assert bench.seeds == {(5, 1), (5, 7)}
    bench.run()
    assert {label for label, _, _ in segmenter.visits} == {1}
    assert (bench.layer.data[11] == 7).sum() > 20


def picture(widget):
    """What a widget looks like once it is laid out."""
    widget.grab()
    QApplication.processEvents()
    return widget.grab().toImage()


def test_the_range_stays_on_the_strip_when_the_target_is_shown_again(bench):
    bar, strip = bench.panel.run_bar, bench.panel.strip
    bar.use_range.setChecked(True)
    bar.first.setValue(3)
    bar.last.setValue(9)
    bracketed = picture(strip)
    first = bench.layer
    bench.panel.add_labels.click()
    assert bench.layer is not first
    assert picture(strip) == bracketed
    bar.use_range.setChecked(False)
    assert picture(strip) != bracketed


def test_slices_that_were_labelled_before_become_seeds_on_demand(viewer, qtbot, segmenter):
    viewer.add_image(scan())
    labels = np.zeros(SHAPE, np.uint8)
    labels[3, 2:8, 2:8] = 1
    labels[8, 9:14, 2:8] = 1
    labels[8, 2:6, 10:20] = 2
    viewer.add_labels(labels.copy())
    bench = Bench(viewer, qtbot, segmenter)
    button = bench.panel.take_labels
    assert button.text() == "Take 2 labelled slices as seeds"
    assert bench.seeds == set()
    button.click()
    assert bench.seeds == {(3, 1), (8, 1), (8, 2)}
    assert button.isHidden()
    bench.run()
    # Label 2 has no seed on slice 3: it comes there from slice 8.
    np.testing.assert_array_equal(bench.layer.data[3] == 1, labels[3] == 1)
    np.testing.assert_array_equal(bench.layer.data[8], labels[8])
    assert bench.layer.data.any(axis=(1, 2)).all()


def test_following_shows_the_slices_as_they_come(bench):
    bench.paint(0)
    bench.panel.run_bar.follow.setChecked(True)
    bench.run()
    assert bench.panel.workspace.index == 11


def test_without_following_the_view_stays(bench):
    bench.paint(0)
    bench.run()
    assert bench.panel.workspace.index == 0


# -- robustness


def test_out_of_memory_is_told_and_finished_slices_stay(bench, messages):
    bench.segmenter.fail_at = {(4, 1)}
    bench.paint(0)
    bench.run()
    assert any("ran out of memory" in message for message in messages)
    assert bench.layer.data[3].any()
    assert not bench.layer.data[4].any()
    bench.segmenter.fail_at = set()
    bench.run("all")
    assert bench.layer.data[11].any()


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("boom")])
def test_a_defect_ends_the_run_and_the_panel_goes_on(bench, error, monkeypatch):
    received = []
    monkeypatch.setattr(
        "napari.utils.notifications.notification_manager.receive_error",
        lambda *args: received.append(args[1]),
    )
    bench.segmenter.error = error
    bench.paint(0)
    bench.run()
    assert "boom" in str(received[0])
    bench.segmenter.error = None
    bench.run("all")
    assert bench.layer.data[11].any()


def test_a_model_that_cannot_be_had_is_told(bench, messages, tmp_path):
    bench.panel.runner.models = Models()
    bench.panel.model.choose(str(tmp_path / "nothing.pt"))
    bench.paint(5)
    bench.run()
    assert "nothing.pt" in messages[0]


def test_propagating_nothing_says_what_to_do(bench, messages):
    bench.panel.propagate()
    assert "Paint the object" in messages[0]
    assert not bench.panel.runner.running


@pytest.mark.parametrize(("value", "words"), [(7.0, "is constant"), (np.nan, "no finite voxel")])
def test_an_image_without_contrast_is_refused_before_the_model_is_asked(
    bench, messages, value, words
):
    bench.panel.workspace.image.data = np.full(SHAPE, value, np.float32)
    bench.paint(5)
    painted = bench.layer.data.copy()
    bench.run()
    assert any(words in message and "layer 'scan'" in message for message in messages)
    assert bench.panel.runner.models.asked == []
    np.testing.assert_array_equal(bench.layer.data, painted)
    bench.panel.prompt_bar.points.click()
    bench.panel.workspace.image.data = scan()
    bench.run()
    assert bench.layer.data.any(axis=(1, 2)).all()


def test_layers_renamed_reordered_and_hidden_during_a_run(bench):
    bench.segmenter.delay = 0.02
    bench.paint(0)
    layer = bench.layer
    bench.panel.propagate()
    bench.until_slices(2)
    layer.name = "mine"
    bench.panel.workspace.image.name = "theirs"
    bench.viewer.layers.move(0, 2)
    layer.visible = False
    assert bench.panel.labels.currentText() == "mine"
    assert bench.panel.images.currentText() == "theirs"
    bench.finish()
    assert bench.layer is layer
    assert layer.data.any(axis=(1, 2)).all()


@pytest.mark.parametrize("which", ["image", "labels", "both"])
def test_removed_layers_end_the_run_and_keep_their_labels(bench, messages, which):
    bench.segmenter.delay = 0.02
    bench.paint(0)
    layer, image = bench.layer, bench.panel.workspace.image
    bench.panel.propagate()
    bench.until_slices(2)
    if which != "labels":
        bench.viewer.layers.remove(image)
    if which != "image":
        bench.viewer.layers.remove(layer)
    bench.finish()
    assert layer.data[:2].any(axis=(1, 2)).all()
    assert any("was removed" in message for message in messages)


def test_the_end_of_a_run_is_reported_once_where_another_image_takes_over(bench, messages):
    other = bench.viewer.add_image(scan(), scale=(3, 1, 1), translate=(5, 0, 2))
    bench.segmenter.delay = 0.02
    bench.paint(0)
    bench.panel.propagate()
    bench.until_slices(2)
    bench.viewer.layers.remove("scan")
    bench.finish()
    assert bench.panel.workspace.image is other
    assert messages == ["The image was removed: the run ends; its finished slices stay."]


def test_data_replaced_during_a_run(bench):
    bench.segmenter.delay = 0.02
    bench.paint(0)
    bench.panel.propagate()
    bench.until_slices(2)
    other = bench.layer.data.copy()
    other[11, 0, 0] = 9
    bench.layer.data = other
    bench.panel.workspace.image.data = scan() * 0.9
    bench.finish()
    assert bench.layer.data is other
    assert other[11, 0, 0] == 9
    bench.run()
    assert other.any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda image: setattr(image, "data", scan() * 0.9), "voxels of the image"),
        (lambda image: setattr(image, "scale", (9, 1, 1)), "voxel size of the image"),
    ],
)
def test_another_volume_during_a_run_ends_it_with_a_message(bench, messages, change, what):
    bench.segmenter.delay = 0.02
    bench.paint(0)
    bench.panel.propagate()
    bench.until_slices(2)
    change(bench.panel.workspace.image)
    bench.finish()
    assert any(what in message and "the run ends" in message for message in messages)
    assert bench.layer.data[:2].any(axis=(1, 2)).all()
    assert not bench.layer.data.any(axis=(1, 2)).all()
    bench.segmenter.delay = 0.0
    bench.run()
    assert bench.layer.data.any(axis=(1, 2)).all()


def test_voxels_of_another_shape_during_a_run_end_it_with_a_message(bench, messages):
    bench.segmenter.delay = 0.02
    bench.paint(0)
    image, before = bench.panel.workspace.image, bench.panel.workspace.image.data
    bench.panel.propagate()
    bench.until_slices(2)
    image.data = scan((6, 16, 24))
    bench.finish()
    assert messages == ["The voxels of the image changed: the run ends; its finished slices stay."]
    assert not bench.layer.data.any(axis=(1, 2)).all()
    image.data = before
    bench.run()
    assert bench.layer.data.any(axis=(1, 2)).all()


def test_an_image_moved_during_a_run_changes_nothing_else(bench, messages):
    bench.segmenter.delay = 0.02
    bench.paint(0)
    bench.panel.propagate()
    bench.until_slices(2)
    bench.panel.workspace.image.translate = (50, 60, 70)
    bench.finish()
    assert messages == []
    assert bench.layer.data.any(axis=(1, 2)).all()
    np.testing.assert_array_equal(bench.layer.translate, (50, 60, 70))
    assert bench.panel.next_button.isEnabled()


def test_models_are_given_the_voxel_size_that_was_set_later(bench):
    bench.paint(5)
    bench.run()
    assert bench.segmenter.contexts[-1].spacing == (3, 1, 1)
    bench.panel.workspace.image.scale = (5, 0.5, 0.5)
    bench.run()
    assert bench.segmenter.contexts[-1].spacing == (5, 0.5, 0.5)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")
def test_a_tilt_set_later_is_reported_and_goes_with_it(bench):
    space = bench.panel.workspace
    assert "tilted" not in bench.panel.about_view.text()
    space.image.rotate = (0, 20, 0)
    assert "tilted out of the slice plane" in bench.panel.about_view.text()
    bench.panel.strip.slice_clicked.emit(6)
    picture = np.asarray(space.image._slice.image.raw)
    np.testing.assert_array_equal(picture, space.image.data[6])
    assert space.index == 6
    space.image.rotate = (0, 0, 0)
    assert "tilted" not in bench.panel.about_view.text()


def test_rolling_the_axes_during_a_run(bench):
    bench.segmenter.delay = 0.02
    bench.paint(0)
    bench.panel.propagate()
    bench.until_slices(2)
    bench.viewer.dims.order = (1, 0, 2)
    assert bench.panel.seeds.rows == []
    bench.finish()
    bench.viewer.dims.order = (0, 1, 2)
    assert bench.layer.data.any(axis=(1, 2)).all()
    assert bench.seeds == {(0, 1)}


def test_seeds_of_another_plane_are_kept(bench):
    bench.paint(5)
    bench.run()
    seeded = bench.layer.data[5].copy()
    bench.viewer.dims.order = (1, 0, 2)
    bench.panel.workspace.go_to(3)
    bench.layer.selected_label = 2
    bench.layer.paint((5, 3, 12), 2)
    QApplication.processEvents()
    painted = bench.layer.data[:, 3, :].copy()
    assert (3, 2) in bench.seeds
    bench.run()
    np.testing.assert_array_equal(bench.layer.data[:, 3, :], painted)
    others = np.arange(SHAPE[1]) != 3
    np.testing.assert_array_equal(bench.layer.data[5][others], seeded[others])


@pytest.mark.parametrize("paused", [False, True])
def test_the_viewer_closed_in_mid_run(bench, qtbot, paused):
    bench.segmenter.delay = 0.02
    bench.paint(0)
    layer = bench.layer
    bench.panel.propagate()
    bench.until_slices(2)
    if paused:
        bench.panel.runs.pause_or_resume()
    worker = bench.panel.runner._worker
    bench.viewer.close()
    qtbot.waitUntil(lambda: not worker.is_running, timeout=10_000)
    assert layer.data[:2].any(axis=(1, 2)).all()
    qtbot.wait(50)
    gc.collect()
    layer.paint((9, 3, 3), 1)
    layer.refresh()
    qtbot.wait(100)
    assert layer.data[9].any()


def test_the_dock_widget_closed_in_mid_run_gives_everything_back(bench, qtbot):
    bench.segmenter.delay = 0.02
    bench.paint(0)
    bench.panel.propagate()
    bench.until_slices(2)
    worker = bench.panel.runner._worker
    bench.viewer.window.remove_dock_widget(bench.panel)
    qtbot.waitUntil(lambda: not worker.is_running, timeout=10_000)
    assert not bench.viewer.keymap
    panel = weakref.ref(bench.panel)
    bench.panel.deleteLater()
    bench.panel = None
    qtbot.wait(50)  # napari deletes the dock widget later

    def is_gone():
        gc.collect()
        return panel() is None

    qtbot.waitUntil(is_gone, timeout=10_000)
    bench.viewer.layers[-1].paint((3, 3, 3), 1)
    bench.viewer.dims.set_point(0, 9)


def test_a_removed_labels_layer_is_not_kept_alive(viewer, qtbot, segmenter, monkeypatch):
    monkeypatch.setattr("napari_slmsam2.widgets.workspace.removed_layers._KEEP_MS", 0)
    viewer.add_image(scan(), name="scan", scale=(3, 1, 1))
    bench = Bench(viewer, qtbot, segmenter)
    bench.paint(0)
    bench.run()
    layer = weakref.ref(bench.layer)
    viewer.layers.remove(layer())

    def is_gone():
        gc.collect()
        return layer() is None

    qtbot.waitUntil(is_gone, timeout=10_000)


# -- other grids


def test_labels_of_another_grid_get_a_message_and_an_offer(viewer, qtbot, segmenter):
    viewer.add_image(scan(), name="scan", scale=(3, 1, 1))
    wrong = viewer.add_labels(np.zeros(SHAPE, np.uint8), name="wrong")
    bench = Bench(viewer, qtbot, segmenter)
    bench.panel.workspace.set_labels(wrong)
    assert "are not at the same place" in bench.panel.problem.text()
    assert not bench.panel.run_bar.go_button.isEnabled()
    assert bench.panel.new_labels.text() == "Use the Labels layer scan labels"
    bench.panel.new_labels.click()
    assert bench.panel.problem.text() == ""
    np.testing.assert_array_equal(bench.layer.scale, (3, 1, 1))


def test_a_labels_layer_that_fits_is_offered_where_another_one_was_chosen(bench):
    mine, image = bench.layer, bench.panel.workspace.image
    small = bench.viewer.add_image(scan((6, 16, 24)), name="small")
    bench.panel.images.setCurrentText("small")
    assert bench.panel.workspace.image is small
    assert bench.panel.new_labels.text() == "Make a matching Labels layer"
    bench.panel.new_labels.click()
    assert bench.layer.data.shape == (6, 16, 24)
    bench.panel.images.setCurrentText("scan")
    assert bench.panel.workspace.image is image
    assert bench.layer is mine, "labels that fit are taken"
    bench.viewer.add_labels(np.zeros(SHAPE, np.uint8), scale=(3, 1, 1), translate=(5, 0, 2))
    bench.panel.labels.setCurrentText("small labels")
    assert bench.panel.new_labels.text() == "Use the Labels layer scan labels"
    assert bench.panel.problem.text() != ""
    bench.panel.new_labels.click()
    assert bench.layer is mine, "rather the one that was made for this image"
    assert bench.panel.problem.text() == ""


def test_the_layer_widens_before_its_labels_run_out(bench, messages):
    assert bench.layer.data.dtype == np.uint8
    bench.paint(5)
    bench.layer.selected_label = 255
    assert bench.layer.data.dtype == np.uint16
    assert "more labels fit" in messages[0]
    bench.paint(5, label=300, at=(3, 20), size=2)
    bench.run()
    assert (bench.layer.data[9] == 300).any()
    assert bench.layer.data[5].max() == 300


# -- keys, looks, files


def test_keys_do_not_shadow_napari_s_and_are_given_back(viewer, qtbot, segmenter):
    taken = {key for keys in get_settings().shortcuts.shortcuts.values() for key in keys}
    viewer.bind_key("G", lambda viewer: None)
    mine = dict(viewer.keymap)
    viewer.add_image(scan())
    bench = Bench(viewer, qtbot, segmenter)
    bound = set(viewer.keymap) - set(mine)
    assert len(bound) == len(bench.panel.shortcuts.bound) >= 5
    assert not bound & taken
    assert "G:" not in bench.panel.keys.text()
    assert "N:  Next slice to fix" in bench.panel.keys.text()
    bench.panel.shut_down()
    assert dict(viewer.keymap) == mine


def test_keys_do_their_work(bench):
    bench.paint(5)
    for key, function in list(bench.viewer.keymap.items()):
        if str(key) == "G":
            function(bench.viewer)
    assert bench.panel.runner.running
    bench.finish()
    assert bench.layer.data.any(axis=(1, 2)).all()


def test_every_control_has_a_tooltip_and_fits_320_pixels(bench):
    bench.panel.resize(320, 900)
    controls = [
        w
        for kind in (QAbstractButton, QComboBox, QAbstractSpinBox, QAbstractItemView)
        for w in bench.panel.findChildren(kind)
        if not w.objectName().startswith("qt_") and w.parent() is not None
    ]
    own = [w for w in controls if not _is_inside(w, (QComboBox, QAbstractItemView))]
    assert len(own) > 20
    for control in own:
        assert (
            control.toolTip()
            or _is_inside(control, (QAbstractSpinBox,))
            or (control.parent().toolTip())
        ), control
    assert bench.panel.minimumSizeHint().width() <= 320


def _is_inside(widget, kinds) -> bool:
    parent = widget.parent()
    while parent is not None:
        if isinstance(parent, kinds):
            return True
        parent = parent.parent()
    return False


def _bottoms(panel):
    """Lower edges of the controls of a run, of a panel on a screen of 1280 x 720."""
    panel.setFixedSize(320, 655)
    panel.grab()  # Qt lays out what is not shown only to draw it
    controls = (panel.run_bar.go_button, panel.undo_button, panel.next_button)
    return [control.mapTo(panel, control.rect().bottomLeft()).y() for control in controls]


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_undo_and_next_are_in_sight_on_a_small_screen(bench, theme):
    bench.viewer.theme = theme
    bench.paint(5)
    bench.run()
    assert all(0 < bottom <= 655 for bottom in _bottoms(bench.panel))
    what = "128 seeds of 14 labels, 27 Nov 2026, 16:40"
    bench.panel.recovery.show_offer(SimpleNamespace(describe=lambda: what))
    assert what in bench.panel.recovery.text.text()
    assert all(0 < bottom <= 640 for bottom in _bottoms(bench.panel))


def test_undo_and_next_are_in_sight_beside_the_question_of_strokes_across(bench, qtbot):
    bench.paint(2)
    bench.run()
    bench.layer.data[4:9, 3, 4:9] = 1
    bench.layer.refresh()
    qtbot.waitUntil(lambda: not bench.panel.plane_bar.isHidden(), timeout=10_000)
    assert all(0 < bottom <= 655 for bottom in _bottoms(bench.panel))


def test_nothing_moves_under_the_pointer_when_a_run_begins_and_ends(bench, qtbot):
    bench.paint(5)
    qtbot.wait(20)
    before = _bottoms(bench.panel)
    bench.segmenter.gate = threading.Event()
    bench.panel.propagate()
    qtbot.wait(20)
    assert _bottoms(bench.panel) == before
    bench.segmenter.delay = 0.1
    bench.segmenter.gate.set()
    bench.until_slices(3)
    assert _bottoms(bench.panel) == before
    bench.finish()
    qtbot.wait(20)
    assert _bottoms(bench.panel) == before


def test_a_stray_voxel_is_named_and_comes_first(bench):
    bench.paint(3, size=9)
    bench.paint(9, size=9)
    assert bench.panel.stray.isHidden()
    bench.paint(6, at=(2, 2), size=1)
    assert "Slice 6, label 1: 1 voxel only" in bench.panel.stray.text()
    assert not bench.panel.stray.isHidden()
    assert [row[0] for row in bench.panel.seeds.rows] == [6, 3, 9]
    assert bench.panel.seeds.rows[0][2] == "1 voxel only"
    bench.run()
    bench.show(0)
    bench.panel.next_to_fix()
    assert bench.panel.workspace.index == 6
    assert "1 voxel only" in bench.panel.hint.text()
    bench.panel.next_to_fix()
    assert bench.panel.workspace.index != 6
    bench.panel.seeds.selectRow(0)
    bench.panel.delete_seed.click()
    assert bench.panel.stray.isHidden()
    assert bench.seeds == {(3, 1), (9, 1)}


def test_the_seed_list_folds_and_counts(bench):
    assert bench.panel.seed_fold.text() == "Seeds and marks: 0"
    assert not bench.panel.seed_fold.isExpanded()
    bench.paint(5)
    bench.paint(7, label=2)
    assert bench.panel.seed_fold.text() == "Seeds and marks: 2"


def test_labels_are_saved_on_the_grid_of_the_layer(bench, tmp_path, qtbot, monkeypatch):
    bench.paint(5)
    path = tmp_path / "out.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    bench.panel.save_button.click()
    qtbot.waitUntil(path.exists, timeout=10_000)
    qtbot.wait(50)
    saved = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(saved.dataobj).T, bench.layer.data)
    np.testing.assert_allclose(saved.header.get_zooms(), (1, 1, 3))
    np.testing.assert_allclose(saved.affine[:3, 3], (2, 0, 5))


def test_labels_saved_as_ome_zarr_keep_their_colours(bench, tmp_path, qtbot, monkeypatch):
    zarr = pytest.importorskip("zarr")
    bench.paint(5, label=2)
    path = tmp_path / "out.ome.zarr"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    bench.panel.save_button.click()
    qtbot.waitUntil(path.exists, timeout=10_000)
    [colour] = zarr.open_group(path, mode="r").attrs["image-label"]["colors"]
    assert colour["label-value"] == 2
    np.testing.assert_allclose(np.divide(colour["rgba"], 255), bench.layer.get_color(2), atol=0.002)


def test_the_session_is_saved_and_read_again(bench, tmp_path, qtbot, monkeypatch):
    from napari_slmsam2.session.file import load_session

    bench.panel.runner.models = Models()
    bench.paint(5)
    bench.run()
    path = tmp_path / "work.slmsam2"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    bench.panel.save_session_button.click()
    qtbot.waitUntil(path.exists, timeout=10_000)
    qtbot.wait(50)
    session = load_session(path, image=bench.panel.workspace.annotation.volume)
    np.testing.assert_array_equal(session.labels, bench.layer.data)
    assert len(session.runs) == 1
    assert session.prompts.seeds(1) == (5,)


def test_a_saved_session_is_taken_up_again(bench, tmp_path, qtbot, monkeypatch):
    bench.panel.runner.models = Models()
    bench.paint(5)
    bench.show(9)
    bench.panel.ends.click()
    bench.run()
    path = tmp_path / "work.slmsam2"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (str(path), ""))
    bench.panel.save_session_button.click()
    qtbot.waitUntil(path.exists, timeout=10_000)
    qtbot.wait(50)
    rows, first = bench.panel.seeds.rows, bench.layer
    first.data[2] = 0
    bench.panel.settings.editors["embedding_disk"].value = 3
    bench.panel.open_session_button.click()
    qtbot.waitUntil(lambda: bench.layer is not first, timeout=10_000)
    assert bench.panel.settings.record.embedding_disk == 3, "a setting of this computer"
    assert not first.data[2].any(), "the layer at hand is left alone"
    assert not first.visible, "its labels do not lie over those of the session"
    assert bench.panel.seeds.rows == rows
    assert bench.layer.data[:10].any(axis=(1, 2)).all()
    assert "confidence" in bench.panel.strip.describe(1), "scores are saved, too"
    bench.panel.next_button.click()
    assert bench.panel.hint.text().startswith(f"Slice {bench.panel.workspace.index}, label 1:")
    bench.paint(7, at=(3, 3), size=2)
    corrected = bench.layer.data[7].copy()
    bench.run()
    np.testing.assert_array_equal(bench.layer.data[7], corrected)


def test_a_session_of_another_axis_is_refused(bench, tmp_path, qtbot, monkeypatch, messages):
    bench.panel.runner.models = Models()
    bench.paint(5)
    path = tmp_path / "work.slmsam2"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (str(path), ""))
    bench.panel.save_session_button.click()
    qtbot.waitUntil(path.exists, timeout=10_000)
    qtbot.wait(50)
    bench.viewer.dims.order = (1, 0, 2)
    messages.clear()
    bench.panel.open_session_button.click()
    qtbot.waitUntil(lambda: bool(messages), timeout=10_000)
    assert "another axis" in messages[0]


def test_a_failed_save_is_told(bench, tmp_path, qtbot, monkeypatch, messages):
    bench.paint(5)
    path = tmp_path / "missing" / "out.nii"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    bench.panel.save_button.click()
    qtbot.waitUntil(lambda: bool(messages), timeout=10_000)
    assert str(path) in messages[0]
    assert "Saved" not in messages[0]


def test_a_session_of_a_series_names_the_seeds_that_it_does_not_hold(
    viewer, qtbot, segmenter, tmp_path, monkeypatch, messages
):
    viewer.add_image(np.zeros((3, 6, 8, 8), np.float32), axis_labels=("t", "z", "y", "x"))
    bench = Bench(viewer, qtbot, segmenter)
    bench.panel.runner.models = Models()
    for time in (0, 2):
        viewer.dims.set_current_step(0, time)
        bench.layer.paint((time, bench.panel.workspace.index, 4, 4), 1)
        QApplication.processEvents()
    path = tmp_path / "work.slmsam2"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    bench.panel.save_session_button.click()
    qtbot.waitUntil(lambda: bool(messages), timeout=10_000)
    assert messages[-1].startswith(f"Saved {path}")
    assert "axis 0 (t) at 0" in messages[-1]
    assert "axis 0 (t) at 2" not in messages[-1]


def test_a_download_is_asked_for_with_size_and_licence(bench, monkeypatch):
    asked = []

    def answer(parent, title, text):
        asked.append(text)
        return QMessageBox.StandardButton.No

    monkeypatch.setattr(QMessageBox, "question", answer)
    bench.panel.model.choose("sam2.1-tiny")
    bench.paint(5)
    bench.panel.propagate()
    assert not bench.panel.runner.running
    assert "156 MB" in asked[0]
    assert "Apache-2.0" in asked[0]


def test_a_download_shows_its_progress_and_can_be_cancelled(bench, qtbot, monkeypatch):
    class Downloading:
        def is_loaded(self, request):
            return True  # so that nothing is loaded in the background

        def get(self, request, control):
            from napari_slmsam2.engine.weights.download import DownloadCancelledError

            control.note_download(50_000_000, 156_000_000)
            while not control.should_stop():
                pass
            raise DownloadCancelledError("model", "stopped")

    bench.panel.runner.models = Downloading()
    bench.paint(5)
    bench.panel.propagate()
    status = bench.panel.run_bar.status
    qtbot.waitUntil(lambda: "50 of 156 MB" in status.text(), timeout=10_000)
    bench.panel.run_bar.stop_button.click()
    bench.finish()
    assert status.text().startswith("Stopped")


def test_without_an_image_the_panel_says_what_to_do(viewer, qtbot, segmenter):
    bench = Bench(viewer, qtbot, segmenter)
    assert "Open a 3D image" in bench.panel.problem.text()
    viewer.add_image(scan())
    assert bench.panel.problem.text() == ""
    assert isinstance(bench.layer, Labels)


def test_the_real_thing_on_a_real_volume(viewer, qtbot, shared):
    folder = Path(shared) / "volumes" / "mr_hippocampus_msd001"
    image = nibabel.load(next(folder.glob("image*.nii*")))
    truth = np.asarray(nibabel.load(next(folder.glob("label*.nii*"))).dataobj).T == 1
    viewer.add_image(np.asarray(image.dataobj).T, scale=image.header.get_zooms()[::-1])
    panel = AnnotateWidget(viewer)
    viewer.window.add_dock_widget(panel)
    QApplication.processEvents()
    layer = panel.workspace.labels
    index = int(truth.sum(axis=(1, 2)).argmax())
    panel.workspace.go_to(index)
    layer.data_setitem((np.full(truth[index].sum(), index), *np.nonzero(truth[index])), 1)
    QApplication.processEvents()
    assert panel.seeds.rows == [(index, 1, "painted")]
    panel.propagate()
    qtbot.waitUntil(lambda: not panel.runner.running, timeout=60_000)
    found = layer.data == 1
    np.testing.assert_array_equal(found[index], truth[index])
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.5


def test_the_memory_of_the_form_is_that_of_the_run(viewer, qtbot, tmp_path):
    viewer.add_image(scan(), name="scan")
    panel = AnnotateWidget(viewer)
    viewer.window.add_dock_widget(panel)
    QApplication.processEvents()
    panel.model.choose(str(tiny_file(tmp_path / "tiny.safetensors")))
    layer = panel.workspace.labels
    memories = []
    for memory in ("standard", "confident"):
        panel.settings.editors["memory"].value = memory
        layer.selected_label = 1
        layer.paint((5, 8, 10), 1)
        QApplication.processEvents()
        panel.propagate("all")
        qtbot.waitUntil(lambda: not panel.runner.running, timeout=60_000)
        memories.append(type(panel.runner.models._ready.segmenter.long_term).__name__)
        assert panel.workspace.annotation.runs[-1].config.memory == memory
    assert memories == ["LongTermMemory", "ConfidentMemory"]


def test_torch_is_not_loaded_by_the_widgets():
    import subprocess

    code = (
        "import sys, napari_slmsam2.widgets as w; w.AnnotateWidget; print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
