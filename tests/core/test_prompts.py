"""Seeds: what is accepted, what is kept, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt

MASK = np.eye(4, 5, dtype=bool)


@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)))
def test_a_mask_is_copied_on_entry_and_cannot_be_changed(mask):
    drawn = mask.copy()
    prompt = SlicePrompt.from_mask(3, 1, mask)
    mask[...] = ~mask
    assert (prompt.kind is PromptKind.MASK) == drawn.any()
    if prompt.mask is None:
        assert prompt.kind is PromptKind.ABSENT
        assert not drawn.any()
        return
    np.testing.assert_array_equal(prompt.mask, drawn)
    with pytest.raises(ValueError, match="read-only"):
        prompt.mask[0, 0] = True


def test_any_value_but_zero_is_inside():
    prompt = SlicePrompt.from_mask(1, 0, np.array([[0, 7], [-1, 0]]))
    np.testing.assert_array_equal(prompt.mask, [[False, True], [True, False]])


def test_points_are_inside_by_default():
    prompt = SlicePrompt.from_points(1, 0, [(1, 2), (3, 4)])
    np.testing.assert_array_equal(prompt.point_labels, [1, 1])
    assert prompt.kind is PromptKind.POINTS
    assert prompt.box is None


def test_further_clicks_repeat_the_earlier_ones():
    first = SlicePrompt.from_box(2, 5, (1, 2, 8, 9))
    second = first.refine([(4, 4)]).refine([(7, 3)], [0])
    np.testing.assert_array_equal(second.points, [(4, 4), (7, 3)])
    np.testing.assert_array_equal(second.point_labels, [1, 0])
    assert second.box == (1, 2, 8, 9)
    assert second.previous.previous is first
    assert (second.label, second.index) == (2, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SlicePrompt.from_mask(0, 1, MASK), "not a label value"),
        (lambda: SlicePrompt.from_mask(-2, 1, MASK), "not a label value"),
        (lambda: SlicePrompt.from_mask(1, -1, MASK), "negative"),
        (lambda: SlicePrompt.from_mask(1, 1, MASK[None]), "is not a slice"),
        (lambda: SlicePrompt.from_points(1, 1, [(1, 2)], [1, 1]), "differ in number"),
        (lambda: SlicePrompt.from_points(1, 1, [(1, 2)], [2]), "neither 0"),
        (lambda: SlicePrompt.from_points(1, 1, [(1, np.nan)]), "not finite"),
        (lambda: SlicePrompt.from_points(1, 1, []), "neither a point nor a box"),
        (lambda: SlicePrompt.from_points(1, 1, [(1, 2, 3), (4, 5, 6)]), "row, column"),
        (lambda: SlicePrompt.from_points(1, 1, [1.0, 2.0, 3.0]), "row, column"),
        (lambda: SlicePrompt.from_box(1, 1, (3, 3, 3, 9)), "box is empty"),
        (lambda: SlicePrompt.from_box(1, 1, (0, 0, np.nan, 9)), "box is empty"),
        (lambda: SlicePrompt.from_box(1, 1, (0, 0, np.inf, 9)), "box is not finite"),
        (lambda: SlicePrompt.from_mask(1, 1, MASK).refine([(1, 1)]), "only points and boxes"),
    ],
)
def test_what_makes_no_seed(make, message):
    with pytest.raises(PromptError, match=message):
        make()


def test_a_set_is_not_changed_by_its_copies():
    empty = PromptSet()
    one = empty.with_prompt(SlicePrompt.from_mask(2, 3, MASK))
    two = one.with_prompt(SlicePrompt.absent_at(1, 7)).with_extent(2, 1, 5)
    assert (len(empty), len(one), len(two)) == (0, 1, 2)
    assert two.labels == (1, 2)
    assert two.seeds(1) == (7,)
    assert two.get(2, 3).mask is one.get(2, 3).mask
    assert two.get(2, 4) is None
    assert [p.label for p in two.on_slice(7)] == [1]
    assert two.without(2, 3).labels == (1,)
    assert not one.extents
    assert not two.without_extent(2).extents
    with pytest.raises(TypeError):
        two.prompts[1, 1] = None


def test_a_seed_drawn_again_is_the_latest():
    """Where the seeds of two labels overlap, the one that was drawn last is on top."""
    first = SlicePrompt.from_mask(1, 0, MASK)
    prompts = PromptSet().with_prompt(first).with_prompt(SlicePrompt.from_mask(2, 0, MASK))
    again = prompts.with_prompt(first)
    assert [p.label for p in again] == [2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.with_prompt(SlicePrompt.from_mask(1, 9, MASK)), "outside the marked extent"),
        (lambda p: p.with_extent(1, 6, 8), "leaves out slices that hold a seed"),
        (lambda p: p.with_extent(1, 8, 2), "not in order"),
        (lambda p: p.with_extent(1, -1, 6), "not in order"),
    ],
)
def test_seeds_and_extents_must_agree(change, message):
    prompts = PromptSet().with_prompt(SlicePrompt.from_mask(1, 5, MASK)).with_extent(1, 2, 7)
    with pytest.raises(PromptError, match=message):
        change(prompts)


def test_an_absent_seed_may_lie_outside_the_extent():
    prompts = PromptSet().with_extent(1, 2, 7).with_prompt(SlicePrompt.absent_at(1, 9))
    assert prompts.with_extent(1, 3, 6).seeds(1) == (9,)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (PromptSet().with_prompt(SlicePrompt.absent_at(1, 6)), "outside the volume"),
        (PromptSet().with_prompt(SlicePrompt.from_mask(1, 5, MASK.T)), "another size"),
        (PromptSet().with_extent(1, 0, 6), "ends outside the volume"),
        (PromptSet().with_prompt(SlicePrompt.from_points(1, 5, [(4, 1)])), "point lies outside"),
        (PromptSet().with_prompt(SlicePrompt.from_points(1, 5, [(1, -0.6)])), "point lies outside"),
        (PromptSet().with_prompt(SlicePrompt.from_box(1, 5, (0, 6, 3, 9))), "box lies outside"),
    ],
)
def test_seeds_must_fit_the_volume(prompts, message):
    with pytest.raises(PromptError, match=message):
        prompts.check(6, (4, 5))


def test_seeds_on_the_rim_fit():
    prompts = PromptSet().with_prompt(SlicePrompt.from_points(1, 5, [(-0.5, -0.5), (3.5, 4.5)]))
    prompts = prompts.with_prompt(SlicePrompt.from_box(2, 0, (-3, -3, 9, 9))).with_extent(1, 0, 5)
    prompts.check(6, (4, 5))


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 9)), max_size=12))
def test_lookups_agree(keys):
    prompts = PromptSet()
    for label, index in keys:
        prompts = prompts.with_prompt(SlicePrompt.absent_at(label, index))
    assert len(prompts) == len(set(keys))
    assert {(p.label, p.index) for p in prompts} == set(keys)
    for label in prompts.labels:
        assert prompts.seeds(label) == tuple(sorted({i for lab, i in keys if lab == label}))
    for index in range(10):
        assert {p.label for p in prompts.on_slice(index)} == {lab for lab, i in keys if i == index}
