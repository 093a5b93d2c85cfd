"""Training in rounds: after each one, new clips start where the network itself now arrives.

A network whose corrections are carried on meets its own errors. Clips from the sweeps of the
network as it is (DAgger, Ross, Gordon and Bagnell, arXiv:1011.0686) teach it to get out of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.training.compact.export import release
from napari_slmsam2.training.compact.trainer import Trainer, TrainingConfig, train
from napari_slmsam2.training.data.shards import SHARD_CLIPS, read_network, read_shards, write_shards
from napari_slmsam2.training.distributed import DistributedContext

SHARDS_PER_ROUND = 1000
"""Numbers kept for the shards of a round."""

VALIDATE_EVERY = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class DaggerConfig:
    """Where the clips of a training come from.

    Attributes
    ----------
    volumes : Path or None
        Folder of labelled volumes. None: synthetic stacks only.
    rounds : int
    real_clips, synthetic_clips : int
        Of all rounds together; an eighth is added to the first round for validation.
    start : str, Path or None
        Model, or file of weights, to start from. Default: from scratch; the optical flow makes the
        sweeps of the first round.
    workers : int
        Processes that make clips.
    """

    volumes: Path | None
    rounds: int = 1
    real_clips: int
    synthetic_clips: int
    start: str | Path | None = None
    workers: int = 1


def train_with_dagger(
    out: Path,
    config: CompactConfig,
    plan: TrainingConfig,
    rounds: DaggerConfig,
    distributed: DistributedContext,
    *,
    seconds: float | None = None,
    cut: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[str], None] = print,
    advanced: Callable[[int], None] | None = None,
) -> Trainer:
    """Train to the end of the plan or until the time is up; the same call goes on from there.

    Parameters
    ----------
    out : Path
        Takes ``clips``, ``checkpoint.pt``, ``log.jsonl``, and ``round-N.safetensors``, what sweeps
        in a round.
    config : CompactConfig
    plan : TrainingConfig
    rounds : DaggerConfig
    distributed : DistributedContext
        The processes that train together; the first one makes the clips and writes.
    seconds : float, optional
        Stop after the first validation beyond this time.
    cut : callable
        Is told the number of files of clips made and to be made for a round.
    report, advanced : callable
        See `napari_slmsam2.training.compact.trainer.train`.

    Raises
    ------
    CheckpointError
        The weights to start from are of another network.
    """
    folder, started = out / "clips", time.monotonic()
    swept_by: str | Path | None = rounds.start
    trainer: Trainer | None = None
    for number in range(rounds.rounds):
        if distributed.is_main:
            _cut_round(folder, config, plan.seed, rounds, number, swept_by, cut)
        distributed.broadcast("cut")
        clips = read_shards(folder, "train", below=(number + 1) * SHARDS_PER_ROUND)
        if trainer is None:
            trainer = Trainer(config, plan, clips, distributed.device, distributed)
            if rounds.start is not None:
                trainer.start_from(read_network(rounds.start, config))
            held_out = read_shards(folder, "held-out")
        else:
            trainer.use(clips)
        until = plan.steps * (number + 1) // rounds.rounds
        train(
            trainer,
            out,
            held_out,
            until=until,
            validate_every=max(1, min(VALIDATE_EVERY, until // 4)),
            seconds=None if seconds is None else seconds - (time.monotonic() - started),
            report=report,
            advanced=advanced,
        )
        if trainer.step < until:
            break
        swept_by = weights = out / f"round-{number + 1}.safetensors"
        if distributed.is_main and number + 1 < rounds.rounds and not weights.exists():
            release(weights, config, trainer.averaged.state_dict(), trainer.metadata())
    assert trainer is not None
    return trainer


def _cut_round(
    folder: Path,
    config: CompactConfig,
    seed: int,
    rounds: DaggerConfig,
    number: int,
    swept_by: str | Path | None,
    cut: Callable[[int, int], None],
) -> None:
    """Make what is not there yet of the clips of a round."""
    wanted: list[tuple[Path | None, int]] = [(None, rounds.synthetic_clips)]
    if rounds.volumes is not None:
        wanted.append((rounds.volumes, rounds.real_clips))
    splits = [("train", rounds.rounds)] + ([("held-out", 8)] if number == 0 else [])
    jobs = [
        (source, split, min(SHARD_CLIPS, count), -(-count // (SHARD_CLIPS * part)))
        for source, count in wanted
        for split, part in splits
        if count
    ]
    done, total = 0, sum(n for *_, n in jobs)
    for source, split, size, n in jobs:
        for first in range(0, n, rounds.workers):
            last, base = min(n, first + rounds.workers), number * SHARDS_PER_ROUND
            write_shards(
                folder,
                source,
                config,
                split=split,
                numbers=range(base + first, base + last),
                seed=seed,
                workers=rounds.workers,
                shard_clips=size,
                swept_by=swept_by,
            )
            done += last - first
            cut(done, total)
