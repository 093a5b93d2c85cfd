"""Outlines on membranes, and masks that snap to them."""

import numpy as np
import pytest
import torch
from scipy import ndimage as ndi

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.compact import seed_crop
from napari_slmsam2.engine.compact.ridge_snapping import measure_ridge
from napari_slmsam2.engine.compact.ridge_snapping import snap_to_ridge as snap_batch
from napari_slmsam2.engine.propagation.merge import dice

from .test_segmenter import new_session, untrained

N = 60


def disc(radius):
    """Signed distance to a circle, positive inside."""
    row, column = np.indices((N, N)) - (N - 1) / 2
    return (radius - np.hypot(row, column)).astype(np.float32)


def tissue(distance, line, seed=0):
    """The same texture on both sides of an outline of another intensity."""
    rng = np.random.default_rng(seed)
    texture = 0.15 * ndi.gaussian_filter(rng.standard_normal(distance.shape), 1.0)
    on_line = np.exp(-0.5 * (distance / 1.2) ** 2)
    return ((1 - on_line) * (0.6 + texture) + on_line * line).astype(np.float32)


def snap_to_ridge(distance, image, strength):
    """One object as a batch of one."""
    fields = (torch.from_numpy(x)[None] for x in (distance, image))
    return snap_batch(*fields, torch.tensor([strength]))[0].numpy()


@pytest.mark.parametrize(("line", "sign"), [(0.1, -1), (1.1, 1)])
def test_a_membrane_is_a_ridge_and_a_step_is_none(line, sign):
    distance = disc(12)
    assert sign * measure_ridge(tissue(distance, line), distance) > 0.4
    step = np.where(distance > 0, 0.9, 0.2) + np.zeros((N, N), np.float32)
    assert measure_ridge(ndi.gaussian_filter(step, 1.0), distance) == 0.0
    assert measure_ridge(tissue(distance, line), disc(-3)) == 0.0


@pytest.mark.parametrize("line", [0.1, 1.1])
@pytest.mark.parametrize("radius", [10.5, 13.5])
def test_an_outline_comes_to_the_ridge_beside_it(line, radius):
    truth, image, found = disc(12), tissue(disc(12), line), disc(radius)
    for _ in range(6):
        moved = snap_to_ridge(found, image, 0.5 if line > 0.6 else -0.5)
        assert np.abs(moved - found).max() <= 0.5 + 1e-4
        found = moved
    assert dice(found > 0, truth > 0) > 0.97 > dice(disc(radius) > 0, truth > 0)


def test_without_strength_or_core_nothing_moves():
    image = tissue(disc(12), 0.1)
    np.testing.assert_array_equal(snap_to_ridge(disc(10), image, 0.0), disc(10))
    np.testing.assert_array_equal(snap_to_ridge(disc(1.5), image, -0.5), disc(1.5))


def test_a_sweep_stays_in_a_cell_that_widens_and_narrows(monkeypatch):
    radii = 12 + 3 * np.sin(np.arange(16))
    masks = np.stack([disc(radius) > 0 for radius in radii])
    volume = np.stack([tissue(disc(r), 0.15, seed=i) for i, r in enumerate(radii)])

    def swept():
        session = new_session(volume, untrained(feedback=0.0))
        session.add_prompt(SlicePrompt.from_mask(1, 0, masks[0]))
        session.set_extent(1, 0, len(radii) - 1)
        list(session.propagate())
        return dice(session.labels[1:] == 1, masks[1:])

    drawn = swept()
    monkeypatch.setattr(seed_crop, "RIDGE_STRENGTH", 0.0)
    assert drawn > swept() + 0.02
