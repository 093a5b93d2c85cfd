"""One row per label: what is known of it, for a table, a file or the features of a layer."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.core.prompts import PromptSet
from napari_slmsam2.session.label_counts import LabelCount

_NOTHING = LabelCount(0, 0, -1, -1, -1)


@dataclass(frozen=True, slots=True)
class LabelRow:
    """What is known of one label.

    Attributes
    ----------
    label : int
    name : str
        Empty where it has none.
    voxels, slices : int
    volume : float or None
        In mm3; None where the voxel size has no unit.
    first, largest : int
        The first slice with the label and the one with most voxels, or its first seed; -1 where
        there is neither.
    quality : float or None
        Mean confidence over the propagated slices, 0 to 1.
    seeds : int
        Annotated slices.
    locked, done : bool
    """

    label: int
    name: str = ""
    voxels: int = 0
    slices: int = 0
    volume: float | None = None
    first: int = -1
    largest: int = -1
    quality: float | None = None
    seeds: int = 0
    locked: bool = False
    done: bool = False


def label_rows(
    counts: Mapping[int, LabelCount],
    prompts: PromptSet,
    table: LabelTable,
    quality: Mapping[int, float],
    voxel_volume: float | None,
) -> list[LabelRow]:
    """The rows of all labels that have voxels, a seed, a name, a colour or a state, ascending.

    Parameters
    ----------
    counts : mapping of label to LabelCount
    prompts : PromptSet
    table : LabelTable
    quality : mapping of label to float
        Mean confidence.
    voxel_volume : float or None
        Of one voxel in mm3.
    """
    seeds: dict[int, list[int]] = {}
    for prompt in prompts:
        seeds.setdefault(prompt.label, []).append(prompt.index)
    rows = []
    for label in sorted({*counts, *seeds, *table.labels, *table.locked, *table.done}):
        count, own = counts.get(label, _NOTHING), sorted(seeds.get(label, ()))
        somewhere = own[0] if own else -1
        rows.append(
            LabelRow(
                label,
                table.names.get(label, ""),
                count.voxels,
                count.slices,
                None if voxel_volume is None else count.voxels * voxel_volume,
                count.first if count.slices else somewhere,
                count.largest if count.slices else somewhere,
                quality.get(label),
                len(own),
                label in table.locked,
                label in table.done,
            )
        )
    return rows


def describe_volume(volume: float) -> str:
    """A volume given in mm3 with a fitting unit: µm³, mm³ or ml."""
    if volume >= 1000:
        return f"{_digits(volume / 1000)} ml"
    if volume >= 0.01 or volume == 0:
        return f"{_digits(volume)} mm³"
    return f"{_digits(volume * 1e9)} µm³"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def feature_columns(rows: Sequence[LabelRow]) -> dict[str, list[Any]]:
    """The rows as columns of a features table; ``index`` is the label."""
    return {
        "index": [row.label for row in rows],
        "label_name": [row.name for row in rows],
        "voxels": [row.voxels for row in rows],
        "volume_mm3": [row.volume for row in rows],
        "slices": [row.slices for row in rows],
        "mean_quality": [row.quality for row in rows],
        "seeds": [row.seeds for row in rows],
        "locked": [row.locked for row in rows],
        "done": [row.done for row in rows],
    }


def write_csv(
    path: str | os.PathLike[str], rows: Sequence[LabelRow], *, overwrite: bool = False
) -> Path:
    """Write rows to a CSV file, completely or not at all; numbers with all their digits.

    Raises
    ------
    OutputError
        The file exists or cannot be written.
    """
    columns = feature_columns(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label" if name == "index" else name for name in columns])
    writer.writerows(zip(*columns.values(), strict=True))
    content = text.getvalue()
    return atomic_write(
        path, lambda file: file.write_text(content, encoding="utf-8"), overwrite=overwrite
    )
