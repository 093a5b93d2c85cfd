"""A tiny network of random weights, and a volume for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter

from ..random_weights import randomise

TINY = ModelConfig(
    image_size=64,
    embed_dim=16,
    stages=(1, 1, 2, 1),
    global_attention_blocks=(3,),
    attention_layers=1,
    feedforward_dim=64,
    decoder_mlp_dim=64,
    iou_head_dim=32,
    short_memory_slices=2,
)


@pytest.fixture(scope="session")
def tiny_network() -> SliceNetwork:
    """What it remembers matters: labels with other seeds get other masks."""
    network = SliceNetwork(TINY)
    randomise(network, 1)
    for name, parameter in network.named_parameters():
        if "memory" in name and parameter.ndim >= 2:
            parameter.data *= 20
    return network.eval()


@pytest.fixture
def make_segmenter(tiny_network):
    """A segmenter on the CPU in float32."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def make(**options) -> NetworkSegmenter:
        options = {"name": "tiny", "device": torch.device("cpu"), **options}
        return NetworkSegmenter(tiny_network, **options)

    yield make
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def textured() -> Volume:
    """A bright ellipse that moves through 46 textured slices of 36 x 30 pixels."""
    rng = np.random.default_rng(5)
    z, y, x = np.meshgrid(np.arange(46), np.arange(36), np.arange(30), indexing="ij")
    inside = ((y - 18 - 4 * np.sin(z / 7)) / 8) ** 2 + ((x - 15 - z / 12) / 6) ** 2 < 1
    image = np.clip(0.3 + 0.4 * inside + rng.normal(0, 0.08, z.shape), 0, 1)
    return Volume(image.astype(np.float32))
