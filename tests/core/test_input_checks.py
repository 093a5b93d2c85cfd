"""Mistakes in the input that are found before a run."""

from __future__ import annotations

import numpy as np
import pytest

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.core.input_checks import (
    StraySeed,
    check_image,
    check_labels,
    find_stray_seeds,
)
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt
from napari_slmsam2.core.volume import Volume


def seeds_of(areas: dict[tuple[int, int], int]) -> PromptSet:
    prompts = PromptSet()
    for (label, index), area in areas.items():
        mask = np.zeros((50, 50), bool)
        mask.ravel()[:area] = True
        prompts = prompts.with_prompt(SlicePrompt.from_mask(label, index, mask))
    return prompts.with_prompt(SlicePrompt.absent_at(1, 49))


def test_stray_seeds():
    seeds = seeds_of({(1, 4): 1000, (1, 9): 1, (1, 12): 20, (1, 13): 21, (2, 3): 12, (2, 5): 2})
    assert find_stray_seeds(seeds) == (
        StraySeed(1, 9, 1, 1000),
        StraySeed(1, 12, 20, 1000),
        StraySeed(2, 5, 2, 12),
    )


def test_thin_objects_are_not_stray():
    assert find_stray_seeds(seeds_of({(1, 4): 1, (1, 9): 2, (1, 12): 9, (2, 3): 1})) == ()


def test_an_image_is_not_taken_for_labels():
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(-2, 3, (20, 40, 40)), axis=2) + 200
    for image in (rng.integers(0, 4000, (20, 40, 40)), smooth):
        with pytest.raises(VolumeError, match=r"seeds.nii: looks like an image.*exchanged"):
            check_labels(image.astype(np.uint16), "seeds.nii")


@pytest.mark.parametrize("size", [4, 8])
def test_many_labels_are_labels(size):
    cells = np.arange(1, 1 + (40 // size) ** 3).reshape((40 // size,) * 3)
    cells = cells.repeat(size, 0).repeat(size, 1).repeat(size, 2).astype(np.uint32)
    check_labels(cells, "cells")
    one_slice = np.zeros_like(cells)
    one_slice[20] = cells[20]
    check_labels(one_slice, "cells")


def test_single_voxels_are_labels():
    points = np.zeros((40, 40, 40), np.uint16)
    points[20, ::4, ::4] = np.arange(1, 101).reshape(10, 10)
    check_labels(points, "points")


def test_labels_are_not_taken_for_an_image():
    labels = np.zeros((10, 20, 20), np.uint8)
    labels[2:8, 5:15, 5:15] = 3
    seeds = np.zeros_like(labels)
    seeds[4] = labels[4]
    with pytest.raises(VolumeError, match=r"truth\.nii: is a label map, not an image"):
        check_image(Volume(labels, name="truth.nii"), seeds)
    check_image(Volume(labels.astype(np.int16) * 50), seeds)
    check_image(Volume(labels.astype(np.float32)), seeds)
    check_image(Volume(labels), np.zeros_like(seeds))
