"""Seeds carried to the next time point, in a real viewer."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from qtpy.QtCore import QThreadPool
from qtpy.QtWidgets import QApplication
from tests.widgets.conftest import Bench

from napari_slmsam2.session.label_edits import lock_labels
from napari_slmsam2.widgets.runs import next_time

N_TIMES = 3


@pytest.fixture
def series(viewer, qtbot, segmenter) -> Bench:
    data = np.random.default_rng(0).random((N_TIMES, 12, 16, 24)).astype(np.float32)
    viewer.add_image(data, name="series", axis_labels=("t", "z", "y", "x"), scale=(2.5, 3, 1, 1))
    viewer.dims.set_current_step(0, 0)
    return Bench(viewer, qtbot, segmenter)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    found: list[str] = []
    for name in ("show_info", "show_warning"):
        monkeypatch.setattr(next_time, name, found.append)
    return found


def paint(bench, index, label=1, at=(8, 10), size=5):
    bench.show(index)
    bench.layer.selected_label = label
    bench.layer.brush_size = size
    time = bench.viewer.dims.current_step[0]
    bench.layer.paint((time, index, *at), label)
    QApplication.processEvents()


def carry(bench, said):
    n = len(said)
    bench.panel.next_time.click()
    bench.qtbot.waitUntil(lambda: len(said) > n, timeout=20_000)


def test_seeds_are_carried_to_the_next_time_point_and_run_there(series, said):
    paint(series, 5)
    paint(series, 9, label=2, at=(4, 15))
    first = series.layer.data[0].copy()
    carry(series, said)
    assert said[-1].startswith("Carried 2 seeds on")
    assert series.viewer.dims.current_step[0] == 1
    assert series.seeds == {(5, 1), (9, 2)}
    # The fake moves a mask by one column a step, in time as in space.
    for index in (5, 9):
        np.testing.assert_array_equal(series.layer.data[1, index], np.roll(first[index], 1, axis=1))
    np.testing.assert_array_equal(series.layer.data[0], first)
    assert not series.layer.data[2].any()

    series.run()
    assert (series.layer.data[1] == 1).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(series.layer.data[0], first)

    carry(series, said)
    assert series.viewer.dims.current_step[0] == 2
    assert series.panel.next_time.isHidden(), "there is no time after the last one"
    np.testing.assert_array_equal(series.layer.data[2, 5] == 1, np.roll(first[5] == 1, 2, axis=1))


def test_carried_seeds_are_undone_in_one_step(series, said):
    paint(series, 5)
    paint(series, 9)
    carry(series, said)
    assert series.layer.data[1].any()
    series.panel.undo()
    assert not series.layer.data[1].any()
    assert series.seeds == set()


def test_seeds_of_the_next_time_point_stay(series, said):
    paint(series, 5)
    series.viewer.dims.set_current_step(0, 1)
    paint(series, 5, at=(3, 3), size=2)
    own = series.layer.data[1].copy()
    series.viewer.dims.set_current_step(0, 0)
    carry(series, said)
    assert "nothing to carry on" in said[-1]
    np.testing.assert_array_equal(series.layer.data[1], own)


def test_a_carried_seed_is_what_is_shown_beside_a_locked_label(series, said):
    data = series.layer.data.copy()
    data[1, 5, 4:9, 8:13] = 2
    series.layer.data = data
    paint(series, 5)
    lock_labels(series.panel.workspace.annotation, [2])
    carry(series, said)
    np.testing.assert_array_equal(series.layer.data[1] == 2, data[1] == 2)
    seed = series.panel.workspace.annotation.prompts.get(1, 5)
    assert seed.mask.any()
    np.testing.assert_array_equal(seed.mask, series.layer.data[1, 5] == 1)


def test_without_seeds_there_is_nothing_to_carry(series, said):
    carry(series, said)
    assert "no seeds to carry on" in said[-1]
    assert series.viewer.dims.current_step[0] == 0


def test_the_button_is_for_time_series_only(bench):
    assert bench.panel.next_time.isHidden()


def test_a_failure_is_reported_and_nothing_changes(series, said):
    from napari_slmsam2.core.errors import DeviceError

    paint(series, 5)
    series.segmenter.error = DeviceError("device", "is gone")
    carry(series, said)
    assert "is gone" in said[-1]
    assert series.viewer.dims.current_step[0] == 0
    assert series.panel.next_time.isEnabled()


def test_closing_the_panel_while_seeds_are_carried(series, said):
    paint(series, 5)
    series.segmenter.gate = threading.Event()
    series.panel.next_time.click()
    series.viewer.window.remove_dock_widget(series.panel)
    series.panel.deleteLater()
    series.segmenter.gate.set()
    assert QThreadPool.globalInstance().waitForDone(10_000)
    series.qtbot.wait(50)
    assert said == []
    assert series.viewer.dims.current_step[0] == 0
