r"""Speed of the default model: whole ``propagate`` commands, against another checkout if given.

    python benchmarks/compact_speed.py
    python benchmarks/compact_speed.py --cases one many --against ../before/src --repeats 3
    python benchmarks/compact_speed.py --cases nuclei --volumes FOLDER --against ../before/src

Every run is a process of its own, with the package of this checkout or that of ``--against``; the
two alternate. The cases:

one      one label, 256 x 256 x 60, one annotated slice
many     100 labels, 256 x 256 x 40, one annotated slice each
nuclei   16 labels of ``FOLDER/lm_nuclei_stardist3d``, 31 slices (needs ``--volumes``)

Printed are medians over the repeats: seconds of the whole command (start-up, files and loading of
the model included), seconds of the propagation as the command reports them, slices of the volume a
second of propagation, processor seconds of the command, and the share of true object voxels that
get the right label. Below them, the ratios of the other checkout to this one.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent.parent / "src"
COMMAND = "from napari_slmsam2.cli import main; main()"


@dataclass(frozen=True)
class Case:
    """Arrays of one run, slices along the first axis."""

    image: np.ndarray
    truth: np.ndarray
    seeds: np.ndarray


@dataclass(frozen=True)
class Timing:
    """Seconds of one command and of its propagation, processor seconds, share of right voxels."""

    command: float
    propagation: float
    processor: float
    right: float


def one_tube() -> Case:
    """A bent tube in noise, annotated in the middle."""
    shape = (60, 256, 256)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    row, column = 128 + 30 * np.sin(z / 20), 128 + 25 * np.cos(z / 25)
    return _case((y - row) ** 2 + (x - column) ** 2 < (28 + 6 * np.sin(z / 12)) ** 2, 30)


def many_tubes() -> Case:
    """A grid of 100 tubes that sway together, annotated in the middle."""
    shape = (40, 256, 256)
    z, y, x = np.indices(shape)
    truth = np.zeros(shape, np.uint8)
    sway = 3 * np.sin(z / 6)
    for label in range(100):
        row, column = 16 + 25 * (label // 10), 16 + 25 * (label % 10)
        radius = 6 + 2 * np.sin(z / 9 + label)
        truth[(y - row - sway) ** 2 + (x - column + sway) ** 2 < radius**2] = label + 1
    return _case(truth, 20)


def nuclei(volumes: Path) -> Case:
    """The sixteen largest nuclei, each annotated on its largest slice."""
    import nibabel

    image, labels = (
        np.moveaxis(np.asarray(nibabel.load(volumes / "lm_nuclei_stardist3d" / name).dataobj), 2, 0)
        for name in ("image.nii.gz", "labels.nii.gz")
    )
    largest = np.argsort(-np.bincount(labels[labels > 0].astype(int)))[:16]
    truth = np.where(np.isin(labels, largest), labels, 0).astype(np.uint16)
    seeds = np.zeros_like(truth)
    for label in largest:
        on = int((truth == label).sum((1, 2)).argmax())
        seeds[on][truth[on] == label] = label
    return Case(np.ascontiguousarray(image), truth, seeds)


def _case(truth: np.ndarray, annotated: int) -> Case:
    noise = np.random.default_rng(0).normal(0, 8, truth.shape)
    image = (60 + 100 * (truth > 0) + noise).clip(0, 255).astype(np.uint8)
    seeds = np.zeros(truth.shape, np.uint8)
    seeds[annotated] = truth[annotated]
    return Case(image, truth.astype(np.uint8), seeds)


def run(case: Case, source: Path, device: str) -> Timing:
    """One command."""
    with tempfile.TemporaryDirectory() as name:
        image, seeds, out = (str(Path(name) / f"{what}.npy") for what in ("image", "seeds", "out"))
        np.save(image, case.image)
        np.save(seeds, case.seeds)
        options = ["--axis", "0", "--device", device, "-o", out]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", COMMAND, "propagate", image, seeds, *options],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(source)},
        )
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        reported = re.search(r"slices in ([0-9.]+) s", done.stdout + done.stderr)
        found = np.load(out)
    inside = case.truth > 0
    return Timing(
        seconds,
        float(reported[1]) if reported else float("nan"),
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        float(np.mean(found[inside] == case.truth[inside])),
    )


def main() -> None:
    """Run all cases, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=("one", "many", "nuclei"), default=["one"])
    parser.add_argument("--against", type=Path, help="folder src of another checkout")
    parser.add_argument("--volumes", type=Path, help="folder of labelled volumes, for nuclei")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if "nuclei" in arguments.cases and arguments.volumes is None:
        parser.error("the case nuclei needs --volumes")
    sources = {"here": HERE}
    if arguments.against is not None:
        sources["other"] = arguments.against
    print("| case | code | command, s | propagation, s | slices/s | processor, s | right voxels |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.cases:
        case = nuclei(arguments.volumes) if name == "nuclei" else CASES[name]()
        timings: dict[str, list[Timing]] = {code: [] for code in sources}
        for _ in range(arguments.repeats):
            for code, source in sources.items():
                timings[code].append(run(case, source, arguments.device))
        medians = {
            code: Timing(*(statistics.median(v) for v in zip(*map(astuple, found), strict=True)))
            for code, found in timings.items()
        }
        for code, t in medians.items():
            rate = len(case.image) / t.propagation
            print(
                f"| {name} | {code} | {t.command:.1f} | {t.propagation:.1f} | {rate:.1f} "
                f"| {t.processor:.1f} | {t.right:.4f} |",
                flush=True,
            )
        if len(medians) > 1:
            here, other = medians["here"], medians["other"]
            ratios = (
                getattr(other, what) / getattr(here, what)
                for what in ("command", "propagation", "processor")
            )
            print(name, "other / here:", " ".join(f"{ratio:.2f}" for ratio in ratios), flush=True)


CASES = {"one": one_tube, "many": many_tubes}


if __name__ == "__main__":
    main()
