"""``napari-slmsam2 train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from napari_slmsam2.cli._options import Device, SettingOptions, with_record
from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.training.compact.config import (
    DaggerConfig,
    PresenceTrainingConfig,
    TrainingConfig,
)

EPILOG = """
[bold]Examples[/bold]

  napari-slmsam2 train -o training

  napari-slmsam2 train --volumes labelled -o training --minutes 60

The same command continues a stopped training.
"""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of `train`."""

    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for clips, checkpoint, log, plot and weights."),
    ]
    training: Annotated[
        TrainingConfig,
        SettingOptions(
            TrainingConfig(),
            {
                "steps": "--steps",
                "batch_size": "--batch",
                "learning_rate": "--learning-rate",
                "seed": "--seed",
            },
        ),
    ]
    dagger: Annotated[
        DaggerConfig,
        SettingOptions(
            DaggerConfig(),
            {
                "volumes": "--volumes",
                "real_clips": "--real-clips",
                "synthetic_clips": "--synthetic-clips",
                "rounds": "--rounds",
                "start": "--from",
                "workers": "--workers",
                "minutes": "--minutes",
            },
        ),
    ]
    presence: Annotated[
        PresenceTrainingConfig,
        SettingOptions(PresenceTrainingConfig(), {"objects": "--objects"}),
    ]
    network: Annotated[
        CompactConfig, SettingOptions(CompactConfig(feedback=0.5), {"feedback": "--feedback"})
    ]
    device: Device = "auto"


@with_record(TrainOptions)
def train(options: TrainOptions) -> None:
    """Train the compact network on labelled volumes and synthetic stacks.

    Makes clips (once), trains, trains presence on whole sweeps, and writes checkpoint.pt,
    log.jsonl, training.png and model.safetensors, which every command takes as --model. An eighth
    of the subjects is held out for the scores in the log.
    """
    from napari_slmsam2.cli._console import log, meter
    from napari_slmsam2.cli._distributed import init_distributed_quietly
    from napari_slmsam2.training.compact.dagger import train_with_dagger
    from napari_slmsam2.training.compact.export import release
    from napari_slmsam2.training.compact.presence_shards import train_presence_on_sweeps
    from napari_slmsam2.training.data.shards import read_network

    out, dagger, config = options.out, options.dagger, options.network
    steps, seed, objects = options.training.steps, options.training.seed, options.presence.objects
    if not steps and (dagger.start is None or not objects):
        raise typer.BadParameter("0 steps need --from and --objects.", param_hint="--steps")
    finished = True
    with (
        init_distributed_quietly(options.device) as distributed,
        meter("Clips and training") as progress,
    ):
        if steps:
            trainer = train_with_dagger(
                out,
                config,
                options.training,
                dagger,
                distributed,
                cut=progress.update,
                report=progress.log,
                advanced=lambda step: progress.update(step, steps),
            )
            finished = trainer.step >= steps
            network, metadata = trainer.averaged, trainer.metadata()
        else:
            assert dagger.start is not None
            network = read_network(dagger.start, config).to(distributed.device)
            metadata = {"recipe": {"start": dagger.start, "seed": seed}}
        if not distributed.is_main:
            return
        if finished and objects:
            progress.restart("Presence training")
            dice = train_presence_on_sweeps(
                out / "ends",
                dagger.volumes,
                network,
                options.presence.replace(seed=seed),
                workers=dagger.workers,
                progress=progress.update,
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
        log("Next", "the same command continues the training")


def _plot(out: Path) -> None:
    from napari_slmsam2.cli._console import log
    from napari_slmsam2.core.errors import OutputError
    from napari_slmsam2.evaluate.training_plot import plot_training

    try:
        plot_training(out / "log.jsonl", out / "training.png")
    except OutputError as error:
        log("Plot", error)
