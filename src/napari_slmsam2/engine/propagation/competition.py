"""Several objects in one volume: whose claim counts, and which sweep has gone over to another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.plan import BACKWARD, FORWARD, Gap, find_gaps
from napari_slmsam2.core.prompts import PromptKind, PromptSet
from napari_slmsam2.core.soft_masks import SoftMasks

LabelLogits = Mapping[int, npt.NDArray[np.float32]]

CLOSENESS_POWER = 2
"""Of the distance from the seed, plus 1, in the weight of a claim."""

TAKEN_OVER = 0.5
"""Share of a mask in other labels above which its sweep follows one of them."""


def weight_by_seed_distance(
    label_logits: LabelLogits, prompts: PromptSet, index: int
) -> LabelLogits:
    """Make logits of several labels comparable: the nearer the seed, the less a sweep has drifted.

    Parameters
    ----------
    label_logits : mapping of label to ndarray of float32, shape (H, W)
        Mask logits on a slice.
    prompts : PromptSet
    index : int
        The slice.

    Returns
    -------
    mapping of label to ndarray of float32, shape (H, W)
        Of the same signs.
    """
    nearest: dict[int, int] = {}
    for prompt in prompts:
        if prompt.kind is not PromptKind.ABSENT:
            distance = abs(prompt.index - index)
            nearest[prompt.label] = min(distance, nearest.get(prompt.label, distance))
    farthest = max(nearest.values(), default=0)
    return {
        label: logits * np.float32((1.0 + nearest.get(label, farthest)) ** -CLOSENESS_POWER)
        for label, logits in label_logits.items()
    }


def find_taken_over_slices(
    soft: SoftMasks,
    prompts: PromptSet,
    n_slices: int,
    labels: Collection[int],
    resolve: Callable[[int, LabelLogits], npt.NDArray[np.integer]],
) -> set[tuple[int, int]]:
    """Where sweeps with an open end have gone over to other objects.

    A sweep is lost from the first slice on where other labels have more than half of its mask.

    Parameters
    ----------
    soft : SoftMasks
        What every label claims.
    prompts : PromptSet
    n_slices : int
    labels : collection of int
        Those whose sweeps are judged.
    resolve : callable
        ``resolve(index, claims)`` gives the labels of a slice, shape (H, W).

    Returns
    -------
    set of (label, index)
    """

    @cache
    def taken_on(index: int) -> set[int]:
        label_logits = soft.on_slice(index)
        if not label_logits:
            return set()
        winner = resolve(index, label_logits)
        return {label for label, logits in label_logits.items() if _is_taken(logits, winner, label)}

    suppressed: set[tuple[int, int]] = set()
    for gap in _open_gaps(prompts, n_slices, labels):
        way = gap.indices(FORWARD if gap.after is None else BACKWARD)
        first = next((step for step, i in enumerate(way) if gap.label in taken_on(i)), len(way))
        suppressed |= {(gap.label, index) for index in way[first:]}
    return suppressed


def _is_taken(logits: npt.NDArray[np.float32], winner: npt.NDArray[np.integer], label: int) -> bool:
    mask = logits > 0
    others = (winner[mask] != label) & (winner[mask] > 0)
    return bool(others.sum() > TAKEN_OVER * mask.sum())


def _open_gaps(prompts: PromptSet, n_slices: int, labels: Collection[int]) -> list[Gap]:
    """Those beyond the outermost seeds, where the end is not known."""
    seeded = {prompt.label for prompt in prompts if prompt.kind is not PromptKind.ABSENT}
    open_ended = (seeded - prompts.extents.keys()).intersection(labels)
    if not open_ended:
        return []
    return [gap for gap in find_gaps(prompts, n_slices, labels=open_ended) if not gap.closed]
