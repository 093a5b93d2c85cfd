"""Overlap and over-propagation on cases small enough to count by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.evaluate.metrics import (
    GapScores,
    SliceCounts,
    count_slices,
    score_extent,
    score_overlap,
)


def counts(predicted: list[int], reference: list[int], common: list[int] | None = None):
    both = common or [min(p, r) for p, r in zip(predicted, reference, strict=True)]
    return SliceCounts(*(np.array(c, np.int64) for c in (predicted, reference, both)))


@settings(max_examples=40, deadline=None)
@given(
    labels=hnp.arrays(np.uint8, (2, 4, 3, 5), elements=st.integers(0, 3)),
    axis=st.integers(0, 2),
)
def test_counts_are_those_of_every_slice(labels, axis):
    predicted, reference = labels
    found = count_slices(predicted, reference, axis)
    assert sorted(found) == sorted(set(np.unique(labels).tolist()) - {0})
    others = tuple(a for a in range(3) if a != axis)
    for label, c in found.items():
        np.testing.assert_array_equal(c.predicted, (predicted == label).sum(axis=others))
        np.testing.assert_array_equal(c.reference, (reference == label).sum(axis=others))
        both = (predicted == label) & (reference == label)
        np.testing.assert_array_equal(c.common, both.sum(axis=others))


def test_overlap_by_hand():
    scores = score_overlap(counts([4, 6, 0, 0], [4, 2, 2, 0], [3, 2, 0, 0]))
    assert scores.dice == pytest.approx(10 / 18)
    assert scores.iou == pytest.approx(5 / 13)
    np.testing.assert_allclose(scores.slice_dice, [6 / 8, 4 / 8, 0, np.nan])
    assert scores.mean_slice_dice == pytest.approx((6 / 8 + 4 / 8) / 3)
    assert (scores.predicted_voxels, scores.reference_voxels) == (10, 8)


def test_overlap_without_some_slices():
    keep = np.array([False, True, True, True])
    scores = score_overlap(counts([4, 6, 0, 0], [4, 2, 2, 0], [3, 2, 0, 0]), keep)
    assert scores.dice == pytest.approx(4 / 10)
    assert math.isnan(scores.slice_dice[0])


@pytest.mark.parametrize(
    ("predicted", "reference", "expected"),
    [([0, 0], [0, 0], math.nan), ([3, 0], [0, 0], 0.0), ([0, 0], [0, 5], 0.0)],
)
def test_overlap_of_empty_masks(predicted, reference, expected):
    scores = score_overlap(counts(predicted, reference))
    np.testing.assert_equal([scores.dice, scores.iou], [expected, expected])


def test_run_on_counts_contiguous_slices_of_ten_pixels():
    #                 0   1   2   3   4   5   6   7   8   9
    reference = [0, 0, 0, 50, 50, 50, 0, 0, 0, 0]
    predicted = [0, 9, 10, 50, 50, 50, 40, 30, 9, 20]
    scores = score_extent(counts(predicted, reference), slice_distance=2.5)
    assert scores.reference == (3, 5)
    assert scores.predicted == (1, 9)
    assert scores.run_on == (1, 2)
    assert scores.under_run == (0, 0)
    assert scores.op_slices == pytest.approx(3 / 7)
    assert scores.op_voxels == pytest.approx((9 + 10 + 40 + 30 + 9 + 20) / 150)
    assert scores.absent_recall == pytest.approx(1 / 7)
    assert scores.end_error == (2, 4)
    assert scores.end_distance == (5.0, 10.0)
    assert scores.recall == 1
    assert scores.precision == pytest.approx(3 / 9)
    assert scores.f1 == pytest.approx(2 * 3 / (9 + 3))


def test_under_run_counts_missed_slices_at_the_ends():
    reference = [0, 20, 20, 20, 20, 20, 20, 0]
    predicted = [0, 0, 0, 20, 0, 20, 0, 0]
    scores = score_extent(counts(predicted, reference))
    assert scores.under_run == (2, 1)
    assert scores.run_on == (0, 0)
    assert scores.op_slices == 0
    assert scores.op_voxels == 0
    assert scores.end_error == (2, 1)
    assert (scores.precision, scores.recall) == (1, pytest.approx(2 / 6))


def test_reference_gaps_are_reported_apart():
    reference = [0, 20, 0, 0, 20, 20, 0, 20, 0]
    predicted = [0, 20, 15, 4, 20, 20, 0, 0, 0]
    scores = score_extent(counts(predicted, reference))
    assert scores.gaps == (GapScores(2, 3, 1, 19), GapScores(6, 6, 0, 0))
    assert (scores.op_slices, scores.op_voxels, scores.absent_recall) == (0, 0, 1)
    assert scores.under_run == (0, 1)
    assert scores.precision == pytest.approx(3 / 5)


def test_under_run_passes_over_a_reference_gap():
    scores = score_extent(counts([0, 0, 0, 9], [9, 0, 9, 9]))
    assert scores.under_run == (2, 0)


def test_nothing_predicted():
    scores = score_extent(counts([0, 0, 0, 0], [0, 20, 20, 0]))
    assert scores.under_run == (2, 2)
    assert scores.predicted is None
    assert (scores.recall, scores.f1, scores.op_slices, scores.op_voxels) == (0, 0, 0, 0)
    np.testing.assert_equal(scores.precision, math.nan)
    np.testing.assert_equal(scores.end_error, (math.nan, math.nan))


def test_nothing_to_find():
    scores = score_extent(counts([0, 20, 9, 0], [0, 0, 0, 0]))
    assert scores.reference is None
    assert scores.op_slices == pytest.approx(1 / 4)
    assert scores.absent_recall == pytest.approx(2 / 4)
    assert (scores.precision, scores.f1) == (0, 0)
    np.testing.assert_equal([scores.op_voxels, scores.recall], [math.nan, math.nan])


def test_an_object_that_fills_the_volume_cannot_be_run_on():
    scores = score_extent(counts([20, 20], [20, 20]))
    assert scores.run_on == (0, 0)
    np.testing.assert_equal([scores.op_slices, scores.absent_recall], [math.nan, math.nan])
    assert scores.op_voxels == 0


def test_excluded_slices_leave_the_shares_but_not_the_ends():
    reference = [0, 20, 20, 20, 0, 0]
    predicted = [0, 0, 20, 20, 20, 0]
    every = score_extent(counts(predicted, reference))
    keep = np.array([True, True, False, True, True, False])
    some = score_extent(counts(predicted, reference), keep)
    assert (every.op_slices, every.op_voxels) == (pytest.approx(1 / 3), pytest.approx(20 / 60))
    assert (some.op_slices, some.op_voxels) == (pytest.approx(1 / 2), pytest.approx(20 / 40))
    assert (every.absent_recall, some.absent_recall) == (pytest.approx(2 / 3), pytest.approx(1 / 2))
    assert (every.recall, some.recall) == (pytest.approx(2 / 3), pytest.approx(1 / 2))
    assert some.run_on == every.run_on == (0, 1)
    assert some.under_run == every.under_run == (1, 0)


@settings(max_examples=60, deadline=None)
@given(
    predicted=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    data=st.data(),
)
def test_extent_against_a_walk_slice_by_slice(predicted, data):
    n = len(predicted)
    reference = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    scores = score_extent(counts(predicted, reference))
    present = [i for i in range(n) if reference[i]]
    if not present:
        assert scores.run_on == scores.under_run == (0, 0)
        return
    for side, (end, step) in enumerate(((present[0], -1), (present[-1], 1))):
        index, run_on = end + step, 0
        while 0 <= index < n and predicted[index] >= 10:
            index, run_on = index + step, run_on + 1
        missed = 0
        for index in present[::-1] if step == 1 else present:
            if predicted[index]:
                break
            missed += 1
        assert scores.run_on[side] == run_on
        assert scores.under_run[side] == missed
