"""Batched distances equal those of single masks, up to where they are cut off."""

import numpy as np
import torch

from napari_slmsam2.engine.features.distance import LIMIT, refreshed, signed_distances
from napari_slmsam2.engine.features.interpolation import signed_distance


def masks():
    rng = np.random.default_rng(0)
    rows, columns = np.indices((40, 50))
    return np.stack(
        [
            (rows - 20) ** 2 + (columns - 22) ** 2 < 120,
            rng.random((40, 50)) > 0.5,
            np.zeros((40, 50), bool),
            np.ones((40, 50), bool),
            rows < 1,
        ]
    )


def test_distances_are_exact_near_the_outline():
    found = signed_distances(torch.from_numpy(masks())).numpy()
    for one, mask in zip(found, masks(), strict=True):
        limit = LIMIT - 0.5
        np.testing.assert_allclose(one, np.clip(signed_distance(mask), -limit, limit), atol=1e-5)


def test_refreshing_keeps_fractions_of_a_pixel_and_removes_blur():
    mask = torch.from_numpy(masks()[:1])
    exact = signed_distances(mask)
    blurred = 0.6 * exact + 0.2
    found = refreshed(blurred, exact)
    near = exact.abs() <= 1.5
    torch.testing.assert_close(found[near], blurred[near])
    torch.testing.assert_close(found[~near], exact[~near])
