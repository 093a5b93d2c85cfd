"""``napari-slmsam2 adapt``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from napari_slmsam2.cli._options import (
    Axis,
    Device,
    Force,
    ModelsFolder,
    SettingOptions,
    with_record,
)
from napari_slmsam2.cli.evaluate import parse_labels
from napari_slmsam2.training.recipes import AdaptRecipe, get_recipe

if TYPE_CHECKING:
    from rich.table import Table

    from napari_slmsam2.cli._console import Meter
    from napari_slmsam2.engine.loading import LoadedNetwork
    from napari_slmsam2.training.adapt.adaptation import Adaptation
    from napari_slmsam2.training.adapt.estimate import Estimate
    from napari_slmsam2.training.adapt.progress import AdaptProgress
    from napari_slmsam2.training.adapt.report import AdaptReport
    from napari_slmsam2.training.data.labelled_scan import LabelledScan

EPILOG = """
[bold]Examples[/bold]

Fine-tune on two labelled volumes, within five minutes:

  napari-slmsam2 adapt --pair a.nii.gz a_labels.nii.gz --pair b.nii.gz b_labels.nii.gz -o liver

Train on the annotated slices of one volume, then propagate them:

  napari-slmsam2 adapt --recipe this-volume --pair scan.nii.gz seeds.nii.gz -o scan

  napari-slmsam2 propagate scan.nii.gz seeds.nii.gz --model scan -o labels.nii.gz

Train SLM-SAM 2 as published, on all graphics cards of this computer:

  torchrun --nproc-per-node gpu --no-python napari-slmsam2 adapt --recipe paper --batch 8
  --pair a.nii.gz a_labels.nii.gz -o liver
