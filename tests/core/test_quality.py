"""Confidence and the list of slices to look at."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_slmsam2.core.quality import FLAG_SCORE, SliceQuality, rank_slices, trusted_slices

GOOD = SliceQuality(0.99, 0.95, 0.97, None, 100, (10.0, 10.0))
unit = st.floats(0, 1)


@st.composite
def qualities(draw) -> SliceQuality:
    area = draw(st.integers(0, 400))
    centroid = (draw(st.floats(0, 50)), draw(st.floats(0, 50))) if area else None
    agreement = draw(st.none() | unit)
    return SliceQuality(draw(unit), draw(unit), draw(unit), agreement, area, centroid)


@given(quality=qualities())
def test_confidence_is_a_share(quality):
    assert 0 <= quality.confidence <= 1
    if quality.agreement is None:
        assert replace(quality, agreement=0.5).confidence == pytest.approx(quality.confidence / 2)


def test_an_empty_slice_is_sure_where_the_object_is_unlikely():
    empty = replace(GOOD, area=0, centroid=None)
    assert replace(empty, presence=0.1).confidence == pytest.approx(0.9)
    assert replace(empty, presence=0.4).confidence == pytest.approx(0.6)


@given(
    slices=st.dictionaries(st.integers(0, 15), qualities(), min_size=1),
    seeds=st.sets(st.integers(0, 15), min_size=1, max_size=4),
)
def test_seeds_are_never_suggested_and_the_rest_is_ordered(slices, seeds):
    ranked = rank_slices({1: slices}, {1: seeds})
    assert {s.index for s in ranked} == set(slices) - seeds
    scores = [s.score for s in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(score >= 0 for score in scores)
    assert all(s.reason for s in ranked)


def score_of(slices, index, seeds=(0,)):
    return {s.index: s for s in rank_slices({1: slices}, {1: seeds})}[index]


BASE = dict.fromkeys(range(1, 12), GOOD)


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"presence": 0.55}, "low confidence"),
        ({"predicted_iou": 0.4}, "low confidence"),
        ({"stability": 0.3}, "low confidence"),
        ({"agreement": 0.2}, None),
        ({"area": 600}, "sudden change of size"),
        ({"area": 15}, "sudden change of size"),
        ({"centroid": (22.0, 10.0)}, "sudden change of position"),
    ],
)
def test_what_looks_wrong_comes_first(worse, reason):
    slices = {**BASE, 6: replace(GOOD, **worse)}
    assert score_of(slices, 6).score > score_of(BASE, 6).score
    ranked = rank_slices({1: slices}, {1: [0]})
    assert ranked[0].index in (5, 6, 7)
    if reason:
        assert score_of(slices, 6).reason == reason


def test_disagreement_counts_by_how_much_it_is():
    scores = [
        score_of({**BASE, 6: replace(GOOD, agreement=agreement)}, 6).score
        for agreement in (1.0, 0.8, 0.5, 0.0)
    ]
    assert scores == sorted(scores)
    assert len(set(scores)) == 4


def test_slices_near_a_seed_are_less_urgent():
    slices = {index: BASE[index] for index in range(1, 6)}
    scores = [score_of(slices, index, seeds=(0, 6)).score for index in range(1, 6)]
    assert scores[0] < scores[1] < scores[2] > scores[3] > scores[4]
    beyond = [score_of(slices, index, seeds=(0,)).score for index in range(1, 6)]
    assert all(one > other for one, other in zip(beyond, scores, strict=True))


DOUBTFUL = replace(GOOD, presence=0.55)


def test_a_doubtful_stretch_is_more_urgent_than_one_worse_slice():
    slices = {**dict.fromkeys(range(1, 30), GOOD), 4: replace(GOOD, presence=0.4)}
    slices |= dict.fromkeys(range(15, 20), DOUBTFUL)
    ranked = rank_slices({1: slices}, {1: [0, 30]})
    assert ranked[0].index == 17
    assert ranked[0].score > FLAG_SCORE
    assert ranked[0].reason == "low confidence"
    # A correction repairs nothing beyond a seed.
    beside = rank_slices({1: slices}, {1: [0, 16, 18, 30]})
    assert beside[0].index not in (16, 17, 18)


def test_flagged_slices_of_a_label_lie_apart():
    slices = dict.fromkeys(range(1, 40), DOUBTFUL)
    ranked = rank_slices({1: slices}, {1: [0, 40]})
    flagged = sorted(s.index for s in ranked if s.score >= FLAG_SCORE)
    assert len(flagged) > 5
    assert min(b - a for a, b in itertools.pairwise(flagged)) > 2


def test_a_good_slice_is_suggested_for_its_distance_only():
    assert {s.reason for s in rank_slices({1: BASE}, {1: [0]})} == {"far from annotated slices"}


def test_labels_are_ranked_together():
    slices = {1: {5: GOOD}, 2: {5: replace(GOOD, presence=0.51)}}
    ranked = rank_slices(slices, {1: [0], 2: [0]})
    assert [(s.label, s.index) for s in ranked] == [(2, 5), (1, 5)]


def test_a_label_that_is_nowhere():
    gone = SliceQuality(0.1, 0.2, 1.0, None, 0, None)
    assert len(rank_slices({1: {3: gone, 4: gone}}, {1: [0]})) == 2


def test_what_would_be_flagged_far_from_seeds_is_not_trusted():
    slices = {
        **BASE,
        3: replace(GOOD, agreement=0.5),
        5: replace(GOOD, predicted_iou=0.4),
        7: replace(GOOD, area=10),
        9: replace(GOOD, area=0, centroid=None, presence=0.01),
        11: replace(GOOD, agreement=0.9),
    }
    assert score_of(slices, 3, seeds=(2,)).score < FLAG_SCORE
    assert trusted_slices({1: slices, 2: {4: replace(GOOD, presence=0.2)}}) == {1: (1, 2, 4, 11)}
    assert trusted_slices({}) == {}
