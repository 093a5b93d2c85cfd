"""More annotated slices never make a result worse."""

from __future__ import annotations

import numpy as np
import pytest

from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.loading import make_segmenter
from napari_slmsam2.evaluate import AnnotationProtocol, object_extent, seed_volume
from napari_slmsam2.session.session import SegmentationSession


def tube() -> np.ndarray:
    """A bent tube, a little thinner towards its ends, which are abrupt: no ellipsoid."""
    z, y, x = np.indices((56, 44, 44))
    row, column = 22 + 3 * np.sin(z / 13), 22 + 3 * np.cos(z / 11)
    radius = 5.2 - 0.5 * np.abs(z - 22) / 33
    return ((y - row) ** 2 + (x - column) ** 2 <= radius**2) & (z < 55)


def ball() -> np.ndarray:
    """A ball that drifts: an ellipsoid."""
    z, y, x = np.indices((44, 56, 60))
    return (z - 21) ** 2 + (y - 28) ** 2 + (x - 30 - z / 8) ** 2 <= 18**2


def scores(model: str, mask: np.ndarray, *protocols: str) -> list[float]:
    """Dice under every protocol, on the slices that none of them annotates."""
    noise = np.random.default_rng(3).normal(0, 0.1, mask.shape)
    volume = Volume((0.35 + 0.15 * mask + noise).astype(np.float32), axis=0)
    ready = make_segmenter(model, device="cpu")
    results, annotated = [], set()
    for name in protocols:
        protocol = AnnotationProtocol.parse(name)
        seeds = protocol.choose_seeds(mask, 0)
        annotated.update(seeds)
        session = SegmentationSession(volume)
        session.use_model(ready)
        session.add_seed_volume(seed_volume(mask.astype(np.uint8), {1: seeds}, 0))
        if protocol.ends:
            session.set_extent(1, *object_extent(mask, 0))
        list(session.propagate())
        results.append(session.labels == 1)
    rest = [i for i in range(len(mask)) if i not in annotated]
    return [
        float(2 * (found[rest] & mask[rest]).sum() / (found[rest].sum() + mask[rest].sum()))
        for found in results
    ]


@pytest.mark.parametrize("model", ["compact", "flow"])
@pytest.mark.parametrize("make", [tube, ball])
@pytest.mark.parametrize("ends", ["", "-ends"])
def test_three_annotated_slices_are_not_worse_than_one(make, model, ends):
    one, three = scores(model, make(), f"1{ends}", f"3-inner{ends}")
    assert three > one - 0.005
