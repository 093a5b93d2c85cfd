"""bfloat16: the weights are converted once, and the results are those of autocast."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from napari_slmsam2.core.config import PropagationConfig, sam2_config, slm_sam2_config
from napari_slmsam2.engine.loading import make_segmenter as load_segmenter
from napari_slmsam2.engine.sam2._imports import LayerNorm2d
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.precision import cast_weights
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter

from ...fakes import prompts_of, run
from ...random_weights import tiny_file
from .test_segmenter import KEEP_GOING, cut, logits_of, seed

FLOAT32_MODULES = (nn.LayerNorm, LayerNorm2d, nn.Embedding)
FLOAT32_PARAMETERS = {
    "gamma",
    "pos_embed",
    "pos_embed_window",
    "maskmem_tpos_enc",
    "rec_maskmem_tpos_enc",
    "no_mem_embed",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
}


@pytest.mark.parametrize("make", [sam2_config, slm_sam2_config])
def test_only_the_named_parameters_stay_in_float32(make):
    network = SliceNetwork(make("tiny", image_size=64))
    cast_weights(network, torch.bfloat16)
    for name, module in network.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            stays = isinstance(module, FLOAT32_MODULES) or own in FLOAT32_PARAMETERS
            expected = torch.float32 if stays else torch.bfloat16
            assert parameter.dtype == expected, f"{name}.{own}"


def propagated(network, volume, dtype):
    segmenter = NetworkSegmenter(
        network, name="tiny", device=torch.device("cpu"), dtype=dtype, memory_dtype=torch.float32
    )
    prompts = prompts_of(seed(2), seed(2, 2, np.roll(seed(2).mask, 6, 1)))
    drive = run(segmenter, cut(volume, 10), prompts, config=KEEP_GOING)
    return logits_of(drive)


def test_weights_that_are_converted_once_give_the_results_of_autocast(tiny_network, textured):
    """So the distance to float32 is that of autocast too."""
    converted = copy.deepcopy(tiny_network)
    cast_weights(converted, torch.bfloat16)
    by_autocast = propagated(tiny_network, textured, torch.bfloat16)
    found = propagated(converted, textured, torch.bfloat16)
    exact = propagated(tiny_network, textured, torch.float32)
    assert found.keys() == by_autocast.keys() == exact.keys()
    for key, logits in by_autocast.items():
        np.testing.assert_array_equal(found[key], logits)
    assert any((found[key] != exact[key]).any() for key in exact)


def test_a_loaded_model_has_its_weights_in_the_precision_of_the_run(tmp_path):
    path = tiny_file(tmp_path / "tiny.safetensors")
    for precision in ("float32", "bfloat16"):
        config = PropagationConfig(precision=precision)
        network = load_segmenter(path, device="cpu", config=config).segmenter.network
        assert network.obj_ptr_proj.layers[0].weight.dtype == getattr(torch, precision)
        assert network.maskmem_tpos_enc.dtype == torch.float32
