"""The attention of ``sam2``, the same mathematics with less work on a CPU."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.engine.sam2._imports import (
    MultiScaleAttention,
    RoPEAttention,
    compute_axial_cis,
)

#: Queries at a time on a CPU: the scores of a block stay in the cache.
_BLOCK = 512

#: From this many keys on, blocks of matrix products beat the fused bfloat16 kernel of a CPU.
_MANY_KEYS = 1024


class MemoryRoPEAttention(RoPEAttention):
    """SAM 2's attention with rotary positions; parameters and results are the same.

    At inference three things differ from ``sam2``: the rotation uses real numbers, in fewer
    operators; on a CPU the scores are computed in blocks of queries by matrix products, which are
    faster than the fused kernel, above all in bfloat16; and where memory has fewer channels than
    the model, a CPU averages the values first and projects them afterwards.

    Attributes
    ----------
    pooling : int
        1 is exact. With p > 1 the keys and values of p x p neighbouring memory tokens are averaged
        and weigh p * p times, which is the first-order approximation of exact attention
        (EfficientTAM, Xiong et al. 2024, arXiv:2411.18933).
    """

    pooling = 1

    def forward(self, q: Tensor, k: Tensor, v: Tensor, num_k_exclude_rope: int = 0) -> Tensor:
        """Attend from image tokens to image or memory tokens.

        Parameters
        ----------
        q : Tensor, shape (B, N, C)
            The N tokens of a square grid.
        k, v : Tensor, shape (B, M, C_kv)
        num_k_exclude_rope : int
            Tokens at the end of ``k`` that have no place: object pointers.

        Returns
        -------
        Tensor, shape (B, N, C)
        """
        if self.training or self.num_heads > 1:
            return super().forward(q, k, v, num_k_exclude_rope)
        on_cpu = _is_on_cpu(q)
        side = math.isqrt(q.shape[1])
        queries = self._rotate(self.q_proj(q), side, 0)
        keys = self._rotate(self.k_proj(k), side, num_k_exclude_rope)
        narrow = v.shape[-1] < self.internal_dim and (on_cpu or self.pooling > 1)
        values = v.to(queries.dtype) if narrow else self.v_proj(v)
        bias = None
        if self.pooling > 1:
            keys, bias = self._pool(keys, side, num_k_exclude_rope)
            values, _ = self._pool(values, side, num_k_exclude_rope)
        attend = _attend_in_blocks if on_cpu else _attend_fused
        out = attend(queries, keys, values, bias)
        return self.out_proj(self.v_proj(out) if narrow else out)

    def _rotate(self, x: Tensor, side: int, without_place: int) -> Tensor:
        """Rotate pairs of channels by the place of their token; x has shape (B, M, C)."""
        batch, tokens, channels = x.shape
        placed = tokens - without_place
        cos, sin = _rotations(channels, self.compute_cis.keywords["theta"], side, x.device)
        pairs = x[:, :placed].float().reshape(batch, -1, *cos.shape)
        rotated = pairs * cos + pairs.flip(-1) * sin
        rotated = rotated.reshape(batch, placed, channels).to(x.dtype)
        return torch.cat([rotated, x[:, placed:]], dim=1) if without_place else rotated

    def _pool(self, x: Tensor, side: int, without_place: int) -> tuple[Tensor, Tensor]:
        """Average p x p tokens of every map; returns the tokens and their log weights."""
        batch, tokens, channels = x.shape
        placed = tokens - without_place
        maps = x[:, :placed].reshape(-1, side, side, channels).permute(0, 3, 1, 2)
        pooled = F.avg_pool2d(maps, self.pooling, ceil_mode=True, count_include_pad=False)
        pooled = pooled.permute(0, 2, 3, 1).reshape(batch, -1, channels)
        bias = x.new_zeros(pooled.shape[1] + without_place)
        bias[: pooled.shape[1]] = 2 * math.log(self.pooling)
        return torch.cat([pooled, x[:, placed:]], dim=1), bias


def _is_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


@lru_cache(maxsize=8)
def _rotations(
    channels: int, theta: float, side: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine, and sine with its sign, for both channels of a pair; shape (side * side, C / 2, 2).

    All layers of a network share them.
    """
    with torch.inference_mode(mode=False):
        turns = compute_axial_cis(channels, side, side, theta)
        cos, sin = turns.real.to(device), turns.imag.to(device)
        return torch.stack([cos, cos], dim=-1), torch.stack([-sin, sin], dim=-1)


class BlockwiseTrunkAttention(MultiScaleAttention):
    """Hiera's attention; in bfloat16 on a CPU the global blocks go in blocks of queries."""

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows or the whole slice; x has shape (B, H, W, C)."""
        batch, height, width, _ = x.shape
        fused = self.q_pool is not None or height * width < _MANY_KEYS or self.training
        if fused or not _is_on_cpu(x) or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1)
        q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in qkv.unbind(2))
        out = _attend_in_blocks(q, k, v).reshape(batch, self.num_heads, height, width, -1)
        return self.proj(out.permute(0, 2, 3, 1, 4).flatten(3))


def _attend_in_blocks(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Softmax attention, shapes (B, N, C), (B, M, C), (B, M, D), (M,) -> (B, N, D)."""
    scaled = queries * queries.shape[-1] ** -0.5
    samples = []
    for query, key, value in zip(scaled, keys, values, strict=True):
        transposed = key.t()
        blocks = []
        for block in query.split(_BLOCK):
            scores = block @ transposed
            if bias is not None:
                scores = scores + bias
            blocks.append(torch.softmax(scores, dim=-1) @ value)
        samples.append(torch.cat(blocks))
    return torch.stack(samples)


def _attend_fused(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
