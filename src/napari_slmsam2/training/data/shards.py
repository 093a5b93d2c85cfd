"""Clips on disk, made once by several processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.errors import CheckpointError, InputError
from napari_slmsam2.engine.compact.cpu_workers import compute_in_parts
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.segmenter import CompactSegmenter
from napari_slmsam2.engine.loading import load_network
from napari_slmsam2.training.data.clip import LENGTH, Clip, RolloutState, cut_clip, draw_scenario
from napari_slmsam2.training.data.processes import map_in_processes
from napari_slmsam2.training.data.sweep import never_absent, rollout_states
from napari_slmsam2.training.data.volumes import (
    TrainingVolume,
    draw_stack,
    find_volumes,
    is_held_out,
    read_sampling,
)
from napari_slmsam2.training.synthetic.stack import LabelledStack

SHARD_CLIPS = 128
ROLLOUT_CLIPS = 3
"""Clips of one scenario that start from rollout states, in addition to one from the true mask."""

FIELDS = tuple(field.name for field in dataclasses.fields(Clip))


def write_shards(
    out: Path,
    volumes: Path | None,
    config: CompactConfig,
    *,
    split: str,
    numbers: Iterable[int],
    seed: int = 0,
    workers: int | None = 1,
    shard_clips: int = SHARD_CLIPS,
    swept_by: str | Path | None = None,
    written: Callable[[], None] = lambda: None,
) -> None:
    """Make the shards of clips that are missing.

    Parameters
    ----------
    out : Path
        Folder; a shard is ``SPLIT-real-NUMBER.npz`` or ``SPLIT-synthetic-NUMBER.npz``.
    volumes : Path or None
        Folder of labelled volumes. None: synthetic stacks.
    config : CompactConfig
    split : {"train", "held-out"}
    numbers : iterable of int
        Of the shards; the same number gives the same clips.
    seed : int
    workers : int or None
        See `map_in_processes`.
    shard_clips : int
    swept_by : str or Path, optional
        Name or weights of the network whose sweeps the clips start from. Default: the optical flow.
    written : callable
        Called for every shard.
    """
    out.mkdir(parents=True, exist_ok=True)
    make = partial(_write_shard, out, volumes, config, split, seed, shard_clips, swept_by)
    for _ in map_in_processes(make, numbers, workers):
        written()


def _write_shard(
    out: Path,
    volumes: Path | None,
    config: CompactConfig,
    split: str,
    seed: int,
    shard_clips: int,
    swept_by: str | Path | None,
    number: int,
) -> None:
    kind = "real" if volumes else "synthetic"
    path = out / f"{split}-{kind}-{number:04d}.npz"
    if path.exists():
        return
    rng = np.random.default_rng((seed, split == "train", number))
    sets: dict[str, list[TrainingVolume]] = {} if volumes else {"synthetic": []}
    for volume in find_volumes(volumes) if volumes else []:
        if is_held_out(volume.subject) == (split == "held-out"):
            sets.setdefault(volume.set_name, []).append(volume)
    # An untrained network without feedback propagates with the optical flow alone.
    network = (
        CompactNetwork(config.replace(feedback=0.0))
        if swept_by is None
        else read_network(swept_by, config)
    )
    segmenter, weights = never_absent(network), read_sampling(volumes).weights
    clips: list[Clip] = []
    names: list[str] = []
    while len(clips) < shard_clips:
        name, stack = draw_stack(sets, weights, rng)
        found = cut_clips(stack, segmenter, rng)
        clips += found
        names += [name] * len(found)
    fields = {f: np.stack([getattr(clip, f) for clip in clips[:shard_clips]]) for f in FIELDS}
    fields["set_names"] = np.array(names[:shard_clips])
    atomic_write(path, lambda file: np.savez(file, allow_pickle=False, **fields), overwrite=True)


def read_network(weights: str | Path, config: CompactConfig) -> CompactNetwork:
    """A network of our own kind with a given configuration; the feedback may differ.

    Raises
    ------
    CheckpointError
        The weights are missing, or of another network.
    """
    network = load_network(weights).network
    found = network.config
    if not isinstance(network, CompactNetwork) or (
        network.config.replace(feedback=config.feedback) != config
    ):
        raise CheckpointError(
            str(weights),
            "is of another network than the one that is trained",
            expected=config,
            found=found,
        )
    network.config = config
    return network


def cut_clips(
    stack: LabelledStack,
    segmenter: CompactSegmenter,
    rng: np.random.Generator,
    *,
    is_part: bool = False,
) -> list[Clip]:
    """Clips of one scenario: from the true mask, and from rollout states of a sweep.

    Parameters
    ----------
    stack : LabelledStack
    segmenter : CompactSegmenter
        Makes the sweep.
    rng : numpy.random.Generator
    is_part : bool
        The object may continue beyond the stack: its ends are not marked.
    """
    scenario = draw_scenario(stack.mask.sum((1, 2)), LENGTH, rng)
    if scenario is None:
        return []
    if is_part:
        scenario = replace(scenario, extent=None)
    stack = replace(stack, image=np.ascontiguousarray(stack.image))
    states = rollout_states(segmenter, stack, scenario)
    starts: dict[int, RolloutState | None] = {scenario.start: None}
    starts |= {int(i): states[i] for i in rng.permutation(list(states))[:ROLLOUT_CLIPS]}

    def cut(some: Sequence[tuple[int, RolloutState | None]]) -> list[Clip]:
        return [
            cut_clip(
                stack.image,
                stack.mask,
                stack.spacing,
                replace(scenario, start=start),
                segmenter.config,
                state=state,
                label=stack.label,
            )
            for start, state in some
        ]

    clips = compute_in_parts(cut, list(starts.items()), torch.device("cpu"))
    return [clip for clip in clips if clip.weights.any()]


def read_shards(
    folder: Path, split: str, *, below: int | None = None
) -> dict[str, npt.NDArray[np.generic]]:
    """All clips of a split, joined field by field, and ``set_names``.

    Parameters
    ----------
    folder : Path
    split : {"train", "held-out"}
    below : int, optional
        Leave shards out from this number on.

    Raises
    ------
    InputError
        There are none.
    """
    paths = [
        path
        for path in sorted(folder.glob(f"{split}-*.npz"))
        if below is None or int(path.stem.rsplit("-", 1)[1]) < below
    ]
    if not paths:
        raise InputError(
            str(folder), f"holds no clips of {split}", expected=f"{split}-real-0000.npz"
        )
    shards = [np.load(path) for path in paths]
    for path, shard in zip(paths, shards, strict=True):
        missing = sorted({*FIELDS, "set_names"} - set(shard.files))
        if missing:
            raise InputError(
                str(path),
                "holds clips of another version of this program",
                expected=", ".join(FIELDS),
                found=f"no {', '.join(missing)}",
                hint="Remove the folder of the clips; they are made again.",
            )
    return {
        field: np.concatenate([shard[field] for shard in shards])
        for field in (*FIELDS, "set_names")
    }
