"""Who gets a pixel: seeds always, then the rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.core.overlap import resolve_labels as resolve_patches
from napari_slmsam2.core.soft_masks import LogitPatch, find_box

SHAPE = (4, 5)
RULES = ("highest", "keep", "overwrite")
LABELS = st.integers(1, 5)
logits = hnp.arrays(np.float32, SHAPE, elements=st.floats(-6, 6, width=16))
masks = hnp.arrays(bool, SHAPE)


def resolve_labels(existing, logits, running, seeds, rule):
    """From logits of whole slices, cut to their boxes."""
    patches = {label: cut(values) for label, values in logits.items()}
    return resolve_patches(existing, patches, running, seeds, rule)


def cut(logits) -> LogitPatch:
    box = find_box(logits > -4)
    return LogitPatch(box, logits[box].astype(np.float32))


def plain_resolve(existing, logits, running, seeds, rule):
    """The rule on whole slices, one label after the other."""
    resolved = existing.copy()
    resolved[np.isin(resolved, list(running))] = 0
    contenders = [
        label for label in logits if label not in seeds and (label in running or rule == "highest")
    ]
    best = np.zeros(existing.shape, np.float32)
    winner = np.zeros_like(existing)
    for label in contenders:
        higher = logits[label] > best
        best[higher] = logits[label][higher]
        winner[higher] = label
    claimed = winner > 0
    if rule != "overwrite":
        claimed &= (resolved == 0) | np.isin(resolved, contenders)
    resolved[claimed] = winner[claimed]
    for label, mask in seeds.items():
        resolved[(resolved == label) & ~mask] = 0
        resolved[mask] = label
    return resolved


@given(
    existing=hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, 6)),
    propagated=st.dictionaries(LABELS, logits, max_size=4),
    running=st.sets(LABELS, max_size=3),
    seeds=st.dictionaries(LABELS, masks, max_size=3),
    rule=st.sampled_from(RULES),
)
def test_boxes_give_what_whole_slices_give(existing, propagated, running, seeds, rule):
    """Also where seeds overlap."""
    expected = plain_resolve(existing, propagated, running, seeds, rule)
    found = resolve_labels(existing, propagated, running, seeds, rule)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


@st.composite
def scenes(draw):
    existing = draw(hnp.arrays(np.uint8, SHAPE, elements=st.integers(0, 6)))
    propagated = draw(st.dictionaries(LABELS, logits, max_size=4))
    running = draw(st.sets(LABELS, max_size=3))
    # What runs was either propagated to this slice, seeded on it, or is absent.
    free = np.ones(SHAPE, bool)
    seeds = {}
    for label, mask in draw(st.dictionaries(LABELS, masks, max_size=2)).items():
        seeds[label] = mask & free
        free &= ~mask
    return existing, propagated, running, seeds


@given(scene=scenes(), rule=st.sampled_from(RULES))
def test_seeds_come_out_as_they_went_in(scene, rule):
    existing, propagated, running, seeds = scene
    before = existing.copy()
    resolved = resolve_labels(existing, propagated, running, seeds, rule)
    np.testing.assert_array_equal(existing, before)
    assert resolved.dtype == existing.dtype
    for label, mask in seeds.items():
        np.testing.assert_array_equal(resolved == label, mask)


@given(scene=scenes())
def test_keep_leaves_the_labels_outside_the_run_alone(scene):
    existing, propagated, running, seeds = scene
    resolved = resolve_labels(existing, propagated, running, seeds, "keep")
    outside = (existing > 0) & ~np.isin(existing, list(running | seeds.keys()))
    for mask in seeds.values():
        outside &= ~mask
    np.testing.assert_array_equal(resolved[outside], existing[outside])


@given(scene=scenes())
def test_overwrite_gives_the_run_all_it_claims_but_seeds(scene):
    existing, propagated, running, seeds = scene
    resolved = resolve_labels(existing, propagated, running, seeds, "overwrite")
    contenders = [label for label in propagated if label in running and label not in seeds]
    claimed = np.zeros(SHAPE, bool)
    for label in contenders:
        claimed |= propagated[label] > 0
    for mask in seeds.values():
        claimed &= ~mask
    assert np.isin(resolved[claimed], contenders).all()


@given(scene=scenes(), rule=st.sampled_from(RULES))
def test_a_running_label_has_no_pixel_but_its_own(scene, rule):
    """Pixels of an earlier run do not stay where the new one says no."""
    existing, propagated, running, seeds = scene
    resolved = resolve_labels(existing, propagated, running, seeds, rule)
    for label in running - seeds.keys():
        held = resolved == label
        assert not held.any() or (propagated[label][held] > 0).all()


@given(scene=scenes())
def test_the_highest_logit_wins_among_the_propagated(scene):
    existing, propagated, running, seeds = scene
    resolved = resolve_labels(existing, propagated, running, seeds, "highest")
    contenders = sorted(propagated.keys() - seeds.keys())
    protected = np.isin(existing, sorted(set(range(1, 7)) - set(contenders) - running))
    for mask in seeds.values():
        protected |= mask
    for label in contenders:
        held = (resolved == label) & (existing != label)
        for other in contenders:
            assert (propagated[label][held] >= propagated[other][held]).all()
        wins = np.all([propagated[label] >= propagated[o] for o in contenders], axis=0)
        free = wins & (propagated[label] > 0) & ~protected & ~np.isin(existing, list(seeds))
        assert (resolved[free] > 0).all()


@given(fields=st.tuples(logits, logits, logits), order=st.permutations([1, 2, 3]), seed=masks)
def test_highest_does_not_depend_on_the_order_of_runs(fields, order, seed):
    known = dict(zip((1, 2, 3), fields, strict=True))
    together = resolve_labels(np.zeros(SHAPE, np.uint8), known, {1, 2, 3}, {9: seed}, "highest")
    plane = np.zeros(SHAPE, np.uint8)
    for n, label in enumerate(order):
        so_far = {k: known[k] for k in sorted(order[: n + 1])}
        plane = resolve_labels(plane, so_far, {label}, {9: seed}, "highest")
    np.testing.assert_array_equal(plane, together)


@pytest.mark.parametrize("rule", RULES)
def test_wide_labels(rule):
    resolved = resolve_labels(np.zeros(SHAPE, np.uint16), {300: np.ones(SHAPE)}, {300}, {}, rule)
    assert (resolved == 300).all()
