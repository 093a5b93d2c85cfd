"""Objects that look like examples on a slice."""

from __future__ import annotations

import numpy as np
import pytest

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.engine.features.look_alikes import find_look_alikes

CENTRES = [(16, 16), (16, 48), (16, 80), (48, 16), (48, 48), (48, 64), (80, 20), (80, 70)]
"""Two of them touch."""


def discs(radius=8, inside=1.0, outside=0.0, noise=0.15):
    """A slice with equal discs, a large and a small one, and their label map."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    truth = np.zeros((96, 96), int)
    for number, (row, column) in enumerate(CENTRES, start=1):
        truth[((y - row) ** 2 + (x - column) ** 2 <= radius**2) & (truth == 0)] = number
    shown = truth > 0
    shown |= (y - 45) ** 2 + (x - 90) ** 2 <= 2**2
    return np.where(shown, inside, outside) + noise * rng.normal(size=truth.shape), truth


def overlap(found, mask):
    """The best overlap of a mask with one of the objects found."""
    return max(((found == n) & mask).sum() / ((found == n) | mask).sum() for n in np.unique(found))


@pytest.mark.parametrize(("inside", "outside"), [(1.0, 0.0), (0.0, 1.0), (4000.0, 1000.0)])
def test_one_example_finds_the_others_apart(inside, outside):
    image, truth = discs(inside=inside, outside=outside, noise=0.15 * abs(inside - outside))
    examples = np.where(truth == 1, 7, 0)
    found = find_look_alikes(image, examples)
    assert found.dtype == np.int32
    assert found.max() == len(CENTRES) - 1, "neither the small disc nor the example"
    for number in range(2, len(CENTRES) + 1):
        assert overlap(found, truth == number) > 0.75
    assert not found[examples > 0].any()
    areas = np.bincount(found.ravel())[1:]
    assert (np.diff(areas) <= 0).all()


def test_cells_with_walls_between_them_are_found():
    rng = np.random.default_rng(1)
    truth = np.kron(np.arange(1, 26).reshape(5, 5), np.ones((16, 16), int))
    wall = np.zeros(truth.shape, bool)
    wall[::16], wall[:, ::16] = True, True
    image = wall + 0.1 * rng.normal(size=truth.shape)
    truth[wall] = 0
    found = find_look_alikes(image, np.where(np.isin(truth, (7, 13)), truth, 0))
    rest = [n for n in range(1, 26) if n not in (7, 13)]
    right = [n for n in rest if overlap(found, truth == n) > 0.5]
    assert len(right) >= 20


def test_missing_voxels_and_flat_slices_find_nothing_wrong():
    image, truth = discs()
    image[0, 0] = np.nan
    examples = np.where(truth == 1, 1, 0)
    assert find_look_alikes(image, examples).max() == len(CENTRES) - 1
    flat = find_look_alikes(np.ones_like(image), examples)
    assert flat.max() <= 2


def test_without_an_example_it_is_refused():
    image, truth = discs()
    with pytest.raises(PromptError, match="no example"):
        find_look_alikes(image, np.zeros_like(truth))
