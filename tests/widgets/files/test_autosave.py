from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtWidgets import QFileDialog
from tests.widgets.conftest import SHAPE, Bench, scan

from napari_slmsam2.core.errors import OutputError
from napari_slmsam2.session.file import describe_session
from napari_slmsam2.widgets.files import autosave


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(autosave, "SETTLE_S", 0.05)


def kept(recovery: Path) -> list[Path]:
    return sorted(recovery.glob("*/*/*.slmsam2"))


def wait_for_file(bench, recovery, n_seeds):
    def seeds():
        return [describe_session(path).n_seeds for path in kept(recovery)]

    bench.qtbot.waitUntil(lambda: seeds() == n_seeds, timeout=90_000)


def wait_for_offer(bench):
    bench.qtbot.waitUntil(lambda: not bench.panel.recovery.isHidden(), timeout=90_000)


def wait_for_answers(bench):
    bench.qtbot.waitUntil(lambda: not bench.panel.files.autosave._asked, timeout=90_000)


def close(bench):
    bench.viewer.window.remove_dock_widget(bench.panel)
    bench.panel.deleteLater()
    bench.qtbot.wait(10)
    for thread in threading.enumerate():
        if thread.name.startswith("napari-slmsam2"):
            thread.join(30)


def reopened(bench, data=None):
    """A new panel on the same scan in a viewer without labels."""
    close(bench)
    return opened(bench, data)


def opened(bench, data=None):
    bench.viewer.layers.clear()
    bench.viewer.add_image(scan() if data is None else data, name="scan", scale=(3, 1, 1))
    return Bench(bench.viewer, bench.qtbot, bench.segmenter)


def test_strokes_are_kept_without_being_asked_for(bench, recovery):
    bench.paint(5)
    wait_for_file(bench, recovery, [1])
    bench.paint(8, label=2, at=(3, 3))
    wait_for_file(bench, recovery, [2])


def test_after_a_restart_the_work_is_offered_and_comes_back(bench, recovery):
    bench.layer.name = "my organ"
    bench.paint(5)
    bench.paint(8, label=2, at=(3, 15))
    bench.show(2)
    bench.panel.starts.click()
    bench.run()
    rows, labels = bench.panel.seeds.rows, bench.layer.data.copy()
    again = reopened(bench)
    wait_for_offer(again)
    assert "2 seeds of 2 labels" in again.panel.recovery.text.text()
    assert again.panel.seeds.rows == []
    again.panel.recovery.go_button.click()
    again.qtbot.waitUntil(lambda: again.panel.seeds.rows == rows, timeout=90_000)
    np.testing.assert_array_equal(again.layer.data, labels)
    assert again.layer.name == "my organ"
    assert (again.panel.workspace.index, again.layer.selected_label) == (8, 2)
    assert [type(layer) for layer in again.viewer.layers].count(Labels) == 1
    assert again.panel.recovery.isHidden()


def test_what_was_brought_back_goes_on(bench):
    bench.paint(2)
    bench.paint(6)
    bench.run()
    again = reopened(bench)
    wait_for_offer(again)
    again.panel.recovery.go_button.click()
    again.qtbot.waitUntil(lambda: len(again.panel.seeds.rows) == 2, timeout=90_000)
    again.segmenter.visits.clear()
    again.paint(9, at=(4, 4), size=3)
    again.run()
    visited = {index for _, index, _ in again.segmenter.visits}
    assert visited, "a run after a correction"
    assert again.seeds == {(2, 1), (6, 1), (9, 1)}
    assert again.layer.data[11].any()


def test_settings_come_back(bench):
    bench.panel.workspace.image.contrast_limits = (0.2, 0.9)
    bench.panel.settings.set_window("layer")
    bench.panel.run_bar.direction = "forward"
    bench.paint(5)
    again = reopened(bench)
    wait_for_offer(again)
    again.panel.recovery.go_button.click()
    again.qtbot.waitUntil(lambda: again.seeds == {(5, 1)}, timeout=90_000)
    request = again.panel.runs.request()
    assert request.window == "0.2,0.9"
    assert request.config.direction == "forward"


def test_the_restored_work_is_kept_anew_and_the_old_file_goes(bench, recovery):
    bench.paint(5)
    wait_for_file(bench, recovery, [1])
    (old,) = kept(recovery)
    again = reopened(bench)
    wait_for_offer(again)
    again.panel.recovery.go_button.click()
    again.qtbot.waitUntil(lambda: not old.exists(), timeout=90_000)
    wait_for_file(again, recovery, [1])
    third = reopened(again)
    wait_for_offer(third)


def test_labels_at_hand_are_left_alone(bench, recovery):
    bench.paint(5)
    wait_for_file(bench, recovery, [1])
    close(bench)
    bench.layer.data[5] = 0
    bench.layer.data[2, 3, 3] = 7
    mine, before = bench.layer, bench.layer.data.copy()
    again = Bench(bench.viewer, bench.qtbot, bench.segmenter)
    wait_for_offer(again)
    again.panel.recovery.go_button.click()
    again.qtbot.waitUntil(lambda: again.layer is not mine, timeout=90_000)
    again.qtbot.waitUntil(lambda: again.seeds == {(5, 1)}, timeout=90_000)
    np.testing.assert_array_equal(mine.data, before)


