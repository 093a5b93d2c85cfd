"""Two sweeps that meet become one mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.engine.propagation.merge import dice, merge_logits, sigmoid, sweep_weights

logits = hnp.arrays(np.float32, (3, 4), elements=st.floats(-8, 8, width=32))


@given(first=logits, second=logits, share=st.floats(0.01, 0.99))
def test_the_mean_of_probabilities(first, second, share):
    merged = merge_logits([(first, share), (second, 1 - share)])
    assert merged.dtype == np.float32
    expected = share / (1 + np.exp(-first.astype(float))) + (1 - share) / (
        1 + np.exp(-second.astype(float))
    )
    np.testing.assert_allclose(sigmoid(merged), expected, atol=2e-4)
    agree = (first > 0) == (second > 0)
    clear = (np.abs(first) > 1e-3) & (np.abs(second) > 1e-3) & agree
    np.testing.assert_array_equal((merged > 0)[clear], (first > 0)[clear])


@given(first=logits)
def test_a_voice_without_weight_is_not_heard(first):
    merged = merge_logits([(first, 0.3), (-first, 0.0)])
    np.testing.assert_allclose(merged, first, atol=0.3)


@given(
    before=st.integers(0, 50),
    length=st.integers(2, 40),
    confidences=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_weights_shift_from_seed_to_seed(before, length, confidences):
    after = before + length
    shares = []
    for index in range(before, after + 1):
        forward, backward = sweep_weights(index, before, after, *confidences)
        assert forward >= 0
        assert backward >= 0
        shares.append(forward / (forward + backward))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1
    assert shares[-1] == 0
    equal = sweep_weights(before, before, after, 0.7, 0.7)
    assert equal[0] > equal[1]


def test_a_sure_sweep_weighs_more():
    forward, backward = sweep_weights(5, 0, 10, 0.9, 0.3)
    assert forward == pytest.approx(3 * backward)


def test_dice():
    a, b = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    assert dice(a, b) == 1
    a[0] = True
    assert dice(a, b) == 0
    b[0, :2] = True
    assert dice(a, b) == pytest.approx(2 * 2 / 6)
    assert dice(a, a) == 1


@pytest.mark.parametrize("value", [-1e4, -30.0, 0.0, 30.0, 1e4])
def test_sigmoid_is_safe_at_both_ends(value):
    result = float(sigmoid(np.array([value]))[0])
    assert 0 <= result <= 1
    assert result == pytest.approx(1 / (1 + np.exp(-np.clip(value, -50, 50))), abs=1e-6)
