"""Several labels in one volume: whose logits count, and which sweep follows another object."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.plan import BACKWARD, FORWARD, Gap, find_gaps
from napari_slmsam2.core.prompts import PromptKind, PromptSet
from napari_slmsam2.core.soft_masks import LogitPatch

LabelLogits = Mapping[int, LogitPatch]

CLOSENESS_POWER = 2
"""Of the distance from the seed, plus 1, by which logits are divided."""

TAKEN_OVER = 0.5
"""Share of a mask in other labels above which its sweep follows one of them."""


class SeedDistances:
    """How far every slice is from the seeds of a label.

    Parameters
    ----------
    prompts : PromptSet
    """

    def __init__(self, prompts: PromptSet) -> None:
        seeds: dict[int, list[int]] = {}
        for prompt in prompts:
            if prompt.kind is not PromptKind.ABSENT:
                seeds.setdefault(prompt.label, []).append(prompt.index)
        self._seeds = {label: sorted(indices) for label, indices in seeds.items()}
        self._nearest: dict[int, dict[int, int]] = {}

    def weight(self, label_logits: LabelLogits, index: int) -> LabelLogits:
        """Make logits of several labels comparable: sweeps drift with the distance from a seed.

        Parameters
        ----------
        label_logits : mapping of label to LogitPatch
            On a slice.
        index : int
            The slice.

        Returns
        -------
        mapping of label to LogitPatch
            Of the same signs.
        """
        if index not in self._nearest:
            self._nearest[index] = {
                label: _distance(seeds, index) for label, seeds in self._seeds.items()
            }
        nearest = self._nearest[index]
        farthest = max(nearest.values(), default=0)
        return {
            label: LogitPatch(
                patch.box,
                patch.logits * np.float32((1.0 + nearest.get(label, farthest)) ** -CLOSENESS_POWER),
            )
            for label, patch in label_logits.items()
        }


def _distance(seeds: list[int], index: int) -> int:
    place = bisect_left(seeds, index)
    return min(abs(index - seed) for seed in seeds[max(0, place - 1) : place + 1])


def find_open_gaps(prompts: PromptSet, n_slices: int, labels: Collection[int]) -> list[Gap]:
    """The gaps of labels beyond their outermost seeds, where the end is not known.

    Parameters
    ----------
    prompts : PromptSet
    n_slices : int
        Slices of the volume.
    labels : collection of int
    """
    seeded = {prompt.label for prompt in prompts if prompt.kind is not PromptKind.ABSENT}
    open_ended = (seeded - prompts.extents.keys()).intersection(labels)
    if not open_ended:
        return []
    return [gap for gap in find_gaps(prompts, n_slices, labels=open_ended) if not gap.closed]


def find_taken_over(label_logits: LabelLogits, winner: npt.NDArray[np.integer]) -> set[int]:
    """The labels of which others have more than half of the mask on a slice.

    Parameters
    ----------
    label_logits : mapping of label to LogitPatch
    winner : ndarray of int, shape (H, W)
        The labels of the slice, resolved against each other.
    """
    return {
        label
        for label, patch in label_logits.items()
        if _is_taken_over(patch.logits > 0, winner[patch.box], label)
    }


def _is_taken_over(
    mask: npt.NDArray[np.bool_], winner: npt.NDArray[np.integer], label: int
) -> bool:
    others = (winner[mask] != label) & (winner[mask] > 0)
    return bool(others.sum() > TAKEN_OVER * mask.sum())


def suppressed_slices(
    gaps: Collection[Gap], taken_over: Mapping[int, Collection[int]]
) -> set[tuple[int, int]]:
    """Where sweeps with an open end follow the object of another label.

    A sweep is suppressed from the first slice on where other labels have more than half of its
    mask.

    Parameters
    ----------
    gaps : collection of Gap
        From `find_open_gaps`.
    taken_over : mapping of slice index to labels
        From `find_taken_over`, for the slices of all gaps.

    Returns
    -------
    set of (label, index)
    """
    suppressed: set[tuple[int, int]] = set()
    for gap in gaps:
        indices = gap.indices(FORWARD if gap.after is None else BACKWARD)
        first = next(
            (step for step, i in enumerate(indices) if gap.label in taken_over.get(i, ())),
            len(indices),
        )
        suppressed |= {(gap.label, index) for index in indices[first:]}
    return suppressed
