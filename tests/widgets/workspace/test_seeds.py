from __future__ import annotations

import numpy as np
import pytest
import zarr
from qtpy.QtWidgets import QApplication
from tests.widgets.conftest import SHAPE, Bench, scan


def settle(qtbot):
    qtbot.wait(120)


def test_brush_eraser_fill_and_polygon_make_seeds(bench, qtbot):
    layer = bench.layer
    bench.paint(2)
    bench.show(4)
    layer.fill((4, 0, 0), 2)
    QApplication.processEvents()
    bench.show(6)
    layer.paint_polygon([(6, 2, 2), (6, 2, 9), (6, 9, 9)], 3)
    QApplication.processEvents()
    assert bench.seeds == {(2, 1), (4, 2), (6, 3)}
    bench.show(4)
    layer.fill((4, 0, 0), 0)
    QApplication.processEvents()
    assert bench.seeds == {(2, 1), (6, 3)}


def test_undo_and_redo_are_noticed_also_on_another_slice(bench, qtbot):
    bench.paint(2)
    bench.paint(4)
    bench.show(9)
    settle(qtbot)
    bench.layer.undo()
    settle(qtbot)
    assert bench.seeds == {(2, 1)}
    bench.layer.redo()
    settle(qtbot)
    assert bench.seeds == {(2, 1), (4, 1)}


def test_a_brush_in_three_dimensions_makes_seeds_on_all_its_slices(bench):
    bench.layer.n_edit_dimensions = 3
    bench.paint(5, size=9)
    slices = set(np.flatnonzero(bench.layer.data.any(axis=(1, 2))))
    assert len(slices) > 1
    assert {index for index, _ in bench.seeds} == slices


def test_what_a_script_writes_is_taken_when_a_run_starts(bench):
    bench.layer.data[7, 3:6, 3:6] = 1
    assert bench.seeds == set()
    bench.run()
    assert bench.seeds == {(7, 1)}
    assert bench.layer.data[11].any()


def test_scrolling_makes_no_seeds(bench, qtbot):
    bench.paint(5)
    bench.run()
    for index in range(SHAPE[0]):
        bench.show(index)
    settle(qtbot)
    assert bench.seeds == {(5, 1)}


def test_labels_that_were_there_before_are_no_seeds(viewer, qtbot, segmenter):
    viewer.add_image(scan())
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 4:8, 4:8] = 1
    viewer.add_labels(labels)
    bench = Bench(viewer, qtbot, segmenter)
    assert bench.layer.data is labels
    assert bench.seeds == set()


def test_every_time_point_has_its_own_seeds(viewer, qtbot, segmenter):
    viewer.add_image(scan((3, *SHAPE)), axis_labels=("t", "z", "y", "x"))
    bench = Bench(viewer, qtbot, segmenter)
    assert "axis 0 (t) at" in bench.panel.about_view.text()
    viewer.dims.set_point((0, 1), (1, 5))
    bench.layer.paint((1, 5, 8, 8), 1)
    QApplication.processEvents()
    assert bench.seeds == {(5, 1)}
    bench.run()
    filled = bench.layer.data.any(axis=(2, 3))
    assert filled[1].all()
    assert not filled[[0, 2]].any()
    viewer.dims.set_point(0, 2)
    assert bench.seeds == set()
    viewer.dims.set_point(0, 1)
    assert bench.seeds == {(5, 1)}


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (2, 1, 0)])
def test_any_plane_can_be_annotated(bench, order):
    bench.viewer.dims.order = order
    axis = order[0]
    point = [6, 8, 10]
    bench.show(point[axis])
    bench.layer.paint(point, 1)
    QApplication.processEvents()
    assert bench.seeds == {(point[axis], 1)}
    bench.run()
    other = tuple(a for a in range(3) if a != axis)
    assert bench.layer.data.any(axis=other).all()


def test_zarr_labels_are_filled(viewer, qtbot, segmenter):
    viewer.add_image(scan())
    array = zarr.zeros(SHAPE, dtype="u1", chunks=(1, *SHAPE[1:]))
    viewer.add_labels(array)
    bench = Bench(viewer, qtbot, segmenter)
    bench.paint(5)
    assert bench.seeds == {(5, 1)}
    bench.run()
    assert bench.layer.data is array
    assert array[:].any(axis=(1, 2)).all()
