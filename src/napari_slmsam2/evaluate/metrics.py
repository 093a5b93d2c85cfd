"""Overlap, over-propagation and presence of one label along the propagation axis.

All of it follows from three counts per slice: predicted, reference and common voxels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

RUN_ON_PIXELS = 10
"""Predicted pixels from which a slice beyond the object counts as run on."""


@dataclass(frozen=True, eq=False)
class SliceCounts:
    """Voxels of one label on every slice.

    Attributes
    ----------
    predicted, reference, common : ndarray of int64, shape (n_slices,)
    """

    predicted: npt.NDArray[np.int64]
    reference: npt.NDArray[np.int64]
    common: npt.NDArray[np.int64]

    @property
    def n_slices(self) -> int:
        """Number of slices of the volume."""
        return len(self.predicted)


@dataclass(frozen=True, slots=True)
class OverlapScores:
    """How far two masks cover each other.

    Attributes
    ----------
    dice, iou : float
        Over the volume. 0 where one mask is empty, NaN where both are.
    mean_slice_dice : float
        Mean of `slice_dice` over the slices that have one.
    slice_dice : tuple of float
        Dice of every slice; NaN where both masks are empty and on excluded slices.
    predicted_voxels, reference_voxels : int
    """

    dice: float
    iou: float
    mean_slice_dice: float
    slice_dice: tuple[float, ...] = field(repr=False)
    predicted_voxels: int
    reference_voxels: int


@dataclass(frozen=True, slots=True)
class GapScores:
    """One stretch of slices without the object, between slices with it.

    Attributes
    ----------
    first, last : int
        Both included.
    filled_slices : int
        Slices of the gap with at least `RUN_ON_PIXELS` predicted pixels.
    filled_voxels : int
        Voxels predicted in the gap.
    """

    first: int
    last: int
    filled_slices: int
    filled_voxels: int


@dataclass(frozen=True, slots=True)
class ExtentScores:
    """Whether the object starts and ends where it should.

    Pairs are ``(towards slice 0, towards the last slice)``.

    Attributes
    ----------
    reference, predicted : tuple of int or None
        First and last slice with any voxel.
    run_on : tuple of int
        Slices beyond each end of the reference, contiguous with it, that have at least
        `RUN_ON_PIXELS` predicted pixels.
    under_run : tuple of int
        Reference slices next to each end without a predicted voxel; slices of a reference gap
        are passed over. All of them, on both sides, where nothing is predicted.
    op_slices : float
        Share of the slices outside the reference extent that were run on; NaN where there are
        none. Without a reference: share of all slices with at least `RUN_ON_PIXELS` pixels.
    op_voxels : float
        Voxels predicted outside the reference extent over voxels of the reference; NaN without
        a reference.
    absent_recall : float
        Share of the slices outside the reference extent without a predicted voxel; NaN where
        there are none. Without a reference: of all slices.
    precision, recall, f1 : float
        Presence over slices: a slice is present with a single voxel. NaN where a denominator is
        zero.
    end_error : tuple of float
        Distance in slices between the ends of reference and prediction; NaN where one is empty.
    end_distance : tuple of float
        The same in the unit of the spacing.
    gaps : tuple of GapScores
        Reference gaps; they enter presence, but none of `op_slices`, `op_voxels` and
        `absent_recall`.
    """

    reference: tuple[int, int] | None
    predicted: tuple[int, int] | None
    run_on: tuple[int, int]
    under_run: tuple[int, int]
    op_slices: float
    op_voxels: float
    absent_recall: float
    precision: float
    recall: float
    f1: float
    end_error: tuple[float, float]
    end_distance: tuple[float, float]
    gaps: tuple[GapScores, ...]


def count_slices(predicted: Any, reference: Any, axis: int) -> dict[int, SliceCounts]:
    """Count the voxels of every label on every slice, in one pass over both volumes.

    Parameters
    ----------
    predicted, reference : array_like of integer, shape (I, J, K)
        Label volumes on one grid. They are read slice by slice.
    axis : int

    Returns
    -------
    dict of int to SliceCounts
        Sorted by label; 0 is background.
    """
    n = int(reference.shape[axis])
    counts: dict[int, npt.NDArray[np.int64]] = {}
    for index in range(n):
        slicer = tuple(index if a == axis else slice(None) for a in range(3))
        here, there = np.asarray(predicted[slicer]), np.asarray(reference[slicer])
        for row, values in enumerate((here, there, there[here == there])):
            labels, voxels = np.unique(values, return_counts=True)
            for label, count in zip(labels.tolist(), voxels.tolist(), strict=True):
                counts.setdefault(int(label), np.zeros((3, n), np.int64))[row, index] = count
    counts.pop(0, None)
    return {label: SliceCounts(*counts[label]) for label in sorted(counts)}


def score_overlap(counts: SliceCounts, keep: npt.NDArray[np.bool_] | None = None) -> OverlapScores:
    """Dice and IoU of the volume and Dice of every slice.

    Parameters
    ----------
    counts : SliceCounts
    keep : ndarray of bool, shape (n_slices,), optional
        Slices that count; all by default.
    """
    keep = np.ones(counts.n_slices, bool) if keep is None else keep
    predicted, reference, common = (
        np.where(keep, c, 0) for c in (counts.predicted, counts.reference, counts.common)
    )
    size = predicted + reference
    slice_dice = np.full(counts.n_slices, np.nan)
    np.divide(2.0 * common, size, out=slice_dice, where=size > 0)
    return OverlapScores(
        dice=_ratio(2 * common.sum(), size.sum()),
        iou=_ratio(common.sum(), size.sum() - common.sum()),
        mean_slice_dice=float(slice_dice[size > 0].mean()) if size.any() else np.nan,
        slice_dice=tuple(slice_dice.tolist()),
        predicted_voxels=int(predicted.sum()),
        reference_voxels=int(reference.sum()),
    )


def score_extent(
    counts: SliceCounts,
    keep: npt.NDArray[np.bool_] | None = None,
    *,
    slice_distance: float = 1.0,
) -> ExtentScores:
    """Over-propagation, under-propagation and presence along the axis.

    Parameters
    ----------
    counts : SliceCounts
    keep : ndarray of bool, shape (n_slices,), optional
        Slices that count in the shares and in presence; all by default. Ends, lengths and gaps
        describe whole volumes and are always measured on all slices.
    slice_distance : float
        Spacing along the axis.
    """
    keep = np.ones(counts.n_slices, bool) if keep is None else keep
    predicted, reference = counts.predicted > 0, counts.reference > 0
    filled = counts.predicted >= RUN_ON_PIXELS
    extent, found = _extent(reference), _extent(predicted)
    outside, run_on_slices = np.ones(counts.n_slices, bool), filled
    run_on = under_run = (0, 0)
    if extent is not None:
        first, last = extent
        outside[first : last + 1] = False
        run_on = _leading(filled[:first][::-1]), _leading(filled[last + 1 :])
        run_on_slices = np.zeros(counts.n_slices, bool)
        run_on_slices[first - run_on[0] : first] = True
        run_on_slices[last + 1 : last + 1 + run_on[1]] = True
        missed = ~predicted[reference]
        under_run = _leading(missed), _leading(missed[::-1])
    if extent is None or found is None:
        end_error = (np.nan, np.nan)
    else:
        end_error = (float(abs(found[0] - extent[0])), float(abs(found[1] - extent[1])))
    hits = int((predicted & reference & keep).sum())
    n_predicted, n_reference = int((predicted & keep).sum()), int((reference & keep).sum())
    return ExtentScores(
        reference=extent,
        predicted=found,
        run_on=run_on,
        under_run=under_run,
        op_slices=_ratio((run_on_slices & outside & keep).sum(), (outside & keep).sum()),
        op_voxels=_ratio(counts.predicted[outside & keep].sum(), counts.reference[keep].sum()),
        absent_recall=_ratio((~predicted & outside & keep).sum(), (outside & keep).sum()),
        precision=_ratio(hits, n_predicted),
        recall=_ratio(hits, n_reference),
        f1=_ratio(2 * hits, n_predicted + n_reference),
        end_error=end_error,
        end_distance=(end_error[0] * slice_distance, end_error[1] * slice_distance),
        gaps=tuple(_gaps(counts, reference, filled)),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan


def _extent(present: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    indices = np.flatnonzero(present)
    return (int(indices[0]), int(indices[-1])) if indices.size else None


def _leading(flags: npt.NDArray[np.bool_]) -> int:
    """How many True values the array starts with."""
    return int(np.logical_and.accumulate(flags).sum())


def _gaps(
    counts: SliceCounts, reference: npt.NDArray[np.bool_], filled: npt.NDArray[np.bool_]
) -> Iterator[GapScores]:
    present = np.flatnonzero(reference)
    for before, after in zip(present[:-1].tolist(), present[1:].tolist(), strict=True):
        if after - before > 1:
            gap = slice(before + 1, after)
            yield GapScores(
                first=before + 1,
                last=after - 1,
                filled_slices=int(filled[gap].sum()),
                filled_voxels=int(counts.predicted[gap].sum()),
            )
