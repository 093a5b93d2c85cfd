"""More annotated slices never make a result worse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage as ndi

from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.loading import make_segmenter
from napari_slmsam2.evaluate import AnnotationProtocol, object_extent, seed_volume
from napari_slmsam2.session.session import SegmentationSession

Stack = tuple[np.ndarray, np.ndarray, tuple[float, float, float]]
"""Image, mask and voxel size."""


def tube() -> Stack:
    """A bent tube, a little thinner towards its ends, which are abrupt: no ellipsoid."""
    z, y, x = np.indices((56, 44, 44))
    row, column = 22 + 3 * np.sin(z / 13), 22 + 3 * np.cos(z / 11)
    radius = 5.2 - 0.5 * np.abs(z - 22) / 33
    return noisy(((y - row) ** 2 + (x - column) ** 2 <= radius**2) & (z < 55))


def ball() -> Stack:
    """A ball that drifts: an ellipsoid."""
    z, y, x = np.indices((44, 56, 60))
    return noisy((z - 21) ** 2 + (y - 28) ** 2 + (x - 30 - z / 8) ** 2 <= 18**2)


def noisy(mask: np.ndarray) -> Stack:
    """The mask, a little brighter than its surround."""
    noise = np.random.default_rng(3).normal(0, 0.1, mask.shape)
    return 0.35 + 0.15 * mask + noise, mask, (1.0, 1.0, 1.0)


def block() -> Stack:
    """A boxy object in thick slices that something similar continues at both ends."""
    z, y, x = np.indices((36, 80, 84))
    distance = (y - 40 - z / 6) ** 2 / 0.8 + (x - 42) ** 2
    t = np.abs(z - 17.5) / 8.5
    mask = (distance <= 256 * np.clip(1 - t**6, 0, 1)) & (t < 1)
    similar = (distance <= (17 - 4 * t) ** 2) & (t >= 1) & (t < 2)
    rng = np.random.default_rng(1)
    texture = ndi.gaussian_filter(rng.normal(0, 1, mask.shape), (1, 2, 2))
    image = 0.4 + 0.08 * texture / texture.std() + 0.15 * mask + 0.1 * similar
    blurred = ndi.gaussian_filter(image, (0.3, 0.7, 0.7))
    return blurred + rng.normal(0, 0.03, mask.shape), mask, (3.0, 0.8, 0.8)


def scores(model: str, stack: Stack, *protocols: str) -> list[float]:
    """Dice under every protocol, on the slices that none of them annotates."""
    image, mask, spacing = stack
    volume = Volume(image.astype(np.float32), axis=0, spacing=spacing)
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
@pytest.mark.parametrize("make", [tube, ball, block])
@pytest.mark.parametrize("ends", ["", "-ends"])
def test_three_annotated_slices_are_not_worse_than_one(make, model, ends):
    one, three = scores(model, make(), f"1{ends}", f"3-inner{ends}")
    assert three > one - 0.005, (one, three)
