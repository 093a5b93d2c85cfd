"""Commands that a launcher such as ``torchrun`` runs in several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_slmsam2.training.distributed import Crew


@contextmanager
def joined_quietly(device: str) -> Iterator[Crew]:
    """See `napari_slmsam2.training.distributed.joined`; only the first process is heard."""
    from napari_slmsam2.training.distributed import joined

    with joined(device) as crew:
        if crew.leads:
            yield crew
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield crew
