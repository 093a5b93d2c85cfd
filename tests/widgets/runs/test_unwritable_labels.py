"""Labels that cannot be written are refused before a run, or end it with one message."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from tests.widgets.conftest import SHAPE, Bench, scan


class Failing:
    """An array on a disk that is full after some writes."""

    def __init__(self, shape, writes):
        self.array = np.zeros(shape, np.uint8)
        self.shape, self.dtype, self.ndim = self.array.shape, self.array.dtype, self.array.ndim
        self.writes = writes

    def __getitem__(self, key):
        return self.array[key]

    def __setitem__(self, key, value):
        self.writes -= 1
        if self.writes < 0:
            raise OSError(28, "No space left on device")
        self.array[key] = value


def read_only_numpy(tmp_path):
    labels = np.zeros(SHAPE, np.uint8)
    labels[5, 4:8, 4:8] = 1
    labels.setflags(write=False)
    return labels


def read_only_memmap(tmp_path):
    np.save(tmp_path / "labels.npy", np.zeros(SHAPE, np.uint8))
    return np.load(tmp_path / "labels.npy", mmap_mode="r")


def read_only_zarr(tmp_path):
    zarr.create_array(str(tmp_path / "a.zarr"), shape=SHAPE, dtype="u1")
    return zarr.open_array(str(tmp_path / "a.zarr"), mode="r")


@pytest.mark.parametrize("make", [read_only_numpy, read_only_memmap, read_only_zarr])
def test_read_only_labels_are_refused_before_a_run(viewer, qtbot, segmenter, tmp_path, make):
    viewer.add_image(scan())
    labels = viewer.add_labels(make(tmp_path))
    bench = Bench(viewer, qtbot, segmenter)
    bench.panel.workspace.set_labels(labels)
    assert "cannot be written" in bench.panel.problem.text()
    assert "read-only" in bench.panel.problem.text()
    assert not bench.panel.run_bar.go_button.isEnabled()
    bench.panel.propagate()
    assert not bench.panel.runner.running
    bench.panel.new_labels.click()
    assert bench.layer is not labels
    assert bench.panel.problem.text() == ""


@pytest.fixture
def failing(viewer, qtbot, segmenter, monkeypatch):
    """A bench whose labels can be written four times: the seed's slice needs no write."""
    viewer.add_image(scan())
    bench = Bench(viewer, qtbot, segmenter)
    bench.paint(0)
    full = Failing(SHAPE, 4)
    full.array[:] = bench.layer.data
    bench.layer.data = full
    return bench


def test_a_write_that_fails_ends_the_run_with_one_message(failing, messages):
    failing.segmenter.delay = 0.02
    failing.run()
    assert len([m for m in messages if "No space left" in m]) == 1
    (message,) = messages
    assert "slice 5 cannot be written" in message
    assert "ended early" in failing.panel.run_bar.status.text()
    shown = np.flatnonzero(failing.layer.data.array.any(axis=(1, 2))).tolist()
    assert shown == [0, 1, 2, 3, 4], "finished slices stay"
    assert failing.seeds == {(0, 1)}
    assert len(failing.segmenter.visits) < 11, "the worker stops too"


def test_after_a_failed_write_no_seed_is_made_of_the_difference(failing, messages):
    failing.run()
    failing.layer.data.writes = 1000
    failing.panel.tracker.scan_all()
    assert failing.seeds == {(0, 1)}
    failing.run()
    assert failing.layer.data.array.any(axis=(1, 2)).all()
    assert failing.seeds == {(0, 1)}


def test_a_mark_on_labels_that_cannot_be_written_is_reported(failing, messages):
    failing.layer.data.writes = 11
    failing.run()
    failing.layer.data.writes = 0
    messages.clear()
    failing.show(7)
    failing.panel.ends.click()
    assert len(messages) == 1
    assert "cannot be written" in messages[0]