def test_painting_before_the_answer_harms_nothing(bench, recovery):
    bench.paint(5)
    wait_for_file(bench, recovery, [1])
    again = reopened(bench)
    wait_for_offer(again)
    again.paint(3, label=4)
    wait_for_file(again, recovery, [1, 1])
    again.panel.recovery.go_button.click()
    again.qtbot.waitUntil(lambda: again.seeds == {(5, 1)}, timeout=90_000)
    layers = [layer for layer in again.viewer.layers if isinstance(layer, Labels)]
    assert {int(layer.data.max()) for layer in layers} == {1, 4}


def test_discard_asks_once_more(bench, recovery):
    bench.paint(5)
    wait_for_file(bench, recovery, [1])
    again = reopened(bench)
    wait_for_offer(again)
    bar = again.panel.recovery
    bar.discard_button.click()
    assert bar.go_button.isHidden()
    bar.no_button.click()
    assert len(kept(recovery)) == 1
    assert not bar.go_button.isHidden()
    bar.discard_button.click()
    bar.yes_button.click()
    again.qtbot.waitUntil(lambda: not kept(recovery), timeout=90_000)
    assert bar.isHidden()


def test_another_image_is_offered_nothing(bench, recovery):
    bench.paint(5)
    wait_for_file(bench, recovery, [1])
    other = scan()
    other[6] *= 0.5
    again = reopened(bench, other)
    wait_for_answers(again)
    assert again.panel.recovery.isHidden()


def test_a_second_window_is_not_offered_what_the_first_is_doing(
    bench, recovery, make_napari_viewer, segmenter
):
    bench.paint(5)
    wait_for_file(bench, recovery, [1])
    viewer = make_napari_viewer()
    viewer.add_image(scan(), name="scan", scale=(3, 1, 1))
    second = Bench(viewer, bench.qtbot, segmenter)
    wait_for_answers(second)
    assert second.panel.recovery.isHidden()


@pytest.mark.parametrize("what", ["labels", "session"])
def test_saved_work_is_kept_no_longer(bench, recovery, tmp_path, monkeypatch, what):
    bench.paint(5)
    wait_for_file(bench, recovery, [1])
    path = tmp_path / ("out.nii.gz" if what == "labels" else "out.slmsam2")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    button = bench.panel.save_button if what == "labels" else bench.panel.save_session_button
    button.click()
    bench.qtbot.waitUntil(lambda: not kept(recovery), timeout=90_000)
    assert path.exists()
    bench.paint(6)
    wait_for_file(bench, recovery, [2])


def test_work_saved_while_the_panel_closes_is_not_offered_again(bench, recovery):
    bench.paint(5)
    wait_for_file(bench, recovery, [1])
    annotation, keeper = bench.panel.workspace.annotation, bench.panel.files.autosave
    changes = keeper.changes(annotation)
    close(bench)
    keeper.saved(annotation, changes)  # the file was written just after the panel had closed
    bench.qtbot.waitUntil(lambda: not list(recovery.rglob("*")), timeout=30_000)


def test_a_panel_that_closes_with_nothing_unsaved_leaves_nothing(bench, recovery):
    close(bench)
    assert not list(recovery.rglob("*"))


def test_work_that_was_not_saved_outlives_the_panel(bench, recovery, monkeypatch):
    monkeypatch.setattr(autosave, "SETTLE_S", 60)
    bench.paint(5)
    assert not kept(recovery)
    close(bench)
    wait_for_file(bench, recovery, [1])


def test_during_a_run_work_is_kept_from_time_to_time(bench, recovery, monkeypatch):
    monkeypatch.setattr(autosave, "SETTLE_S", 60)
    monkeypatch.setattr(autosave, "LONGEST_S", 0.2)
    bench.segmenter.gate = threading.Event()
    bench.paint(0)
    wait_for_file(bench, recovery, [1])
    (path,) = kept(recovery)
    before = path.stat().st_mtime_ns
    bench.segmenter.gate.set()
    bench.segmenter.delay = 0.2
    bench.panel.propagate()
    bench.qtbot.waitUntil(lambda: path.stat().st_mtime_ns != before, timeout=90_000)
    assert bench.panel.runner.running
    bench.panel.runner.stop()
    bench.finish()


def test_the_viewer_closed_in_mid_run_loses_nothing(
    bench, recovery, make_napari_viewer, qtbot, segmenter
):
    segmenter.delay = 0.02
    bench.paint(0)
    layer = bench.layer
    bench.panel.propagate()
    bench.until_slices(3)
    worker = bench.panel.runner._worker
    bench.viewer.close()
    qtbot.waitUntil(lambda: not worker.is_running, timeout=90_000)
    done = layer.data.copy()
    assert done[:3].any(axis=(1, 2)).all()
    qtbot.waitUntil(lambda: len(kept(recovery)) == 1, timeout=90_000)
    viewer = make_napari_viewer()
    viewer.add_image(scan(), name="scan", scale=(3, 1, 1))
    again = Bench(viewer, qtbot, segmenter)
    wait_for_offer(again)
    again.panel.recovery.go_button.click()
    qtbot.waitUntil(lambda: again.seeds == {(0, 1)}, timeout=90_000)
    np.testing.assert_array_equal(again.layer.data, done)
    again.run()
    assert again.layer.data.any(axis=(1, 2)).all()


