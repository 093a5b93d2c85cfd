"""How many labels of SAM 2 fit into the free memory of a device at once."""

from __future__ import annotations

import torch

from napari_slmsam2.core.config import ModelConfig

SHARE = 0.5
"""Of the free memory that a batch may take: the rest is for what the allocator rounds up, for
captured calls, and for memory maps."""

_CHANNEL_BYTES = 21
"""Peak bytes per channel of the model, image token and memory map (measured: 19 in float32, 21 in
bfloat16)."""

_FEWEST_MAPS = 4
"""Memory maps below which other parts of the network than the memory attention need the most."""

_PIXEL_BYTES = 14
"""Peak bytes per pixel of a slice while masks are resized and measured."""

_MOST_ON_CPU = 8
"""More labels gain no time on a CPU, and a run stops between two batches only."""

_MOST = 64
"""More labels gain no time on a card."""


def bytes_per_label(config: ModelConfig, shape: tuple[int, int], seeds: int) -> int:
    """Peak memory that one more label of a batch takes on a slice.

    Parameters
    ----------
    config : ModelConfig
    shape : tuple of int
        ``(H, W)`` of the slices.
    seeds : int
        Annotated slices of the label: all of them are read, beside the last slices.
    """
    tokens = (config.image_size // 16) ** 2
    maps = max(_FEWEST_MAPS, seeds + config.memory_slices)
    return _CHANNEL_BYTES * config.model_dim * tokens * maps + _PIXEL_BYTES * shape[0] * shape[1]


def labels_that_fit(free: int, per_label: int, device: torch.device) -> int:
    """Labels of one batch: at least 1, and no more than gain time.

    Parameters
    ----------
    free : int
        Bytes that are free, see `napari_slmsam2.engine.device.free_memory`.
    per_label : int
        See `bytes_per_label`.
    device : torch.device
    """
    most = _MOST_ON_CPU if device.type == "cpu" else _MOST
    return max(1, min(most, int(SHARE * free) // per_label))
