"""Sweeps that do not stop at the end of the object: training and test data of presence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.segmenter import TrackedObject
from napari_slmsam2.training.data.sweep import never_absent, sweep_together
from napari_slmsam2.training.synthetic.stack import LabelledStack

STOP_AFTER = 3
"""Absent slices in a row that end a sweep, as in `PropagationConfig`."""

REACH = 48
"""Slices of a sweep, at most."""

WIDE = 0.2
"""Smallest area of an annotated slice, relative to the largest area of the object."""

BEYOND = 10
"""Slices beyond the end of the object, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class WholeSweep:
    """One sweep that did not stop at the end of the object, in visiting order.

    Attributes
    ----------
    label : int
    clues : ndarray of float32, shape (S, 35)
        See `napari_slmsam2.engine.compact.presence_gru.SweepPresence`.
    found, common, true : ndarray of int64, shape (S,)
        Pixels of the found mask, of both, and of the true one.
    """

    label: int
    clues: npt.NDArray[np.float32]
    found: npt.NDArray[np.int64]
    common: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]


def sweep_outward(
    network: CompactNetwork, stack: LabelledStack, seedings: Sequence[Sequence[int]]
) -> list[list[WholeSweep]]:
    """Propagate an object from its outermost annotated slices outward, with unknown ends.

    The sweeps of all choices of annotated slices are one batch.

    Parameters
    ----------
    network : CompactNetwork
    stack : LabelledStack
    seedings : sequence of sequence of int
        Choices of annotated slices, with the object.

    Returns
    -------
    list of list of WholeSweep
        For every choice at most two; none where there is no object.
    """
    segmenter = never_absent(network)
    found: list[list[WholeSweep]] = [[] for _ in seedings]
    for courses in zip(*(outward_slices(stack.mask, seeds) for seeds in seedings), strict=True):
        clues: list[list[npt.NDArray[np.float32]]] = [[] for _ in seedings]
        rows: list[list[list[int]]] = [[] for _ in seedings]
        sweeps = list(zip(seedings, courses, strict=True))
        for number, index, answer in sweep_together(segmenter, stack, sweeps):
            assert isinstance(answer.content, TrackedObject)
            clues[number].append(answer.content.state.presence_features[0].cpu().numpy())
            truth = stack.mask[index]
            mask = answer.patch.mask(truth.shape)
            rows[number].append([mask.sum(), (mask & truth).sum(), truth.sum()])
        for own, clues_, rows_ in zip(found, clues, rows, strict=True):
            if rows_:
                counts = np.array(rows_, np.int64).T
                own.append(WholeSweep(stack.label, np.stack(clues_), *counts))
    return found


def outward_slices(mask: npt.NDArray[np.bool_], seeds: Sequence[int]) -> tuple[range, ...]:
    """The slices of `sweep_outward`, upward and downward.

    Parameters
    ----------
    mask : ndarray of bool, shape (D, H, W)
    seeds : sequence of int

    Returns
    -------
    tuple of range
        Empty where there is no object.
    """
    there = np.flatnonzero(mask.any((1, 2)))
    if not len(there):
        return ()
    first, last = min(seeds), max(seeds)
    above = min(len(mask), int(there[-1]) + 1 + BEYOND, last + 1 + REACH)
    below = max(-1, int(there[0]) - 1 - BEYOND, first - 1 - REACH)
    return range(last + 1, above), range(first - 1, below, -1)


def dice_if_shown(sweeps: Sequence[WholeSweep], shown: Sequence[npt.NDArray[np.bool_]]) -> float:
    """3D Dice of an object without its seeds, with these slices taken as present.

    Parameters
    ----------
    sweeps : sequence of WholeSweep
    shown : sequence of ndarray of bool, shape (S,)
        For every sweep.
    """
    common = total = 0
    for found, present in zip(sweeps, shown, strict=True):
        kept = until_stopped(present)
        common += int(found.common[kept].sum())
        total += int(found.found[kept].sum() + found.true.sum())
    return 2 * common / total if total else 1.0


def until_stopped(present: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Nothing is shown once `STOP_AFTER` slices in a row were absent."""
    absent = np.concatenate([np.zeros(STOP_AFTER - 1, bool), ~present])
    in_a_row = np.lib.stride_tricks.sliding_window_view(absent, STOP_AFTER).all(1)
    kept: npt.NDArray[np.bool_] = present & ~np.logical_or.accumulate(in_a_row)
    return kept
