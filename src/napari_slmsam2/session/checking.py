"""Slices that a person has checked: accepted as they are, painted or corrected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.session.annotation import Annotation


@dataclass(frozen=True, slots=True)
class Checked:
    """How far a label is checked.

    Attributes
    ----------
    slices : int
        Slices with the object that have a seed.
    total : int
        Slices with the object: propagated ones, and seeds.
    """

    slices: int
    total: int


def count_checked(annotation: Annotation, label: int) -> Checked:
    """How many slices of a label are checked."""
    drawn, present = _slices_of(annotation, label)
    return Checked(len(drawn), len(present))


def _slices_of(annotation: Annotation, label: int) -> tuple[set[int], set[int]]:
    """Slices on which a label is drawn or accepted, and all slices on which it is."""
    seeds = [p for p in annotation.prompts if p.label == label and not p.is_open]
    absent = {p.index for p in seeds if p.kind is PromptKind.ABSENT}
    drawn = {p.index for p in seeds} - absent
    scores = annotation.quality.get(label, {})
    found = {index for index, one in scores.items() if one.area}
    # Where a seed was taken back there is no score, but the pixels stay.
    taken_back = {i for own, i in annotation.dirty if own == label} - drawn - absent
    found |= {i for i in taken_back if (annotation.slices.read(i) == label).any()}
    return drawn, (found | drawn) - absent


def accept_slice(
    annotation: Annotation, index: int, labels: Iterable[int], plane: npt.NDArray[np.integer]
) -> tuple[int, ...]:
    """Make seeds of labels on a slice as they are, as one step of the history.

    A label of which no slice is left to check is marked as done.

    Parameters
    ----------
    annotation : Annotation
    index : int
    labels : iterable of int
        A label that is not on the slice is absent there.
    plane : ndarray of int, shape (H, W)
        The labels of the slice.

    Returns
    -------
    tuple of int
        The labels that had no seed on the slice before.

    Raises
    ------
    PromptError
        One of the labels is locked.
    """
    prompts, table = annotation.prompts, annotation.table
    seeds: dict[tuple[int, int], SlicePrompt | None] = {}
    entries = {}
    for label in labels:
        seed = prompts.get(label, index)
        if seed is not None and not seed.is_open:
            continue
        mask = plane == label
        seeds[label, index] = SlicePrompt.from_mask(label, index, mask)
        drawn, present = _slices_of(annotation, label)
        here = {index} if mask.any() else set()
        if drawn | here == (present - {index}) | here:
            entries[label] = replace(table.entry(label), done=True)
    new = tuple(label for label, _ in seeds)
    if new:
        annotation.history.edit_labels("accept", new, seeds=seeds, entries=entries)
    return new
