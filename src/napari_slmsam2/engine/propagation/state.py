"""Everything that an interrupted run needs to continue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.memory import MemoryEntry
from napari_slmsam2.engine.propagation.compositor import SweptMask
from napari_slmsam2.engine.propagation.result import PropagationResult
from napari_slmsam2.engine.propagation.sweep import Sweep, SweepState


@dataclass(frozen=True, slots=True, eq=False)
class PropagatorState:
    """The state of a `Propagator` between two pieces of work.

    Attributes
    ----------
    done, next_step : int
    pending_seeds : tuple of (label, index)
    seeds : dict of label to dict of slice index to MemoryEntry
    seed_masks : dict of label to dict of slice index to ndarray of bool, shape (H, W)
    sweeps : dict of Sweep to SweepState
    visit : tuple of (list of Sweep, list of SweptMask) or None
        Of a slice, or one of each direction, of which only some labels are segmented.
    takeover : tuple or None
        See `napari_slmsam2.engine.propagation.takeover.TakeoverCheck.state`.
    result : PropagationResult
    """

    done: int
    next_step: int
    pending_seeds: tuple[tuple[int, int], ...]
    seeds: dict[int, dict[int, MemoryEntry]]
    seed_masks: dict[int, dict[int, npt.NDArray[np.bool_]]]
    sweeps: dict[Sweep, SweepState]
    visit: tuple[list[Sweep], list[SweptMask]] | None
    takeover: tuple[Any, ...] | None
    result: PropagationResult
