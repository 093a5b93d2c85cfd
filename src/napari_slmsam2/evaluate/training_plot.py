"""The log of a training as a picture."""

from __future__ import annotations

import json
import os
from pathlib import Path

from napari_slmsam2.core.errors import OutputError

_PANELS = (
    ("loss", ("loss", "mask", "dice_loss", "empty", "presence", "iou")),
    ("held out", ("dice", "dice_known", "recall_present", "recall_absent")),
    ("overrun, IoU error", ("overrun", "iou_error")),
)


def plot_training(log: Path, path: str | os.PathLike[str]) -> None:
    """Draw the losses and the held-out scores of a training over its steps.

    Parameters
    ----------
    log : Path
        ``log.jsonl`` of `napari_slmsam2.training.compact.trainer.train`.
    path : path-like
        PNG file.

    Raises
    ------
    OutputError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError(
            str(path),
            "drawing the plot needs matplotlib, which is not installed",
            hint="Install it with: pip install 'napari-slmsam2[plot]'",
        ) from error
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(9, 9), dpi=100, layout="constrained")
    for axes, (title, names) in zip(figure.subplots(3, 1, sharex=True), _PANELS, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker=".")
        axes.set_ylabel(title)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    axes.set_xlabel("step")
    figure.savefig(path, format="png")
