"""Labelled volumes of a folder, as stacks of one object each."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

SYNTHETIC_SLICES = {96: 90, 128: 39, 160: 39}
"""Most slices of a synthetic stack, by its rows and columns. Long objects, such as vessels and
nerves, are rare in labelled volumes."""

SAMPLING_FILE = "sampling.json"


@dataclass(frozen=True, slots=True)
class LabelLimits:
    """Which labels of a set are used.

    Attributes
    ----------
    largest : int or None
        Largest label value.
    most_parts_per_slice : float or None
        Largest mean number of parts per slice, ``mean_parts_per_slice`` in ``meta.json``.
    """

    largest: int | None = None
    most_parts_per_slice: float | None = None

    def allow(self, label: int, about: Mapping[str, Any]) -> bool:
        """Whether a label is used, given its entry in ``meta.json``."""
        if self.largest is not None and label > self.largest:
            return False
        parts = about.get("mean_parts_per_slice")
        most = self.most_parts_per_slice
        return most is None or (parts is not None and parts <= most)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How often the sets of a folder are drawn, and which of their labels.

    Attributes
    ----------
    weights : mapping of {set name: float}
        Relative frequency of a set; 1 where it is not given. ``synthetic`` are synthetic stacks.
    labels : mapping of {set name: LabelLimits}
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, LabelLimits] = field(default_factory=dict)


def read_sampling(folder: Path | None) -> Sampling:
    """Read ``sampling.json`` of a folder of volumes; without one all sets are drawn alike.

    Raises
    ------
    InputError
        The file cannot be read, or holds something else.
    """
    path = None if folder is None else folder / SAMPLING_FILE
    if path is None or not path.is_file():
        return Sampling()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        weights = {str(name): float(weight) for name, weight in stored["weights"].items()}
        limits = {name: LabelLimits(**given) for name, given in stored.get("labels", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            str(path),
            "is no file of sampling weights",
            expected='{"weights": {"SET": 2.0}, "labels": {"SET": {"largest": 99}}}',
            found=f"{type(error).__name__}: {error}",
        ) from error
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()):
        raise InputError(str(path), "has a weight that is negative or not a number", found=weights)
    return Sampling(weights, limits)


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
        """Whether there is a scan; otherwise an image is rendered from the labels."""
        return (self.folder / "image.nii.gz").is_file()

    @property
    def subject(self) -> str:
        """Subject of the volume according to its name: the digits at its end."""
        name = self.folder.name
        return self.set_name.split("_")[-1] + name[len(name.rstrip("0123456789")) :]


def find_volumes(folder: Path) -> list[TrainingVolume]:
    """All labelled volumes below a folder.

    Raises
    ------
    InputError
        The folder holds none.
    """
    volumes, sampling = [], read_sampling(folder)
    for path in sorted(folder.glob("*/meta.json")):
        meta = json.loads(path.read_text())
        name = "_".join(path.parent.name.split("_")[:2])
        limits = sampling.labels.get(name, LabelLimits())
        labels = tuple(
            label
            for label in meta["suggested_eval_labels"]
            if limits.allow(label, meta.get("labels", {}).get(str(label), {}))
        )
        volumes.append(TrainingVolume(path.parent, name, int(meta["slice_axis"]), labels))
    if not volumes:
        raise InputError(
            str(folder), "holds no labelled volumes", expected="NAME/meta.json, NAME/labels.nii.gz"
        )
    return volumes


def is_held_out(key: str) -> bool:
    """Whether a subject is kept for validation; the same on every machine."""
    return zlib.crc32(key.encode()) % 1000 < 1000 * HELD_OUT_SHARE


def draw_stack(
    volumes: Mapping[str, Sequence[TrainingVolume]],
    weights: Mapping[str, float],
    rng: np.random.Generator,
) -> tuple[str, LabelledStack]:
    """Draw one object of one set, in a random direction of the sweep.

    Parameters
    ----------
    volumes : mapping of {set name: sequence of TrainingVolume}
        ``synthetic`` may have an empty one.
    weights : mapping of {set name: float}
        See `Sampling`.
    rng : numpy.random.Generator

    Returns
    -------
    set_name : str
    stack : LabelledStack
    """
    names = sorted(volumes)
    shares = np.array([weights.get(name, 1.0) for name in names])
    name = str(rng.choice(names, p=shares / shares.sum()))
    if name == "synthetic":
        size = int(rng.choice(list(SYNTHETIC_SLICES)))
        slices = int(rng.integers(20, SYNTHETIC_SLICES[size] + 1))
        stack = make_stack(rng, (slices, size, size))
    else:
        stack = _real_stack(volumes[name][int(rng.integers(len(volumes[name])))], rng)
    return name, _reoriented(stack, rng)


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


def _reoriented(stack: LabelledStack, rng: np.random.Generator) -> LabelledStack:
    """The stack along another axis if voxels are nearly cubes, with thicker slices, or reversed."""
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
