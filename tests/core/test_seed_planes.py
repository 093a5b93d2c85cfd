"""On which planes seeds were drawn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from napari_slmsam2.core.errors import SlmSam2Warning
from napari_slmsam2.core.seed_planes import find_seed_planes, warn_of_other_planes


def ball(shape=(40, 40, 40), centre=(20, 20, 20), radii=(14, 12, 13)) -> np.ndarray:
    grid = np.indices(shape)
    parts = zip(grid, centre, radii, strict=True)
    return (sum(((g - c) / r) ** 2 for g, c, r in parts) < 1).astype(np.uint8)


def on_planes(axis, indices, mask, label=1) -> np.ndarray:
    seeds = np.zeros_like(mask)
    for index in indices:
        where = tuple(index if a == axis else slice(None) for a in range(3))
        seeds[where] = label * mask[where]
    return seeds


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("indices", [[20], [14, 20, 26], [10, 13, 16, 19, 22, 25, 28], [19, 20]])
def test_drawn_slices_determine_the_axis(axis, indices):
    planes = find_seed_planes(on_planes(axis, indices, ball()))
    assert planes.axis == axis
    assert planes.counts[axis] == len(indices)
    assert f"{len(indices)} plane" in planes.reason
    assert planes.contradiction(axis) is None
    assert f"Choose axis {axis}" in planes.contradiction((axis + 1) % 3)


def test_small_objects_on_many_slices():
    """More slices than the object is wide."""
    small = ball(radii=(20, 3, 3))
    assert find_seed_planes(on_planes(0, range(1, 39, 3), small)).axis == 0


def test_labels_on_different_slices_of_one_axis():
    one = on_planes(2, [15, 24], ball())
    two = on_planes(2, [8], ball(centre=(8, 8, 8), radii=(5, 5, 5)), label=2)
    assert find_seed_planes(np.maximum(one, two)).axis == 2


def test_a_stray_voxel_does_not_change_the_axis():
    seeds = on_planes(1, [20], ball())
    seeds[2, 25, 3] = 1
    assert find_seed_planes(seeds).axis == 1


def test_seeds_on_the_fine_axis_of_thick_slices():
    """One coronal slice of a scan of twelve thick axial ones."""
    thick = ball((40, 40, 12), (20, 20, 6), (13, 13, 5))
    assert find_seed_planes(on_planes(1, [20], thick)).axis == 1


@pytest.mark.parametrize("shape", [ball(), ball(radii=(4, 13, 13)), ball(radii=(19, 6, 2.5))])
def test_complete_label_maps_determine_nothing(shape):
    planes = find_seed_planes(shape)
    assert planes.axis is None
    assert not planes.is_mixed
    assert all(planes.contradiction(axis) is None for axis in range(3))


def test_a_dense_map_of_many_labels_determines_nothing():
    rng = np.random.default_rng(0)
    dense = rng.integers(0, 60, (8, 4, 4)).repeat(5, 0).repeat(10, 1).repeat(10, 2)
    planes = find_seed_planes(dense)
    assert (planes.axis, planes.is_mixed) == (None, False)


def test_thin_shells_are_no_drawn_planes():
    outer, inner = ball(), ball(radii=(13.4, 11.4, 12.4))
    planes = find_seed_planes(outer - inner)
    assert (planes.axis, planes.is_mixed) == (None, False)


@pytest.mark.parametrize("voxels", [[(3, 4, 5)], [(3, 4, 5), (3, 4, 9)]])
def test_single_voxels_determine_nothing(voxels):
    seeds = np.zeros((20, 20, 20), np.uint16)
    for voxel in voxels:
        seeds[voxel] = 700
    planes = find_seed_planes(seeds)
    assert (planes.axis, planes.is_mixed) == (None, False)


def test_no_seeds_at_all():
    planes = find_seed_planes(np.zeros((5, 6, 7), np.uint8))
    assert (planes.axis, planes.counts, planes.is_mixed) == (None, (0, 0, 0), False)


def test_one_label_on_orthogonal_planes():
    seeds = on_planes(0, [20], ball()) | on_planes(1, [20], ball()) | on_planes(2, [20], ball())
    planes = find_seed_planes(seeds)
    assert planes.axis is None
    assert planes.is_mixed
    assert "label 1 on several" in planes.contradiction(0)


def test_labels_on_planes_of_different_axes():
    one = on_planes(0, [10], ball(centre=(10, 10, 10), radii=(8, 8, 8)))
    two = on_planes(1, [30], ball(centre=(30, 30, 30), radii=(8, 8, 8)), label=2)
    planes = find_seed_planes(one + two)
    assert planes.is_mixed
    assert "label 1 on axis 0, label 2 on axis 1" in planes.contradiction(2)


def test_the_warning():
    seeds = on_planes(1, [20], ball())
    with pytest.warns(
        SlmSam2Warning, match=r"drawn on 1 plane of axis 1.*thin lines on \d+ slices"
    ):
        warn_of_other_planes(seeds, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_planes(seeds, 1)
