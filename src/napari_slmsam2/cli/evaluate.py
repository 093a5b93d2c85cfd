"""``napari-slmsam2 evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_slmsam2.cli._options import (
    Axis,
    FileChannel,
    FileImage,
    FileStack,
    FileTime,
    Force,
    LabelSlice,
    TrustVoxels,
    parse_label_slice,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_slmsam2.core.volume import Volume
    from napari_slmsam2.evaluate import EvaluationReport
    from napari_slmsam2.io import LoadedImage

EPILOG = """
[bold]Examples[/bold]

  napari-slmsam2 evaluate labels.nii.gz truth.nii.gz

Leave the annotated slices out, of which nothing had to be predicted:

  napari-slmsam2 evaluate labels.nii.gz truth.nii.gz --seeds seeds.nii.gz --json scores.json
"""


def parse_labels(text: str) -> list[int]:
    """Read ``1,2,5``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"expected label values such as 1,2,5, found {text!r}.")
    return [int(part) for part in parts]


def evaluate(
    prediction: Annotated[
        Path, typer.Argument(metavar="PREDICTION", help="The label map to evaluate.")
    ],
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", help="The true label map, on the same grid.")
    ],
    axis: Axis = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="LABEL,...", help="Evaluate these labels only. Default: all."),
    ] = None,
    exclude: Annotated[
        list[LabelSlice] | None,
        typer.Option(
            parser=parse_label_slice,
            metavar="LABEL:SLICE",
            help="An annotated slice to leave out. May be repeated.",
        ),
    ] = None,
    prediction_image: FileImage = None,
    prediction_channel: FileChannel = None,
    prediction_time: FileTime = None,
    prediction_stack: FileStack = None,
    reference_image: FileImage = None,
    reference_channel: FileChannel = None,
    reference_time: FileTime = None,
    reference_stack: FileStack = None,
    trust_voxels: TrustVoxels = False,
    seeds: Annotated[
        Path | None,
        typer.Option(help="Leave out the slices on which this label map is annotated."),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Of the normalised surface Dice, in the unit of the voxel size. "
            "Default: 2 mm, or one voxel.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all scores as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="PNG: scores per label, and Dice along the axis.")
    ] = None,
    force: Force = False,
) -> None:
    """Compare a label map with the truth.

    Dice, normalised surface Dice (NSD), 95 % Hausdorff distance (HD95) and mean surface distance
    (ASSD) per label, and whether the label is found on the right slices: presence F1, and slices
    too many or too few at both ends.
    """
    from napari_slmsam2.cli._console import log, show
    from napari_slmsam2.cli._outputs import check_outputs, check_suffix
    from napari_slmsam2.cli._report import write_json
    from napari_slmsam2.evaluate import plot_report, render_table
    from napari_slmsam2.io import atomic_write, read_image, read_labels, with_seed_axis

    inputs = [prediction, reference, *([seeds] if seeds else [])]
    check_suffix("--plot", plot, ".png")
    check_outputs({"--json": json_file, "--plot": plot}, inputs, force=force)
    wanted = None if labels is None else parse_labels(labels)
    truth_options: dict[str, Any] = {
        "image": reference_image,
        "channel": reference_channel,
        "time": reference_time,
        "stack": reference_stack,
        "option_prefix": "reference-",
    }
    predicted_options: dict[str, Any] = {
        "image": prediction_image,
        "channel": prediction_channel,
        "time": prediction_time,
        "stack": prediction_stack,
        "option_prefix": "prediction-",
        "trust_voxels": trust_voxels,
    }
    grid = read_image(reference, axis=axis, **truth_options)
    predicted = read_labels(prediction, like=grid, **predicted_options)
    truth = read_labels(reference, like=grid, **truth_options)
    seeded = None
    if seeds is not None:
        seeded = read_labels(seeds, like=grid, trust_voxels=trust_voxels)
    if seeded is not None and axis is None:
        grid = with_seed_axis(grid, seeded)
    left_out = _left_out(grid.volume, seeded, exclude or ())
    report = _scores(grid, predicted, truth, wanted, left_out, tolerance)
    show(render_table(report))
    if json_file is not None:
        paths = {"prediction": str(prediction), "reference": str(reference)}
        write_json(json_file, {**paths, **report.to_dict()}, force=force)
        log("Wrote", json_file)
    if plot is not None:
        atomic_write(plot, lambda file: plot_report(report, file), overwrite=force)
        log("Wrote", plot)


def _left_out(
    volume: Volume, seeds: npt.NDArray[Any] | None, exclude: Sequence[LabelSlice]
) -> dict[int, set[int]]:
    """Annotated slices by label."""
    import numpy as np

    found: dict[int, set[int]] = {}
    for mark in exclude:
        found.setdefault(mark.label, set()).add(mark.index)
    if seeds is not None:
        for index in range(volume.n_slices):
            for label in np.unique(seeds[volume.slicer(index)]).tolist():
                if label:
                    found.setdefault(label, set()).add(index)
    return found


def _scores(
    grid: LoadedImage,
    predicted: npt.NDArray[Any],
    truth: npt.NDArray[Any],
    labels: list[int] | None,
    left_out: dict[int, set[int]],
    tolerance: float | None,
) -> EvaluationReport:
    from napari_slmsam2.core.errors import VolumeError
    from napari_slmsam2.evaluate import evaluate_labels

    if not truth.any() and not predicted.any():
        raise VolumeError(str(grid.path), "holds no label, and neither does the prediction")
    return evaluate_labels(
        predicted,
        truth,
        spacing=grid.volume.spacing,
        unit=grid.volume.unit,
        axis=grid.volume.axis,
        labels=labels,
        exclude=left_out,
        tolerance=tolerance,
    )
