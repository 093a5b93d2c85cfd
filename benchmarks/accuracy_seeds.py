"""Structures that get worse although more of their slices were annotated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from accuracy_tables import Run, Settings, by_people

from napari_slmsam2.evaluate import AnnotationProtocol

TOLERANCE = 0.01
"""Loss of Dice up to which a structure does not count as worse."""


class Change(NamedTuple):
    """Dice of one structure with fewer and with more annotated slices, on the same slices."""

    name: str
    fewer: float
    more: float


def losses(grouped: Mapping[Settings, Sequence[Run]]) -> str | None:
    """One line for every pair of protocols: how many structures get worse, and which.

    Both results are measured on the slices that neither protocol annotates. None where no two
    protocols with a different number of annotated slices were run.
    """
    lines = []
    for fewer, more in comparable(grouped):
        found = list(changes(by_people(grouped[fewer]), by_people(grouped[more])))
        if not found:
            continue
        worse = sorted(
            (c for c in found if c.more < c.fewer - TOLERANCE), key=lambda c: c.more - c.fewer
        )
        named = "; ".join(f"{c.name} {c.fewer:.3f} to {c.more:.3f}" for c in worse)
        lines.append(
            f"- `{more.model}`, {more.protocol} against {fewer.protocol}: {len(worse)} of "
            f"{len(found)} structures lose more than {TOLERANCE}" + (f" ({named})" if named else "")
        )
    if not lines:
        return None
    return "\n".join(["## Structures that are worse with more annotated slices", "", *lines])


def comparable(grouped: Iterable[Settings]) -> Iterator[tuple[Settings, Settings]]:
    """Rows of one model that differ in the number of annotated slices only, fewer first."""
    parsed = {settings: parse(settings) for settings in grouped}
    for one, other in combinations(parsed, 2):
        fewer, more = sorted((one, other), key=lambda s: parsed[s][0].n_seeds)
        (first, step), (second, other_step) = parsed[fewer], parsed[more]
        alike = (first.ends, step, fewer.model) == (second.ends, other_step, more.model)
        if alike and first.n_seeds < second.n_seeds:
            yield fewer, more


def parse(settings: Settings) -> tuple[AnnotationProtocol, str]:
    """The protocol, and what the row is named after it."""
    protocol, _, step = settings.protocol.partition(",")
    return AnnotationProtocol.parse(protocol), step


def changes(fewer: Iterable[Run], more: Iterable[Run]) -> Iterator[Change]:
    """Of all structures of both that have slices which neither annotates."""
    others = {(run["volume"], one["label"]): one for run in more for one in run["structures"]}
    for run in fewer:
        for one in run["structures"]:
            other = others.get((run["volume"], one["label"]))
            if other is None or "slices" not in one or "slices" not in other:
                continue
            annotated = {*one["seeds"], *other["seeds"]}
            first, second = (dice_without(x["slices"], annotated) for x in (one, other))
            if not (math.isnan(first) or math.isnan(second)):
                yield Change(f"{run['volume']} {one['label']}", first, second)


def dice_without(counts: Mapping[str, Sequence[int]], annotated: set[int]) -> float:
    """Dice on the other slices; NaN where the truth has no voxels there."""
    kept = [place for place, index in enumerate(counts["index"]) if index not in annotated]
    totals: dict[str, Any] = {
        name: sum(counts[name][place] for place in kept)
        for name in ("predicted", "reference", "common")
    }
    if not totals["reference"]:
        return math.nan
    return 2 * totals["common"] / (totals["predicted"] + totals["reference"])
