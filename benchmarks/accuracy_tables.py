"""Records of runs as Markdown: every volume, the means, and which model is best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from napari_slmsam2.evaluate import nested_interval, nested_mean

Run = Mapping[str, Any]
Tree = dict[str, dict[str, dict[int, float]]]
"""Group, volume, label: value of one measure."""

GROUP_ORDER = ("CT", "MR", "PET", "EM", "light")
MEAN = "mean of groups"


class Column(NamedTuple):
    """A measure in the tables.

    ``key`` selects the slices: ``scores`` without the annotated ones, or ``all_slices``.
    """

    title: str
    key: str
    measure: str


DICE = Column("Dice", "scores", "dice")
COLUMNS = (
    DICE,
    Column("with seeds", "all_slices", "dice"),
    Column("NSD", "scores", "nsd"),
    Column("outside the extent", "all_slices", "op_voxels"),
    Column("presence F1", "all_slices", "presence_f1"),
    Column("absent slices empty", "all_slices", "absent_recall"),
)


class Settings(NamedTuple):
    """What one row of a table is about.

    ``protocol`` names the step between slices as well, where slices were left out.
    """

    protocol: str
    model: str

    @classmethod
    def of(cls, run: Run) -> Settings:
        """Those of a record; files of earlier versions know no ``thin``."""
        thin = run.get("thin", 1)
        return cls(run["protocol"] + (f", every {thin} slices" if thin > 1 else ""), run["model"])


def group_runs(runs: Iterable[Run]) -> dict[Settings, list[Run]]:
    """The runs by protocol and model, in the order in which those first appear."""
    grouped: dict[Settings, list[Run]] = {}
    for run in runs:
        grouped.setdefault(Settings.of(run), []).append(run)
    models = list(dict.fromkeys(settings.model for settings in grouped))
    order = sorted(grouped, key=lambda s: (s.protocol, models.index(s.model)))
    return {settings: grouped[settings] for settings in order}


def values(runs: Iterable[Run], column: Column = DICE) -> Tree:
    """One measure of every label; groups in their usual order, NaN where it is not defined."""
    tree: Tree = {}
    for run in sorted(runs, key=lambda r: (GROUP_ORDER.index(r["group"]), r["volume"])):
        tree.setdefault(run["group"], {})[run["volume"]] = {
            one["label"]: math.nan if (value := one[column.key][column.measure]) is None else value
            for one in run["structures"]
        }
    return tree


def nested(tree: Any) -> Any:
    """The values of a tree without their names."""
    return [nested(part) for part in tree.values()] if isinstance(tree, dict) else tree


def by_people(runs: Iterable[Run]) -> list[Run]:
    """The runs on volumes whose labels were drawn by people."""
    return [run for run in runs if run["human"]]


def summaries(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Mean and 95 % interval of every measure, per group and over the groups."""
    found: dict[str, dict[str, Any]] = {}
    for column in COLUMNS:
        tree = values(by_people(runs), column)
        parts = {group: (nested(tree[group]), 0) for group in tree} | {MEAN: (nested(tree), 1)}
        for name, (part, fixed) in parts.items():
            low, high = nested_interval(part, fixed=fixed)
            summary = {"mean": nested_mean(part), "low": low, "high": high}
            found.setdefault(name, {})[column.title] = {
                k: None if math.isnan(v) else v for k, v in summary.items()
            }
    return found


def details(settings: Settings, runs: Sequence[Run]) -> str:
    """Every volume, group and the mean of the groups of one model under one protocol."""
    titles = [c.title for c in COLUMNS]
    lines = [f"## `{settings.model}`, protocol {settings.protocol}", ""]
    lines += header(["volume", "labels", *titles, "Dice, 95 %", "s", "slices/s"])
    for run in sorted(runs, key=lambda r: r["volume"]):
        lines.append(row([run["volume"], count(run), *measured([run], 0), *speed([run])]))
    people = by_people(runs)
    for group in values(people):
        members = [run for run in people if run["group"] == group]
        name = f"**{group}**, {len(members)} volume{'s' if len(members) > 1 else ''}"
        n_labels = sum(map(count, members))
        lines.append(row([name, n_labels, *measured(members, 0), *speed(members)]))
    if people:
        name, n_labels = f"**{MEAN}**", sum(map(count, people))
        lines.append(row([name, n_labels, *measured(people, 1), *speed(people)]))
    return "\n".join(lines)


def measured(runs: Sequence[Run], fixed: int) -> list[str]:
    """Means of all measures, and the interval of the Dice."""
    means = [number(nested_mean(nested(values(runs, column)))) for column in COLUMNS]
    tree = nested(values(runs))
    return [*means, interval(tree if fixed else [v for group in tree for v in group], fixed)]


def comparison(grouped: Mapping[Settings, Sequence[Run]]) -> str:
    """Dice of all models and protocols, the best in bold, and by how much it is."""
    trees = {s: values(by_people(runs)) for s, runs in grouped.items()}
    groups = [g for g in GROUP_ORDER if any(g in tree for tree in trees.values())]
    means = {s: [nested_mean(nested(tree.get(g, {}))) for g in groups] for s, tree in trees.items()}
    for settings, tree in trees.items():
        means[settings].append(nested_mean(nested(tree)))
    lines = ["## 3D Dice without the annotated slices", ""]
    lines += header(["protocol", "model", *groups, MEAN, "95 %", "volumes", "labels"])
    for settings, shown in means.items():
        rivals = [m for s, m in means.items() if s.protocol == settings.protocol]
        cells = [
            f"**{number(mean)}**" if len(rivals) > 1 and mean == best(column) else number(mean)
            for mean, column in zip(shown, zip(*rivals, strict=True), strict=True)
        ]
        people = by_people(grouped[settings])
        cells += [interval(nested(trees[settings]), 1), str(len(people))]
        lines.append(row([*settings, *cells, sum(map(count, people))]))
    if len({frozenset(measured_labels(tree)) for tree in trees.values()}) > 1:
        lines += ["", "Not all rows are of the same labels: their means do not compare."]
    lines += ["", *verdicts(trees)]
    return "\n".join(lines)


