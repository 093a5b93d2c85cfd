"""Logits in little memory: masks come back exactly, logits nearly."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.core.soft_masks import SoftMasks

logit_slices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-1024, 1024, width=32) | st.floats(-0.0625, 0.0625, width=32),
)


@given(logits=logit_slices)
def test_signs_are_exact_and_logits_close(logits):
    soft = SoftMasks()
    soft.put(1, 4, logits)
    back = soft.get(1, 4)
    if back is None:
        assert not (logits > -4).any()
        return
    assert back.shape == logits.shape
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back > 0, logits > 0)
    near = np.abs(logits) < 4
    assert np.abs(back - logits)[near].max(initial=0) <= 1 / 15


@given(logits=logit_slices)
def test_what_came_back_goes_in_unchanged(logits):
    soft = SoftMasks()
    soft.put(1, 0, logits)
    once = soft.get(1, 0)
    if once is not None:
        soft.put(1, 0, once)
        np.testing.assert_array_equal(soft.get(1, 0), once)


def test_labels_and_slices_are_kept_apart():
    soft = SoftMasks()
    one, two = np.full((3, 4), 2.0), np.full((3, 4), -1.0)
    soft.put(1, 5, one)
    soft.put(2, 5, two)
    soft.put(1, 6, two)
    assert list(soft.on_slice(5)) == [1, 2]
    assert set(soft) == {(1, 5), (2, 5), (1, 6)}
    twin = soft.copy()
    soft.discard(1, 5)
    soft.discard(9, 9)
    assert soft.get(1, 5) is None
    assert soft.get(2, 5) is not None
    assert twin.get(1, 5) is not None
    soft.put(2, 5, np.full((3, 4), -9.0))
    assert soft.get(2, 5) is None
    assert soft.get(3, 7) is None
    assert soft.on_slice(7) == {}


def test_memory_is_a_small_part_of_the_logits():
    y, x = np.mgrid[:512, :512]
    logits = (10 - np.hypot(y - 200, x - 300) / 4).astype(np.float32)
    soft = SoftMasks()
    for index in range(10):
        soft.put(1, index, logits)
    assert soft.nbytes < 10 * logits.nbytes / 25
    for index in range(10):
        soft.discard(1, index)
    assert soft.nbytes == 0
