"""Edits of whole labels: names, colours, locks, merging and deleting; each is one undo step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from napari_slmsam2.core.label_table import RGBA, LabelEntry, LabelTable
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.label_array import with_room_for


def rename_label(annotation: Annotation, label: int, name: str) -> None:
    """Give a label a name; an empty one removes it."""
    _change(annotation, "rename", [label], name=name.strip() or None)


def recolour_label(annotation: Annotation, label: int, colour: RGBA) -> None:
    """Give a label a colour."""
    _change(annotation, "colour", [label], colour=colour)


def lock_labels(annotation: Annotation, labels: Iterable[int], locked: bool = True) -> None:
    """Lock labels, so that neither runs nor edits change their voxels, or unlock them."""
    _change(annotation, "lock" if locked else "unlock", labels, locked=locked)


def mark_done(annotation: Annotation, labels: Iterable[int], done: bool = True) -> None:
    """Declare labels finished, or not finished."""
    _change(annotation, "done", labels, done=done)


def take_names(annotation: Annotation, table: LabelTable) -> None:
    """Take over names and colours from another table; states stay."""
    now = annotation.table
    _set(
        annotation,
        "names",
        {
            label: replace(
                now.entry(label),
                name=table.names.get(label, now.names.get(label)),
                colour=table.colours.get(label, now.colours.get(label)),
            )
            for label in table.labels
        },
    )


def delete_labels(annotation: Annotation, labels: Iterable[int]) -> tuple[int, ...]:
    """Remove labels with their voxels, seeds, extents, names and colours; not during a run.

    Voxels on seeds of slices along another axis stay.

    Returns
    -------
    tuple of int
        The slices whose labels changed.

    Raises
    ------
    PromptError
        One of the labels is locked.
    """
    return _replaced(annotation, frozenset(labels), None)


def merge_labels(annotation: Annotation, labels: Iterable[int], into: int) -> tuple[int, ...]:
    """Give the voxels and seeds of labels to another label; not during a run.

    A slice with a seed of any of them becomes a seed of the merged label with the pixels of all.
    The ends of the merged label are known where those of all labels are.

    Returns
    -------
    tuple of int
        The slices whose labels changed.

    Raises
    ------
    PromptError
        One of the labels is locked.
    """
    sources = frozenset(labels) - {into}
    return _replaced(annotation, sources, into) if sources else ()


def _replaced(annotation: Annotation, sources: frozenset[int], into: int | None) -> tuple[int, ...]:
    prompts, slices = annotation.prompts, annotation.slices
    changed = sources if into is None else sources | {into}
    seeds: dict[tuple[int, int], SlicePrompt | None] = {
        (p.label, p.index): None for p in prompts if p.label in sources
    }
    extents: dict[int, tuple[int, int] | None] = {
        label: None for label in sources if label in prompts.extents
    }
    seeded = {p.index for p in prompts if p.label in changed and not p.is_open}
    planes = {}
    for index in range(annotation.volume.n_slices):
        plane = slices.read(index)
        inside = np.isin(plane, sorted(sources))
        if inside.any():
            plane = with_room_for(plane, into or 0)
            plane[inside] = into or 0
            planes[index] = plane
        if into is not None and index in seeded:
            seeds[into, index] = SlicePrompt.from_mask(into, index, plane == into)
    if into is not None:
        for prompt in prompts:
            if prompt.label in sources and prompt.is_open and (into, prompt.index) not in seeds:
                seeds[into, prompt.index] = replace(prompt, label=into)
        ends = [prompts.extents.get(label) for label in changed]
        known = [end for end in ends if end is not None]
        extents[into] = None
        if len(known) == len(ends):
            extents[into] = min(first for first, _ in known), max(last for _, last in known)
    return annotation.history.edit_labels(
        "delete" if into is None else "merge",
        changed,
        extents=extents,
        seeds=seeds,
        planes=planes,
        entries=dict.fromkeys(sources, LabelEntry()),
        removed=sources,
    )


def _change(annotation: Annotation, word: str, labels: Iterable[int], **values: Any) -> None:
    table = annotation.table
    _set(annotation, word, {label: replace(table.entry(label), **values) for label in labels})


def _set(annotation: Annotation, word: str, entries: Mapping[int, LabelEntry]) -> None:
    """Set entries as one step; those that are so already make none."""
    new = {k: entry for k, entry in entries.items() if entry != annotation.table.entry(k)}
    if new:
        annotation.history.edit_labels(word, entries=new)
