"""Adapters in the blocks of SAM 2's image encoder: neighbouring slices, or more context in one.

Three published forms, each zero-initialised here, so that a network with untrained adapters is
bit-equal to the one without:

``temporal``
    Yan et al. 2025, arXiv:2507.03698 (SAMed-2): LayerNorm, C -> r, Conv3d 3 x 3 x 3 over slices,
    rows and columns, GELU, r -> C, added to the output of the attention of every block. As the
    paper describes it, the adapter sees whole slices; the public code applies it within attention
    windows, where its slice axis pairs windows of one image.
``temporal-slices``
    The same with a kernel of 3 x 1 x 1: Chen et al. 2024, Medical Image Analysis 98:103310
    (MA-SAM).
``dilated``
    Xu et al. 2025, arXiv:2507.14613 (DD-SAM2): 1 x 1 convolution C -> C/2, GELU, the sum of two
    depthwise 3 x 3 convolutions of dilation 1 and 3, each with a GELU, 1 x 1 convolution
    C/2 -> C, added to the output of a block. The published form ends with a GELU and has no zero
    initialisation, so that it starts as a positive offset; here the last convolution is linear and
    zero.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.engine.sam2._imports import (
    Hiera,
    MultiScaleBlock,
    do_pool,
    window_partition,
    window_unpartition,
)

DILATED_BLOCKS = 6
"""Blocks, from the first one on, that have a dilated adapter (DD-SAM2)."""

_KERNELS = {"temporal": (3, 3, 3), "temporal-slices": (3, 1, 1)}


class AdapterSettings(Protocol):
    """What `add_slice_adapters` reads of `napari_slmsam2.core.config.ModelConfig`."""

    @property
    def adapter(self) -> str:
        """``none``, ``temporal``, ``temporal-slices`` or ``dilated``."""

    @property
    def adapter_dim(self) -> int:
        """Channels of the bottleneck of a temporal adapter."""

    @property
    def encoded_slices(self) -> int:
        """Slices that one embedding depends on."""


class TemporalAdapter(nn.Module):
    """Mixes the features of neighbouring slices.

    Parameters
    ----------
    channels : int
    bottleneck : int
    kernel : tuple of int
        ``(slices, rows, columns)``.
    slices : int
        Consecutive slices in a group of the batch.

    Notes
    -----
    The parameter names are those of the published SAMed-2 checkpoints.
    """

    def __init__(
        self, channels: int, bottleneck: int, kernel: tuple[int, int, int], slices: int
    ) -> None:
        super().__init__()
        self.slices = slices
        self.norm = nn.LayerNorm(channels)
        self.linear_down = nn.Linear(channels, bottleneck)
        self.conv = nn.Conv3d(bottleneck, bottleneck, kernel, padding="same")
        self.linear_up = nn.Linear(bottleneck, channels)
        nn.init.zeros_(self.linear_up.weight)
        nn.init.zeros_(self.linear_up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Add what neighbouring slices contribute.

        Parameters
        ----------
        x : Tensor, shape (N * D, H, W, C)
            Groups of D consecutive slices.

        Returns
        -------
        Tensor, shape (N * D, H, W, C)
        """
        down = self.linear_down(self.norm(x))
        grouped = down.unflatten(0, (-1, self.slices)).permute(0, 4, 1, 2, 3)
        mixed = F.gelu(self.conv(grouped)).permute(0, 2, 3, 4, 1).flatten(0, 1)
        return x + self.linear_up(mixed)


class DilatedAdapter(nn.Module):
    """Adds depthwise convolutions of two dilations; every slice by itself.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.down = nn.Conv2d(channels, half, 1)
        self.branches = nn.ModuleList(
            nn.Conv2d(half, half, 3, padding=rate, dilation=rate, groups=half) for rate in (1, 3)
        )
        self.up = nn.Conv2d(half, channels, 1)
        nn.init.zeros_(self.up.weight)
        assert self.up.bias is not None
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Add the adapter's output to ``x``, shape (N, H, W, C)."""
        down = F.gelu(self.down(x.permute(0, 3, 1, 2)))
        wide = torch.stack([F.gelu(branch(down)) for branch in self.branches]).sum(0)
        return x + self.up(wide).permute(0, 2, 3, 1)


class TemporalBlock(MultiScaleBlock):
    """A block of Hiera with an adapter between its attention and its residual connection."""

    adapter: TemporalAdapter

    def forward(self, x: Tensor) -> Tensor:
        """See ``MultiScaleBlock``; ``x`` has shape (N * D, H, W, C)."""
        normed = self.norm1(x)
        shortcut = x if self.dim == self.dim_out else do_pool(self.proj(normed), self.pool)
        attended = self.adapter(self._attend(normed, shortcut.shape[1:3]))
        x = shortcut + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, size: torch.Size) -> Tensor:
        """Attention on the whole slices, or within windows; the result has the given size."""
        if not self.window_size:
            return self.attn(x)
        windows, padded = window_partition(x, self.window_size)
        attended, side = self.attn(windows), self.window_size
        if self.q_stride:
            side //= self.q_stride[0]
            padded = tuple(n + -n % side for n in size)
        return window_unpartition(attended, side, padded, size)


class DilatedBlock(MultiScaleBlock):
    """A block of Hiera that is followed by an adapter."""

    adapter: DilatedAdapter

    def forward(self, x: Tensor) -> Tensor:
        """See ``MultiScaleBlock``; ``x`` has shape (N, H, W, C)."""
        return self.adapter(super().forward(x))


class NeighbourHiera(Hiera):
    """A trunk that reads groups of D consecutive slices and returns the middle one of each."""

    slices: int

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of N slices; ``x`` has shape (N * D, 3, S, S)."""
        middle = self.slices // 2
        return [level[middle :: self.slices] for level in super().forward(x)]


def add_slice_adapters(trunk: Hiera, settings: AdapterSettings) -> None:
    """Give the blocks of a trunk the adapters of a configuration.

    Parameters
    ----------
    trunk : Hiera
        Changed in place; its output stays the same until the adapters are trained.
    settings : AdapterSettings
    """
    # Adapters draw their initial values without moving the generator that fills the rest.
    with torch.random.fork_rng(devices=[]):
        if settings.adapter in _KERNELS:
            slices, kernel = settings.encoded_slices, _KERNELS[settings.adapter]
            for block in trunk.blocks:
                block.adapter = TemporalAdapter(block.dim_out, settings.adapter_dim, kernel, slices)
                block.__class__ = TemporalBlock
            trunk.slices = slices
            trunk.__class__ = NeighbourHiera
        elif settings.adapter == "dilated":
            for block in trunk.blocks[:DILATED_BLOCKS]:
                block.adapter = DilatedAdapter(block.dim_out)
                block.__class__ = DilatedBlock
