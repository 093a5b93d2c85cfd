"""``napari-slmsam2 train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = """
[bold]Examples[/bold]

  napari-slmsam2 train -o training

  napari-slmsam2 train --volumes labelled -o training --minutes 60

Run the same command again to go on where it stopped.
"""


def train(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for clips, checkpoint, log, plot and weights."),
    ],
    volumes: Annotated[
        Path | None,
        typer.Option(
            "--volumes",
            help="Folder of labelled volumes, NAME/image.nii.gz, NAME/labels.nii.gz and "
            "NAME/meta.json. Default: synthetic stacks only.",
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            "--steps",
            min=0,
            help="Steps of the whole training. 0: only the ends are learned, of the model to start "
            "from.",
        ),
    ] = 5500,
    objects: Annotated[
        int,
        typer.Option(
            "--objects",
            min=0,
            help="Objects on whose whole sweeps it is learned, in the end, where objects end. "
            "0: not at all.",
        ),
    ] = 800,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Stop after this time.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Clips per step.")] = 32,
    real_clips: Annotated[
        int, typer.Option("--real-clips", min=0, help="Clips cut from the volumes.")
    ] = 4352,
    synthetic_clips: Annotated[
        int, typer.Option("--synthetic-clips", min=0, help="Clips cut from synthetic stacks.")
    ] = 1792,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes that make the clips.")
    ] = 1,
    rounds: Annotated[
        int,
        typer.Option(
            "--rounds", min=1, help="New clips are made in each, from the network's own sweeps."
        ),
    ] = 3,
    feedback: Annotated[
        float,
        typer.Option(
            "--feedback", min=0, max=1, help="Share of the network's correction carried on."
        ),
    ] = 0.5,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Model to start from. Default: from scratch."),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the clips and the training.")] = 0,
) -> None:
    """Train the compact network from scratch on labelled volumes and synthetic stacks.

    Makes clips (once), trains, learns on whole sweeps where objects end, and writes
    checkpoint.pt, log.jsonl, training.png and model.safetensors, which every command takes as
    --model. An eighth of the subjects is held out for the scores in the log.
    """
    from napari_slmsam2.cli._console import log, meter
    from napari_slmsam2.cli._distributed import init_distributed_quietly
    from napari_slmsam2.core.config import CompactConfig
    from napari_slmsam2.training.compact.dagger import DaggerConfig, train_with_dagger
    from napari_slmsam2.training.compact.export import release
    from napari_slmsam2.training.compact.presence_shards import train_presence_on_sweeps
    from napari_slmsam2.training.compact.trainer import TrainingConfig
    from napari_slmsam2.training.data.shards import read_network

    if not steps and (start is None or not objects):
        raise typer.BadParameter("0 steps need --from and --objects.", param_hint="--steps")

    sources = DaggerConfig(
        volumes=volumes,
        rounds=rounds,
        real_clips=real_clips,
        synthetic_clips=synthetic_clips,
        start=start,
        workers=workers,
    )
    plan = TrainingConfig(steps=steps, batch_size=batch, seed=seed)
    config, finished = CompactConfig(feedback=feedback), True
    with (
        init_distributed_quietly(device) as distributed,
        meter("Clips, training, ends") as progress,
    ):
        if steps:
            trainer = train_with_dagger(
                out,
                config,
                plan,
                sources,
                distributed,
                seconds=None if minutes is None else 60 * minutes,
                cut=progress.update,
                report=progress.log,
                advanced=lambda step: progress.update(step, steps),
            )
            finished = trainer.step >= steps
            network, metadata = trainer.averaged, trainer.metadata()
        else:
            assert start is not None
            network = read_network(start, config).to(distributed.device)
            metadata = {"recipe": {"start": start, "seed": seed}}
        if not distributed.is_main:
            return
        if finished and objects:
            dice = train_presence_on_sweeps(
                out / "ends", volumes, network, objects, seed=seed, progress=progress.update
            )
            progress.log(
                f"held-out sweeps with unknown ends: Dice {dice['before']:.3f} before, "
                f"{dice['after']:.3f} after"
            )
            metadata["recipe"] |= {"objects": objects, "ends": dice}
    release(out / "model.safetensors", config, network.state_dict(), metadata)
    if steps:
        _plot(out)
    log("Weights", out / "model.safetensors")
    if not finished:
        log("Next", "the same command goes on from here")


def _plot(out: Path) -> None:
    from napari_slmsam2.cli._console import log
    from napari_slmsam2.core.errors import OutputError
    from napari_slmsam2.evaluate.training_plot import plot_training

    try:
        plot_training(out / "log.jsonl", out / "training.png")
    except OutputError as error:
        log("Plot", error)
