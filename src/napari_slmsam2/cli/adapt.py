"""``napari-slmsam2 adapt``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from napari_slmsam2.cli._options import Axis, Device, Force, ModelsFolder
from napari_slmsam2.cli.evaluate import parse_labels

if TYPE_CHECKING:
    from rich.table import Table

    from napari_slmsam2.cli._console import Meter
    from napari_slmsam2.engine.loading import LoadedNetwork
    from napari_slmsam2.training.adapt.adaptation import Adaptation, AdaptProgress
    from napari_slmsam2.training.adapt.report import AdaptReport
    from napari_slmsam2.training.distributed import DistributedContext
    from napari_slmsam2.training.recipes import AdaptRecipe

EPILOG = """
[bold]Examples[/bold]

Fine-tune on two labelled volumes, within five minutes:

  napari-slmsam2 adapt --pair a.nii.gz a_labels.nii.gz --pair b.nii.gz b_labels.nii.gz -o liver

Learn from the few annotated slices of the volume at hand, then propagate them:

  napari-slmsam2 adapt --recipe this-volume --pair scan.nii.gz seeds.nii.gz -o scan

  napari-slmsam2 propagate scan.nii.gz seeds.nii.gz --model scan -o labels.nii.gz

Train SLM-SAM 2 as published, on all graphics cards of this computer:

  torchrun --nproc-per-node gpu --no-python napari-slmsam2 adapt --recipe paper --batch 8
  --pair a.nii.gz a_labels.nii.gz -o liver
