"""A Labels layer whose data are a Zarr array on the disk is filled like one in memory."""

from __future__ import annotations

import threading

import nibabel
import numpy as np
import pytest
import zarr
from qtpy.QtWidgets import QFileDialog
from tests.widgets.conftest import SHAPE, Bench, scan

from napari_slmsam2.io.chunked_array import ChunkedArray

WHOLE = (slice(None),) * 3


@pytest.fixture
def stored(tmp_path):
    return zarr.create_array(
        str(tmp_path / "labels.zarr"), shape=SHAPE, dtype="u1", chunks=(2, 8, 8), fill_value=0
    )


def bench_on(viewer, qtbot, segmenter, data):
    viewer.add_image(scan())
    layer = viewer.add_labels(data)
    bench = Bench(viewer, qtbot, segmenter)
    bench.panel.workspace.set_labels(layer)
    return bench


def work(bench):
    """Paint, run, undo, redo, and run again after a correction."""
    bench.paint(0)
    bench.run()
    states = [np.array(bench.layer.data)]
    bench.panel.workspace.show(bench.panel.workspace.annotation.history.undo().slices)
    states.append(np.array(bench.layer.data))
    bench.panel.workspace.show(bench.panel.workspace.annotation.history.redo().slices)
    states.append(np.array(bench.layer.data))
    return states


def test_the_array_on_the_disk_is_filled(make_napari_viewer, qtbot, segmenter, stored, tmp_path):
    bench = bench_on(make_napari_viewer(), qtbot, segmenter, stored)
    on_disk = work(bench)
    assert isinstance(bench.layer.data, zarr.Array)
    assert isinstance(bench.panel.workspace.annotation.labels, ChunkedArray)
    again = zarr.open_array(str(tmp_path / "labels.zarr"), mode="r")
    np.testing.assert_array_equal(again[...], on_disk[-1])
    in_memory = work(bench_on(make_napari_viewer(), qtbot, segmenter, np.zeros(SHAPE, np.uint8)))
    for ours, theirs in zip(on_disk, in_memory, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert on_disk[0].any()


def test_a_label_that_does_not_fit_the_array_is_refused(
    make_napari_viewer, qtbot, segmenter, stored, tmp_path
):
    from napari_slmsam2.core.errors import OutputError
    from napari_slmsam2.core.prompts import SlicePrompt

    bench = bench_on(make_napari_viewer(), qtbot, segmenter, stored)
    space = bench.panel.workspace
    mask = np.zeros(space.annotation.volume.slice_shape, bool)
    mask[2:5, 2:5] = True
    space.annotation.add_prompt(SlicePrompt.from_mask(300, 3, mask))
    with pytest.raises(OutputError, match="label 300 does not fit uint8"):
        space.show([3])
    assert not zarr.open_array(str(tmp_path / "labels.zarr"), mode="r")[...].any()


def test_the_array_is_read_for_saving_outside_of_the_gui_thread(
    make_napari_viewer, qtbot, segmenter, stored, tmp_path, monkeypatch
):
    bench = bench_on(make_napari_viewer(), qtbot, segmenter, stored)
    bench.paint(3)
    reading = []
    read = zarr.Array.__getitem__

    def noting(array, key):
        if key == WHOLE:
            reading.append(threading.current_thread())
        return read(array, key)

    monkeypatch.setattr(zarr.Array, "__getitem__", noting)
    monkeypatch.setattr(zarr.Array, "__array__", lambda array, *_, **__: noting(array, WHOLE))
    path = tmp_path / "saved.nii.gz"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), ""))
    bench.panel.files.save_labels()
    qtbot.waitUntil(path.exists, timeout=20_000)
    qtbot.wait(200)
    assert reading
    assert threading.main_thread() not in reading
    assert sorted(np.unique(nibabel.load(path).dataobj)) == [0, 1]
