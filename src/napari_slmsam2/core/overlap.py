"""Which label a pixel gets where several labels contend for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.soft_masks import Box, LogitPatch, find_box, is_empty, unite_boxes


def resolve_labels(
    existing: npt.NDArray[np.integer],
    logits: Mapping[int, LogitPatch],
    running: Collection[int],
    seeds: Mapping[int, npt.NDArray[np.bool_]],
    rule: str,
    locked: Collection[int] = (),
) -> npt.NDArray[np.integer]:
    """Labels of one slice after a propagation step.

    Work and memory grow with the boxes of the labels, not with labels times pixels; the part of
    the slice without any label is only copied.

    Parameters
    ----------
    existing : ndarray of int, shape (H, W)
        Labels on the slice so far; 0 is background.
    logits : mapping of label to LogitPatch
        Of every label that was propagated to this slice, now or in an earlier run; on one
        scale.
    running : collection of int
        Labels of the present run: their earlier pixels are replaced.
    seeds : mapping of label to ndarray of bool, shape (H, W)
        Annotated masks on this slice. They come out as they went in; where two overlap, the
        later one is on top.
    rule : {"highest", "keep", "overwrite"}
        Whether the running labels compete with the other propagated ones by their logits, leave
        them, or replace every other label that is not a seed.
    locked : collection of int
        Labels that neither gain nor lose a pixel, not even to a seed.

    Returns
    -------
    ndarray of int, shape (H, W)
        A new array of the dtype of ``existing``.
    """
    resolved = existing.copy()
    region = find_box(existing != 0)
    for box in (*(patch.box for patch in logits.values()), *map(find_box, seeds.values())):
        region = unite_boxes(region, box)
    resolved[region] = _resolve_part(
        existing[region],
        {
            label: LogitPatch(_within(patch.box, region), patch.logits)
            for label, patch in logits.items()
        },
        running,
        {label: mask[region] for label, mask in seeds.items()},
        rule,
        locked,
    )
    return resolved


def _resolve_part(
    existing: npt.NDArray[np.integer],
    logits: Mapping[int, LogitPatch],
    running: Collection[int],
    seeds: Mapping[int, npt.NDArray[np.bool_]],
    rule: str,
    locked: Collection[int],
) -> npt.NDArray[np.integer]:
    """`resolve_labels` in a part of a slice that holds all labels, logits and seeds of it."""
    resolved = existing.copy()
    resolved[np.isin(resolved, [label for label in running if label not in locked])] = 0
    contenders = [
        label
        for label in logits
        if label not in seeds and label not in locked and (label in running or rule == "highest")
    ]
    best = np.zeros(existing.shape, np.float32)
    winner = np.zeros_like(existing)
    for label in contenders:
        box, here = logits[label].box, logits[label].logits
        higher = here > best[box]
        np.copyto(best[box], here, where=higher)
        winner[box][higher] = label
    claimed = winner > 0
    if rule != "overwrite":
        claimed &= (resolved == 0) | np.isin(resolved, contenders)
    resolved[claimed] = winner[claimed]
    if seeds:
        resolved[np.isin(resolved, list(seeds))] = 0
    for label, mask in seeds.items():
        resolved[mask] = label
    if locked:
        fixed = np.isin(existing, list(locked)) | np.isin(resolved, list(locked))
        resolved[fixed] = existing[fixed]
    return resolved


def _within(box: Box, region: Box) -> Box:
    """A box of the slice in the coordinates of a region around it; an empty one stays."""
    if is_empty(box):
        return box
    rows, columns = (
        slice(side.start - around.start, side.stop - around.start)
        for side, around in zip(box, region, strict=True)
    )
    return rows, columns