"""

_BETWEEN = "\0"


class PairCommand(TyperCommand):
    """Lets ``--pair`` take two values, which typer has no list of."""

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


def adapt(
    pair: Annotated[
        list[Any],
        typer.Option(
            "--pair",
            parser=parse_pair,
            metavar="IMAGE LABELS",
            help="A scan and its label map on the same grid. May be repeated, up to 5 times.",
        ),
    ],
    name: Annotated[
        str, typer.Option("--name", "-o", help="Of the adapted model, in the list of models.")
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Name or file of the network to start from. Default: compact; of the recipe "
            "paper slm-sam2.1-tiny.",
        ),
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            help="quick: labelled volumes, minutes on a CPU. this-volume: the annotated slices of "
            "the volume at hand. paper: SLM-SAM 2 as published, on a graphics card."
        ),
    ] = "quick",
    device: Device = "auto",
    minutes: Annotated[
        float | None, typer.Option(min=0.05, help="Time for everything. Default: the recipe's.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="LABEL,...", help="Learn these labels only. Default: all."),
    ] = None,
    trained: Annotated[
        str | None,
        typer.Option(
            "--train", help="all, memory+heads, heads or adapters. Default: the recipe's."
        ),
    ] = None,
    labels_are: Annotated[
        str | None,
        typer.Option(
            "--labels-are",
            help="structures: the same in all volumes, the network is told which one it follows. "
            "objects: of one kind, such as cells. auto: structures where there are two to five. "
            "Default: the recipe's.",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Clips per step; less needs less memory.")
    ] = None,
    axis: Axis = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only tell how long it will take.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Keep everything here on the way, and go on from it where it is there."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write what came of it as JSON.")
    ] = None,
    models_folder: ModelsFolder = None,
    force: Force = False,
) -> None:
    """Fine-tune a network on one to five volumes, or on the volume at hand.

    A part is held out; the new model is kept only where it propagates that part better than the
    old one. Ctrl-C keeps the best so far.
    """
    from napari_slmsam2.cli._console import log, meter, show, show_error
    from napari_slmsam2.cli._distributed import init_distributed_quietly
    from napari_slmsam2.cli._errors import FAILED
    from napari_slmsam2.cli._outputs import check_outputs
    from napari_slmsam2.cli._report import write_json
    from napari_slmsam2.cli._signals import interruptible
    from napari_slmsam2.engine.weights.model_folder import check_room, path_for

    with init_distributed_quietly(device) as distributed:
        inputs = [file for files in pair for file in files]
        check_outputs({"--report": report}, inputs, force=force)
        path = path_for(name, models_folder)
        chosen = _recipe(recipe, minutes, trained, labels_are, batch)
        base = base or chosen.base
        check_room(path, chosen.file_size)
        job = _open(pair, _base(base, models_folder), chosen, labels, axis, distributed, checkpoint)
        with interruptible() as should_stop:
            with meter("preparing") as shown:
                plan = job.prepare(_ProgressLines(shown, job), should_stop)
            if plan is None:
                raise KeyboardInterrupt
            log(
                "Estimate",
                f"{plan.steps} steps and {plan.judgements} judgements in about "
                f"{plan.seconds / 60:.1f} min, {plan.memory / 2**20:.0f} MiB of memory",
            )
            if estimate:
                return
            with meter("adapting") as shown:
                result = job.run(_ProgressLines(shown, job), should_stop)
        for note in result.notes:
            log("Note", note)
        if not distributed.is_main:
            return
        show(_table(result))
        log("Result", result.verdict)
        if report is not None:
            write_json(report, {**result.to_dict(), **job.metadata(result)}, force=force)
            log("Wrote", report)
        if not result.improved:
            show_error(f"no model was written; {base} stays the better one.")
            raise typer.Exit(FAILED)
        log("Wrote", job.save(path, result))
        log("Use it", f"--model {name}")
        if result.stopped in ("cancelled", "nan", "memory"):
            show_error(f"stopped early: {_why(result)}; the best so far is written.")
            raise typer.Exit(FAILED)


def _recipe(
    name: str,
    minutes: float | None,
    trained: str | None,
    labels_are: str | None,
    batch: int | None,
) -> AdaptRecipe:
    from napari_slmsam2.training.recipes import get_recipe

    given = {
        "minutes": minutes,
        "trained": trained,
        "labels_are": labels_are,
        "batch_size": batch,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    return get_recipe(name).replace(**changes)


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


def _open(
    pairs: list[tuple[Path, Path]],
    base: LoadedNetwork,
    recipe: AdaptRecipe,
    labels: str | None,
    axis: int | None,
    distributed: DistributedContext,
    checkpoint: Path | None,
) -> Adaptation:
    from napari_slmsam2.cli._console import log
    from napari_slmsam2.training.adapt.adaptation import Adaptation
    from napari_slmsam2.training.data.labelled_scan import read_pair

    chosen = None if labels is None else parse_labels(labels)
    seeds = recipe.source == "seeds"
    scans = [
        read_pair(image, truth, axis=axis, chosen=chosen, seeds=seeds) for image, truth in pairs
    ]
    job = Adaptation(
        scans, base, recipe, distributed=distributed, chosen=chosen, checkpoint=checkpoint
    )
    for (image, _), scan in zip(pairs, scans, strict=True):
        known = ", ".join(f"label {x} on {len(scan.known(x))} slices" for x in scan.areas)
        log("Volume", f"{image}: {known or 'no label to learn'}")
    log("Held out", job.held_out)
    return job


class _ProgressLines:
    """Shows the progress; every judgement is a line that stays."""

    def __init__(self, shown: Meter, job: Adaptation) -> None:
        self._shown = shown
        self._job = job

    def __call__(self, progress: AdaptProgress) -> None:
        if progress.stage in ("clips", "training"):
            self._shown.update(progress.done, progress.total)
        if progress.evaluation is None:
            return
        dice = f"held-out Dice {progress.evaluation.dice:.3f}"
        if progress.stage == "training":
            left = f", {progress.seconds_left:.0f} s left"
            self._shown.log(f"step {progress.done}: loss {progress.loss:.3f}, {dice}{left}")
        else:
            self._shown.log(f"{self._job.base.name} as it is: {dice}")


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


def _why(result: AdaptReport) -> str:
    from napari_slmsam2.training.adapt.report import WHY_STOPPED

    return WHY_STOPPED[result.stopped]
