"""Confidence per slice and label, and which slice to fix next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FLAG_SCORE = 0.5
"""Score of `rank_slices` from which a slice is flagged."""


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
        Higher is more urgent.
    reason : str
        The largest contribution, in words.
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

    The score adds doubt (1 - confidence), the disagreement of the sweeps, the jumps of area and
    centroid against the neighbouring slices, all damped near annotated slices, where a correction
    teaches little (method of VMN / QA memory networks, MedIA 2023, with a distance prior).

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
        annotated = sorted(seeds.get(label, ()))
        typical = np.median([q.area for q in slices.values() if q.area] or [1])
        for index, q in slices.items():
            if index in annotated:
                continue
            parts = {
                "low confidence": 1.0 - q.confidence,
                "the sweeps disagree": 0.0 if q.agreement is None else 1.0 - q.agreement,
                "sudden change of size": _area_jump(slices, index, float(typical)),
                "sudden change of position": _centroid_jump(slices, index),
            }
            distance = min((abs(index - s) for s in annotated), default=8)
            score = sum(parts.values()) * (1.0 - np.exp(-((distance / 2.0) ** 2)))
            ranked.append(
                Suggestion(label, index, float(score), max(parts, key=lambda k: parts[k]))
            )
    return tuple(sorted(ranked, key=lambda s: (-s.score, s.label, s.index)))


def trusted_slices(
    quality: Mapping[int, Mapping[int, SliceQuality]],
) -> dict[int, tuple[int, ...]]:
    """The segmented slices with the object on them that would be flagged nowhere.

    Being near an annotated slice, where a correction teaches little, makes no mask better: it does
    not count here.

    Parameters
    ----------
    quality : mapping of label to mapping of slice index to SliceQuality

    Returns
    -------
    dict of label to tuple of int
        Sorted.
    """
    found: dict[int, set[int]] = {}
    for one in rank_slices(quality, {}):
        if one.score < FLAG_SCORE and quality[one.label][one.index].area:
            found.setdefault(one.label, set()).add(one.index)
    return {label: tuple(sorted(found[label])) for label in sorted(found)}


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
