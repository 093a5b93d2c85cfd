"""The annotated slices of benchmarks."""

from __future__ import annotations

import numpy as np
import pytest

from napari_slmsam2.core.errors import ConfigError, PromptError
from napari_slmsam2.evaluate.protocol import (
    PROTOCOLS,
    AnnotationProtocol,
    choose_seeds,
    largest_slice,
    object_extent,
    seed_volume,
)


def stack(areas, axis=0):
    """A mask with that many pixels on the slices along an axis."""
    mask = np.zeros((len(areas), 10, 10), bool)
    for index, area in enumerate(areas):
        mask[index].flat[:area] = True
    return np.moveaxis(mask, 0, axis)


AREAS = [0, 5, 20, 40, 70, 100, 90, 60, 30, 19, 0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_seeds_by_hand(axis):
    mask = stack(AREAS, axis)
    assert largest_slice(mask, axis) == 5
    assert choose_seeds(mask, axis, 1) == (5,)
    assert choose_seeds(mask, axis, 3) == (2, 5, 8)
    assert choose_seeds(mask, axis, 5) == (2, 3, 5, 6, 8)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_inner_seeds_are_at_shares_of_the_extent_on_slices_with_the_object(axis):
    protocol = AnnotationProtocol.parse("3-inner")
    assert protocol.choose_seeds(stack(AREAS, axis), axis) == (3, 5, 7)
    assert protocol.choose_seeds(stack([0, 5, 5, 0, 0, 0, 0, 0, 5, 5, 5, 5], axis), axis) == (
        2,
        8,
        9,
    )
    assert protocol.choose_seeds(stack([0, 7], axis), axis) == (1,)
    assert AnnotationProtocol.parse("3").choose_seeds(stack(AREAS, axis), axis) == (2, 5, 8)


def test_seeds_that_coincide_are_given_once():
    assert choose_seeds(stack([0, 0, 50, 0]), 0, 5) == (2,)
    assert choose_seeds(stack([90, 50, 30]), 0, 3) == (0, 2)


def test_a_midway_seed_is_never_an_empty_slice():
    mask = stack([30, 0, 0, 0, 0, 35, 40, 20])
    seeds = choose_seeds(mask, 0, 5)
    assert seeds == (0, 5, 6, 7)
    assert all(mask[i].any() for i in seeds)


def test_seed_volume_holds_each_label_on_its_own_seeds_only():
    labels = np.zeros((4, 5, 6), np.uint16)
    labels[:, :2], labels[:, 3:] = 7, 300
    seeds = seed_volume(labels, {7: [1], 300: (0, 1)}, axis=0)
    assert seeds.dtype == labels.dtype
    np.testing.assert_array_equal(seeds[1], labels[1])
    np.testing.assert_array_equal(seeds[0], np.where(labels[0] == 300, 300, 0))
    assert not seeds[2:].any()


def test_protocols_read_back_from_their_names():
    names = ["1", "1-ends", "3", "3-ends", "3-inner", "3-inner-ends", "5", "5-ends"]
    assert [str(p) for p in PROTOCOLS] == names
    assert tuple(AnnotationProtocol.parse(str(p)) for p in PROTOCOLS) == PROTOCOLS
    assert AnnotationProtocol.parse("3-ends") == AnnotationProtocol(3, ends=True)
    with pytest.raises(ConfigError, match=r"expected 1 \| 1-ends \| 3.*found '2-ends'"):
        AnnotationProtocol.parse("2-ends")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_extent_reaches_over_gaps(axis):
    assert object_extent(stack([0, 1, 40, 0, 3, 0], axis), axis) == (1, 4)
    with pytest.raises(PromptError, match="no voxels"):
        object_extent(np.zeros((3, 3, 3), bool), axis)


def test_bad_requests():
    with pytest.raises(ConfigError, match="expected 1, 3 or 5; found 2"):
        choose_seeds(stack(AREAS), 0, 2)
    with pytest.raises(PromptError, match="no voxels"):
        choose_seeds(np.zeros((3, 3, 3), bool), 0, 1)
    with pytest.raises(PromptError, match="label 4"):
        seed_volume(np.zeros((3, 3, 3), np.uint8), {4: [1]}, 0)
