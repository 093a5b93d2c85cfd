"""During a run the window is drawn seldom, and everything that changed at once."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QWidget
from tests.fakes import PairSegmenter
from tests.widgets.conftest import FakeModels

from napari_slmsam2.engine.propagation.compositor import Compositor
from napari_slmsam2.widgets.runs.run_bar import RunBar


def intervals(times):
    return [after - before for before, after in itertools.pairwise(times)]


def write(sink, index, label=1):
    """What a run does with a slice: the worker writes it, the window shows it."""
    box = slice(4, 9), slice(4, 9)
    sink.annotation.slices.overlay(index, box, np.full((5, 5), label, np.uint8))
    sink.show([index])


@pytest.fixture
def drawn(bench):
    """How often napari has sliced the Labels layer anew."""
    times = []
    bench.layer.events.set_data.connect(lambda: times.append(time.perf_counter()))
    return times


def test_the_view_moves_at_most_eight_times_a_second_and_to_the_last_slice(bench):
    bench.segmenter.delay = 0.1
    bench.paint(0)
    bench.panel.run_bar.follow.setChecked(True)
    times, places = [], []
    bench.panel.workspace.slice_changed.connect(places.append)
    bench.panel.workspace.slice_changed.connect(lambda: times.append(time.perf_counter()))
    bench.run()
    # The last step comes when the run ends; a slow machine may have made no other.
    assert min(intervals(times[:-1]), default=1.0) > 0.12
    assert places == sorted(places)
    assert places[-1] == 11


def test_of_two_sweeps_that_take_turns_one_is_followed(bench, monkeypatch):
    store = Compositor.store

    def slowly(*arguments):
        time.sleep(0.2)
        return store(*arguments)

    monkeypatch.setattr(Compositor, "store", slowly)
    pair = PairSegmenter()
    bench.panel.runner.models = FakeModels(pair)
    bench.paint(4)
    bench.panel.run_bar.follow.setChecked(True)
    places = []
    bench.panel.workspace.slice_changed.connect(places.append)
    bench.run()
    assert max(len(together) for together in pair.together) == 2
    turns = np.diff([place for place in places if place != 4])
    assert np.count_nonzero(np.diff(np.sign(turns[turns != 0]))) <= 1


def test_where_drawing_takes_long_it_is_done_less_often(bench, qtbot):
    class Slow(QWidget):
        def paintEvent(self, event):  # noqa: N802 - Qt's name
            time.sleep(0.08)

    slow, times = Slow(), []
    qtbot.addWidget(slow)
    slow.show()
    qtbot.waitExposed(slow)
    bench.segmenter.delay = 0.15
    bench.paint(0)
    bench.panel.runner.ticked.connect(slow.update)
    bench.panel.runner.ticked.connect(lambda: times.append(time.perf_counter()))
    bench.run()
    assert min(intervals(times[:-1]), default=1.0) >= 0.08 / 0.2


def test_a_step_of_the_view_and_the_labels_under_it_are_drawn_once(bench, drawn):
    sink = bench.panel.workspace.stack.sink
    bench.show(3)
    drawn.clear()
    for index in (3, 4, 3, 5):
        write(sink, index, label=index)
    assert not drawn
    bench.show(5)
    sink.flush()
    assert len(drawn) == 1
    assert (bench.layer.data[5] == 5).sum() == 25
    shown = np.asarray(bench.layer._slice.image.raw)
    np.testing.assert_array_equal(shown, bench.layer.data[5])


@pytest.mark.parametrize("ndisplay", [2, 3])
def test_what_a_run_writes_on_the_slice_on_screen_is_drawn_by_the_next_tick(bench, drawn, ndisplay):
    sink = bench.panel.workspace.stack.sink
    bench.show(3)
    bench.viewer.dims.ndisplay = ndisplay
    drawn.clear()
    for label in (1, 2):
        write(sink, 3, label)
    sink.flush()
    sink.flush()
    assert len(drawn) == 1
    write(sink, 8)
    sink.flush()
    assert len(drawn) == (1 if ndisplay == 2 else 2)


def test_progress_waits_for_the_rest_of_the_panel_to_be_drawn(qtbot):
    class Painted(QObject):
        count = 0

        def eventFilter(self, watched, event):  # noqa: N802 - Qt's name
            self.count += event.type() == QEvent.Type.Paint
            return False

    bar, painted = RunBar(), Painted()
    qtbot.addWidget(bar)
    bar.bar.installEventFilter(painted)
    bar.show()
    bar.show_progress(1, 100, None, paused=False)
    qtbot.waitUntil(lambda: painted.count > 0)
    before = painted.count
    bar.show_progress(60, 100, 5.0, paused=False)
    assert painted.count == before
    qtbot.waitUntil(lambda: painted.count > before)


def test_a_mark_is_drawn_in_3d_at_once(bench, drawn):
    bench.paint(5)
    bench.run()
    bench.show(7)
    bench.viewer.dims.ndisplay = 3
    drawn.clear()
    bench.panel.ends.click()
    assert drawn
