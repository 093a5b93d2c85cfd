"""Voxels of each label on each slice, counted again only where labels changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.session.annotation import Annotation

_Ints = npt.NDArray[np.int64]
_LARGEST_TABLE = 2**20
"""Labels up to here are counted in a table, which is faster than sorting them."""


@dataclass(frozen=True, slots=True)
class LabelCount:
    """The voxels of one label.

    Attributes
    ----------
    voxels : int
    slices : int
        Slices that hold the label.
    first, last : int
        The outermost of them.
    largest : int
        The one with most voxels.
    """

    voxels: int
    slices: int
    first: int
    last: int
    largest: int


class LabelCounts:
    """Counts the labels of an annotation; one thread at a time, which may be any.

    A slice that changes while it is counted is counted again by the next update. The counts of the
    slices are kept with the labels.

    Parameters
    ----------
    annotation : Annotation
    """

    def __init__(self, annotation: Annotation) -> None:
        self._slices = annotation.slices

    @property
    def is_current(self) -> bool:
        """Whether nothing has changed since the last update."""
        return not self._slices.uncounted

    def update(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Count the slices that changed.

        Parameters
        ----------
        should_stop : callable
            Checked between slices; the rest is left to the next update.
        """
        slices = self._slices
        while slices.uncounted and not should_stop():
            index = slices.uncounted.pop()
            slices.counted[index] = count_labels(slices.plane(index))

    def totals(self) -> dict[int, LabelCount]:
        """The counts of every label in the volume, ascending."""
        found = sorted(self._slices.counted.items())
        if not any(len(labels) for _, (labels, _) in found):
            return {}
        labels = np.concatenate([labels for _, (labels, _) in found])
        voxels = np.concatenate([voxels for _, (_, voxels) in found])
        indices = np.repeat([i for i, _ in found], [len(labels) for _, (labels, _) in found])
        order = np.argsort(labels, kind="stable")
        labels, voxels, indices = labels[order], voxels[order], indices[order]
        starts = np.flatnonzero(np.diff(labels, prepend=-1))
        totals = {}
        for start, stop in zip(starts, [*starts[1:], len(labels)], strict=True):
            areas = voxels[start:stop]
            totals[int(labels[start])] = LabelCount(
                int(areas.sum()),
                int(stop - start),
                int(indices[start]),
                int(indices[stop - 1]),
                int(indices[start + areas.argmax()]),
            )
        return totals


def count_labels(plane: npt.NDArray[np.integer]) -> tuple[_Ints, _Ints]:
    """The labels above 0 in an array, ascending, and how many voxels each has."""
    inside = plane[plane > 0]
    if inside.size and inside.max() < _LARGEST_TABLE:
        counts = np.bincount(inside)
        labels = np.flatnonzero(counts)
        return labels.astype(np.int64), counts[labels].astype(np.int64)
    labels, counts = np.unique(inside, return_counts=True)
    return labels.astype(np.int64), counts.astype(np.int64)
