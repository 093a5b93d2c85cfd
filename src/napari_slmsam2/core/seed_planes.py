"""The planes on which seeds were drawn, found from the shape of the labels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import SlmSam2Warning

_SINGLE = 1.5
_THIN = 3.0
"""Most slices in a row that count as drawn on slices, not as the thickness of an object."""
_AGREEMENT = 0.9
_PEAK = 4
_PEAK_AREA = 9


@dataclass(frozen=True, slots=True, eq=False)
class SeedPlanes:
    """How the labelled voxels of a seed volume lie along its three axes.

    Attributes
    ----------
    axis : int or None
        The axis on whose planes the seeds were drawn. None where the seeds do not determine it
        (a single voxel, a complete label map, labels drawn on planes of several axes).
    counts : tuple of int
        Planes that hold a label, along each axis.
    is_mixed : bool
        Whether labels were drawn on planes of several axes: no axis reads all of them.
    label_axes : mapping of label to int
        The axis of each label for which it can be determined.
    crossing : tuple of int
        Labels drawn on planes of several axes.
    """

    axis: int | None
    counts: tuple[int, int, int]
    is_mixed: bool
    label_axes: Mapping[int, int]
    crossing: tuple[int, ...]

    @property
    def reason(self) -> str:
        """Which axis the seeds determine and why, or why they determine none."""
        if self.axis is not None:
            others = " and ".join(
                f"{self.counts[a]} of axis {a}" for a in range(3) if a != self.axis
            )
            count = self.counts[self.axis]
            plane = "plane" if count == 1 else "planes"
            return (
                f"The seeds were drawn on {count} {plane} of axis {self.axis} "
                f"(they extend over {others})."
            )
        if self.is_mixed:
            return "The seeds were drawn on planes of several axes."
        return "The seeds do not determine the axis."

    def contradiction(self, axis: int) -> str | None:
        """Why the seeds cannot have been drawn on planes of this axis.

        Parameters
        ----------
        axis : int

        Returns
        -------
        str or None
            None where nothing contradicts the axis.
        """
        if self.is_mixed:
            return (
                f"{self._listed_axes()}. Along axis {axis} what was drawn on other planes is read "
                f"as thin lines ({self.counts[axis]} slices hold seeds). Keep the planes of one "
                "axis, and choose that axis"
            )
        if self.axis is None or self.axis == axis:
            return None
        count = self.counts[self.axis]
        return (
            f"they were drawn on {count} plane{'' if count == 1 else 's'} of axis {self.axis}. "
            f"Along axis {axis} they are read as thin lines on {self.counts[axis]} slices. "
            f"Choose axis {self.axis}"
        )

    def _listed_axes(self) -> str:
        parts = [
            f"{_labels([lab for lab, a in self.label_axes.items() if a == axis])} on axis {axis}"
            for axis in sorted(set(self.label_axes.values()))
        ]
        if self.crossing:
            parts.append(f"{_labels(self.crossing)} on several")
        return "they were drawn on planes of several axes: " + ", ".join(parts)


def _labels(labels: Sequence[int], most: int = 8) -> str:
    more = ", ..." if len(labels) > most else ""
    plural = "label" if len(labels) == 1 else "labels"
    return f"{plural} {', '.join(map(str, labels[:most]))}{more}"


def find_seed_planes(seeds: Any) -> SeedPlanes:
    """Find the planes on which the labels of a seed volume were drawn.

    A label was drawn on planes of an axis where it lies on single planes (or on up to 3 adjacent
    ones) of that axis and extends much further along both other axes.

    Parameters
    ----------
    seeds : array_like of int, shape (I, J, K)
        0 for background. Read plane by plane.

    Returns
    -------
    SeedPlanes
    """
    labels, areas = _areas(seeds)
    counts = tuple(int(np.count_nonzero(table.any(axis=0))) for table in areas)
    voxels = areas[0].sum(axis=1)
    label_axes: dict[int, int] = {}
    crossing: list[int] = []
    weight = np.zeros(3)
    undetermined = voxels.sum()
    for row, label in enumerate(labels.tolist()):
        profiles = [table[row] for table in areas]
        axis = _drawn_axis([_mean_run(profile > 0) for profile in profiles])
        if axis is not None:
            label_axes[label] = axis
            weight[axis] += voxels[row]
            undetermined -= voxels[row]
        elif sum(_has_peak(profile) for profile in profiles) > 1:
            crossing.append(label)
            undetermined -= voxels[row]
    best = int(weight.argmax())
    drawn = voxels.sum() - undetermined
    is_drawn = 0 < drawn >= undetermined
    agrees = weight[best] >= _AGREEMENT * drawn
    return SeedPlanes(
        best if is_drawn and agrees else None,
        counts,  # type: ignore[arg-type]
        is_drawn and not agrees,
        label_axes,
        tuple(crossing),
    )


def _areas(
    seeds: Any,
) -> tuple[npt.NDArray[np.integer], list[npt.NDArray[np.int64]]]:
    """Voxels of every label on every plane of the three axes, read plane by plane."""
    present = [np.unique(plane) for plane in seeds]
    labels = np.unique(np.concatenate(present))
    labels = labels[labels != 0]
    tables = [np.zeros((len(labels), n), np.int64) for n in seeds.shape]
    for index, values in enumerate(present):
        if not values.any():
            continue
        which = np.nonzero(np.asarray(seeds[index]))
        rows = np.searchsorted(labels, np.asarray(seeds[index])[which])
        for table, positions in zip(tables[1:], which, strict=True):
            n = table.shape[1]
            table += np.bincount(rows * n + positions, minlength=table.size).reshape(table.shape)
        tables[0][:, index] = np.bincount(rows, minlength=len(labels))
    return labels, tables


def _mean_run(occupied: npt.NDArray[np.bool_]) -> float:
    """How many planes in a row hold the label, on average."""
    planes = int(np.count_nonzero(occupied))
    starts = int(np.count_nonzero(np.diff(occupied.astype(np.int8), prepend=0) == 1))
    return planes / max(1, starts)


def _drawn_axis(thickness: Sequence[float]) -> int | None:
    thinnest, second, _ = np.argsort(thickness, kind="stable")
    thin, rest = thickness[thinnest], thickness[second]
    single = thin < _SINGLE and rest >= 2 * thin
    few = thin <= _THIN and rest >= 4 * thin
    return int(thinnest) if single or few else None


def _has_peak(areas: npt.NDArray[np.int64]) -> bool:
    """Whether a plane holds much more of the label than both planes beside it."""
    beside = np.maximum(np.append(areas[1:], 0), np.append(0, areas[:-1]))
    return bool(((areas >= _PEAK_AREA) & (areas >= _PEAK * beside)).any())


def warn_of_other_planes(seeds: Any, axis: int) -> None:
    """Warn where seeds were drawn on planes of another axis than the propagation axis.

    Parameters
    ----------
    seeds : ndarray of int, shape (I, J, K)
    axis : int

    Warns
    -----
    SlmSam2Warning
    """
    problem = find_seed_planes(seeds).contradiction(axis)
    if problem is not None:
        warnings.warn(f"seeds: {problem}.", SlmSam2Warning, stacklevel=3)
