"""Confidence per slice and label, and which slice to fix next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FLAG_SCORE = 0.5
"""Score of `rank_slices` from which a slice is flagged."""

_TRUSTED_DOUBT = 0.5
_REACH = 2.5
"""Slices over which the share of the error that a correction repairs falls to 1 / e."""
_RADIUS = 25
_KERNEL = np.exp(-np.abs(np.arange(-_RADIUS, _RADIUS + 1)) / _REACH)
_FAR = 3.0
"""Slices from a seed over which the error grows for its distance alone."""
_REASONS = (
    "low confidence",
    "the sweeps disagree",
    "sudden change of size",
    "sudden change of position",
)
_FAR_AWAY = "far from annotated slices"
_WEIGHTS = np.array([0.45, 0.45, 0.1, 0.1])
"""Of the doubts by these reasons in the expected error of a slice.

Fitted, with `_FAR_WEIGHT` and both lengths, to corrections of 73 labels of 45 training volumes.
"""
_FAR_WEIGHT = 0.08
_LEAST_DOUBT = 0.25
"""Doubt from which it is the reason of a suggestion."""


@dataclass(frozen=True, slots=True)
class SliceQuality:
    """What is known about one label on one segmented slice.

    Attributes
    ----------
    presence : float
        Probability that the object is on the slice.
    predicted_iou : float
        The model's own estimate of its mask's overlap with the truth, 0 to 1.
    stability : float
        Area above the threshold + d over area above the threshold - d, 0 to 1 (SAM's stability
        score).
    agreement : float or None
        Dice of the forward and the backward mask; None where only one sweep visited the slice.
    area : int
        Pixels of the mask.
    centroid : tuple of float or None
        ``(row, column)``; None where the mask is empty.
    """

    presence: float
    predicted_iou: float
    stability: float
    agreement: float | None = None
    area: int = 0
    centroid: tuple[float, float] | None = None

    @property
    def confidence(self) -> float:
        """Between 0 and 1: confidence in the mask, or in its absence where it is empty."""
        if self.area == 0:
            value = 1.0 - self.presence
        else:
            value = self.presence * self.predicted_iou * self.stability
        return float(value if self.agreement is None else value * self.agreement)


def measured(
    quality: SliceQuality,
    logits: npt.NDArray[np.floating],
    origin: tuple[int, int] = (0, 0),
) -> SliceQuality:
    """The same scores with area and centroid of a mask.

    Parameters
    ----------
    quality : SliceQuality
    logits : ndarray, shape (h, w)
        Of the slice, or of a box that holds the whole mask.
    origin : tuple of int
        ``(row, column)`` of the first pixel of the logits in the slice.
    """
    rows, columns = np.nonzero(logits > 0)
    if not len(rows):
        return replace(quality, area=0, centroid=None)
    centroid = float((rows + origin[0]).mean()), float((columns + origin[1]).mean())
    return replace(quality, area=len(rows), centroid=centroid)


def mean_quality(first: SliceQuality, second: SliceQuality) -> SliceQuality:
    """The mean of two sweeps' scores; agreement, area and centroid of the second."""
    return replace(
        second,
        presence=(first.presence + second.presence) / 2,
        predicted_iou=(first.predicted_iou + second.predicted_iou) / 2,
        stability=(first.stability + second.stability) / 2,
    )


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One slice to check.

    Attributes
    ----------
    label, index : int
    score : float
        What a correction is expected to repair, on the slice and on those that are run again, in
        areas of the largest slice of the label.
    reason : str
        The largest doubt in this slice, in words; where there is little, that it is far away.
    """

    label: int
    index: int
    score: float
    reason: str


def rank_slices(
    quality: Mapping[int, Mapping[int, SliceQuality]],
    seeds: Mapping[int, Iterable[int]],
) -> tuple[Suggestion, ...]:
    """Order the segmented slices by how much a correction would help.

    A correction repairs its slice and, the less the farther they are, the other slices of the gap
    between annotated slices. The error of a slice is estimated from the scores of the model, the
    disagreement of the sweeps, the jumps of area and centroid, and the distance to the nearest
    annotated slice (more where there is one on one side only). Flagged slices of a label are
    chosen one after the other, each as if those before it were corrected, so that they lie apart.

    Parameters
    ----------
    quality : mapping of label to mapping of slice index to SliceQuality
    seeds : mapping of label to slice indices
        Annotated slices; they are never suggested.

    Returns
    -------
    tuple of Suggestion
        Most urgent first.
    """
    ranked: list[Suggestion] = []
    for label, slices in quality.items():
        ranked += _rank_label(label, slices, sorted(seeds.get(label, ())))
    return tuple(sorted(ranked, key=lambda s: (-s.score, s.label, s.index)))


def _rank_label(
    label: int, slices: Mapping[int, SliceQuality], seeds: Sequence[int]
) -> list[Suggestion]:
    free = np.array(sorted(set(slices).difference(seeds)), int)
    if not len(free):
        return []
    typical = _typical_area(slices)
    doubts = np.array([_doubts(slices, index, typical) for index in free.tolist()])
    errors = _sizes(slices, free) * (doubts @ _WEIGHTS + _FAR_WEIGHT * _distances(free, seeds))
    gap = np.searchsorted(seeds, free)
    scores: dict[int, float] = {}
    for one in np.unique(gap).tolist():
        scores |= _scores_of_gap(free[gap == one], errors[gap == one])
    return [
        Suggestion(label, index, scores[index], _reason(doubt))
        for index, doubt in zip(free.tolist(), doubts, strict=True)
    ]


def _scores_of_gap(
    indices: npt.NDArray[np.int_], errors: npt.NDArray[np.float64]
) -> dict[int, float]:
    """What a correction of each slice of a gap repairs, after those with a higher score."""
    first = int(indices[0])
    dense = np.zeros(int(indices[-1]) - first + 1)
    dense[indices - first] = errors
    known = np.zeros(len(dense), bool)
    known[indices - first] = True
    scores: dict[int, float] = {}
    parts = [(0, dense)]
    while parts:
        start, left = parts.pop()
        free = known[start : start + len(left)]
        if not free.any():
            continue
        gains = np.convolve(left, _KERNEL)[_RADIUS : _RADIUS + len(left)]
        best = int(np.where(free, gains, -1.0).argmax())
        if gains[best] < FLAG_SCORE:
            scores |= {first + start + i: float(gains[i]) for i in np.flatnonzero(free).tolist()}
            continue
        scores[first + start + best] = float(gains[best])
        # The correction divides the gap, and repairs a share of what is left on both sides.
        left = left * (1.0 - np.exp(-np.abs(np.arange(len(left)) - best) / _REACH))
        parts += [(start, left[:best]), (start + best + 1, left[best + 1 :])]
    return scores


def _typical_area(slices: Mapping[int, SliceQuality]) -> float:
    return float(np.median([q.area for q in slices.values() if q.area] or [1]))


def _reason(doubts: npt.NDArray[np.float64]) -> str:
    largest = int(doubts.argmax())
    return _REASONS[largest] if doubts[largest] >= _LEAST_DOUBT else _FAR_AWAY


def _sizes(
    slices: Mapping[int, SliceQuality], indices: npt.NDArray[np.int_]
) -> npt.NDArray[np.float64]:
    """Root of the area on or beside each slice, relative to the largest slice of the label."""
    largest = max(1, *(q.area for q in slices.values()))
    around = [(slices[i], *_neighbours(slices, i)) for i in indices.tolist()]
    return np.sqrt([max(q.area for q in near) / largest for near in around])


def _distances(indices: npt.NDArray[np.int_], seeds: Sequence[int]) -> npt.NDArray[np.float64]:
    """0 beside a seed to 1 far away, and twice that where seeds are on one side only."""
    if not seeds:
        return np.full(len(indices), 2.0)
    nearest = np.abs(indices[:, None] - np.array(seeds)).min(axis=1)
    one_sided = (indices < seeds[0]) | (indices > seeds[-1])
    return (1.0 - np.exp(-nearest / _FAR)) * (1 + one_sided)


def _doubts(
    slices: Mapping[int, SliceQuality], index: int, typical: float
) -> tuple[float, float, float, float]:
    """Doubt in a slice by each of the reasons, 0 to 1."""
    here = slices[index]
    disagreement = 0.0 if here.agreement is None else 1.0 - here.agreement
    low = 1.0 - replace(here, agreement=None).confidence
    jumps = _area_jump(slices, index, typical), _centroid_jump(slices, index)
    return low, (1.0 - low) * disagreement, *jumps


def trusted_slices(
    quality: Mapping[int, Mapping[int, SliceQuality]],
) -> dict[int, tuple[int, ...]]:
    """The segmented slices with the object on them whose own scores raise no doubt.

    Where they lie between annotated slices does not count.

    Parameters
    ----------
    quality : mapping of label to mapping of slice index to SliceQuality

    Returns
    -------
    dict of label to tuple of int
        Sorted.
    """
    found: dict[int, tuple[int, ...]] = {}
    for label, slices in sorted(quality.items()):
        typical = _typical_area(slices)
        trusted = []
        for index, q in sorted(slices.items()):
            doubt = sum(_doubts(slices, index, typical))
            doubt += 0.0 if q.agreement is None else 1.0 - q.agreement
            if q.area and doubt < _TRUSTED_DOUBT:
                trusted.append(index)
        if trusted:
            found[label] = tuple(trusted)
    return found


def _neighbours(slices: Mapping[int, SliceQuality], index: int) -> list[SliceQuality]:
    return [slices[i] for i in (index - 1, index + 1) if i in slices]


def _area_jump(slices: Mapping[int, SliceQuality], index: int, typical: float) -> float:
    here = slices[index].area
    jumps = [
        abs(np.log((here + 0.1 * typical) / (n.area + 0.1 * typical)))
        for n in _neighbours(slices, index)
    ]
    return float(min(1.0, max(jumps, default=0.0)))


def _centroid_jump(slices: Mapping[int, SliceQuality], index: int) -> float:
    here = slices[index]
    if here.centroid is None:
        return 0.0
    radius = np.sqrt(max(here.area, 1) / np.pi)
    jumps = [
        np.hypot(*np.subtract(here.centroid, n.centroid)) / (2 * radius)
        for n in _neighbours(slices, index)
        if n.centroid is not None
    ]
    return float(min(1.0, max(jumps, default=0.0)))
