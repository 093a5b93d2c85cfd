"""The parts of a `SliceNetwork`, built from the modules of ``sam2`` with a `ModelConfig`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.engine.sam2._imports import (
    CXBlock,
    FpnNeck,
    Fuser,
    Hiera,
    ImageEncoder,
    MaskDownSampler,
    MemoryAttention,
    MemoryAttentionLayer,
    MemoryEncoder,
    PositionEmbeddingSine,
)
from napari_slmsam2.engine.sam2.attention import BlockwiseTrunkAttention, MemoryRoPEAttention
from napari_slmsam2.engine.sam2.slice_adapters import add_slice_adapters


class _NoPosition(nn.Module):
    """Keeps the neck from making position encodings of levels that nobody reads."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_empty(0)


def sine_position(channels: int, grid: int) -> Tensor:
    """SAM 2's sine position encoding of a square grid, shape (grid * grid, 1, channels)."""
    encode = PositionEmbeddingSine(
        channels, temperature=10000, normalize=True, scale=None, warmup_cache=False
    )
    return encode(torch.zeros(1, 1, grid, grid)).flatten(2).permute(2, 0, 1).contiguous()


def build_image_encoder(c: ModelConfig) -> nn.Module:
    """Hiera trunk with the slice adapters of the configuration, and its neck."""
    channels = [c.embed_dim * 2**stage for stage in (3, 2, 1, 0)]
    trunk = Hiera(
        embed_dim=c.embed_dim,
        num_heads=c.trunk_heads,
        stages=c.stages,
        global_att_blocks=c.global_attention_blocks,
        window_pos_embed_bkg_spatial_size=c.pos_embed_background,
        window_spec=c.window_spec,
    )
    for block in trunk.blocks:
        block.attn.__class__ = BlockwiseTrunkAttention
    add_slice_adapters(trunk, c)
    return ImageEncoder(
        trunk=trunk,
        neck=FpnNeck(
            position_encoding=_NoPosition(),
            d_model=c.model_dim,
            backbone_channel_list=channels,
            fpn_top_down_levels=[2, 3],
            fpn_interp_model="nearest",
        ),
        scalp=1,
    )


def build_memory_attention(c: ModelConfig) -> nn.Module:
    """Attention from image tokens to memory tokens."""
    grid = (c.image_size // 16, c.image_size // 16)
    shared: dict[str, Any] = {
        "rope_theta": 10000.0,
        "feat_sizes": grid,
        "embedding_dim": c.model_dim,
        "num_heads": c.attention_heads,
        "downsample_rate": 1,
        "dropout": 0.1,
    }
    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=c.feedforward_dim,
        dropout=0.1,
        pos_enc_at_attn=False,
        self_attention=MemoryRoPEAttention(**shared),
        d_model=c.model_dim,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=MemoryRoPEAttention(rope_k_repeat=True, kv_in_dim=c.memory_dim, **shared),
    )
    return MemoryAttention(
        d_model=c.model_dim, pos_enc_at_input=True, layer=layer, num_layers=c.attention_layers
    )


def build_memory_encoder(c: ModelConfig) -> nn.Module:
    """Memory maps from an image feature and a mask."""
    return MemoryEncoder(
        out_dim=c.memory_dim,
        in_dim=c.model_dim,
        position_encoding=_NoPosition(),
        mask_downsampler=MaskDownSampler(embed_dim=c.model_dim, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(CXBlock(c.model_dim, layer_scale_init_value=1e-6), num_layers=2),
    )
