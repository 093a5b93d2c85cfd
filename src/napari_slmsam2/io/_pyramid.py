"""Coarser levels of a label volume, for programs that show large ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_SMALL = 256
"""Voxels along the longest axis of the coarsest level, at most."""

Factor = tuple[int, int, int]


def coarser_levels(
    shape: Sequence[int], spacing: Sequence[float]
) -> Iterator[tuple[tuple[int, ...], Factor, Factor]]:
    """The levels of a volume, each a half of the one before, while an axis exceeds 256 voxels.

    The axes along which voxels are shortest are halved first, until the voxels are about cubes.

    Parameters
    ----------
    shape : sequence of int
    spacing : sequence of float
        Voxel size along the axes.

    Yields
    ------
    shape : tuple of int
    step : tuple of int
        By which its voxels are larger than those of the level before.
    factor : tuple of int
        By which its voxels are larger than those of the volume.
    """
    shape, factor = tuple(shape), (1, 1, 1)
    while max(shape) > _SMALL:
        step = _step(shape, [s * f for s, f in zip(spacing, factor, strict=True)])
        i, j, k = (f * n for f, n in zip(factor, step, strict=True))
        factor = i, j, k
        shape = tuple(-(-n // s) for n, s in zip(shape, step, strict=True))
        yield shape, step, factor


def _step(shape: Sequence[int], spacing: Sequence[float]) -> Factor:
    """2 along the axes to be halved, else 1."""
    shortest = min(s for n, s in zip(shape, spacing, strict=True) if n > 1)
    i, j, k = (2 if n > 1 and s < 2 * shortest else 1 for n, s in zip(shape, spacing, strict=True))
    return i, j, k


def write_coarser(
    fine: Any, coarse: Any, step: Factor, axis: int, chosen: Callable[[range], bool]
) -> None:
    """Fill a coarser level: the commonest label of every block.

    Of equally common labels none is the background, so that thin objects stay. Chunks without a
    label are read, but not computed.

    Parameters
    ----------
    fine : zarr.Array, shape (I, J, K)
    coarse : zarr.Array of zeros, shape (i, j, k)
        Written in whole chunks, each chunk of ``fine`` being read once.
    step : tuple of int
        Voxels of ``fine`` for each of ``coarse``, along the axes.
    axis : int
    chosen : callable
        Whether to write the chunks made from some slices of ``fine`` along ``axis``.
    """
    tile = [
        -(-max(chunk, finer // s) // chunk) * chunk
        for chunk, finer, s in zip(coarse.chunks, fine.chunks, step, strict=True)
    ]
    starts = (range(0, n, t) for n, t in zip(coarse.shape, tile, strict=True))
    for corner in itertools.product(*starts):
        spans = [
            (first, min(first + t, n))
            for first, t, n in zip(corner, tile, coarse.shape, strict=True)
        ]
        ours = tuple(
            slice(first * s, last * s) for (first, last), s in zip(spans, step, strict=True)
        )
        if not chosen(range(ours[axis].start, min(ours[axis].stop, fine.shape[axis]))):
            continue
        labels = np.asarray(fine[ours])
        if labels.any():
            short = [(0, -n % s) for n, s in zip(labels.shape, step, strict=True)]
            found = _commonest(np.pad(labels, short, mode="edge"), step)
            coarse[tuple(slice(first, last) for first, last in spans)] = found


def _commonest(labels: npt.NDArray[Any], step: Factor) -> npt.NDArray[Any]:
    parts = [labels[i :: step[0], j :: step[1], k :: step[2]] for i, j, k in np.ndindex(*step)]
    found = parts[0].copy()
    mixed = np.zeros(found.shape, bool)
    for part in parts[1:]:
        mixed |= part != found
    found[mixed] = _majority([part[mixed] for part in parts])
    return found


def _majority(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    best, most = parts[0], np.zeros(parts[0].shape, np.uint8)
    for part in parts:
        votes = np.sum([part == other for other in parts], axis=0, dtype=np.uint8)
        better = (votes > most) | ((votes == most) & (best == 0))
        best, most = np.where(better, part, best), np.where(better, votes, most)
    return best
