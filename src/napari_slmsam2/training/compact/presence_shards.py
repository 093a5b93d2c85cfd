"""Whole sweeps on disk: made once for a network, for its presence training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.training.compact.config import PresenceTrainingConfig
from napari_slmsam2.training.compact.presence import (
    calibrate_presence,
    dice_of_sweeps,
    train_presence,
)
from napari_slmsam2.training.compact.presence_sweeps import WIDE, WholeSweep, sweep_outward
from napari_slmsam2.training.data.processes import map_in_processes
from napari_slmsam2.training.data.volumes import (
    HELD_OUT_SHARE,
    TrainingVolume,
    draw_stack,
    find_volumes,
    is_held_out,
    read_sampling,
)

SHARD_OBJECTS = 32
FEWEST_SLICES = 4

SEEDINGS = 2
"""Draws of annotated slices for every object; their sweeps are one batch."""


def train_presence_on_sweeps(
    folder: Path,
    volumes: Path | None,
    network: CompactNetwork,
    plan: PresenceTrainingConfig,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Make the sweeps that are missing, and train the presence of a network on them.

    Parameters
    ----------
    folder : Path
        For the sweeps.
    volumes : Path or None
        Folder of labelled volumes. None: synthetic stacks only.
    network : CompactNetwork
        Makes the sweeps; its `SweepPresence` is changed.
    plan : PresenceTrainingConfig
        An eighth of its objects is added for validation. The threshold of presence is set on them.
    workers : int, optional
        Processes that sweep on a CPU. Default: one for every core. On another device: this one.
    progress : callable
        Called with the number of objects swept and of all objects.

    Returns
    -------
    dict
        Held-out mean 3D Dice of sweeps with unknown ends, ``before`` and ``after``.
    """
    folder = folder / _digest(network)
    counts = {"train": plan.objects, "held-out": max(1, round(HELD_OUT_SHARE * plan.objects))}
    shards = [shard for split, count in counts.items() for shard in _shards(split, count)]
    on_cpu = network.carried_weight.device.type == "cpu"
    make = partial(_make_shard, folder, volumes, network, plan.seed)
    done = 0
    for shard, _ in zip(
        shards, map_in_processes(make, shards, workers if on_cpu else 1), strict=True
    ):
        done += shard.size
        progress(done, sum(counts.values()))
    held_out = [sweeps for _, sweeps in _read_split(folder, "held-out", shards)]
    before = dice_of_sweeps(network, held_out)
    kinds, sweeps = zip(*_read_split(folder, "train", shards), strict=True)
    train_presence(network, sweeps, kinds, plan)
    calibrate_presence(network, held_out)
    return {"before": before, "after": dice_of_sweeps(network, held_out)}


@dataclass(frozen=True, slots=True)
class _Shard:
    """Some objects of a split; the same number and size give the same objects."""

    split: str
    number: int
    size: int

    def path(self, folder: Path) -> Path:
        return folder / f"{self.split}-{self.size}-{self.number:04d}.npz"


def _shards(split: str, count: int) -> list[_Shard]:
    """Shards of so many objects."""
    whole, rest = divmod(count, SHARD_OBJECTS)
    sizes = [SHARD_OBJECTS] * whole + [rest] * (rest > 0)
    return [_Shard(split, number, size) for number, size in enumerate(sizes)]


def _make_shard(
    folder: Path, volumes: Path | None, network: CompactNetwork, seed: int, shard: _Shard
) -> None:
    """Sweep the objects of a shard, unless it is on the disk."""
    if not shard.path(folder).exists():
        _write(shard.path(folder), _sweep_some(volumes, network, seed, shard))


def _read_split(
    folder: Path, split: str, shards: Sequence[_Shard]
) -> list[tuple[str, list[WholeSweep]]]:
    """All objects of a split."""
    return [one for s in shards if s.split == split for one in _read(s.path(folder))]


def _sweep_some(
    volumes: Path | None, network: CompactNetwork, seed: int, shard: _Shard
) -> list[tuple[str, list[WholeSweep]]]:
    """The objects of a shard, each with one or two choices of annotated slices."""
    sets: dict[str, list[TrainingVolume]] = {"synthetic": []}
    for volume in find_volumes(volumes) if volumes else []:
        if is_held_out(volume.subject) == (shard.split == "held-out"):
            sets.setdefault(volume.set_name, []).append(volume)
    rng = np.random.default_rng((seed, shard.split == "train", shard.number, 1))
    weights = read_sampling(volumes).weights
    made: list[tuple[str, list[WholeSweep]]] = []
    done = 0
    while done < shard.size:
        name, stack = draw_stack(sets, weights, rng)
        areas = stack.mask.sum((1, 2))
        if (areas > 0).sum() < FEWEST_SLICES:
            continue
        seedings = sorted({tuple(draw_seeds(areas, rng)) for _ in range(SEEDINGS)})
        swept = [(name, sweeps) for sweeps in sweep_outward(network, stack, seedings) if sweeps]
        made += swept
        done += bool(swept)
    return made


def draw_seeds(areas: npt.NDArray[np.int64], rng: np.random.Generator) -> list[int]:
    """Draw slices that a person may have annotated: the largest, a wide one, both, or three.

    Parameters
    ----------
    areas : ndarray of int, shape (D,)
        Pixels of the object on every slice.
    rng : numpy.random.Generator
    """
    wide, largest = np.flatnonzero(areas >= WIDE * areas.max()), int(areas.argmax())
    kind = rng.random()
    if kind < 0.45:
        return [largest]
    another = int(rng.choice(wide))
    if kind < 0.65:
        return [another]
    if kind < 0.75:
        return sorted({another, largest})
    return sorted({int(wide[0]), largest, int(wide[-1])})


def _digest(network: CompactNetwork) -> str:
    """Digest of the network without the part that is trained on the sweeps."""
    found = hashlib.sha256(repr(network.config).encode())
    for name, value in network.state_dict().items():
        if not name.startswith("ends."):
            found.update(value.cpu().numpy().tobytes())
    return found.hexdigest()[:12]


def _write(path: Path, made: list[tuple[str, list[WholeSweep]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sweeps = [(i, one) for i, (_, found) in enumerate(made) for one in found]
    arrays = {
        "names": np.array([name for name, _ in made]),
        "objects": np.array([i for i, _ in sweeps]),
        "lengths": np.array([len(one.found) for _, one in sweeps]),
        "clues": np.concatenate([one.clues for _, one in sweeps]),
        "pixels": np.concatenate(
            [np.stack([one.found, one.common, one.true], 1) for _, one in sweeps]
        ),
    }
    atomic_write(path, lambda file: np.savez(file, allow_pickle=False, **arrays), overwrite=True)


def _read(path: Path) -> list[tuple[str, list[WholeSweep]]]:
    with np.load(path) as stored:
        made: list[tuple[str, list[WholeSweep]]] = [(str(name), []) for name in stored["names"]]
        ends = np.cumsum(stored["lengths"])[:-1]
        parts = (np.split(stored[name], ends) for name in ("clues", "pixels"))
        for number, clues, pixels in zip(stored["objects"], *parts, strict=True):
            made[number][1].append(WholeSweep(1, clues, *pixels.T))
    return made
