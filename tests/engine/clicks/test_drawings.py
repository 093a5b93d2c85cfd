"""Lassos and scribbles: with the method for models without a prompt encoder, and as clicks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage as ndi
from skimage.draw import ellipse

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt
from napari_slmsam2.engine.clicks.as_clicks import as_clicks
from napari_slmsam2.engine.clicks.segment import mask_from_prompt
from napari_slmsam2.engine.propagation.merge import dice

SHAPE = (80, 100)


def scene(*centres: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Bright ellipses on a dark slice, and the mask of the first one."""
    rng = np.random.default_rng(0)
    image = np.full(SHAPE, 0.3, np.float32)
    truth = np.zeros(SHAPE, bool)
    for number, centre in enumerate(centres):
        place = ellipse(*centre, 14, 22, shape=SHAPE)
        image[place] = 0.7
        if number == 0:
            truth[place] = True
    return np.clip(image + 0.04 * rng.normal(size=SHAPE), 0, 1).astype(np.float32), truth


def rough(centre: tuple[float, float], factor: float, off: float = 0.0) -> np.ndarray:
    """Corners of an ellipse that is somewhat larger or smaller, and beside."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rows = centre[0] + off + factor * 14 * np.sin(angles)
    return np.column_stack([rows, centre[1] + factor * 22 * np.cos(angles)])


@pytest.mark.parametrize(("factor", "off"), [(1.15, 0), (0.85, 0), (1.0, 2.0)])
def test_a_rough_lasso_snaps_to_the_object(factor, off):
    image, truth = scene((40, 50))
    prompt = SlicePrompt.from_lasso(1, 0, rough((40, 50), factor, off))
    assert dice(mask_from_prompt(image, prompt), truth) > 0.96


def test_a_lasso_keeps_touching_neighbours_out():
    image, truth = scene((40, 30), (40, 70))
    found = mask_from_prompt(image, SlicePrompt.from_lasso(1, 0, rough((40, 30), 1.05)))
    assert dice(found, truth) > 0.93


def test_clicks_correct_a_lasso():
    image, _ = scene((40, 50))
    prompt = SlicePrompt.from_lasso(1, 0, rough((40, 50), 1.0))
    found = mask_from_prompt(image, prompt.refine([(40, 69)], [0]))
    assert not found[40, 69]
    assert found[40, 50]


@pytest.mark.parametrize(("click", "inside"), [((34, 50), 0), ((14, 50), 1), ((40, 69), 0)])
def test_a_click_leaves_a_lasso_unchanged_elsewhere(click, inside):
    image, truth = scene((40, 50))
    prompt = SlicePrompt.from_lasso(1, 0, rough((40, 50), 1.1))
    first = mask_from_prompt(image, prompt)
    found = mask_from_prompt(image, prompt.refine([click], [inside]))
    assert found[click] == inside
    changed = first ^ found
    assert (first | found if inside else first & found)[changed].all() == bool(inside)
    parts, _ = ndi.label(changed)
    assert (parts[changed] == parts[click]).all(), "only where the click is"
    assert dice(found, truth) > 0.8


def test_a_scribble_finds_the_object_and_contains_its_strokes():
    image, truth = scene((40, 50))
    stroke = np.array([(40, column) for column in range(38, 62)])
    found = mask_from_prompt(image, SlicePrompt.from_scribble(1, 0, stroke))
    assert found[tuple(stroke.T)].all()
    assert dice(found, truth) > 0.93


def test_a_stroke_outside_removes_what_it_covers():
    image, truth = scene((40, 30), (40, 70))
    inside = np.array([(40, column) for column in range(18, 40)])
    outside = np.array([(row, 65) for row in range(30, 50)])
    pixels, labels = np.concatenate([inside, outside]), np.r_[np.ones(22), np.zeros(20)]
    found = mask_from_prompt(image, SlicePrompt.from_scribble(1, 0, pixels, labels))
    assert not found[:, 56:].any()
    assert dice(found, truth) > 0.8


def test_large_slices_are_segmented_on_a_coarser_grid():
    image, truth = (np.kron(x, np.ones((5, 5), x.dtype)) for x in scene((40, 50)))
    prompt = SlicePrompt.from_lasso(1, 0, 5 * rough((40, 50), 1.1) + 2)
    assert dice(mask_from_prompt(image, prompt), truth) > 0.95


def test_what_cannot_be_read_is_refused():
    image, _ = scene((40, 50))
    with pytest.raises(PromptError, match="encloses nothing"):
        SlicePrompt.from_lasso(1, 0, [(1, 1), (5, 5)])
    with pytest.raises(PromptError, match="no pixel"):
        SlicePrompt.from_scribble(1, 0, [])
    with pytest.raises(PromptError, match="all outside the object"):
        mask_from_prompt(image, SlicePrompt.from_scribble(1, 0, [(1, 1)], [0]))
    far = SlicePrompt.from_lasso(1, 0, np.array([(200, 1), (210, 1), (210, 9)]))
    with pytest.raises(PromptError, match="the lasso lies outside the slice"):
        PromptSet().with_prompt(far).check(3, SHAPE)
    with pytest.raises(PromptError, match="a point lies outside the slice"):
        PromptSet().with_prompt(SlicePrompt.from_scribble(1, 0, [(99, 1)])).check(3, SHAPE)


def test_a_refined_prompt_keeps_everything_that_was_drawn():
    first = SlicePrompt.from_lasso(1, 0, rough((40, 50), 1.0))
    second = first.with_scribble([(40, 50), (40, 51)]).answered(np.ones(SHAPE, bool))
    third = second.refine([(3, 3)], [0])
    assert third.mask is None
    assert third.lasso is first.lasso
    assert third.scribble is second.scribble
    assert third.previous.previous.lasso is first.lasso
    assert first.previous is None


def test_as_clicks_a_lasso_is_a_box_with_a_point_and_strokes_are_points_along_them():
    stroke = [(40, column) for column in range(40, 61)]
    away = [(5, 5), (6, 6)]
    prompt = SlicePrompt.from_lasso(1, 0, rough((40, 50), 1.0))
    prompt = prompt.with_scribble(stroke + away, [1] * 21 + [0] * 2).refine([(2, 90)], [0])
    clicks = as_clicks(prompt, SHAPE)
    assert clicks.lasso is clicks.scribble is None
    np.testing.assert_allclose(clicks.box, (26, 28, 54, 72), atol=1.5)
    inside = clicks.points[clicks.point_labels == 1]
    assert {(40, 42), (40, 50), (40, 58)} <= {tuple(p) for p in inside.tolist()}
    outside = {tuple(p) for p in clicks.points[clicks.point_labels == 0].tolist()}
    assert outside == {(2, 90), (5, 5), (6, 6)}
    plain = SlicePrompt.from_points(1, 0, [(1, 1)])
    assert as_clicks(plain, SHAPE) is plain
