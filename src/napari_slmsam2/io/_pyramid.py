"""Coarser levels of a label volume, for programs that show large ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_SMALL = 256
"""Voxels along the longest axis of the coarsest level, at most."""

_SLAB = 16
"""Slices of a coarser level that are made at once."""

Factor = tuple[int, int, int]


def levels(
    labels: npt.NDArray[Any], spacing: Sequence[float]
) -> Iterator[tuple[npt.NDArray[Any], Factor]]:
    """The volume, and halves of it while an axis is longer than 256 voxels.

    The axes along which voxels are shortest are halved first, until the voxels are about cubes.

    Parameters
    ----------
    labels : ndarray of unsigned int, shape (I, J, K)
    spacing : sequence of float
        Voxel size along the axes.

    Yields
    ------
    labels : ndarray, shape (i, j, k)
        The dtype of the volume.
    factor : tuple of int
        By which its voxels are larger than those of the volume.
    """
    factor = (1, 1, 1)
    yield labels, factor
    while max(labels.shape) > _SMALL:
        step = _step(labels.shape, [s * f for s, f in zip(spacing, factor, strict=True)])
        labels = _coarser(labels, step)
        i, j, k = (f * n for f, n in zip(factor, step, strict=True))
        factor = i, j, k
        yield labels, factor


def _step(shape: Sequence[int], spacing: Sequence[float]) -> Factor:
    """2 along the axes to be halved, else 1."""
    shortest = min(s for n, s in zip(shape, spacing, strict=True) if n > 1)
    i, j, k = (2 if n > 1 and s < 2 * shortest else 1 for n, s in zip(shape, spacing, strict=True))
    return i, j, k


def _coarser(labels: npt.NDArray[Any], step: Factor) -> npt.NDArray[Any]:
    """The commonest label of every block; of equally common ones none is the background."""
    shape = [-(-n // s) for n, s in zip(labels.shape, step, strict=True)]
    coarse = np.empty(shape, labels.dtype)
    for start in range(0, shape[0], _SLAB):
        stop = start + _SLAB
        fine = labels[start * step[0] : stop * step[0]]
        short = [(0, -n % s) for n, s in zip(fine.shape, step, strict=True)]
        coarse[start:stop] = _commonest(np.pad(fine, short, mode="edge"), step)
    return coarse


def _commonest(labels: npt.NDArray[Any], step: Factor) -> npt.NDArray[Any]:
    parts = [labels[i :: step[0], j :: step[1], k :: step[2]] for i, j, k in np.ndindex(*step)]
    best, most = parts[0], np.zeros(parts[0].shape, np.uint8)
    for part in parts:
        votes = np.sum([part == other for other in parts], axis=0, dtype=np.uint8)
        better = (votes > most) | ((votes == most) & (best == 0))
        best, most = np.where(better, part, best), np.where(better, votes, most)
    return best
