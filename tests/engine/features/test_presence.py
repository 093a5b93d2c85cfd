"""Appearance and presence: judged object by object, whatever else is in the batch."""

import numpy as np
import pytest
import torch

from napari_slmsam2.engine.features.appearance import Appearance
from napari_slmsam2.engine.features.presence import AppearanceFeatures


def disc(radius):
    rows, columns = np.indices((50, 50)) - 25.0
    return torch.from_numpy((radius - np.hypot(rows, columns)).astype(np.float32))


def objects():
    distances = torch.stack([disc(10), disc(4), disc(-1)])
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, (3, 50, 50)))
    return torch.where(distances > 0, 0.8, 0.3) + noise.float(), distances


def test_an_object_brighter_than_its_surround_is_separable_from_it():
    images, distances = objects()
    appearance = Appearance.measure(images, distances, 12.0)
    assert appearance.mean[0] == pytest.approx(0.8, abs=0.02)
    assert appearance.deviation[0] == pytest.approx(0.05, abs=0.01)
    assert (appearance.separability[:2] > 0.8).all()
    assert (appearance.mean_log_ratio(images, distances > 0)[:2] > 2).all()
    assert (appearance.mean_log_ratio(images, distances < -2)[:2] < -2).all()
    assert appearance.similarity(appearance) == pytest.approx(np.ones(3), abs=1e-5)


def measured(chosen):
    images, distances = (x[chosen] for x in objects())
    n = len(images)
    seed = Appearance.measure(images, distances, 12.0)
    return AppearanceFeatures.measure(
        images,
        0.1 * images,
        distances,
        appearance=seed,
        log_likelihood=torch.ones(n),
        area=torch.full((n,), 300.0),
        travel=torch.full((n,), 0.5),
        zoom=torch.ones(n),
        ring=12.0,
    )


def test_features_do_not_depend_on_the_rest_of_the_batch():
    together = torch.stack(list(measured(slice(None))))
    for i in range(3):
        alone = torch.stack(list(measured(slice(i, i + 1))))
        torch.testing.assert_close(alone[:, 0], together[:, i], atol=1e-5, rtol=0)
    assert torch.isfinite(together).all()


def features(*values):
    return AppearanceFeatures(*(torch.tensor([v]) for v in values))


def test_presence_falls_with_distance_and_with_a_change_of_appearance():
    near = features(0.1, 1.5, 0.0, 0.98, 0.1, 0.0, 0.8, 0.0, 0.04)
    far = features(2.5, 1.5, 0.0, 0.98, 0.1, 0.0, 0.8, 0.0, 0.04)
    unlike = features(0.1, -1.5, -3.0, 0.4, 3.0, 0.0, 0.8, -0.4, 0.3)
    assert near.presence() > 0.8
    assert near.presence() > far.presence()
    assert unlike.presence() < 0.5
    assert near.predicted_iou() > max(far.predicted_iou(), unlike.predicted_iou())
