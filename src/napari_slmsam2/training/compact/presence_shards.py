"""Whole sweeps on disk: made once for a network, for its presence training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.training.compact.config import PresenceTrainingConfig
from napari_slmsam2.training.compact.presence import dice_of_sweeps, train_presence
from napari_slmsam2.training.compact.presence_sweeps import WIDE, WholeSweep, sweep_outward
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


def train_presence_on_sweeps(
    folder: Path,
    volumes: Path | None,
    network: CompactNetwork,
    plan: PresenceTrainingConfig,
    *,
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
        An eighth of its objects is added for validation.
    progress : callable
        Called with the number of objects swept and of all objects.

    Returns
    -------
    dict
        Held-out mean 3D Dice of sweeps with unknown ends, ``before`` and ``after``.
    """
    folder = folder / _digest(network)
    counts = {"train": plan.objects, "held-out": max(1, round(HELD_OUT_SHARE * plan.objects))}
    found, done = {}, 0
    for split, count in counts.items():
        made: list[tuple[str, list[WholeSweep]]] = []
        size = min(SHARD_OBJECTS, count)
        for number in range(-(-count // size)):
            path = folder / f"{split}-{size}-{number:04d}.npz"
            if not path.exists():
                _write(path, _sweep_some(volumes, network, split, number, plan.seed, size))
            made += _read(path)
            done += min(size, count - number * size)
            progress(done, sum(counts.values()))
        found[split] = made[:count]
    held_out = [sweeps for _, sweeps in found["held-out"]]
    before = dice_of_sweeps(network, held_out)
    kinds, sweeps = zip(*found["train"], strict=True)
    train_presence(network, sweeps, kinds, plan)
    return {"before": before, "after": dice_of_sweeps(network, held_out)}


def _sweep_some(
    volumes: Path | None, network: CompactNetwork, split: str, number: int, seed: int, size: int
) -> list[tuple[str, list[WholeSweep]]]:
    """The objects of a shard; the same number gives the same objects."""
    sets: dict[str, list[TrainingVolume]] = {"synthetic": []}
    for volume in find_volumes(volumes) if volumes else []:
        if is_held_out(volume.subject) == (split == "held-out"):
            sets.setdefault(volume.set_name, []).append(volume)
    rng = np.random.default_rng((seed, split == "train", number, 1))
    weights = read_sampling(volumes).weights
    made: list[tuple[str, list[WholeSweep]]] = []
    while len(made) < size:
        name, stack = draw_stack(sets, weights, rng)
        areas = stack.mask.sum((1, 2))
        if (areas > 0).sum() < FEWEST_SLICES:
            continue
        if sweeps := sweep_outward(network, stack, draw_seeds(areas, rng)):
            made.append((name, sweeps))
    return made


def draw_seeds(areas: npt.NDArray[np.int64], rng: np.random.Generator) -> list[int]:
    """Draw slices that a person may have annotated: the largest, a wide one, or three.

    Parameters
    ----------
    areas : ndarray of int, shape (D,)
        Pixels of the object on every slice.
    rng : numpy.random.Generator
    """
    wide, largest = np.flatnonzero(areas >= WIDE * areas.max()), int(areas.argmax())
    kind = rng.random()
    if kind < 0.55:
        return [largest]
    if kind < 0.8:
        return [int(rng.choice(wide))]
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
