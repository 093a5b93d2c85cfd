"""Which slices an embedding depends on, and that it is computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.random_weights import TINY, randomise

from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.propagation.slice_encoding import encode_slice, slices_to_encode
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.session.session import SegmentationSession

WINDOW = IntensityWindow(0.0, 1.0)


def test_the_ends_of_the_volume_are_repeated():
    assert slices_to_encode(5, 10, 0) == (5,)
    assert slices_to_encode(5, 10, 1) == (4, 5, 6)
    assert slices_to_encode(0, 10, 1) == (0, 0, 1)
    assert slices_to_encode(9, 10, 2) == (7, 8, 9, 9, 9)
    assert slices_to_encode(0, 1, 1) == (0, 0, 0)


def test_thick_slices_are_read_alone():
    assert slices_to_encode(5, 10, 1, (5.0, 1.0, 1.0)) == (4, 5, 6)
    assert slices_to_encode(5, 10, 1, (10.0, 1.0, 1.0)) == (5, 5, 5)


def adapted(form: str) -> SliceNetwork:
    network = SliceNetwork(TINY.replace(adapter=form, adapter_dim=8))
    randomise(network, 7)
    return network.eval()


def stack(**changes: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    image = np.clip(0.3 + rng.normal(0, 0.1, (9, 24, 20)), 0, 1).astype(np.float32)
    image[:, 6:16, 5:14] += 0.4
    for name, value in changes.items():
        image[int(name.removeprefix("slice_"))] += np.float32(value)
    return image


@pytest.mark.parametrize(("form", "reads"), [("temporal", True), ("dilated", False)])
def test_an_embedding_changes_with_a_neighbour_slice_only_if_it_is_read(form, reads):
    segmenter = NetworkSegmenter(adapted(form), name="adapted", device=torch.device("cpu"))

    def feature(image: np.ndarray) -> torch.Tensor:
        cache = EmbeddingCache(2**30)
        return encode_slice(segmenter, Volume(image, axis=0), WINDOW, 4, cache).feature

    base = feature(stack())
    for neighbour in (3, 5):
        changed = not torch.equal(feature(stack(**{f"slice_{neighbour}": 0.2})), base)
        assert changed == reads
    assert torch.equal(feature(stack(slice_2=0.2, slice_6=0.2)), base)


@pytest.mark.parametrize(("form", "reads"), [("temporal", True), ("dilated", False)])
def test_a_mask_changes_with_a_slice_ahead_only_if_it_is_read(tmp_path, form, reads):
    network = adapted(form)
    path = tmp_path / "adapted.safetensors"
    save_weights(path, network.state_dict(), {"config": network.config.to_dict()})

    def logits(image: np.ndarray, index: int) -> np.ndarray:
        session = SegmentationSession(
            Volume(image, axis=0), model=path, device="cpu", window=WINDOW
        )
        mask = np.zeros((24, 20), bool)
        mask[6:16, 5:14] = True
        session.add_prompt(SlicePrompt.from_mask(1, 4, mask))
        for _ in session.propagate():
            pass
        assert session.encoded_slices == 9
        return session.logits_on_slice(index)[1]

    changed = stack(slice_6=0.3)
    assert np.array_equal(logits(stack(), 5), logits(changed, 5)) != reads
