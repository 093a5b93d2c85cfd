"""The published SLM-SAM 2's own numbers, from a tiny random network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.preprocess import SlicePreprocessor
from napari_slmsam2.engine.sam2.reference_order import ReferenceOrder
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.engine.weights.checkpoints import load_weights

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference"
pytestmark = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="the folder of reference numbers is not there"
)

CASES = [
    ("mask_n1.fp32mem", 1, torch.float32, (6,)),
    ("two_prompts_n7.fp32mem", 7, torch.float32, (3, 10)),
    ("mask_n1", 1, torch.bfloat16, (6,)),
]


@pytest.fixture(scope="module")
def inputs():
    return np.load(REFERENCE / "inputs.npz")


def make_walk(inputs, short_memory_slices: int, memory_dtype: torch.dtype) -> ReferenceOrder:
    network = SliceNetwork(
        ModelConfig(
            image_size=128,
            embed_dim=16,
            stages=(1, 2, 3, 2),
            global_attention_blocks=(4,),
            window_spec=(8, 4, 6, 3),
            attention_layers=2,
            feedforward_dim=128,
            short_memory_slices=short_memory_slices,
        )
    )
    weights = np.load(REFERENCE / "weights.npz")
    state = {k: torch.from_numpy(v.astype(np.float32)) for k, v in weights.items()}
    load_weights(network, state, what="reference weights")
    segmenter = NetworkSegmenter(
        network, name="reference", device=torch.device("cpu"), memory_dtype=memory_dtype
    )
    images = inputs["model_input_u8"]
    return ReferenceOrder(
        segmenter,
        lambda i: segmenter.encode_image(images[i].astype(np.float32) / 255),
        len(images),
        inputs["volume"].shape[1:],
    )


@pytest.mark.parametrize(("name", "n", "memory_dtype", "seeds"), CASES)
def test_reproduces_the_published_numbers(name, n, memory_dtype, seeds, inputs):
    expected = np.load(REFERENCE / f"{name}.npz")
    exact = memory_dtype == torch.float32
    walk = make_walk(inputs, n, memory_dtype)
    for index in seeds:
        walk.add_prompt(SlicePrompt.from_mask(1, index, inputs["mask_A"][index]))
    for prefix, reverse in (("fwd", False), ("rev", True)):
        walked = list(walk.walk(seeds[0], reverse=reverse))
        assert [w.index for w in walked] == expected[f"{prefix}_slices"].tolist()
        for k, slice_ in enumerate(walked):
            output = slice_.outputs[1]
            logits = expected[f"{prefix}_lowres_logits"][k]
            first = k == 1 and prefix == "fwd"
            np.testing.assert_allclose(
                output.low_res_logits[:, 0].numpy(),
                logits,
                atol=2e-3 if exact else 5e-3 if first else 0.1,
            )
            np.testing.assert_allclose(
                output.presence_logit[:, 0].numpy(),
                expected[f"{prefix}_object_scores"][k],
                atol=2e-3 if exact else 0.1,
            )
            np.testing.assert_allclose(
                output.pointer.numpy(),
                expected[f"{prefix}_obj_ptr"][k],
                atol=1e-3 if exact else 0.05,
            )
            if f"{prefix}_logits" in expected:
                assert dice(slice_.logits[1] > 0, expected[f"{prefix}_logits"][k][0] > 0) >= 0.99


def dice(first, second):
    total = first.sum() + second.sum()
    return 1.0 if total == 0 else 2 * (first & second).sum() / total


def test_preprocessing_meets_the_published_one_without_8_bits(inputs):
    walk_input = inputs["model_input_u8"].astype(np.float32)
    volume = inputs["volume"].astype(np.float32) / 255
    preprocessor = SlicePreprocessor(128, torch.device("cpu"))
    mean, std = 0.485, 0.229
    for slice_, expected in zip(volume, walk_input, strict=True):
        grey = (preprocessor.image(slice_)[0, 0].numpy() * std + mean) * 255
        assert np.abs(grey - expected).max() < 1.2
    for masks, expected in (("mask_A", "mask_A_model"), ("mask_B", "mask_B_model")):
        for mask, model_mask in zip(inputs[masks], inputs[expected], strict=True):
            np.testing.assert_array_equal(preprocessor.mask(mask)[0, 0].numpy() > 0, model_mask)
