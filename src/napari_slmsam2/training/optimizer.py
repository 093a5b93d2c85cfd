"""Optimisers in a process that has loaded another LLVM.

The first optimiser imports ``torch._dynamo``, which imports Triton where it is installed. Triton's
library brings an LLVM of its own: loaded after Mesa's (which draws napari's canvas where there is
no other OpenGL) the process ends with a segmentation fault. Nothing here needs Triton.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

_MAPS = Path("/proc/self/maps")


def make_adamw(parameters: Iterable[Any], **options: Any) -> torch.optim.AdamW:
    """`torch.optim.AdamW`, in any process."""
    _spare_triton()
    return torch.optim.AdamW(parameters, **options)


def make_schedule(
    optimizer: torch.optim.Optimizer, factor: Callable[[int], float], step: int = 0
) -> LambdaLR:
    """Learning rates that are a function of the step alone, for exact resume.

    Parameters
    ----------
    optimizer : Optimizer
        Its learning rates are those for a factor of 1.
    factor : callable
        Of the step, from 0.
    step : int
        The next step.
    """
    return LambdaLR(optimizer, factor, last_epoch=step - 1)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state dict; the learning rates for a factor of 1 stay those of the optimizer."""
    rates = [group["initial_lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["initial_lr"] = rate


def _spare_triton() -> None:
    """Import ``torch._dynamo`` without Triton, where importing Triton would end the process."""
    if "triton" in sys.modules or "torch._dynamo" in sys.modules or not another_llvm():
        return
    # None makes the import raise ImportError, after which torch runs without Triton.
    sys.modules["triton"] = None  # type: ignore[assignment]
    try:
        import torch._dynamo  # noqa: F401
    finally:
        del sys.modules["triton"]


def another_llvm() -> bool:
    """Whether this process has loaded LLVM as a library of its own; detected on Linux only."""
    try:
        return "libLLVM" in _MAPS.read_text()
    except OSError:
        return False