def measured_labels(tree: Tree) -> list[tuple[str, int]]:
    """Volume and label of every value."""
    return [
        (v, label) for volumes in tree.values() for v, labels in volumes.items() for label in labels
    ]


def verdicts(trees: Mapping[Settings, Tree]) -> list[str]:
    """For every protocol the best model, and its lead on the next one, label by label."""
    lines = []
    for protocol in dict.fromkeys(s.protocol for s in trees):
        ranked = sorted(
            (s for s in trees if s.protocol == protocol and trees[s]),
            key=lambda s: nested_mean(nested(trees[s])),
            reverse=True,
        )
        if len(ranked) > 1:
            first, second = ranked[:2]
            gain = nested(differences(trees[first], trees[second]))
            lines.append(
                f"- {protocol}: `{first.model}` is best, {number(nested_mean(gain), sign=True)} "
                f"({interval(gain, 1, sign=True)}) on `{second.model}`"
            )
    return lines


def measures(grouped: Mapping[Settings, Sequence[Run]]) -> str:
    """All measures as means of the groups."""
    lines = ["## All measures, mean of groups", ""]
    lines += header(["protocol", "model", *(c.title for c in COLUMNS), "s", "slices/s"])
    for settings, runs in grouped.items():
        people = by_people(runs)
        lines.append(row([*settings, *measured(people, 1)[:-1], *speed(people)]))
    return "\n".join(lines)


def not_by_people(grouped: Mapping[Settings, Sequence[Run]]) -> str | None:
    """Dice on the volumes whose labels were not drawn by people; None where there are none."""
    others = sorted({r["volume"] for runs in grouped.values() for r in runs if not r["human"]})
    if not others:
        return None
    lines = ["## Labels that were not drawn by people: 3D Dice without the annotated slices", ""]
    lines += header(["protocol", "model", *others])
    for settings, runs in grouped.items():
        cells = [
            number(nested_mean(nested(values(r for r in runs if r["volume"] == name))))
            for name in others
        ]
        lines.append(row([*settings, *cells]))
    return "\n".join(lines)


def changes(grouped: Mapping[Settings, Sequence[Run]], old_runs: Sequence[Run]) -> str:
    """Dice against earlier results, on the labels that both have.

    A model is held against the one of its name; where the earlier results are all of one model,
    against that.
    """
    old = group_runs(by_people(old_runs))
    old_models = {s.model for s in old}
    lines = ["## Change of the Dice, and its paired 95 % interval", ""]
    lines += header(["protocol", "model", "before", *GROUP_ORDER, MEAN, "95 %", "labels"])
    for settings, runs in grouped.items():
        before = settings.model
        if before not in old_models and len(old_models) == 1:
            (before,) = old_models
        earlier = old.get(Settings(settings.protocol, before), [])
        tree = differences(values(by_people(runs)), values(earlier))
        means = [nested_mean(nested(tree.get(group, {}))) for group in GROUP_ORDER]
        means.append(nested_mean(nested(tree)))
        cells = [number(mean, sign=True) for mean in means]
        cells.append(interval(nested(tree), 1, sign=True))
        cells.append(str(len(measured_labels(tree))))
        lines.append(row([*settings, before if tree else "-", *cells]))
    return "\n".join(lines)


def differences(first: Tree, second: Tree) -> Tree:
    """First minus second, on the labels that both have."""
    found: Tree = {}
    for group, volumes in first.items():
        for volume, labels in volumes.items():
            others = second.get(group, {}).get(volume, {})
            both = {label: v - others[label] for label, v in labels.items() if label in others}
            if both:
                found.setdefault(group, {})[volume] = both
    return found


def speed(runs: Sequence[Run]) -> list[str]:
    """Seconds of propagation, and slices of one label in a second."""
    seconds = sum(run["seconds"] for run in runs)
    slices = sum(run["label_slices"] for run in runs)
    return [f"{seconds:.1f}", f"{slices / seconds:.1f}" if slices and seconds else "-"]


def count(run: Run) -> int:
    """Labels of a run."""
    return len(run["structures"])


def best(column: Iterable[float]) -> float:
    """The largest defined value."""
    return max((v for v in column if not math.isnan(v)), default=math.nan)


def number(value: float, *, sign: bool = False) -> str:
    """Three digits; a dash for what is not defined."""
    return "-" if math.isnan(value) else f"{value:{'+' if sign else ''}.3f}"


def interval(tree: Any, fixed: int, *, sign: bool = False) -> str:
    """``low to high``."""
    low, high = nested_interval(tree, fixed=fixed)
    return "-" if math.isnan(low) else f"{number(low, sign=sign)} to {number(high, sign=sign)}"


def header(titles: Sequence[str]) -> list[str]:
    """The two first lines of a table."""
    return [row(titles), "|" + "---|" * len(titles)]


def row(cells: Iterable[object]) -> str:
    """One line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"
