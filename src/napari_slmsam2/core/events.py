"""What a propagation run reports, one event at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.quality import SliceQuality

VISIT_UNITS = 10
"""Work of one label on one slice in one direction, in units of the progress."""


class FinishReason(Enum):
    """Why a run ended."""

    COMPLETED = "completed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class SliceSegmented:
    """One slice has new labels.

    Attributes
    ----------
    index : int
        Slice index along the propagation axis.
    labels : ndarray of shape (h, w)
        New label values inside ``bbox``, already resolved against the other labels and the seeds.
    bbox : tuple of slice
        ``(rows, columns)`` of the changed region in the slice. May be empty.
    quality : dict of int to SliceQuality
        Scores of the labels that were segmented on this slice.
    final : bool
        False where a second sweep will still visit this slice and merge its result.
    done, total : int
        Work so far and work of the whole run. A label on a slice is `VISIT_UNITS` units, once for
        each direction; a seed, and a slice of the check at the end, is one unit. The total is an
        upper bound that falls when a sweep ends early.
    seconds_left : float or None
        Time that the rest takes at the speed so far; None before the speed is known.
    """

    index: int
    labels: npt.NDArray[np.integer]
    bbox: tuple[slice, slice]
    quality: dict[int, SliceQuality] = field(default_factory=dict)
    final: bool = True
    done: int = 0
    total: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Progressed:
    """Work was done that has changed no slice yet: a seed, or some labels of a slice.

    Attributes
    ----------
    done, total : int
    seconds_left : float or None
        See `SliceSegmented`.
    """

    done: int
    total: int
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class SweepEnded:
    """A sweep of one label ended before the end of its slices because the object is gone.

    Attributes
    ----------
    label : int
    index : int
        The last slice on which the label was segmented.
    direction : int
        +1 towards higher slice indices, -1 towards lower ones.
    """

    label: int
    index: int
    direction: int


@dataclass(frozen=True, slots=True)
class FellBack:
    """The run continues with less: a smaller batch, offloaded memory, another device."""

    message: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every run."""

    reason: FinishReason


PropagationEvent = SliceSegmented | Progressed | SweepEnded | FellBack | Finished
