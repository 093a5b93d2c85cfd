"""Gaps between seeds and the order in which their slices are visited."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.plan import (
    BACKWARD,
    FORWARD,
    Gap,
    clip_gaps,
    find_gaps,
    gaps_beside,
    independent_ranges,
    make_steps,
)
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt

N = 20
MASK = np.ones((2, 2), bool)


def seeds(*present: int, absent=(), extent=None, label=1, onto=None) -> PromptSet:
    prompts = PromptSet() if onto is None else onto
    for index in present:
        prompts = prompts.with_prompt(SlicePrompt.from_mask(label, index, MASK))
    for index in absent:
        prompts = prompts.with_prompt(SlicePrompt.absent_at(label, index))
    return prompts.with_extent(label, *extent) if extent else prompts


CASES = {
    "one seed": (
        seeds(8),
        [Gap(1, 0, 7, None, 8, False, True), Gap(1, 9, 19, 8, None, True, False)],
    ),
    "seeds on both ends": (seeds(0, 19), [Gap(1, 1, 18, 0, 19, True, True)]),
    "neighbouring seeds": (
        seeds(8, 9),
        [Gap(1, 0, 7, None, 8, False, True), Gap(1, 10, 19, 9, None, True, False)],
    ),
    "absent seeds start no sweep": (
        seeds(8, absent=(3, 15)),
        [Gap(1, 4, 7, 3, 8, False, True), Gap(1, 9, 14, 8, 15, True, False)],
    ),
    "nothing between absent seeds": (
        seeds(2, absent=(6, 12)),
        [Gap(1, 0, 1, None, 2, False, True), Gap(1, 3, 5, 2, 6, True, False)],
    ),
    "extent": (
        seeds(8, extent=(6, 11)),
        [Gap(1, 6, 7, None, 8, False, True), Gap(1, 9, 11, 8, None, True, False)],
    ),
    "extent of one slice": (seeds(8, extent=(8, 8)), []),
    "absent seed outside the extent": (
        seeds(8, absent=(15,), extent=(8, 11)),
        [Gap(1, 9, 11, 8, 15, True, False)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gaps(name):
    prompts, expected = CASES[name]
    assert list(find_gaps(prompts, N)) == expected


def test_one_direction_leaves_out_the_other_sweep():
    prompts = seeds(5, 12)
    assert find_gaps(prompts, N, directions=(FORWARD,)) == (
        Gap(1, 6, 11, 5, 12, True, False),
        Gap(1, 13, 19, 12, None, True, False),
    )
    assert find_gaps(prompts, N, directions=(BACKWARD,)) == (
        Gap(1, 0, 4, None, 5, False, True),
        Gap(1, 6, 11, 5, 12, False, True),
    )


def test_only_the_labels_asked_for():
    prompts = seeds(3, label=7, onto=seeds(5))
    assert {gap.label for gap in find_gaps(prompts, N)} == {1, 7}
    assert {gap.label for gap in find_gaps(prompts, N, labels=[7])} == {7}


@pytest.mark.parametrize(
    ("prompts", "labels", "message"),
    [
        (PromptSet(), None, "seeds: there is none"),
        (seeds(absent=(3, 5)), None, "found 2 absent seeds"),
        (seeds(3), [2], "label 2: .*found no seed"),
    ],
)
def test_nothing_to_propagate_from(prompts, labels, message):
    with pytest.raises(PromptError, match=message):
        find_gaps(prompts, N, labels=labels)


def bounds(gaps) -> list[tuple[int, int]]:
    return [(gap.start, gap.stop) for gap in gaps]


def test_gaps_beside_an_added_a_changed_and_a_removed_seed():
    prompts = seeds(2, 8, 14)
    everything = find_gaps(prompts, N)
    assert bounds(everything) == [(0, 1), (3, 7), (9, 13), (15, 19)]
    assert bounds(gaps_beside(everything, {(1, 8)})) == [(3, 7), (9, 13)]
    assert bounds(gaps_beside(everything, {(1, 14)})) == [(9, 13), (15, 19)]
    without = find_gaps(prompts.without(1, 8), N)
    assert bounds(gaps_beside(without, {(1, 8)})) == [(3, 13)]
    first_gone = find_gaps(prompts.without(1, 2), N)
    assert bounds(gaps_beside(first_gone, {(1, 2)})) == [(0, 7)]
    assert gaps_beside(everything, {(2, 8)}) == ()
    assert gaps_beside(everything, ()) == ()


def test_clipping_keeps_the_way_from_the_seed():
    closed, forward, backward = (
        Gap(1, 3, 15, 2, 16, True, True),
        Gap(1, 3, 19, 2, None, True, False),
        Gap(1, 0, 15, None, 16, False, True),
    )
    assert clip_gaps([closed], 8, 10) == (closed,)
    assert bounds(clip_gaps([forward], 8, 10)) == [(3, 10)]
    assert bounds(clip_gaps([backward], 8, 10)) == [(8, 15)]
    assert bounds(clip_gaps([closed], 2, 10)) == [(3, 15)]
    assert bounds(clip_gaps([closed], 2, 16)) == [(3, 15)]
    assert clip_gaps([forward], 0, 2) == ()
    assert clip_gaps([backward], 16, 19) == ()


@st.composite
def prompt_sets(draw) -> PromptSet:
    prompts = PromptSet()
    for label in range(1, draw(st.integers(1, 3)) + 1):
        present = draw(st.sets(st.integers(0, N - 1), min_size=1, max_size=4))
        absent = draw(st.sets(st.integers(0, N - 1), max_size=3)) - present
        extent = None
        if draw(st.booleans()):
            extent = (
                draw(st.integers(0, min(present))),
                draw(st.integers(max(present), N - 1)),
            )
        prompts = seeds(*present, absent=absent, extent=extent, label=label, onto=prompts)
    return prompts


@given(prompts=prompt_sets())
def test_every_slice_lies_in_one_gap_at_most(prompts):
    gaps = find_gaps(prompts, N)
    for label in prompts.labels:
        covered = [i for gap in gaps if gap.label == label for i in gap.indices(FORWARD)]
        assert len(covered) == len(set(covered))
        assert not set(covered) & set(prompts.seeds(label))
        first, last = prompts.extents.get(label, (0, N - 1))
        assert all(first <= i <= last for i in covered)
        for index in set(range(first, last + 1)) - set(covered) - set(prompts.seeds(label)):
            before = max((i for i in prompts.seeds(label) if i < index), default=None)
            after = min((i for i in prompts.seeds(label) if i > index), default=None)
            assert all(i is None or prompts.get(label, i).mask is None for i in (before, after))
    assert list(gaps) == sorted(gaps, key=lambda g: (g.label, g.start))


@given(prompts=prompt_sets(), data=st.data())
def test_steps_visit_each_slice_of_each_sweep_once_and_in_order(prompts, data):
    gaps = find_gaps(prompts, N)
    if gaps:
        gaps = data.draw(st.lists(st.sampled_from(gaps), unique=True))
    steps = make_steps(gaps)
    visits = [(gap, step.direction, step.index) for step in steps for gap in step.gaps]
    assert len(visits) == len(set(visits))
    for gap in gaps:
        for direction in (FORWARD, BACKWARD):
            seen = [i for g, d, i in visits if g == gap and d == direction]
            assert seen == (list(gap.indices(direction)) if gap.swept(direction) else [])
            if seen:
                assert abs(gap.source(direction) - seen[0]) == 1
    directions = [step.direction for step in steps]
    assert directions == sorted(directions, reverse=True)
    keys = [(step.index, step.direction) for step in steps]
    assert len(keys) == len(set(keys))


@given(prompts=prompt_sets())
def test_alternating_steps_are_those_of_both_directions_in_turns(prompts):
    gaps = find_gaps(prompts, N)
    apart, alternating = make_steps(gaps), make_steps(gaps, alternate=True)
    for direction in (FORWARD, BACKWARD):
        one, other = (
            [(step.index, step.gaps) for step in steps if step.direction == direction]
            for steps in (apart, alternating)
        )
        assert one == other
    n_both = 2 * min([s.direction for s in apart].count(d) for d in (FORWARD, BACKWARD))
    assert all(a.direction != b.direction for a, b in itertools.pairwise(alternating[:n_both]))
    for steps in (apart, alternating):
        for gap in gaps:
            completed = [s.index for s in steps if gap in s.gaps and s.completes(gap)]
            assert sorted(completed) == list(gap.indices(FORWARD)), "once on every slice"
            last = {s.index: s for s in steps if gap in s.gaps}
            assert all(step.completes(gap) for step in last.values()), "by the last sweep"


@given(prompts=prompt_sets(), ends=st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)))
def test_clipped_gaps_cover_the_range_from_their_seeds(prompts, ends):
    first, last = sorted(ends)
    gaps = find_gaps(prompts, N)
    clipped = clip_gaps(gaps, first, last)
    wanted = {(g.label, i) for g in gaps for i in g.indices(FORWARD) if first <= i <= last}
    kept = {(g.label, i) for g in clipped for i in g.indices(FORWARD)}
    assert wanted <= kept
    for gap in clipped:
        assert not gap.from_before or gap.start == gap.before + 1
        assert not gap.from_after or gap.stop == gap.after - 1


@given(
    st.lists(st.sets(st.integers(0, N - 1), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(1, 8),
)
def test_ranges_of_a_divided_volume_cut_no_gap(seeded, most):
    prompts = PromptSet()
    for label, indices in enumerate(seeded, 1):
        prompts = seeds(*indices, label=label, onto=prompts)
    gaps = find_gaps(prompts, N)
    ranges = independent_ranges(gaps, N, most)
    assert 1 <= len(ranges) <= most
    assert [i for first, last in ranges for i in range(first, last + 1)] == list(range(N))
    for first, last in ranges:
        inside = [gap for gap in gaps if first <= gap.start and gap.stop <= last]
        assert inside or not gaps
        assert list(clip_gaps(gaps, first, last)) == inside


def test_ranges_have_similar_work():
    prompts = seeds(*range(0, N, 4), extent=(0, 16))
    assert independent_ranges(find_gaps(prompts, N), N, 2) == ((0, 7), (8, 19))
    assert len(independent_ranges(find_gaps(prompts, N), N, 100)) == 4
    assert independent_ranges((), N, 3) == ((0, 19),)
