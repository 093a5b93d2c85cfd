"""Who gets a pixel that several labels claim."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt


def resolve_labels(
    existing: npt.NDArray[np.integer],
    logits: Mapping[int, npt.NDArray[np.floating]],
    running: Collection[int],
    seeds: Mapping[int, npt.NDArray[np.bool_]],
    rule: str,
) -> npt.NDArray[np.integer]:
    """Labels of one slice after a propagation step.

    Parameters
    ----------
    existing : ndarray of int, shape (H, W)
        Labels on the slice so far; 0 is background.
    logits : mapping of label to ndarray, shape (H, W)
        Of every label that was propagated to this slice, now or in an earlier run; on one
        scale.
    running : collection of int
        Labels of the present run: their earlier pixels are replaced.
    seeds : mapping of label to ndarray of bool, shape (H, W)
        Annotated masks on this slice. They come out as they went in.
    rule : {"highest", "keep", "overwrite"}
        Whether the running labels compete with the other propagated ones by their logits, leave
        them, or replace every other label that is not a seed.

    Returns
    -------
    ndarray of int, shape (H, W)
        A new array of the dtype of ``existing``.
    """
    resolved = existing.copy()
    resolved[np.isin(resolved, list(running))] = 0
    contenders = [
        label for label in logits if label not in seeds and (label in running or rule == "highest")
    ]
    best = np.zeros(existing.shape, np.float32)
    winner = np.zeros_like(existing)
    for label in contenders:
        higher = logits[label] > best
        np.copyto(best, logits[label], where=higher, casting="same_kind")
        winner[higher] = label
    claimed = winner > 0
    if rule != "overwrite":
        claimed &= (resolved == 0) | np.isin(resolved, contenders)
    resolved[claimed] = winner[claimed]
    for label, mask in seeds.items():
        resolved[(resolved == label) & ~mask] = 0
        resolved[mask] = label
    return resolved