def test_another_plane_and_the_place_in_time_come_back(viewer, qtbot, segmenter, recovery):
    data = np.stack([scan(), scan() * 0.9, scan() * 0.8])
    labels = ("t", "z", "y", "x")
    viewer.add_image(data, name="film", axis_labels=labels)
    bench = Bench(viewer, qtbot, segmenter)
    viewer.dims.order = (0, 2, 1, 3)
    viewer.dims.set_point(0, 2)
    bench.panel.workspace.go_to(7)
    bench.layer.paint((2, 6, 7, 9), 1)
    qtbot.waitUntil(lambda: bench.seeds == {(7, 1)}, timeout=60_000)
    painted = bench.layer.data.copy()
    close(bench)
    viewer.layers.clear()
    viewer.add_image(data, name="film", axis_labels=labels)
    again = Bench(viewer, qtbot, segmenter)
    viewer.dims.set_point(0, 0)
    wait_for_offer(again)
    again.panel.recovery.go_button.click()
    qtbot.waitUntil(lambda: again.seeds == {(7, 1)}, timeout=90_000)
    np.testing.assert_array_equal(again.layer.data, painted)
    assert viewer.dims.order == (0, 2, 1, 3)
    assert viewer.dims.current_step[0] == 2


def test_a_full_disk_is_told_once_and_tried_again(messages, bench, recovery, monkeypatch):
    broken = [True]
    write = autosave.save_snapshot

    def save(snapshot, path):
        if broken[0]:
            raise OutputError(str(path), "cannot be written", found="No space left on device")
        return write(snapshot, path)

    monkeypatch.setattr(autosave, "save_snapshot", save)
    bench.paint(5)
    bench.qtbot.waitUntil(lambda: bool(messages), timeout=90_000)
    bench.paint(6)
    wait_for_answers(bench)
    bench.qtbot.wait(300)
    assert len([m for m in messages if "No space left" in m]) == 1
    broken[0] = False
    bench.paint(7)
    wait_for_file(bench, recovery, [3])


def test_a_damaged_file_is_left_alone(bench, recovery):
    bench.paint(5)
    wait_for_file(bench, recovery, [1])
    close(bench)
    (path,) = kept(recovery)
    path.write_bytes(path.read_bytes()[:100])
    again = opened(bench)
    wait_for_answers(again)
    assert again.panel.recovery.isHidden()
    assert path.exists()


CRASH = """
import os, time
import napari
from qtpy.QtWidgets import QApplication
from napari_slmsam2.widgets import AnnotateWidget
from napari_slmsam2.widgets.files import autosave
from tests.widgets.conftest import scan
from tests.widgets.files.test_autosave import kept
from pathlib import Path

autosave.SETTLE_S = 0.05
viewer = napari.Viewer(show=False)
viewer.add_image(scan(), name="scan", scale=(3, 1, 1))
panel = AnnotateWidget(viewer)
viewer.window.add_dock_widget(panel)
QApplication.processEvents()
panel.workspace.go_to(5)
panel.workspace.labels.paint((5, 8, 10), 1)
while not kept(Path(os.environ["NAPARI_SLMSAM2_RECOVERY"])):
    QApplication.processEvents()
    time.sleep(0.02)
os._exit(9)
"""


def test_a_killed_program_leaves_its_work(bench, recovery, repository):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CRASH], cwd=repository, capture_output=True,
        text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 9, result.stderr
    again = reopened(bench)
    wait_for_offer(again)
    again.panel.recovery.go_button.click()
    again.qtbot.waitUntil(lambda: again.seeds == {(5, 1)}, timeout=90_000)
    assert again.layer.data.shape == SHAPE
    assert again.layer.data[5].any()


def test_strokes_across_the_slices_come_back_as_seeds_of_their_plane(bench):
    bench.paint(2)
    bench.layer.data[4:9, 4:9, 10] = 2  # as a linked view writes it
    bench.layer.refresh()
    bench.qtbot.waitUntil(lambda: not bench.panel.plane_bar.isHidden(), timeout=10_000)
    labels = bench.layer.data.copy()
    again = reopened(bench)
    wait_for_offer(again)
    again.panel.recovery.go_button.click()
    again.qtbot.waitUntil(lambda: bool(again.seeds), timeout=90_000)
    np.testing.assert_array_equal(again.layer.data, labels)
    again.viewer.dims.order = (2, 0, 1)
    assert again.seeds == {(10, 2)}
    again.viewer.dims.order = (0, 1, 2)
    assert again.seeds == {(2, 1)}
    again.run()
    np.testing.assert_array_equal(again.layer.data[:, :, 10] == 2, labels[:, :, 10] == 2)
