"""A label volume against its reference: scores per label, means with intervals, a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import ConfigError, GridMismatchError, VolumeError
from napari_slmsam2.evaluate.bootstrap import bootstrap_interval
from napari_slmsam2.evaluate.metrics import (
    ExtentScores,
    OverlapScores,
    SliceCounts,
    count_slices,
    score_extent,
    score_overlap,
)
from napari_slmsam2.evaluate.surface import (
    Spacing,
    Surface,
    SurfacePair,
    SurfaceScores,
    extract_surface,
)

MM_TOLERANCE = 2.0


@dataclass(frozen=True, slots=True)
class Scores:
    """Everything measured of one label over one choice of slices."""

    overlap: OverlapScores
    surface: SurfaceScores
    extent: ExtentScores


@dataclass(frozen=True, slots=True)
class LabelScores:
    """One label of the report.

    Attributes
    ----------
    label : int
    excluded : tuple of int
        Slices left out of `scores`: the annotated ones.
    scores : Scores
        Without the excluded slices.
    all_slices : Scores
        Over the whole volume.
    """

    label: int
    excluded: tuple[int, ...]
    scores: Scores
    all_slices: Scores


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean of one measure over labels.

    Attributes
    ----------
    mean : float
    low, high : float
        95 % bootstrap interval of the mean; NaN for fewer than two values.
    n : int
        Labels for which the measure is defined.
    """

    mean: float
    low: float
    high: float
    n: int


MEASURES: Mapping[str, Callable[[Scores], float]] = {
    "dice": lambda s: s.overlap.dice,
    "iou": lambda s: s.overlap.iou,
    "mean_slice_dice": lambda s: s.overlap.mean_slice_dice,
    "nsd": lambda s: s.surface.nsd,
    "hd95": lambda s: s.surface.hd95,
    "assd": lambda s: s.surface.assd,
    "op_slices": lambda s: s.extent.op_slices,
    "op_voxels": lambda s: s.extent.op_voxels,
    "absent_recall": lambda s: s.extent.absent_recall,
    "presence_precision": lambda s: s.extent.precision,
    "presence_recall": lambda s: s.extent.recall,
    "presence_f1": lambda s: s.extent.f1,
    "end_error": lambda s: float(np.mean(s.extent.end_error)),
    "end_distance": lambda s: float(np.mean(s.extent.end_distance)),
}
"""The measures that are averaged over labels, by their names in files."""


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What `evaluate_labels` found.

    Attributes
    ----------
    labels : tuple of LabelScores
        Sorted by label.
    n_slices, axis : int
    spacing : tuple of float
    unit : str
    tolerance : float
        Of the normalised surface Dice, in ``unit``.
    """

    labels: tuple[LabelScores, ...]
    n_slices: int
    axis: int
    spacing: Spacing
    unit: str
    tolerance: float

    @property
    def excludes(self) -> bool:
        """Whether any slice was left out of the scores."""
        return any(label.excluded for label in self.labels)

    def summary(self, *, all_slices: bool = False) -> dict[str, Summary]:
        """Mean and 95 % interval of every measure over the labels.

        Labels for which a measure is not defined are left out of it; see ``n``.

        Parameters
        ----------
        all_slices : bool
            Over the whole volume instead of without the excluded slices.
        """
        chosen = [label.all_slices if all_slices else label.scores for label in self.labels]
        return {name: summarise([get(s) for s in chosen]) for name, get in MEASURES.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is not defined is None."""
        plain: dict[str, Any] = _plain(
            {
                "axis": self.axis,
                "n_slices": self.n_slices,
                "spacing": self.spacing,
                "unit": self.unit,
                "tolerance": self.tolerance,
                "mean": {k: asdict(v) for k, v in self.summary().items()},
                "mean_all_slices": {k: asdict(v) for k, v in self.summary(all_slices=True).items()},
                "labels": [asdict(label) for label in self.labels],
            }
        )
        return plain


def default_tolerance(spacing: Spacing, unit: str) -> float:
    """2 mm where the unit is mm (Ma et al. 2024), elsewhere one voxel of the finest axis."""
    return MM_TOLERANCE if unit == "mm" else float(min(spacing))


