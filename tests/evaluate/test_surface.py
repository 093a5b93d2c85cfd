"""Surface distances against hand-made cases and a slow, independent computation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist
from skimage.measure import marching_cubes, mesh_surface_area

from napari_slmsam2.evaluate.surface import SurfacePair, extract_surface

SPACINGS = st.tuples(*[st.sampled_from([0.5, 1.0, 1.7, 5.0])] * 3)


def score(first, second, spacing, tolerance, keep=None, axis=0):
    pair = SurfacePair.of(
        extract_surface(first, spacing), extract_surface(second, spacing), spacing
    )
    keep = np.ones(first.shape[axis], bool) if keep is None else keep
    return pair.score(tolerance, keep, axis)


def slab(first, last, shape=(12, 6, 6)):
    mask = np.zeros(shape, bool)
    mask[first : last + 1] = True
    return mask


def slow_elements(mask, spacing):
    """Corners and areas one by one; a mask and its complement have the same surface."""
    padded = np.pad(mask, 1)
    points, areas = [], []
    for corner in itertools.product(*(range(n + 1) for n in mask.shape)):
        cube = padded[tuple(slice(c, c + 2) for c in corner)].astype(np.float32)
        if 0 < cube.sum() < 8:
            sides = []
            for side in (cube, 1 - cube):
                vertices, faces, _, _ = marching_cubes(
                    side, 0.5, spacing=spacing, method="lorensen"
                )
                sides.append(mesh_surface_area(vertices, faces))
            points.append(np.multiply(corner, spacing))
            areas.append(min(sides))
    return np.array(points), np.array(areas)


def slow_scores(first, second, spacing, tolerance):
    (points_a, areas_a), (points_b, areas_b) = (slow_elements(m, spacing) for m in (first, second))
    distances = cdist(points_a, points_b)
    sides = [(distances.min(axis=1), areas_a), (distances.min(axis=0), areas_b)]
    area = areas_a.sum() + areas_b.sum()
    nsd = sum(w[d <= tolerance + 1e-9].sum() for d, w in sides) / area
    hd95 = max(
        min(t for t in d if w[d <= t + 1e-9].sum() >= 0.95 * w.sum() - 1e-9) for d, w in sides
    )
    return nsd, hd95, sum((d * w).sum() for d, w in sides) / area


@settings(max_examples=40, deadline=None)
@given(
    masks=hnp.arrays(bool, (2, 3, 4, 4)),
    spacing=SPACINGS,
    tolerance=st.sampled_from([0.0, 0.5, 1.0, 1.7, 3.0]),
)
def test_scores_equal_the_slow_computation(masks, spacing, tolerance):
    assume(masks[0].any() and masks[1].any())
    found = score(*masks, spacing, tolerance)
    np.testing.assert_allclose(
        [found.nsd, found.hd95, found.assd],
        slow_scores(*masks, spacing, tolerance),
        rtol=1e-6,
        atol=1e-9,
    )


def test_area_of_a_ball_is_that_of_its_mesh():
    spacing = (2.0, 1.0, 0.5)
    grid = np.indices((20, 40, 80)) * np.reshape(spacing, (3, 1, 1, 1))
    ball = ((grid - 20) ** 2).sum(axis=0) < 15**2
    vertices, faces, _, _ = marching_cubes(
        np.pad(ball, 1).astype(np.float32), 0.5, spacing=spacing, method="lorensen"
    )
    total = extract_surface(ball, spacing).areas.sum()
    assert total == pytest.approx(mesh_surface_area(vertices, faces), rel=1e-5)
    assert total == pytest.approx(4 * np.pi * 15**2, rel=0.2)


def test_a_wide_slab_moved_along_a_coarse_axis():
    shape = (12, 60, 60)
    scores = score(slab(3, 6, shape), slab(4, 7, shape), (5.0, 1.0, 1.0), 4.9)
    assert scores.hd95 == pytest.approx(5.0)
    # The wide faces of both slabs are 5 mm off, the sides are mostly shared.
    assert 0.3 < scores.nsd < 0.5
    assert score(slab(3, 6, shape), slab(4, 7, shape), (5.0, 1.0, 1.0), 5.0).nsd == 1


def test_identical_masks_also_at_the_edge_of_the_volume():
    mask = slab(0, 11)
    scores = score(mask, mask, (3.0, 1.0, 1.0), 0.0)
    assert (scores.nsd, scores.hd95, scores.assd) == (1, 0, 0)


def test_scores_do_not_depend_on_the_order_of_the_masks():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 6, 7, 8)) < 0.2
    assert score(first, second, (2.0, 1.0, 1.0), 1.0) == score(second, first, (2.0, 1.0, 1.0), 1.0)


def test_empty_masks():
    empty, full = np.zeros((12, 6, 6), bool), slab(3, 6)
    for first, second in ((empty, full), (full, empty)):
        scores = score(first, second, (1.0, 1.0, 1.0), 2.0)
        assert scores.nsd == 0
        assert np.isnan([scores.hd95, scores.assd]).all()
    nothing = score(empty, empty, (1.0, 1.0, 1.0), 2.0)
    assert np.isnan([nothing.nsd, nothing.hd95, nothing.assd]).all()


def test_an_error_on_excluded_slices_alone_does_not_count():
    reference = slab(2, 9)
    predicted = reference.copy()
    predicted[4, 2:4, 2:4] = False
    keep = np.ones(12, bool)
    assert score(predicted, reference, (1.0, 1.0, 1.0), 0.0, keep).nsd < 1
    keep[3:6] = False
    assert score(predicted, reference, (1.0, 1.0, 1.0), 0.0, keep).nsd == 1


def test_a_surface_between_a_kept_and_an_excluded_slice_counts_by_half():
    surface = extract_surface(slab(3, 6), (1.0, 1.0, 1.0))
    top = surface.areas[surface.corners[:, 0] == 3].sum()
    far = slab(11, 11)
    pair = SurfacePair.of(surface, extract_surface(far, (1.0, 1.0, 1.0)), (1.0, 1.0, 1.0))
    keep = np.zeros(12, bool)
    keep[2] = True
    # Only the first face of the slab lies beside slice 2, 8 slices before the other mask's.
    assert pair.score(0.0, keep, 0).assd == pytest.approx(8)
    assert top > 0
