"""The evaluation report as a picture: scores per label, and Dice along the axis."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from napari_slmsam2.core.errors import OutputError
from napari_slmsam2.evaluate.report import EvaluationReport, LabelScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (1200, 800)
"""Width and height of the picture in pixels."""

_DPI = 100
_MOST_CURVES = 6
_MOST_TICKS = 90
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colour-blind safe (Okabe and Ito)."""


def plot_report(report: EvaluationReport, path: str | os.PathLike[str]) -> None:
    """Draw Dice and NSD of every label, and the Dice of every slice along the axis.

    Up to six labels are drawn as curves, more of them as one row each of a heat map. The
    reference extent, what was run on beyond it and the annotated slices are marked.

    Parameters
    ----------
    report : EvaluationReport
    path : path-like
        PNG file, 1200 by 800 pixels. Written in place; for a write that is complete or not at
        all, let `napari_slmsam2.io.atomic.atomic_write` call this.

    Raises
    ------
    OutputError
        matplotlib is not installed, or there is nothing to draw.
    OSError
        The file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError(
            str(path),
            "drawing the plot needs matplotlib, which is not installed",
            hint="Install it with: pip install 'napari-slmsam2[plot]'",
        ) from error
    if not report.labels:
        raise OutputError(str(path), "there is no label to draw")
    figure = Figure(figsize=(SIZE[0] / _DPI, SIZE[1] / _DPI), dpi=_DPI, layout="constrained")
    bars, along = figure.subplots(2, 1, height_ratios=(2, 3))
    _draw_bars(bars, report)
    if len(report.labels) <= _MOST_CURVES:
        _draw_curves(along, report)
    else:
        _draw_heat_map(along, report)
    figure.savefig(path, format="png")


def _draw_bars(axes: Axes, report: EvaluationReport) -> None:
    positions = np.arange(len(report.labels))
    dice = [s.scores.overlap.dice for s in report.labels]
    nsd = [s.scores.surface.nsd for s in report.labels]
    tolerance = f"NSD at {report.tolerance:g} {report.unit}"
    axes.bar(positions - 0.2, np.nan_to_num(dice), 0.38, color="#3b6ea5", label="Dice")
    axes.bar(positions + 0.2, np.nan_to_num(nsd), 0.38, color="#b9c9de", label=tolerance)
    if len(report.labels) <= 2 * _MOST_CURVES:
        for shift, values in ((-0.2, dice), (0.2, nsd)):
            for x, value in zip(positions + shift, values, strict=True):
                axes.text(
                    x,
                    np.nan_to_num(value) + 0.015,
                    f"{value:.2f}",
                    ha="center",
                    va="bottom",
                    fontsize=9,
                )
    means = report.summary()
    axes.set_title(
        f"mean Dice {means['dice'].mean:.3f}, mean NSD {means['nsd'].mean:.3f}, "
        f"presence F1 {means['presence_f1'].mean:.3f}"
        + (" (without the annotated slices)" if report.excludes else ""),
        loc="left",
    )
    axes.set(ylim=(0, 1.12), ylabel="score", xlabel="label")
    margin = max(0.7, (4 - len(positions)) / 2)
    axes.set_xlim(-margin, len(positions) - 1 + margin)
    shown = positions[:: -(-len(positions) // _MOST_TICKS)]
    axes.set_xticks(shown, [str(report.labels[i].label) for i in shown])
    if len(positions) > 20:
        axes.tick_params(axis="x", labelrotation=90, labelsize=8)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    _clean(axes)


def _draw_curves(axes: Axes, report: EvaluationReport) -> None:
    from matplotlib.ticker import MaxNLocator

    for row, (scores, colour) in enumerate(zip(report.labels, _COLOURS, strict=False)):
        dice = scores.all_slices.overlap.slice_dice
        axes.plot(dice, color=colour, marker=".", markersize=5, label=f"label {scores.label}")
        seeds = list(scores.excluded)
        axes.plot(
            seeds, [dice[i] for i in seeds], "o", color=colour, fillstyle="none", markersize=9
        )
        _draw_extent(axes, scores, -0.08 - 0.07 * row, colour)
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.set_ylim(-0.1 - 0.07 * len(report.labels), 1.05)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_xlim(-0.5, report.n_slices - 0.5)
    axes.set(xlabel=f"slice along axis {report.axis}", ylabel="Dice of the slice")
    axes.set_title(
        "bars below: reference extent; thin: run on; rings: annotated", loc="left", fontsize=10
    )
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=_MOST_CURVES, frameon=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _clean(axes)


def _draw_extent(axes: Axes, scores: LabelScores, y: float, colour: str) -> None:
    extent = scores.all_slices.extent
    if extent.reference is None:
        return
    first, last = extent.reference
    before, after = extent.run_on
    axes.plot(
        [first - before - 0.5, last + after + 0.5],
        [y, y],
        color=colour,
        linewidth=1.5,
        solid_capstyle="butt",
    )
    axes.plot([first - 0.5, last + 0.5], [y, y], color=colour, linewidth=7, solid_capstyle="butt")


def _draw_heat_map(axes: Axes, report: EvaluationReport) -> None:
    from matplotlib import colormaps

    dice = np.array([s.all_slices.overlap.slice_dice for s in report.labels])
    shown = axes.imshow(
        dice,
        aspect="auto",
        interpolation="nearest",
        vmin=0,
        vmax=1,
        cmap=colormaps["viridis"].with_extremes(bad="#f2f2f2"),
    )
    for row, scores in enumerate(report.labels):
        if (extent := scores.all_slices.extent.reference) is not None:
            for x in (extent[0] - 0.5, extent[1] + 0.5):
                axes.plot([x, x], [row - 0.5, row + 0.5], color="#d62728", linewidth=2)
        axes.plot(
            list(scores.excluded),
            [row] * len(scores.excluded),
            "o",
            color="white",
            markeredgecolor="black",
            markersize=4,
        )
    axes.set(xlabel=f"slice along axis {report.axis}", ylabel="label")
    axes.set_xlim(-0.5, report.n_slices - 0.5)
    axes.set_ylim(len(report.labels) - 0.5, -0.5)
    step = -(-len(report.labels) // 25)
    ticks = range(0, len(report.labels), step)
    axes.set_yticks(list(ticks), [str(report.labels[i].label) for i in ticks])
    axes.set_title(
        "Dice of every slice; red: ends of the reference; dots: annotated; grey: in neither",
        loc="left",
        fontsize=10,
    )
    axes.figure.colorbar(shown, ax=axes, label="Dice of the slice", pad=0.01)


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
