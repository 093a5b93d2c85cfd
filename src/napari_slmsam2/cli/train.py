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
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the whole training.")] = (
        5500
    ),
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
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")
    ] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the clips and the training.")] = 0,
) -> None:
    """Train the compact network from scratch on labelled volumes and synthetic stacks.

    Makes clips (once), trains, and writes checkpoint.pt, log.jsonl, training.png and
    model.safetensors, which every command takes as --model. An eighth of the subjects is held out
    for the scores in the log.
    """
    from napari_slmsam2.cli._console import meter, say
    from napari_slmsam2.core.config import WindowConfig
    from napari_slmsam2.engine.device import choose_device
    from napari_slmsam2.training.release import release
    from napari_slmsam2.training.shards import SHARD_CLIPS, read_shards, write_shards
    from napari_slmsam2.training.trainer import Trainer, TrainingPlan
    from napari_slmsam2.training.trainer import train as run

    torch_device = choose_device(device)
    config, clips = WindowConfig(), out / "clips"
    wanted = [(None, synthetic_clips)] + ([(volumes, real_clips)] if volumes else [])
    shards = [
        (source, split, min(SHARD_CLIPS, count), -(-count // (SHARD_CLIPS * part)))
        for source, count in wanted
        for split, part in (("train", 1), ("held-out", 8))
        if count
    ]
    with meter("Clips") as progress:
        total, done = sum(n for *_, n in shards), 0
        for source, split, size, n in shards:
            for first in range(0, n, workers):
                write_shards(
                    clips,
                    source,
                    config,
                    split=split,
                    numbers=range(first, min(n, first + workers)),
                    seed=seed,
                    workers=workers,
                    shard_clips=size,
                )
                done += min(workers, n - first)
                progress.update(done, total)
    plan = TrainingPlan(steps=steps, batch_size=batch, seed=seed)
    trainer = Trainer(config, plan, read_shards(clips, "train"), torch_device)
    with meter("Training") as progress:
        run(
            trainer,
            out,
            read_shards(clips, "held-out"),
            validate_every=max(1, min(250, steps // 4)),
            seconds=None if minutes is None else 60 * minutes,
            report=progress.say,
            advanced=lambda step: progress.update(step, steps),
        )
    release(trainer, out / "model.safetensors")
    _plot(out)
    say("Weights", out / "model.safetensors")
    if trainer.step < steps:
        say("Next", "the same command goes on from here")


def _plot(out: Path) -> None:
    from napari_slmsam2.cli._console import say
    from napari_slmsam2.core.errors import OutputError
    from napari_slmsam2.evaluate.training_plot import plot_training

    try:
        plot_training(out / "log.jsonl", out / "training.png")
    except OutputError as error:
        say("Plot", error)