def evaluate_labels(
    predicted: Any,
    reference: Any,
    *,
    spacing: Spacing,
    unit: str,
    axis: int,
    labels: Iterable[int] | None = None,
    exclude: Mapping[int, Iterable[int]] | None = None,
    tolerance: float | None = None,
) -> EvaluationReport:
    """Score a label volume against a reference.

    A label that only one of the volumes holds scores 0 in overlap, normalised surface Dice and
    presence F1; its distances are not defined (NaN).

    Parameters
    ----------
    predicted, reference : array_like of integer or bool, shape (I, J, K)
        Label volumes on one grid; 0 is background.
    spacing : tuple of float
        Distance of the voxel centres along the three axes.
    unit : str
        Of the spacing.
    axis : int
        Propagation axis, 0 to 2.
    labels : iterable of int, optional
        Labels to score; by default all that either volume holds.
    exclude : mapping of label to slice indices, optional
        Annotated slices, left out of the scores of their label. Surfaces are taken from the whole
        masks; only the elements on these slices are left out.
    tolerance : float, optional
        Of the normalised surface Dice, in ``unit``; see `default_tolerance`.

    Returns
    -------
    EvaluationReport

    Raises
    ------
    VolumeError
        Not integer labels in 3D, or a label asked for is in neither volume.
    GridMismatchError
        The volumes differ in shape.
    ConfigError
        Tolerance, spacing, axis or an excluded slice out of range.
    """
    spacing, tolerance = _check(predicted, reference, spacing, unit, axis, tolerance)
    counts = count_slices(predicted, reference, axis)
    if counts and min(counts) < 0:
        raise VolumeError("labels", "are negative", expected="0 and above", found=min(counts))
    wanted = sorted(counts if labels is None else {int(label) for label in labels})
    missing = [label for label in wanted if label not in counts]
    if missing:
        raise VolumeError(
            f"label {missing[0]}", "is in neither volume", expected=_listed(sorted(counts))
        )
    n_slices = int(reference.shape[axis])
    rows = []
    for label in wanted:
        counted = counts[label]
        excluded = _excluded((exclude or {}).get(label, ()), label, n_slices)
        pair = SurfacePair.of(
            _label_surface(predicted, label, counted.predicted, axis, spacing),
            _label_surface(reference, label, counted.reference, axis, spacing),
            spacing,
        )
        scored, everything = (
            _score(counted, pair, skip, spacing[axis], axis, tolerance) for skip in (excluded, ())
        )
        rows.append(LabelScores(label, excluded, scored, everything))
    return EvaluationReport(tuple(rows), n_slices, axis, spacing, unit, tolerance)


def _score(
    counts: SliceCounts,
    pair: SurfacePair,
    skip: tuple[int, ...],
    slice_distance: float,
    axis: int,
    tolerance: float,
) -> Scores:
    keep = np.ones(counts.n_slices, bool)
    keep[list(skip)] = False
    return Scores(
        score_overlap(counts, keep),
        pair.score(tolerance, keep, axis),
        score_extent(counts, keep, slice_distance=slice_distance),
    )


def _label_surface(
    volume: Any, label: int, per_slice: npt.NDArray[np.int64], axis: int, spacing: Spacing
) -> Surface:
    """The surface of one label, looked for in its own bounding box only."""
    slices = np.flatnonzero(per_slice)
    if not slices.size:
        return extract_surface(np.zeros((0, 0, 0), bool), spacing)
    slab = [slice(None)] * 3
    slab[axis] = slice(int(slices[0]), int(slices[-1]) + 1)
    mask = np.asarray(volume[tuple(slab)]) == label
    box, origin = [slice(None)] * 3, [0, 0, 0]
    for a in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(b for b in range(3) if b != a)))
        box[a] = slice(int(used[0]), int(used[-1]) + 1)
        origin[a] = int(used[0]) + (int(slices[0]) if a == axis else 0)
    return extract_surface(mask[tuple(box)], spacing, (origin[0], origin[1], origin[2]))


def summarise(values: Sequence[float]) -> Summary:
    """Mean and 95 % bootstrap interval of the values that are defined (not NaN)."""
    defined = [v for v in values if not math.isnan(v)]
    mean = float(np.mean(defined)) if defined else math.nan
    return Summary(mean, *bootstrap_interval(defined), n=len(defined))


def _check(
    predicted: Any,
    reference: Any,
    spacing: Spacing,
    unit: str,
    axis: int,
    tolerance: float | None,
) -> tuple[Spacing, float]:
    for name, volume in (("prediction", predicted), ("reference", reference)):
        if len(volume.shape) != 3:
            raise VolumeError(
                name, "is not a 3D volume", expected="3 dimensions", found=f"shape {volume.shape}"
            )
        if np.dtype(volume.dtype).kind not in "biu":
            raise VolumeError(
                name, "does not hold labels", expected="integers", found=str(volume.dtype)
            )
    if tuple(predicted.shape) != tuple(reference.shape):
        raise GridMismatchError(
            "prediction",
            "has another shape than the reference",
            expected=tuple(reference.shape),
            found=tuple(predicted.shape),
        )
    if axis not in (0, 1, 2):
        raise ConfigError("axis", "does not exist", expected="0, 1 or 2", found=axis)
    sizes = tuple(float(s) for s in spacing)
    if len(sizes) != 3 or not all(math.isfinite(s) and s > 0 for s in sizes):
        raise ConfigError(
            "spacing", "is not usable", expected="three positive numbers", found=spacing
        )
    checked = (sizes[0], sizes[1], sizes[2])
    limit = default_tolerance(checked, unit) if tolerance is None else float(tolerance)
    if not (math.isfinite(limit) and limit >= 0):
        raise ConfigError("tolerance", "is out of range", expected="0 or more", found=tolerance)
    return checked, limit


def _excluded(indices: Iterable[int], label: int, n_slices: int) -> tuple[int, ...]:
    chosen = tuple(sorted({int(i) for i in indices}))
    for index in chosen:
        if not 0 <= index < n_slices:
            raise ConfigError(
                f"excluded slice of label {label}",
                "does not exist",
                expected=f"0 to {n_slices - 1}",
                found=index,
            )
    return chosen


def _listed(labels: Sequence[int], most: int = 20) -> str:
    shown = ", ".join(str(label) for label in labels[:most])
    return f"{shown or 'no label at all'}{', ...' if len(labels) > most else ''}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
