"""Labelled volumes of a folder, as stacks of one object each."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import InputError
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.io import read_image, read_labels
from napari_slmsam2.training.synthetic.stack import LabelledStack, make_stack, render_stack

HELD_OUT_SHARE = 0.12
MARGIN = 24
"""Pixels kept around an object that is rendered."""

SET_WEIGHTS = {
    "mr_sarcoma": 3.0,
    "ct_sarcoma": 2.0,
    "pet_sarcoma": 2.0,
    "mr_hippocampus": 2.0,
    "ct_headneck": 3.0,
    "em_neurons": 5.0,
    "mr_mslesion": 0.5,
    "labels_head": 1.5,
    "synthetic": 6.0,
}
"""How often a set is drawn; a set that is not named counts 1."""


@dataclass(frozen=True, slots=True)
class TrainingVolume:
    """One folder with ``image.nii.gz``, ``labels.nii.gz`` and ``meta.json``.

    Attributes
    ----------
    folder : Path
    set_name : str
        Name of the folder up to its second underscore.
    slice_axis : int
    labels : tuple of int
    """

    folder: Path
    set_name: str
    slice_axis: int
    labels: tuple[int, ...]

    @property
    def has_image(self) -> bool:
        """Whether there is a scan; else one is rendered from the labels."""
        return (self.folder / "image.nii.gz").is_file()

    @property
    def subject(self) -> str:
        """Who the volume shows, as far as the name tells: the digits at its end."""
        name = self.folder.name
        return self.set_name.split("_")[-1] + name[len(name.rstrip("0123456789")) :]


def find_volumes(folder: Path) -> list[TrainingVolume]:
    """All labelled volumes below a folder.

    Raises
    ------
    InputError
        There is none.
    """
    volumes = []
    for path in sorted(folder.glob("*/meta.json")):
        meta = json.loads(path.read_text())
        volumes.append(
            TrainingVolume(
                path.parent,
                "_".join(path.parent.name.split("_")[:2]),
                int(meta["slice_axis"]),
                tuple(_fit_labels(meta)),
            )
        )
    if not volumes:
        raise InputError(
            str(folder), "holds no labelled volumes", expected="NAME/meta.json, NAME/labels.nii.gz"
        )
    return volumes


def is_held_out(key: str) -> bool:
    """Whether a subject is kept for validation; the same on every machine."""
    return zlib.crc32(key.encode()) % 1000 < 1000 * HELD_OUT_SHARE


def draw_stack(
    volumes: dict[str, list[TrainingVolume]], rng: np.random.Generator
) -> tuple[str, LabelledStack]:
    """One object of one set, in a random direction of the sweep.

    Parameters
    ----------
    volumes : dict of set name to list of TrainingVolume
        ``synthetic`` may have an empty list.
    rng : numpy.random.Generator

    Returns
    -------
    set_name : str
    stack : LabelledStack
    """
    names = sorted(volumes)
    weights = np.array([SET_WEIGHTS.get(name, 1.0) for name in names])
    name = str(rng.choice(names, p=weights / weights.sum()))
    if name == "synthetic":
        size = int(rng.choice((96, 128, 160)))
        stack = make_stack(rng, (int(rng.integers(20, 40)), size, size))
    else:
        stack = _real_stack(volumes[name][rng.integers(len(volumes[name]))], rng)
    return name, _seen_from(stack, rng)


def _fit_labels(meta: dict[str, Any]) -> list[int]:
    labels: list[int] = meta["suggested_eval_labels"]
    if not meta["name"].startswith("labels_head"):
        return labels
    return [
        i
        for i in labels
        if i < 500 and meta["labels"][str(i)].get("mean_parts_per_slice", 9) <= 1.6
    ]


@lru_cache(maxsize=160)
def _read(
    volume: TrainingVolume,
) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.integer], tuple[float, float, float]]:
    """Image (slices first, 0 to 1), labels and spacing (slices first)."""
    if volume.has_image:
        loaded = read_image(volume.folder / "image.nii.gz", axis=volume.slice_axis)
        labels = np.asarray(read_labels(volume.folder / "labels.nii.gz", loaded))
        scan = loaded.volume
        window = IntensityWindow.from_percentiles(scan)
        image = np.stack([window.apply(scan.take(i)) for i in range(scan.n_slices)])
        return image, np.moveaxis(labels, volume.slice_axis, 0), scan.slice_spacing
    scan = read_image(volume.folder / "labels.nii.gz", axis=volume.slice_axis).volume
    labels = np.stack([scan.take(i) for i in range(scan.n_slices)]).astype(np.int32)
    return None, labels, scan.slice_spacing


def _real_stack(volume: TrainingVolume, rng: np.random.Generator) -> LabelledStack:
    image, labels, spacing = _read(volume)
    label = int(rng.choice(volume.labels))
    if image is not None:
        return LabelledStack(image, labels == label, spacing, volume.set_name)
    where = np.nonzero(labels == label)
    box = tuple(
        slice(max(0, int(w.min()) - MARGIN), min(n, int(w.max()) + MARGIN))
        for w, n in zip(where, labels.shape, strict=True)
    )
    part = labels[box]
    return LabelledStack(render_stack(rng, part), part == label, spacing, volume.set_name)


def _seen_from(stack: LabelledStack, rng: np.random.Generator) -> LabelledStack:
    """Another slice axis where the voxels are about cubes, thicker slices, either direction."""
    image, mask, spacing = stack.image, stack.mask, list(stack.spacing)
    if max(spacing) < 1.5 * min(spacing) and rng.random() < 0.4 and min(image.shape) >= 16:
        axis = int(rng.integers(1, 3))
        image, mask = np.moveaxis(image, axis, 0), np.moveaxis(mask, axis, 0)
        spacing = [spacing.pop(axis), *spacing]
    slices = int(mask.any((1, 2)).sum())
    if slices >= 16 and rng.random() < 0.3:
        step = int(rng.integers(2, min(4, slices // 6) + 1))
        image, mask = image[::step], mask[::step]
        spacing[0] *= step
    if rng.random() < 0.5:
        image, mask = image[::-1], mask[::-1]
    return LabelledStack(image, mask, (spacing[0], spacing[1], spacing[2]), stack.kind)
