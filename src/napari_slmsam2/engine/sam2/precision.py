"""Preparation of a network for inference."""

from __future__ import annotations

import torch
from torch import nn

_MULTIPLIED = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of matrix products and convolutions in the precision of the computation.

    Under autocast the results are the same bit by bit: what autocast would convert at every call
    is converted once. These stay in float32, as SAM 2 computes them: layer norms, the layer scales
    ``gamma``, embeddings of tokens and prompts, the position tables ``pos_embed`` and
    ``pos_embed_window``, the time tables ``maskmem_tpos_enc`` and ``rec_maskmem_tpos_enc``, and the
    vectors ``no_mem_embed``, ``no_mem_pos_enc``, ``no_obj_ptr`` and ``no_obj_embed_spatial``. They
    are added to the residual stream, or scale it, which is in float32.

    Parameters
    ----------
    network : nn.Module
        Changed in place, for inference only.
    dtype : torch.dtype
    """
    for module in network.modules():
        if isinstance(module, _MULTIPLIED):
            module.to(dtype)
