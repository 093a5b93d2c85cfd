"""Sizes, key names, fusion and precision of the networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import ModelConfig, sam2_config, slm_sam2_config
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.reference_order import ReferenceOrder
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter

from ..random_weights import randomise
from .conftest import TINY


@pytest.mark.parametrize(
    ("trunk", "millions"),
    [("tiny", 38.96), ("small", 46.06), ("base_plus", 80.85), ("large", 224.43)],
)
def test_trunks_have_the_published_size(trunk, millions):
    network = SliceNetwork(sam2_config(trunk))
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.02)


def test_slm_sam2_has_the_published_keys():
    plain = SliceNetwork(sam2_config("tiny")).state_dict()
    slm = SliceNetwork(slm_sam2_config("tiny"))
    new = slm.state_dict().keys() - plain.keys()
    assert len(plain) == 471
    assert len(slm.state_dict()) == 596
    assert sum(key.startswith("recent_memory_attention.") for key in new) == 106
    assert sum(key.startswith("recent_memory_fuser.layers.") for key in new) == 18
    assert "rec_maskmem_tpos_enc" in new
    assert sum(p.numel() for p in slm.parameters()) == 45_963_522


def walk_logits(network, volume, **options):
    segmenter = NetworkSegmenter(network, name="x", device=torch.device("cpu"), **options)
    walk = ReferenceOrder(
        segmenter, lambda i: segmenter.encode_image(volume[i]), len(volume), volume.shape[1:]
    )
    mask = np.zeros(volume.shape[1:], bool)
    mask[20:50, 20:42] = True
    walk.add_prompt(SlicePrompt.from_mask(1, 4, mask))
    return np.stack([w.logits[1] for w in walk.walk(4)])


def test_closed_gate_is_sam2(sam2_network, volume):
    gated = SliceNetwork(ModelConfig(**TINY, short_memory_slices=1, fusion="gate"))
    randomise(gated, 9)
    gated.load_state_dict(sam2_network.state_dict(), strict=False)
    torch.nn.init.zeros_(gated.recent_memory_gate.weight)
    torch.nn.init.zeros_(gated.recent_memory_gate.bias)
    volume = volume[:14]
    expected = walk_logits(sam2_network, volume)
    np.testing.assert_array_equal(walk_logits(gated, volume), expected)
    torch.nn.init.ones_(gated.recent_memory_gate.bias)
    assert np.abs(walk_logits(gated, volume) - expected).max() > 0.1


def test_short_memory_matters_and_reads_as_many_slices_as_told(volume):
    volume = volume[:14]
    logits = {}
    for n in (1, 3):
        network = SliceNetwork(ModelConfig(**TINY, short_memory_slices=n))
        randomise(network, 9)
        logits[n] = walk_logits(network, volume)
    np.testing.assert_array_equal(logits[1][:2], logits[3][:2])
    assert np.abs(logits[1][2:] - logits[3][2:]).max() > 1e-3


def test_own_time_table_is_read_only_when_asked_for(volume):
    volume = volume[:10]
    logits = {}
    for rows in (None, 7):
        for scale in (0.0, 1.0):
            network = SliceNetwork(ModelConfig(**TINY, short_memory_slices=2, short_time_rows=rows))
            randomise(network, 9)
            network.rec_maskmem_tpos_enc.data *= scale
            logits[rows, scale] = walk_logits(network, volume)
    np.testing.assert_array_equal(logits[None, 0.0], logits[None, 1.0])
    assert np.abs(logits[7, 0.0] - logits[7, 1.0]).max() > 1e-3


def test_compact_network_runs(volume):
    network = SliceNetwork(
        ModelConfig(
            image_size=64,
            embed_dim=8,
            stages=(1, 1, 2, 1),
            global_attention_blocks=(3,),
            model_dim=64,
            memory_dim=16,
            attention_layers=1,
            feedforward_dim=64,
            decoder_heads=2,
            decoder_mlp_dim=64,
            iou_head_dim=32,
            mask_channels=8,
            memory_slices=4,
            max_pointers=4,
            short_memory_slices=1,
        )
    )
    randomise(network, 1)
    assert sum(p.numel() for p in network.parameters()) < 1e6
    assert np.isfinite(walk_logits(network, volume[:10])).all()


def test_bfloat16_and_pooled_memory_stay_close(volume):
    """Half precision changes few pixels; pooling averages neighbours, so it stays close too."""
    network = SliceNetwork(ModelConfig(**TINY))
    randomise(network, 3)
    volume = volume[:16]
    exact = walk_logits(network, volume) > 0
    half = walk_logits(network, volume, dtype=torch.bfloat16) > 0
    network.pool_memory(2)
    pooled = walk_logits(network, volume) > 0
    assert dice(half, exact) > 0.97
    assert dice(pooled, exact) > 0.9
    assert (pooled != exact).any()


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def test_one_set_of_weights_serves_every_input_size(sam2_network, volume):
    smaller = SliceNetwork(sam2_network.config.replace(image_size=64))
    smaller.load_state_dict(sam2_network.state_dict(), strict=True)
    logits = walk_logits(smaller, volume[:8])
    assert logits.shape == (4, *volume.shape[1:])
    assert np.isfinite(logits).all()
