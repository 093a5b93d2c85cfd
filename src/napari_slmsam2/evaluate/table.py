"""The evaluation report as a table on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from napari_slmsam2.evaluate.report import EvaluationReport, LabelScores

if TYPE_CHECKING:
    from rich.table import Table

_AVERAGED = {
    "dice": (3, "Dice"),
    "nsd": (3, "NSD"),
    "hd95": (2, "HD95"),
    "assd": (2, "ASSD"),
    "presence_f1": (3, "F1"),
    "op_voxels": (3, "OP"),
}


def render_table(report: EvaluationReport) -> Table:
    """One row per label, then the means with their 95 % intervals.

    Parameters
    ----------
    report : EvaluationReport

    Returns
    -------
    rich.table.Table
        Print it with a `rich.console.Console`.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=_title(report),
        caption=_caption(report),
        caption_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    ends = ("run-on", "missed", "ends")
    whole = ("all",) if report.excludes else ()
    for name in ("label", *(name for _, name in _AVERAGED.values()), *ends, *whole):
        table.add_column(name, justify="right", no_wrap=True)
    for label in report.labels:
        table.add_row(*_row(label, report.excludes))
    if len(report.labels) > 1:
        table.add_section()
        for row in _mean_rows(report):
            table.add_row(*row, style="bold")
    return table


def _title(report: EvaluationReport) -> str:
    n = len(report.labels)
    return f"{n} label{'' if n == 1 else 's'}, {report.n_slices} slices along axis {report.axis}"


def _caption(report: EvaluationReport) -> str:
    lines = [
        f"NSD: share of the surfaces within {report.tolerance:g} {report.unit}",
        f"HD95, ASSD: surface distances in {report.unit}",
        "F1: presence over slices; OP: voxels beyond the ends per reference voxel",
        "run-on, missed: slices too many, too few at the first|last end; ends: slices off",
    ]
    if report.excludes:
        n = sum(len(label.excluded) for label in report.labels)
        lines.append(f"the {n} annotated slices count only in the columns run-on to all")
        lines.append("all: Dice with them")
    return "\n".join(lines)


def _row(label: LabelScores, excludes: bool) -> list[str]:
    scores, extent = label.scores, label.scores.extent
    row = [
        str(label.label),
        _number(scores.overlap.dice, 3),
        _number(scores.surface.nsd, 3),
        _number(scores.surface.hd95, 2),
        _number(scores.surface.assd, 2),
        _number(extent.f1, 3),
        _number(extent.op_voxels, 3),
        f"{extent.run_on[0]}|{extent.run_on[1]}",
        f"{extent.under_run[0]}|{extent.under_run[1]}",
        "|".join(_number(error, 0) for error in extent.end_error),
    ]
    if excludes:
        row.append(_number(label.all_slices.overlap.dice, 3))
    return row


def _mean_rows(report: EvaluationReport) -> list[list[str]]:
    means = report.summary()
    chosen = [(means[key], digits) for key, (digits, _) in _AVERAGED.items()]
    mean = [_number(summary.mean, digits) for summary, digits in chosen]
    mean += ["", "", _number(means["end_error"].mean, 1)]
    if report.excludes:
        mean.append(_number(report.summary(all_slices=True)["dice"].mean, 3))
    rows = [
        ["mean", *mean],
        ["2.5%", *(_number(summary.low, digits) for summary, digits in chosen)],
        ["97.5%", *(_number(summary.high, digits) for summary, digits in chosen)],
    ]
    if any(summary.n < len(report.labels) for summary, _ in chosen):
        rows.append(["n", *(str(summary.n) for summary, _ in chosen)])
    return rows


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
