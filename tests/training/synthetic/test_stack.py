from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_slmsam2.core.errors import InputError
from napari_slmsam2.training.synthetic.stack import LabelledStack, make_stack, render_stack

SHAPE = (24, 80, 80)
KINDS = {"anatomy", "blobs", "cells", "tubes", "lesion"}


@pytest.fixture(scope="module")
def stacks() -> list[LabelledStack]:
    return [make_stack(np.random.default_rng(seed), SHAPE) for seed in range(50)]


def present_slices(mask: np.ndarray) -> np.ndarray:
    return np.flatnonzero(mask.any(axis=(1, 2)))


def test_stacks_have_the_promised_types_and_range(stacks: list[LabelledStack]) -> None:
    for stack in stacks:
        assert stack.image.shape == stack.mask.shape == SHAPE
        assert stack.image.dtype == np.float32
        assert stack.mask.dtype == bool
        assert stack.image.min() == 0
        assert stack.image.max() == 1
        assert stack.image.std() > 0.05
        assert 1 <= stack.spacing[0] <= 6
        assert stack.spacing[1:] == (1.0, 1.0)


def test_every_look_is_drawn(stacks: list[LabelledStack]) -> None:
    assert {stack.kind for stack in stacks} == KINDS


def test_targets_keep_the_rules_of_size(stacks: list[LabelledStack]) -> None:
    for stack in stacks:
        areas = stack.mask.sum(axis=(1, 2))
        rows, columns = np.nonzero(stack.mask[areas.argmax()])
        assert areas.max() >= 40
        assert 10 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 90
        assert len(present_slices(stack.mask)) >= 6


def test_most_targets_end_inside_and_some_pass_through(stacks: list[LabelledStack]) -> None:
    inside = []
    for stack in stacks:
        slices = present_slices(stack.mask)
        inside.append(slices[0] >= 4 or slices[-1] <= SHAPE[0] - 5)
    assert 0.6 <= np.mean(inside) <= 0.95


def test_some_targets_have_gaps_or_parts_in_one_slice(stacks: list[LabelledStack]) -> None:
    gaps = [np.ptp(z := present_slices(stack.mask)) + 1 > len(z) for stack in stacks]
    parts = [max(ndimage.label(part)[1] for part in stack.mask) > 1 for stack in stacks]
    assert any(gaps)
    assert not all(parts)
    assert any(parts)


def test_targets_of_one_intensity_can_be_seen(stacks: list[LabelledStack]) -> None:
    differences = []
    for stack in stacks:
        if stack.kind not in ("anatomy", "blobs", "lesion"):
            continue
        wide = ndimage.binary_dilation(stack.mask, np.ones((1, 3, 3)), iterations=4)
        near = ndimage.binary_dilation(stack.mask, np.ones((1, 3, 3)))
        inside, outside = stack.image[stack.mask], stack.image[wide & ~near]
        differences.append(abs(inside.mean() - outside.mean()) / outside.std())
    assert np.median(differences) > 0.5


def test_the_same_state_gives_the_same_stack() -> None:
    first, second = (make_stack(np.random.default_rng(3), SHAPE) for _ in range(2))
    other = make_stack(np.random.default_rng(4), SHAPE)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.mask, second.mask)
    assert (first.spacing, first.kind) == (second.spacing, second.kind)
    assert not np.array_equal(first.image, other.image)


def test_the_smallest_shape_has_room_for_every_look() -> None:
    kinds = {make_stack(np.random.default_rng(seed), (16, 48, 48)).kind for seed in range(40)}
    assert kinds == KINDS


@pytest.mark.parametrize("shape", [(15, 48, 48), (16, 47, 48), (16, 48, 47)])
def test_smaller_shapes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="too small"):
        make_stack(np.random.default_rng(0), shape)


@pytest.fixture
def head() -> np.ndarray:
    """Nested regions with the wide-spread ids of a real label map, shape (12, 64, 72)."""
    z, y, x = np.ogrid[-1:1:12j, -1:1:64j, -1:1:72j]
    radius = np.sqrt(0.3 * z**2 + y**2 + x**2)
    labels = np.zeros(radius.shape, np.int32)
    labels[radius < 0.9] = 3
    labels[radius < 0.6] = 1024
    labels[(radius < 0.5) & (x > 0)] = 41
    return labels


def test_rendering_shows_the_labels_in_ever_new_contrast(head: np.ndarray) -> None:
    brighter = []
    explained = []
    for seed in range(20):
        image = render_stack(np.random.default_rng(seed), head)
        assert image.shape == head.shape
        assert image.dtype == np.float32
        assert image.min() == 0
        assert image.max() == 1
        means = ndimage.mean(image, head, (0, 3, 41, 1024))
        brighter.append(means[2] > means[3])
        explained.append(np.var(means[np.searchsorted((0, 3, 41, 1024), head)]) / image.var())
    assert any(brighter)
    assert not all(brighter)
    assert np.median(explained) > 0.4


def test_rendering_draws_the_contrast_of_targets_and_skips_absent_ones(head: np.ndarray) -> None:
    plain = render_stack(np.random.default_rng(5), head)
    absent = render_stack(np.random.default_rng(5), head, [7, 5000])
    drawn = render_stack(np.random.default_rng(5), head, [41, 7])
    np.testing.assert_array_equal(plain, absent)
    assert not np.array_equal(plain, drawn)


def test_rendering_takes_maps_without_background_and_of_one_label(head: np.ndarray) -> None:
    cropped = head[:, 28:36, 20:52]
    assert cropped.min() > 0
    assert render_stack(np.random.default_rng(0), cropped, [41]).shape == cropped.shape
    assert np.isfinite(render_stack(np.random.default_rng(0), np.zeros_like(head), [0])).all()
