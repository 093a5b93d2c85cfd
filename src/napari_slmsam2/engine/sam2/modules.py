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
    PromptEncoder,
)
from napari_slmsam2.engine.sam2.attention import BlockwiseTrunkAttention, MemoryRoPEAttention
from napari_slmsam2.engine.sam2.slice_adapters import add_slice_adapters


class _NoPosition(nn.Module):
    """Keeps the neck from making position encodings of levels that nobody reads."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_empty(0)


class SlicePromptEncoder(PromptEncoder):
    """SAM 2's prompt encoder; what it computes without a prompt can be stored.

    Parameters are those of ``PromptEncoder``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._position: Tensor | None
        self._no_points: Tensor | None
        self.register_buffer("_position", None, persistent=False)
        self.register_buffer("_no_points", None, persistent=False)

    def store_constants(self) -> None:
        """Compute once what does not depend on prompts, for weights that no longer change."""
        self._position, self._no_points = self.get_dense_pe(), self._encode_no_points()

    def get_dense_pe(self) -> Tensor:
        """Position encoding of the image grid, shape (1, C, h, w)."""
        return super().get_dense_pe() if self._position is None else self._position

    def without_prompt(self, batch: int) -> tuple[Tensor, Tensor]:
        """Encoding of no prompt: tokens of shape (B, P, C) and a map of shape (B, C, h, w)."""
        tokens = self._encode_no_points() if self._no_points is None else self._no_points
        dense = self.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return tokens.expand(batch, -1, -1), dense.expand(batch, -1, *self.image_embedding_size)

    def _encode_no_points(self) -> Tensor:
        device = self.not_a_point_embed.weight.device
        nowhere = torch.zeros(1, 1, 2, device=device)
        padding = torch.full((1, 1), -1, dtype=torch.int32, device=device)
        tokens, _ = self(points=(nowhere, padding), boxes=None, masks=None)
        return tokens


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
