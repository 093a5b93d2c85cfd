"""Training in several processes that a launcher such as ``torchrun`` has started.

Every process draws the same batch, computes its own part of it, and the gradients are summed; then
all take the same step. The result is that of one process with the same batch. Not DDP: it averages
over equal parts and needs every parameter in every step, here parts and parameters in use differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.engine.device import choose_device

T = TypeVar("T")

_TIMEOUT = timedelta(hours=12)
"""The main process may cut clips or evaluate for long."""


@dataclass(frozen=True, slots=True)
class DistributedContext:
    """The processes that train together; one without a launcher.

    Attributes
    ----------
    rank, size : int
    device : torch.device
        Of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is the process that evaluates, writes and reports."""
        return self.rank == 0

    @property
    def alone(self) -> DistributedContext:
        """The context of a process that exchanges nothing with the others."""
        return DistributedContext(device=self.device)

    def part(self, n: int) -> list[int]:
        """The items of ``n`` that this process computes.

        Raises
        ------
        ConfigError
            There are more processes than items.
        """
        if n < self.size:
            raise ConfigError(
                "batch", "is smaller than the number of processes", expected=self.size, found=n
            )
        return list(range(self.rank, n, self.size))

    def largest_part(self, n: int) -> int:
        """How many of ``n`` items the process with the most of them computes; see `part`."""
        self.part(n)
        return -(-n // self.size)

    def total(self, value: Tensor) -> Tensor:
        """A sum over all processes; gradients do not flow through it."""
        if self.size == 1:
            return value
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their sum over all processes."""
        if self.size == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        there = torch.tensor([float(p.grad is not None) for p in trained], device=self.device)
        dist.all_reduce(there)
        used = [p for p, n in zip(trained, there.tolist(), strict=True) if n]
        if not used:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in used]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        parts = torch.split(flat, [p.numel() for p in used])
        for parameter, part in zip(used, parts, strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def broadcast(self, value: T) -> T:
        """The value of the main process."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, device=self.device)
        found: T = values[0]
        return found

    def smallest(self, value: int) -> int:
        """The smallest of the values of all processes."""
        if self.size == 1:
            return value
        found = torch.tensor(value, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MIN)
        return int(found)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        return bool(self.total(torch.tensor(float(flag), device=self.device)) > 0)


@contextmanager
def init_distributed(device: str = "auto") -> Iterator[DistributedContext]:
    """Join the processes that a launcher started; without a launcher there is one.

    Parameters
    ----------
    device : str
        See `choose_device`. Processes on one computer take one graphics card each.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield DistributedContext(device=choose_device(device))
        return
    chosen = choose_device(device)
    if chosen.type == "cuda" and device in ("auto", "cuda"):
        chosen = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield DistributedContext(dist.get_rank(), size, chosen)
    finally:
        dist.destroy_process_group()
