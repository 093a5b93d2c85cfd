"""One model on one volume under one protocol: annotate, propagate, score."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.core.events import FellBack
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.segmenter import SegmentedSlice, SweepContext
from napari_slmsam2.engine.classical.interpolation import InterpolationSegmenter
from napari_slmsam2.engine.features.interpolation import EDGE_SHARPNESS, signed_distance
from napari_slmsam2.engine.loading import ReadyModel, make_segmenter
from napari_slmsam2.evaluate import (
    AnnotationProtocol,
    choose_seeds,
    evaluate_labels,
    object_extent,
    seed_volume,
)
from napari_slmsam2.evaluate.report import MEASURES, Scores
from napari_slmsam2.io import LoadedImage, read_image, read_labels
from napari_slmsam2.session.session import SegmentationSession

GROUPS = {
    "PET": {"pet"},
    "CT": {"ct"},
    "MR": {"mr", "mri"},
    "EM": {"em", "sem", "tem"},
    "light": {"light", "fluorescence", "confocal"},
}
"""Words in the field ``modality`` and the group that they stand for; the first match counts."""


@dataclass(frozen=True, slots=True)
class Task:
    """What to measure; ``max_labels`` None stands for all labels of the volume."""

    folder: Path
    model: str
    protocol: str
    device: str
    max_labels: int | None


@dataclass(frozen=True, slots=True, eq=False)
class LabelledVolume:
    """A volume as it came from its folder."""

    image: LoadedImage
    truth: npt.NDArray[np.integer]
    labels: tuple[int, ...]
    window: IntensityWindow
    group: str
    human: bool


class CopySegmenter(InterpolationSegmenter):
    """The floor: every slice gets the mask of the nearest annotated one."""

    name = "copy"

    def _remembered(
        self, image: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        return EDGE_SHARPNESS * signed_distance(mask)

    def segment(
        self,
        embedding: Any,
        index: int,
        direction: int,
        banks: Sequence[MemoryBank],
        context: SweepContext,
    ) -> list[SegmentedSlice]:
        """The nearest seed of every bank; of two equally near ones the one before."""
        nearest = [min(bank.seeds, key=lambda i: (abs(i - index), i)) for bank in banks]
        return [
            SegmentedSlice(bank.seeds[i].content, 1.0, 1.0, 1.0, None)
            for bank, i in zip(banks, nearest, strict=True)
        ]


def measure(task: Task) -> dict[str, Any]:
    """Run one task; the record holds the task, its duration and all scores."""
    volume, model = load_volume(task.folder), load_model(task.model, task.device)
    protocol = AnnotationProtocol.parse(task.protocol)
    axis = volume.image.volume.axis
    labels = thin_out(volume.labels, task.max_labels)
    masks = {label: volume.truth == label for label in labels}
    seeds = {label: choose_seeds(mask, axis, protocol.n_seeds) for label, mask in masks.items()}
    extents = {label: object_extent(mask, axis) for label, mask in masks.items()}
    session = SegmentationSession(volume.image.volume, window=volume.window)
    session.use_model(model)
    session.add_seed_volume(seed_volume(volume.truth, seeds, axis))
    if protocol.ends:
        for label, extent in extents.items():
            session.set_extent(label, *extent)
    started = time.perf_counter()
    events = list(session.propagate())
    seconds = time.perf_counter() - started
    report = evaluate_labels(
        session.labels,
        volume.truth,
        spacing=volume.image.volume.spacing,
        unit=volume.image.volume.unit,
        axis=axis,
        labels=labels,
        exclude=seeds,
    )
    return {
        "volume": task.folder.name,
        "group": volume.group,
        "human": volume.human,
        "model": model.name,
        "sha256": model.sha256,
        "device": model.device,
        "precision": model.precision,
        "protocol": task.protocol,
        "seconds": seconds,
        "label_slices": sum(len(slices) for slices in session.quality.values()),
        "notes": [event.message for event in events if isinstance(event, FellBack)],
        "structures": [
            {
                "label": one.label,
                "seeds": list(one.excluded),
                "extent": list(extents[one.label]),
                "scores": plain_scores(one.scores),
                "all_slices": plain_scores(one.all_slices),
            }
            for one in report.labels
        ],
    }


@lru_cache(maxsize=1)
def load_volume(folder: Path) -> LabelledVolume:
    """Read a volume, its true labels and the description in its ``meta.json``."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    needed = ("slice_axis", "suggested_eval_labels", "modality", "label_origin")
    for field in needed:
        if field not in meta:
            raise VolumeError(
                str(folder / "meta.json"),
                f"has no field {field}",
                expected=", ".join(needed),
                found=", ".join(meta),
            )
    image = read_image(folder / "image.nii.gz", axis=meta["slice_axis"])
    truth = read_labels(folder / "labels.nii.gz", image)
    return LabelledVolume(
        image,
        truth,
        tuple(sorted(meta["suggested_eval_labels"])),
        IntensityWindow.from_percentiles(image.volume),
        find_group(meta["modality"], folder),
        meta["label_origin"].lower().startswith("human"),
    )


def find_group(modality: str, folder: Path) -> str:
    """The group of a modality such as ``FDG-PET (SUV)``."""
    words = set(re.findall("[a-z]+", modality.lower()))
    for group, names in GROUPS.items():
        if words & names:
            return group
    raise VolumeError(
        str(folder / "meta.json"),
        "the field modality names no group",
        expected="a word of " + ", ".join(sorted(set().union(*GROUPS.values()))),
        found=repr(modality),
    )


@lru_cache(maxsize=4)
def load_model(model: str, device: str) -> ReadyModel:
    """A model by name or by its file of weights; ``copy`` is known here only."""
    if model == CopySegmenter.name:
        return ReadyModel(CopySegmenter(), model, None, "cpu", "float32")
    return make_segmenter(model, device=device)


def thin_out(labels: Sequence[int], most: int | None) -> tuple[int, ...]:
    """At most so many labels, evenly spaced in their order."""
    if most is None or most >= len(labels):
        return tuple(labels)
    return tuple(labels[i * len(labels) // most] for i in range(most))


def plain_scores(scores: Scores) -> dict[str, float | None]:
    """All measures for JSON; what is not defined is None."""
    values = {name: get(scores) for name, get in MEASURES.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
