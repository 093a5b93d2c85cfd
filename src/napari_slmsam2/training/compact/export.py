"""Writes a trained network as a file of weights for all commands and the window."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.weights.checkpoints import save_weights


def release(
    path: Path, config: CompactConfig, weights: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write weights in half precision with their configuration and metadata.

    Parameters
    ----------
    path : Path
        ``.safetensors``.
    config : CompactConfig
    weights : mapping of str to Tensor
    metadata : mapping
        Further metadata, values that JSON can hold.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    state = {
        name: value.to(torch.float16) if value.is_floating_point() else value
        for name, value in weights.items()
    }
    save_weights(path, state, {"config": config.to_dict(), **metadata})
