"""Random weights under which every branch of a network matters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.weights.checkpoints import save_weights

TINY = ModelConfig(
    image_size=64,
    embed_dim=16,
    stages=(1, 1, 2, 1),
    global_attention_blocks=(3,),
    model_dim=32,
    memory_dim=16,
    attention_layers=1,
    feedforward_dim=32,
    decoder_mlp_dim=32,
    iou_head_dim=16,
    short_memory_slices=1,
)


def randomise(network: SliceNetwork, seed: int) -> None:
    """Draw weights: no zero layer scale, no silent table, objects mostly present."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2 and "embed" not in name and "tpos" not in name:
            noise /= np.sqrt(max(1, parameter[0].numel()))
        elif "norm" in name and name.endswith("weight"):
            noise = 1 + 0.1 * noise
        elif "gamma" in name:
            noise *= 0.3
        else:
            noise *= 0.2
        parameter.data.copy_(noise)
    network.sam_mask_decoder.pred_obj_score_head.layers[2].bias.data += 4
    for name, buffer in network.named_buffers():
        if name.endswith("gaussian_matrix"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))


def tiny_file(path: Path) -> Path:
    """Write a file of a tiny SLM-SAM 2 network."""
    network = SliceNetwork(TINY)
    randomise(network, 11)
    save_weights(path, network.state_dict(), {"config": TINY.to_dict()})
    return path


def without_dropout(network: torch.nn.Module) -> None:
    """Set the dropout of a network to 0."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "dropout_p"):
            module.dropout_p = 0.0
