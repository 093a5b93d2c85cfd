"""A small scan in files, and the command line run on it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from napari_slmsam2.cli import app

SHAPE = (30, 26, 16)
#: Slices of `long_job`.
N_LONG = 60
COMMAND = [sys.executable, "-c", "from napari_slmsam2.cli import main; main()"]
#: Waits before every slice that it segments, so that a run lasts without computing: for signals.
SLOW_MODEL = [
    sys.executable,
    "-c",
    "import time; from napari_slmsam2.engine.propagation.propagator import MemoryFallback\n"
    "call = MemoryFallback.call_batch\n"
    "MemoryFallback.call_batch = lambda *given: (time.sleep(0.2), call(*given))[1]\n"
    "from napari_slmsam2.cli import main; main()",
]
AFFINE = np.diag([0.8, 0.9, 4.0, 1.0])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def flat_err(self) -> str:
        """Without the frame and the line breaks of a usage error."""
        return " ".join(self.err.replace("│", " ").split())


@pytest.fixture
def cli():
    """Run the command line in this process."""

    def run(*arguments: object) -> Result:
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Result(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def shell(tmp_path):
    """Run the command line as a user does."""

    def run(*arguments: object, **variables: str) -> Result:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            timeout=120,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@dataclass(frozen=True)
class Scene:
    folder: Path
    image: Path
    seeds: Path
    truth: Path
    array: np.ndarray
    labels: np.ndarray
    seeded: np.ndarray


@pytest.fixture
def scene(tmp_path) -> Scene:
    """Two balls in noise; label 1 is annotated on slices 4 and 11, label 2 on slice 7."""
    rng = np.random.default_rng(3)
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    labels = np.zeros(SHAPE, np.uint8)
    labels[((z - 7) / 6) ** 2 + ((x - 10) / 7) ** 2 + ((y - 9) / 6) ** 2 < 1] = 1
    labels[((z - 8) / 6) ** 2 + ((x - 20) / 6) ** 2 + ((y - 17) / 7) ** 2 < 1] = 2
    image = 100 + 300 * (labels == 1) + 600 * (labels == 2) + rng.normal(0, 20, SHAPE)
    array = image.astype(np.int16)
    seeds = np.zeros_like(labels)
    for label, index in ((1, 4), (1, 11), (2, 7)):
        seeds[..., index][labels[..., index] == label] = label
    folder = tmp_path / "scan"
    folder.mkdir()
    return Scene(
        folder,
        save(folder / "image.nii.gz", array),
        save(folder / "seeds.nii.gz", seeds),
        save(folder / "truth.nii.gz", labels),
        array,
        labels,
        seeds,
    )


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A tiny SLM-SAM 2 network of random weights."""
    from tests.random_weights import tiny_file

    return tiny_file(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def long_job(tmp_path):
    """For `SLOW_MODEL`, of which a run of this volume takes seconds.

    The model is the last word. It is the one that needs no PyTorch, which takes seconds to load.
    """
    rng = np.random.default_rng(0)
    shape = (32, 32, N_LONG)
    x, y, _ = np.meshgrid(*map(np.arange, shape), indexing="ij")
    ball = np.hypot(x - 16, y - 16) < 9
    image = save(tmp_path / "big.nii", (200 * ball + rng.normal(0, 9, shape)).astype(np.int16))
    seeds = np.zeros(shape, np.uint8)
    for index in (2, N_LONG - 3):
        seeds[..., index] = ball[..., index]
    seeds_file = save(tmp_path / "seeds.nii", seeds)
    return [
        *("propagate", image, seeds_file, "-o", tmp_path / "out.nii"),
        *("--model", "interpolation"),
    ]
