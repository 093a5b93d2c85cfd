"""Optimisers in a process that has loaded another LLVM.

The first optimiser imports ``torch._dynamo``, which imports Triton where it is installed. Triton's
library brings an LLVM of its own: loaded after Mesa's (which draws napari's canvas where there is
no other OpenGL) the process ends with a segmentation fault. Nothing here needs Triton.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

_MAPS = Path("/proc/self/maps")


def make_adamw(parameters: Iterable[Any], **options: Any) -> torch.optim.AdamW:
    """`torch.optim.AdamW`, in any process."""
    _spare_triton()
    return torch.optim.AdamW(parameters, **options)


def _spare_triton() -> None:
    """Import ``torch._dynamo`` without Triton, where importing Triton would end the process."""
    if "triton" in sys.modules or "torch._dynamo" in sys.modules or not another_llvm():
        return
    # None makes the import raise ImportError, after which torch goes without.
    sys.modules["triton"] = None  # type: ignore[assignment]
    try:
        import torch._dynamo  # noqa: F401
    finally:
        del sys.modules["triton"]


def another_llvm() -> bool:
    """Whether this process has loaded LLVM as a library of its own; asked on Linux only."""
    try:
        return "libLLVM" in _MAPS.read_text()
    except OSError:
        return False
