"""Training in DAgger iterations (Ross, Gordon and Bagnell, arXiv:1011.0686).

A network whose corrections are propagated receives its own errors as input. After each iteration,
new clips start from the rollout states of sweeps with the current network.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.training.compact.config import DaggerConfig, TrainingConfig
from napari_slmsam2.training.compact.export import release
from napari_slmsam2.training.compact.trainer import Trainer, train
from napari_slmsam2.training.data.shards import SHARD_CLIPS, read_network, read_shards, write_shards
from napari_slmsam2.training.data.volumes import read_sampling
from napari_slmsam2.training.distributed import DistributedContext

SHARDS_PER_ITERATION = 1000
"""Shard numbers reserved for every iteration."""

VALIDATE_EVERY = 250


def train_with_dagger(
    out: Path,
    config: CompactConfig,
    plan: TrainingConfig,
    dagger: DaggerConfig,
    distributed: DistributedContext,
    *,
    cut: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[str], None] = print,
    advanced: Callable[[int], None] | None = None,
) -> Trainer:
    """Train to the end of the plan or until the time is up; the same call continues from there.

    Parameters
    ----------
    out : Path
        For ``clips``, ``checkpoint.pt``, ``log.jsonl``, and ``round-N.safetensors``: the network
        whose sweeps give the clips of the next iteration.
    config : CompactConfig
    plan : TrainingConfig
    dagger : DaggerConfig
    distributed : DistributedContext
        Processes that train together; the main one makes the clips and writes.
    cut : callable
        Called with the number of files of clips made and to be made in an iteration.
    report, advanced : callable
        See `napari_slmsam2.training.compact.trainer.train`.

    Raises
    ------
    CheckpointError
        The weights to start from are of another network.
    """
    folder = out / "clips"
    end = None if dagger.minutes is None else time.monotonic() + 60 * dagger.minutes
    swept_by: str | Path | None = dagger.start
    trainer: Trainer | None = None
    for number in range(dagger.rounds):
        if distributed.is_main:
            _cut_iteration(folder, config, plan.seed, dagger, number, swept_by, cut)
        distributed.broadcast(None)  # the others wait for the clips
        clips = read_shards(folder, "train", below=(number + 1) * SHARDS_PER_ITERATION)
        if trainer is None:
            trainer = Trainer(
                config,
                plan,
                clips,
                distributed.device,
                distributed,
                set_weights=read_sampling(dagger.volumes).weights,
            )
            if dagger.start is not None:
                trainer.start_from(read_network(dagger.start, config))
            held_out = read_shards(folder, "held-out")
        else:
            trainer.use(clips)
        until = plan.steps * (number + 1) // dagger.rounds
        train(
            trainer,
            out,
            held_out,
            until=until,
            validate_every=max(1, min(VALIDATE_EVERY, until // 4)),
            seconds=None if end is None else end - time.monotonic(),
            report=report,
            advanced=advanced,
        )
        if trainer.step < until:
            break
        swept_by = weights = out / f"round-{number + 1}.safetensors"
        if distributed.is_main and number + 1 < dagger.rounds and not weights.exists():
            release(weights, config, trainer.averaged.state_dict(), trainer.metadata())
    assert trainer is not None
    return trainer


def _cut_iteration(
    folder: Path,
    config: CompactConfig,
    seed: int,
    dagger: DaggerConfig,
    number: int,
    swept_by: str | Path | None,
    cut: Callable[[int, int], None],
) -> None:
    """Make the clips of an iteration that are still missing."""
    wanted: list[tuple[Path | None, int]] = [(None, dagger.synthetic_clips)]
    if dagger.volumes is not None:
        wanted.append((dagger.volumes, dagger.real_clips))
    splits = [("train", dagger.rounds)] + ([("held-out", 8)] if number == 0 else [])
    jobs = [
        (source, split, min(SHARD_CLIPS, count), -(-count // (SHARD_CLIPS * part)))
        for source, count in wanted
        for split, part in splits
        if count
    ]
    done, total = itertools.count(1), sum(n for *_, n in jobs)
    for source, split, size, n in jobs:
        base = number * SHARDS_PER_ITERATION
        write_shards(
            folder,
            source,
            config,
            split=split,
            numbers=range(base, base + n),
            seed=seed,
            workers=dagger.workers,
            shard_clips=size,
            swept_by=swept_by,
            written=lambda: cut(next(done), total),
        )
