"""Small labelled scans in NIfTI files, and a small untrained network, for adapting."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import torch

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.training.adapt.adaptation import Adaptation
from napari_slmsam2.training.adapt.evaluation import EvaluationResult
from napari_slmsam2.training.adapt.report import AdaptReport

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
SHAPE = (40, 36, 16)


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def make_labels(seed: int) -> np.ndarray:
    """Two objects that end inside the stack, uint8 of `SHAPE`."""
    rng = np.random.default_rng((seed, 0))
    x, y, z = np.indices(SHAPE)
    labels = np.zeros(SHAPE, np.uint8)
    for label, (row, column) in enumerate(((13, 12), (28, 24)), 1):
        row, column = (c + rng.uniform(-2, 2) for c in (row, column))
        centre, length = 7.5 + rng.uniform(-1, 1), 4.6 + rng.uniform(0, 0.8)
        radius = 7 * (1 - 0.4 * np.abs(z - centre) / length)
        inside = (x - row - 0.4 * (z - centre)) ** 2 + (y - column) ** 2 < radius**2
        labels[inside & (np.abs(z - centre) < length)] = label
    return labels


def make_image(labels: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng((seed, 1))
    image = 100 + 120 * (labels > 0) + 12 * rng.standard_normal(labels.shape)
    return image.astype(np.int16)


def write_pair(folder: Path, seed: int) -> tuple[Path, Path]:
    labels = make_labels(seed)
    image = write(folder / f"image{seed}.nii.gz", make_image(labels, seed))
    return image, write(folder / f"labels{seed}.nii.gz", labels)


def keep_slices(labels: np.ndarray, slices: dict[int, tuple[int, ...]]) -> np.ndarray:
    """The labels on some slices only."""
    seeds = np.zeros_like(labels)
    for label, indices in slices.items():
        for index in indices:
            seeds[..., index][labels[..., index] == label] = label
    return seeds


def write_base(path: Path) -> Path:
    """A network that follows the flow and believes that the object is there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CompactNetwork(CompactConfig(window_size=32, widths=(8, 8, 8, 16), memory_dim=8))
    network.heads[2].bias.data = torch.tensor([0.5, 0.0])
    config = network.config.to_dict()
    save_weights(path, network.state_dict(), {"config": config, "licence": "CC0-1.0"})
    return path


def as_improved(report: AdaptReport) -> AdaptReport:
    """The report as if the base model had found nothing, so that the weights are written."""
    worse = tuple(replace(one, dice=-1.0) for one in report.before.structures)
    return replace(report, before=EvaluationResult(worse))


def run_once(
    prepare: Callable[[str], Adaptation],
) -> Callable[[str], tuple[Adaptation, AdaptReport]]:
    """Adaptations of several kinds, each run at its first call: tests must not train them on."""

    @functools.cache
    def run(kind: str) -> tuple[Adaptation, AdaptReport]:
        job = prepare(kind)
        return job, job.run()

    return run
