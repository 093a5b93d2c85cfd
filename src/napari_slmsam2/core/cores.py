"""Cores of the processor that this process may use."""

from __future__ import annotations

import os


def count_cores() -> int:
    """Number of cores, at least 1; where the system restricts a process, those it may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
