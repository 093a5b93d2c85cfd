"""Commands that a launcher such as ``torchrun`` runs in several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_slmsam2.training.distributed import DistributedContext


@contextmanager
def init_distributed_quietly(device: str) -> Iterator[DistributedContext]:
    """Join the training processes; only the main one prints."""
    from napari_slmsam2.training.distributed import init_distributed

    with init_distributed(device) as distributed:
        if distributed.is_main:
            yield distributed
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield distributed
