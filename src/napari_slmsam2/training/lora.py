"""Adapters: low-rank updates are trained in place of the weights.

LoRA (Hu et al., arXiv:2106.09685), here of every convolution and linear layer. The network that is
evaluated and written is an ordinary one, with the updates added to its weights.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Network = TypeVar("Network", bound=nn.Module)


class LowRankUpdate(nn.Module):
    """A weight with an update of low rank, which is 0 at first.

    Parameters
    ----------
    weight : Tensor, shape (n_out, ...)
        Convolutions are taken as matrices of shape (n_out, n_in).
    rank : int
        Less where the matrix has less.
    generator : torch.Generator
        For the initial values, on the CPU.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        n_out, n_in = weight.flatten(1).shape
        rank = min(rank, n_out, n_in)
        # With this spread a step of AdamW on `lora_b` changes the weight about as much as a step
        # on the weight itself would: learning rates mean the same.
        first = torch.randn(rank, n_in, generator=generator) / rank**0.5
        self.lora_a = nn.Parameter(first.to(weight.device))
        self.lora_b = nn.Parameter(torch.zeros(n_out, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its update."""
        update = (self.lora_b @ self.lora_a).reshape(weight.shape)
        return weight + update


def add_adapters(network: nn.Module, rank: int, seed: int) -> None:
    """Give every convolution and linear layer a low-rank update, which is 0 at first.

    Parameters
    ----------
    network : nn.Module
        Changed in place; weights that an optimiser holds already stay the same tensors.
    rank, seed : int
    """
    generator = torch.Generator().manual_seed(seed)
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear):
            update = LowRankUpdate(module.weight, rank, generator)
            parametrize.register_parametrization(module, "weight", update)


def merged(network: Network, base: Network) -> Network:
    """The ordinary network with the updates of adapters added to its weights.

    Parameters
    ----------
    network : nn.Module
        Returned itself where it has no adapters.
    base : nn.Module
        Of the same kind, without adapters.
    """
    updated = {
        f"{name}.weight": module.weight.detach()
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and parametrize.is_parametrized(module)
    }
    if not updated:
        return network
    own = base.state_dict().keys()
    kept = {name: value for name, value in network.state_dict().items() if name in own}
    ordinary = copy.deepcopy(base)
    ordinary.load_state_dict({**kept, **updated})
    return ordinary


@torch.no_grad()
def decay_towards(network: nn.Module, base: nn.Module, share: float) -> None:
    """Decay all trained weights towards the base model (decoupled L2-SP).

    A low-rank update shrinks by the share, and with it the distance of the weight to the base.

    Parameters
    ----------
    network : nn.Module
        Changed in place; may have adapters.
    base : nn.Module
        Without adapters.
    share : float
        0 to 1.
    """
    before = dict(base.named_parameters())
    for name, now in network.named_parameters():
        if not now.requires_grad:
            continue
        if name in before:
            now.lerp_(before[name], share)
        elif name.endswith(".lora_b"):
            now.mul_(1 - share)
