from __future__ import annotations

import numpy as np
import pytest
from tests.fakes import FakeSegmenter
from tests.widgets.conftest import scan

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.session import SegmentationSession


def state(bench):
    return bench.layer.data.copy(), bench.panel.seeds.rows


def assert_state(bench, expected):
    labels, rows = expected
    np.testing.assert_array_equal(bench.layer.data, labels)
    assert bench.panel.seeds.rows == rows


def mark(bench, name, index):
    bench.show(index)
    getattr(bench.panel, name).click()


MARKS = [("ends", 7), ("starts", 3), ("absent", 8)]


@pytest.mark.parametrize(("name", "index"), MARKS)
def test_undo_brings_back_what_a_mark_removed(bench, name, index):
    bench.paint(5)
    bench.run()
    before = state(bench)
    mark(bench, name, index)
    after = state(bench)
    assert after[0].sum() < before[0].sum()
    assert bench.panel.undo_button.text() == "Undo mark"
    bench.panel.undo_button.click()
    assert_state(bench, before)
    assert bench.panel.redo_button.text() == "Redo mark"
    bench.panel.redo_button.click()
    assert_state(bench, after)


def test_marks_and_runs_are_undone_in_turn_and_redone(bench):
    states = []
    bench.paint(5)
    states.append(state(bench))
    bench.run()
    states.append(state(bench))
    mark(bench, "ends", 8)
    states.append(state(bench))
    bench.run("all")
    states.append(state(bench))
    mark(bench, "starts", 2)
    states.append(state(bench))
    assert not states[2][0][9:].any()
    for expected in states[-2::-1]:
        bench.panel.undo_button.click()
        assert_state(bench, expected)
    assert not bench.panel.undo_button.isEnabled()
    for expected in states[1:]:
        bench.panel.redo_button.click()
        assert_state(bench, expected)
    assert not bench.panel.redo_button.isEnabled()


def test_a_mark_before_any_run_is_undone_too(viewer, qtbot, segmenter):
    from tests.widgets.conftest import Bench

    viewer.add_image(scan())
    labels = np.zeros((12, 16, 24), np.uint8)
    labels[:, 2:8, 2:8] = 1
    viewer.add_labels(labels.copy())
    bench = Bench(viewer, qtbot, segmenter)
    mark(bench, "ends", 4)
    assert not bench.layer.data[5:].any()
    bench.panel.undo_button.click()
    np.testing.assert_array_equal(bench.layer.data, labels)


def test_a_mark_taken_back_and_a_deleted_seed_come_back(bench):
    bench.paint(5)
    mark(bench, "ends", 8)
    before = state(bench)
    mark(bench, "ends", 8)
    assert (8, 1, "ends here") not in bench.panel.seeds.rows
    bench.panel.undo_button.click()
    assert_state(bench, before)
    bench.panel.seeds.selectRow(0)
    bench.panel.delete_seed.click()
    assert bench.seeds == {(8, 1)}
    bench.panel.undo_button.click()
    assert_state(bench, before)


def test_what_was_painted_since_is_kept_by_undo(bench):
    bench.paint(5)
    bench.run()
    before = bench.layer.data.copy()
    mark(bench, "ends", 7)
    bench.paint(9, label=2, at=(8, 17), size=3)
    mine = bench.layer.data[9] == 2
    bench.panel.undo_button.click()
    np.testing.assert_array_equal(bench.layer.data[9] == 2, mine)
    np.testing.assert_array_equal(bench.layer.data[9][~mine], before[9][~mine])
    np.testing.assert_array_equal(bench.layer.data[10], before[10])
    assert (9, 2) in bench.seeds


def test_a_mark_made_during_a_run_is_undone_before_the_run(bench):
    bench.segmenter.delay = 0.05
    bench.paint(0)
    before = state(bench)
    bench.panel.propagate()
    bench.until_slices(6)
    mark(bench, "ends", 3)
    bench.finish()
    assert not bench.layer.data[4:].any()
    assert bench.panel.undo_button.text() == "Undo mark"
    bench.panel.undo_button.click()
    assert bench.layer.data[4].any()
    bench.panel.undo_button.click()
    assert_state(bench, before)


def test_a_run_that_changed_nothing_is_passed_over(bench):
    bench.paint(5)
    before = state(bench)
    bench.run()
    bench.run("gaps")
    bench.panel.undo_button.click()
    assert_state(bench, before)


def test_the_window_and_a_session_of_its_own_undo_and_redo_alike(bench):
    """The same runs and marks through the panel and through Python."""
    panel, window = bench.panel, bench.panel.workspace.annotation
    bench.paint(5)
    session = SegmentationSession(
        window.volume, window=window.intensity_window(panel.read_request(panel.images.layer).window)
    )
    session.use_model(ReadyModel(FakeSegmenter(), "fake", None))
    session.add_prompt(window.prompts.get(1, 5))
    history = session.annotation.history

    def mark(button, index):
        bench.show(index)
        button.click()

    def extent(index, *, first):
        history.edit(1, extent=session.annotation.extent_with(1, index, first=first))

    both = [
        (lambda: bench.run("all"), lambda: list(session.propagate())),
        (lambda: mark(panel.ends, 8), lambda: extent(8, first=False)),
        (lambda: bench.run("gaps"), lambda: list(session.propagate(gaps_only=True))),
        (
            lambda: mark(panel.absent, 7),
            lambda: history.edit(1, seeds={7: SlicePrompt.absent_at(1, 7)}),
        ),
        (lambda: mark(panel.starts, 2), lambda: extent(2, first=True)),
        (lambda: bench.run("all"), lambda: list(session.propagate())),
    ]
    steps = [*both, *[(panel.undo, session.undo)] * 6, *[(panel.redo, session.redo)] * 6]
    for in_window, in_python in steps:
        in_window()
        in_python()
        np.testing.assert_array_equal(bench.layer.data, session.labels)
        assert set(window.prompts.prompts) == set(session.prompts.prompts)
        assert dict(window.prompts.extents) == dict(session.prompts.extents)
        assert window.dirty == session.dirty
        assert window.history.to_undo == history.to_undo
        assert window.history.to_redo == history.to_redo
