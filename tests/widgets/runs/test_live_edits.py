"""A person paints while the worker is ahead of what the window shows."""

from __future__ import annotations

import time

import numpy as np


def test_a_stroke_on_a_slice_that_the_run_has_written_but_not_shown_is_the_seed_alone(bench):
    bench.paint(0)
    bench.panel.propagate()
    annotation, layer = bench.panel.workspace.annotation, bench.layer
    bench.show(4)
    deadline = time.monotonic() + 20
    # The worker runs, and Qt shows nothing: its events wait.
    while not annotation.slices.read(4).any():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not layer.data[4].any()
    layer.brush_size = 3
    layer.paint((4, 3, 18), 1)
    mine = layer.data[4] == 1
    assert mine.any()
    bench.finish()
    np.testing.assert_array_equal(layer.data[4] == 1, mine)
    np.testing.assert_array_equal(annotation.prompts.get(1, 4).mask, mine)
    assert bench.seeds == {(0, 1), (4, 1)}
    assert layer.data[11].any()