"""

_BETWEEN = "\0"

_STAGES = {"clips": "Cutting clips", "evaluation": "Evaluation", "training": "Training"}


class PairCommand(TyperCommand):
    """Accepts two values after every ``--pair``; typer has no list of pairs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the two values of every ``--pair``."""
        joined: list[str] = []
        rest = list(args)
        while rest:
            word = rest.pop(0)
            joined.append(word)
            if word == "--pair":
                joined.append(_BETWEEN.join(rest[:2]))
                del rest[:2]
        return super().parse_args(ctx, joined)


def parse_pair(text: str) -> tuple[Path, Path]:
    """Read an image and its labels."""
    parts = text.split(_BETWEEN)
    if len(parts) != 2 or any(not part or part.startswith("--") for part in parts):
        raise typer.BadParameter(f"expected IMAGE LABELS, found {' '.join(parts) or 'nothing'}.")
    return Path(parts[0]), Path(parts[1])


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """Options of `adapt`."""

    pair: Annotated[
        list[Any],
        typer.Option(
            "--pair",
            parser=parse_pair,
            metavar="IMAGE LABELS",
            help="A scan and its label map on the same grid. May be repeated, up to 5 times.",
        ),
    ]
    name: Annotated[str, typer.Option("--name", "-o", help="Name of the adapted model.")]
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Name or file of the network to start from. Default: compact; of the recipe "
            "paper slm-sam2.1-tiny.",
        ),
    ] = None
    recipe: Annotated[
        str,
        typer.Option(
            help="quick: labelled volumes, minutes on a CPU. this-volume: the annotated slices of "
            "one volume. paper: SLM-SAM 2 as published, on a graphics card."
        ),
    ] = "quick"
    device: Device = "auto"
    settings: Annotated[
        dict[str, Any],
        SettingOptions(
            AdaptRecipe(),
            {
                "minutes": "--minutes",
                "trained": "--train",
                "labels_are": "--labels-are",
                "batch_size": "--batch",
            },
            optional=True,
        ),
    ]
    labels: Annotated[
        str | None,
        typer.Option(metavar="LABEL,...", help="Train on these labels only. Default: all."),
    ] = None
    axis: Axis = None
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only print the schedule and its time.")
    ] = False
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="File for the state of the training; continues from it if it exists."),
    ] = None
    report: Annotated[Path | None, typer.Option("--report", help="Write the scores as JSON.")] = (
        None
    )
    models_folder: ModelsFolder = None
    force: Force = False


@with_record(AdaptOptions)
def adapt(options: AdaptOptions) -> None:
    """Fine-tune a network on one to five labelled volumes, or on annotated slices of one volume.

    Part of the data is held out. The new model is kept only if it propagates that part better
    than the base model. Ctrl-C keeps the best model so far.
    """
    from napari_slmsam2.cli._console import log, meter
    from napari_slmsam2.cli._distributed import init_distributed_quietly
    from napari_slmsam2.cli._outputs import check_outputs
    from napari_slmsam2.cli._signals import interruptible
    from napari_slmsam2.engine.weights.model_folder import check_room, path_for
    from napari_slmsam2.training.adapt.adaptation import Adaptation

    with init_distributed_quietly(options.device) as distributed:
        inputs = [file for files in options.pair for file in files]
        check_outputs({"--report": options.report}, inputs, force=options.force)
        path = path_for(options.name, options.models_folder)
        recipe = get_recipe(options.recipe).replace(**options.settings)
        check_room(path, recipe.file_size)
        job = Adaptation(
            _read_scans(options, recipe),
            _base(options.base or recipe.base, options.models_folder),
            recipe,
            distributed=distributed,
            chosen=None if options.labels is None else parse_labels(options.labels),
            checkpoint=options.checkpoint,
            fixed_time="minutes" in options.settings,
        )
        log("Held out", job.held_out)
        with interruptible() as should_stop:
            with meter("Measuring") as shown:
                plan = job.prepare(_ProgressLines(shown, job), should_stop)
            if plan is None:
                raise KeyboardInterrupt
            _log_estimate(plan)
            if options.estimate:
                return
            with meter("Adapting") as shown:
                result = job.run(_ProgressLines(shown, job), should_stop)
            if result is None:
                raise KeyboardInterrupt
        if distributed.is_main:
            _finish(job, result, path, options)


def _log_estimate(plan: Estimate) -> None:
    from napari_slmsam2.cli._console import log

    log(
        "Estimate",
        f"about {plan.seconds / 60:.1f} min for {plan.clips} clips, {plan.steps} steps and "
        f"{plan.evaluations} evaluations; {plan.memory / 2**20:.0f} MiB of memory",
    )
    for note in plan.notes:
        log("Schedule", note)


def _finish(job: Adaptation, result: AdaptReport, path: Path, options: AdaptOptions) -> None:
    """Print the result, write the report, and the model if it is better."""
    from napari_slmsam2.cli._console import log, show, show_error
    from napari_slmsam2.cli._errors import FAILED
    from napari_slmsam2.cli._report import write_json
    from napari_slmsam2.training.adapt.report import WHY_STOPPED

    for note in result.notes:
        log("Note", note)
    show(_table(result))
    log("Result", result.verdict)
    if options.report is not None:
        facts = {**result.to_dict(), **job.metadata(result)}
        write_json(options.report, facts, force=options.force)
        log("Wrote", options.report)
    if result.improved:
        log("Wrote", job.save(path, result))
        log("Use it", f"--model {options.name}")
        kept = "the best model so far is written"
    else:
        log("Model", f"no file was written; continue to use {job.base.name}")
        kept = "no model was better"
    if result.stopped in ("cancelled", "nan", "memory"):
        show_error(f"stopped early: {WHY_STOPPED[result.stopped]}; {kept}.")
        raise typer.Exit(FAILED)


def _base(model: str, models_folder: Path | None) -> LoadedNetwork:
    from napari_slmsam2.cli._console import log, meter
    from napari_slmsam2.cli._signals import interruptible
    from napari_slmsam2.engine.loading import load_network

    with interruptible() as should_stop, meter("downloading", is_bytes=True) as shown:
        loaded = load_network(
            model, folder=models_folder, progress=shown.update, should_stop=should_stop
        )
    log("Base", f"{loaded.name} (SHA-256 {loaded.sha256[:12]})")
    return loaded


def _read_scans(options: AdaptOptions, recipe: AdaptRecipe) -> list[LabelledScan]:
    from napari_slmsam2.cli._console import log
    from napari_slmsam2.training.data.labelled_scan import read_pair

    chosen = None if options.labels is None else parse_labels(options.labels)
    seeds = recipe.source == "seeds"
    scans = []
    for image, truth in options.pair:
        scan = read_pair(image, truth, axis=options.axis, chosen=chosen, seeds=seeds)
        known = ", ".join(f"label {x} on {len(scan.known(x))} slices" for x in scan.areas)
        log("Volume", f"{image}: {known or 'no label to learn'}")
        scans.append(scan)
    return scans


class _ProgressLines:
    """Shows the progress; every evaluation adds a line that stays."""

    def __init__(self, shown: Meter, job: Adaptation) -> None:
        self._shown = shown
        self._job = job
        self._stage: tuple[str, int] | None = None

    def __call__(self, progress: AdaptProgress) -> None:
        if progress.total:
            stage = progress.stage, progress.step if progress.stage == "evaluation" else 0
            if stage != self._stage:
                self._stage = stage
                self._shown.restart(_STAGES[progress.stage])
            self._shown.update(progress.done, progress.total)
        if progress.evaluation is None:
            return
        dice = f"held-out Dice {progress.evaluation.dice:.3f}"
        if progress.stage == "training":
            left = f", {progress.seconds_left:.0f} s left"
            self._shown.log(f"step {progress.done}: loss {progress.loss:.3f}, {dice}{left}")
        else:
            self._shown.log(f"{self._job.base.name} before training: {dice}")


def _table(result: AdaptReport) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), title="Held out, before and after")
    for title in ("volume", "label", "Dice", "", "NSD", "", "OP", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for old, new in zip(result.before.structures, result.after.structures, strict=True):
        cells = [str(old.held_out_volume + 1), str(old.label)]
        for measure in ("dice", "nsd", "op_voxels"):
            cells += [_number(getattr(one, measure)) for one in (old, new)]
        table.add_row(*cells)
    table.add_section()
    means = [
        _number(one.mean(measure))
        for measure in ("dice", "nsd", "op_voxels")
        for one in (result.before, result.after)
    ]
    table.add_row("mean", "", *means, style="bold")
    return table


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"
