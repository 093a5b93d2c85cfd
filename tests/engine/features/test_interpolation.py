"""Shape-based interpolation: exact on the seeds, plausible between them, safe on odd input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.segmenter import SweepContext
from napari_slmsam2.engine.classical.interpolation import InterpolationSegmenter
from napari_slmsam2.engine.features.interpolation import (
    expected_iou,
    interpolate_masks,
    interpolated_logits,
    resized,
    signed_distance,
)

SHAPE = (80, 90)


def disc(row, column, radius, shape=SHAPE):
    rows, columns = np.indices(shape)
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def dice(a, b):
    return 2 * np.sum(a & b) / (a.sum() + b.sum())


def radius(mask):
    return np.sqrt(mask.sum() / np.pi)


def test_signed_distance_is_half_a_pixel_on_both_sides_of_the_outline():
    mask = np.zeros((5, 9), bool)
    mask[:, 4:] = True
    distance = signed_distance(mask)
    assert distance.dtype == np.float32
    np.testing.assert_allclose(distance[2], np.arange(9) - 3.5)


@pytest.mark.parametrize(("fill", "sign"), [(False, -1), (True, 1)])
def test_signed_distance_without_an_outline_is_finite_and_of_one_sign(fill, sign):
    distance = signed_distance(np.full((4, 3), fill))
    assert np.isfinite(distance).all()
    assert (np.sign(distance) == sign).all()


def test_halfway_between_concentric_discs_is_the_disc_of_mean_radius():
    middle = interpolate_masks(disc(40, 45, 10), disc(40, 45, 24), 0.5) > 0
    assert dice(middle, disc(40, 45, 17)) > 0.98


def test_disc_that_moves_further_than_its_size_keeps_its_size():
    middle = interpolate_masks(disc(20, 15, 6), disc(60, 70, 6), 0.5) > 0
    assert dice(middle, disc(40, 42.5, 6)) > 0.93


def test_parts_move_each_on_its_own_way():
    before = disc(20, 20, 8) | disc(60, 70, 8)
    after = disc(20, 26, 8) | disc(60, 64, 8)
    middle = interpolate_masks(before, after, 0.5) > 0
    assert dice(middle, disc(20, 23, 8) | disc(60, 67, 8)) > 0.97


def test_part_without_partner_fades_and_leaves_the_other_alone():
    before = disc(20, 20, 10) | disc(60, 70, 8)
    after = disc(20, 20, 10)
    areas = []
    for fraction in (0.25, 0.5, 0.75):
        mask = interpolate_masks(before, after, fraction) > 0
        assert dice(mask[:40], after[:40]) == 1.0
        areas.append(mask[40:].sum())
    assert disc(60, 70, 8).sum() >= areas[0] > areas[1] > areas[2] > 0


def test_object_shrinks_like_an_ellipsoid_towards_a_slice_without_it():
    absent = np.zeros(SHAPE, bool)
    for fraction in (0.3, 0.6, 0.9):
        forward = interpolate_masks(disc(40, 45, 20), absent, fraction) > 0
        assert radius(forward) == pytest.approx(20 * np.sqrt(1 - fraction**2), abs=0.6)
        backward = interpolate_masks(absent, disc(40, 45, 20), 1 - fraction) > 0
        np.testing.assert_array_equal(forward, backward)


@given(
    before=arrays(bool, (9, 12)),
    after=arrays(bool, (9, 12)),
    fraction=st.floats(0, 1, allow_nan=False),
)
@settings(max_examples=60, deadline=None)
def test_any_pair_of_masks(before, after, fraction):
    for exact, mask in ((0.0, before), (1.0, after)):
        np.testing.assert_array_equal(interpolate_masks(before, after, exact) > 0, mask)
    field = interpolate_masks(before, after, fraction)
    assert field.shape == before.shape
    assert field.dtype == np.float32
    assert np.isfinite(field).all()
    np.testing.assert_array_equal(interpolate_masks(before, before, fraction) > 0, before)


def test_result_does_not_depend_on_where_in_the_slice_the_object_lies():
    corner = interpolate_masks(disc(12, 12, 8), disc(16, 18, 11), 0.4) > 0
    middle = interpolate_masks(disc(42, 42, 8), disc(46, 48, 11), 0.4) > 0
    np.testing.assert_array_equal(np.roll(corner, (30, 30), (0, 1)), middle)


def test_logits_are_exact_on_seeds_soft_at_the_edge_and_negative_outside():
    masks = {3: disc(40, 45, 10), 7: disc(40, 45, 20)}
    np.testing.assert_array_equal(interpolated_logits(masks, 3) > 0, masks[3])
    logits = interpolated_logits(masks, 5)
    assert logits.dtype == np.float32
    probability = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    soft = (probability > 0.02) & (probability < 0.98)
    assert 0 < soft.sum() < 3 * 2 * np.pi * 16
    for outside in (2, 8):
        assert (interpolated_logits(masks, outside) < 0).all()


def test_logits_need_a_seed():
    with pytest.raises(PromptError, match="needs an annotated slice"):
        interpolated_logits({}, 3)


def bank_of(segmenter, masks):
    bank = MemoryBank(1)
    for index, mask in masks.items():
        image = segmenter.encode_image(np.zeros(SHAPE, np.float32))
        seed = segmenter.encode_seed(image, SlicePrompt.from_mask(1, index, mask), mask.shape)
        np.testing.assert_array_equal(seed.patch.mask(SHAPE), mask)
        bank.add(MemoryEntry(index, True, seed.content))
    return bank


def test_segmenter_follows_the_seeds_and_is_absent_beyond_them():
    segmenter = InterpolationSegmenter()
    masks = {2: disc(40, 45, 10), 6: disc(40, 45, 18), 10: np.zeros(SHAPE, bool)}
    bank = bank_of(segmenter, masks)
    context = SweepContext(14, SHAPE, (1.0, 1.0, 1.0))
    found = {i: segmenter.segment(None, i, 1, [bank], context)[0] for i in (0, 4, 8, 12)}
    assert [found[i].presence for i in (0, 4, 8, 12)] == [0.0, 1.0, 1.0, 0.0]
    assert dice(found[4].patch.mask(SHAPE), disc(40, 45, 15.5)) > 0.97
    assert not found[0].patch.mask(SHAPE).any()
    assert 0.5 < found[4].stability < 1
    assert 0 < found[4].predicted_iou < 1


def test_size_follows_a_round_profile_through_three_seeds():
    def radius_at(z):
        return 24 * np.sqrt(1 - (z / 12) ** 2)

    masks = {z: disc(40, 45, radius_at(z)) for z in (-10, 0, 10)}
    errors, linear_errors = [], []
    for z in (-8, -6, -4, 3, 5, 7):
        truth = disc(40, 45, radius_at(z))
        errors.append(1 - dice(interpolated_logits(masks, z) > 0, truth))
        outer = -10 if z < 0 else 10
        linear = interpolate_masks(masks[0], masks[outer], abs(z) / 10) > 0
        linear_errors.append(1 - dice(linear, truth))
    assert np.mean(errors) < 0.6 * np.mean(linear_errors)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("index", [6, 18])
def test_size_is_round_between_two_seeds(reverse, index):
    """A ball of radius 30, annotated on its equator and on slice 24; a cone would be too small."""
    seeds, true, cone = {0: 30.0, 24: 18.0}, np.sqrt(30**2 - index**2), 30 - index / 2
    if reverse:
        seeds, index = {24 - i: size for i, size in seeds.items()}, 24 - index
    masks = {i: disc(40, 45, size) for i, size in seeds.items()}
    found = radius(interpolated_logits(masks, index) > 0)
    assert abs(found - true) < 0.6 * abs(cone - true)
    assert found <= true + 0.5


def test_each_part_between_two_seeds_has_a_size_of_its_own():
    """A part that stays as it is beside one that becomes much smaller."""
    small = disc(12, 12, 5)
    masks = {0: disc(45, 50, 30) | small, 24: disc(45, 50, 6) | small}
    found = interpolated_logits(masks, 12)[:20, :20] > 0
    np.testing.assert_array_equal(found, small[:20, :20])


def test_a_part_that_ends_is_not_made_round_twice():
    lone, both = disc(40, 20, 12), disc(40, 65, 12)
    found = interpolated_logits({0: lone | both, 24: both}, 12) > 0
    alone = interpolate_masks(lone, np.zeros(SHAPE, bool), 0.5) > 0
    np.testing.assert_array_equal(found, alone | both)


def test_size_stays_between_two_seeds_of_one_size():
    found = interpolated_logits({0: disc(40, 45, 9), 10: disc(40, 45, 9)}, 4) > 0
    np.testing.assert_array_equal(found, disc(40, 45, 9))


def test_size_does_not_look_past_a_slice_without_the_object():
    two = {4: disc(40, 45, 10), 8: disc(40, 45, 20)}
    more = {**two, 0: np.zeros(SHAPE, bool), -4: disc(40, 45, 30), 12: np.zeros(SHAPE, bool)}
    np.testing.assert_array_equal(interpolated_logits(more, 6), interpolated_logits(two, 6))


def test_resized_has_the_area_asked_for():
    distance = signed_distance(disc(40, 45, 12)) + np.linspace(0, 0.01, 90, dtype=np.float32)
    for area in (1, 100, 800):
        assert abs((resized(distance, area) > 0).sum() - area) <= 2
    assert (resized(distance, 0) > 0).sum() == 1


def test_expected_overlap_falls_with_distance_and_with_the_difference_of_the_seeds():
    alike = {0: disc(40, 45, 20), 10: disc(40, 45, 19)}
    different = {0: disc(40, 45, 20), 10: disc(40, 45, 8)}
    assert expected_iou(alike, 0) == 1.0
    assert expected_iou(different, 1) > expected_iou(different, 5)
    assert expected_iou(alike, 5) > expected_iou(different, 5) > 0.3


def test_hundreds_of_parts_are_interpolated_as_a_whole():
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 200, 200)) < 0.02
    field = interpolate_masks(before, after, 0.5)
    assert np.isfinite(field).all()
    np.testing.assert_array_equal(interpolate_masks(before, before, 0.5) > 0, before)
    assert (interpolate_masks(before, np.zeros_like(before), 0.5) > 0).any()
