"""One model on one volume under one protocol: annotate, propagate, score."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accuracy_baselines import BASELINES

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.core.events import FellBack
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.loading import ReadyModel, make_segmenter
from napari_slmsam2.evaluate import (
    AnnotationProtocol,
    evaluate_labels,
    object_extent,
    seed_volume,
)
from napari_slmsam2.evaluate.metrics import SliceCounts, count_slices
from napari_slmsam2.evaluate.protocol import slice_areas
from napari_slmsam2.evaluate.report import MEASURES, Scores
from napari_slmsam2.io import read_image, read_labels
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
    """What to measure.

    Attributes
    ----------
    folder : Path
    model, protocol, device : str
    max_labels : int or None
        None stands for all labels of the volume.
    thin : int
        Every such slice is taken, see `load_volume`.
    """

    folder: Path
    model: str
    protocol: str
    device: str
    max_labels: int | None
    thin: int = 1
    memory: str = "standard"


@dataclass(frozen=True, slots=True, eq=False)
class LabelledVolume:
    """A volume of a folder, with its true labels."""

    volume: Volume
    truth: npt.NDArray[np.integer]
    labels: tuple[int, ...]
    window: IntensityWindow
    group: str
    human: bool


def measure(task: Task) -> dict[str, Any]:
    """Run one task; the record holds the task, its duration and all scores."""
    loaded = load_volume(task.folder, task.thin)
    model = load_model(task.model, task.device, task.memory)
    volume, truth = loaded.volume, loaded.truth
    protocol = AnnotationProtocol.parse(task.protocol)
    axis = volume.axis
    labels = thin_out(loaded.labels, task.max_labels)
    masks = {label: truth == label for label in labels}
    seeds = {label: protocol.choose_seeds(mask, axis) for label, mask in masks.items()}
    extents = {label: object_extent(mask, axis) for label, mask in masks.items()}
    session = SegmentationSession(volume, window=loaded.window)
    session.use_model(model)
    session.add_seed_volume(seed_volume(truth, seeds, axis))
    if protocol.ends:
        for label, extent in extents.items():
            session.set_extent(label, *extent)
    started = time.perf_counter()
    events = list(session.propagate())
    seconds = time.perf_counter() - started
    report = evaluate_labels(
        session.labels,
        truth,
        spacing=volume.spacing,
        unit=volume.unit,
        axis=axis,
        labels=labels,
        exclude=seeds,
    )
    counts = count_slices(session.labels, truth, axis)
    return {
        "volume": task.folder.name,
        "group": loaded.group,
        "human": loaded.human,
        "model": model.name,
        "sha256": model.sha256,
        "device": model.device,
        "precision": model.precision,
        "protocol": task.protocol,
        "thin": task.thin,
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
                "slices": plain_counts(counts[one.label]),
            }
            for one in report.labels
        ],
    }


@lru_cache(maxsize=1)
def load_volume(folder: Path, thin: int = 1) -> LabelledVolume:
    """Read a volume, its true labels and the description in its ``meta.json``.

    Parameters
    ----------
    folder : Path
    thin : int
        Only every such slice is taken, so that a stack of thin slices becomes one of thick ones.
        Labels that are left on fewer than two slices are dropped.
    """
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
    volume, labels = image.volume, sorted(meta["suggested_eval_labels"])
    if thin > 1:
        volume, truth = thin_slices(volume, truth, thin)
        labels = [x for x in labels if np.count_nonzero(slice_areas(truth == x, volume.axis)) > 1]
        if not labels:
            raise VolumeError(str(folder), f"no label is on two of every {thin} slices")
    return LabelledVolume(
        volume,
        truth,
        tuple(labels),
        IntensityWindow.from_percentiles(volume),
        find_group(meta["modality"], folder),
        meta["label_origin"].lower().startswith("human"),
    )


def thin_slices(
    volume: Volume, truth: npt.NDArray[np.integer], step: int
) -> tuple[Volume, npt.NDArray[np.integer]]:
    """Every such slice of a volume and of its labels; the distance of the slices grows with it."""
    chosen = tuple(slice(None, None, step if a == volume.axis else None) for a in range(3))
    i, j, k = (s * (step if a == volume.axis else 1) for a, s in enumerate(volume.spacing))
    thinned = replace(volume, data=np.asarray(volume.data)[chosen], spacing=(i, j, k), affine=None)
    return thinned, truth[chosen]


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
def load_model(model: str, device: str, memory: str = "standard") -> ReadyModel:
    """A model by name or by its file of weights, or a baseline that is known here only."""
    if model in BASELINES:
        return ReadyModel(BASELINES[model](), model, None)
    return make_segmenter(model, device=device, config=PropagationConfig(memory=memory))


def thin_out(labels: Sequence[int], most: int | None) -> tuple[int, ...]:
    """At most so many labels, evenly spaced in their order."""
    if most is None or most >= len(labels):
        return tuple(labels)
    return tuple(labels[i * len(labels) // most] for i in range(most))


def plain_scores(scores: Scores) -> dict[str, float | None]:
    """All measures for JSON; what is not defined is None."""
    values = {name: get(scores) for name, get in MEASURES.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def plain_counts(counts: SliceCounts) -> dict[str, list[int]]:
    """Slices with voxels of the result or the truth, and how many those and both have there."""
    (index,) = np.nonzero(counts.predicted + counts.reference)
    return {
        "index": index.tolist(),
        "predicted": counts.predicted[index].tolist(),
        "reference": counts.reference[index].tolist(),
        "common": counts.common[index].tolist(),
    }
