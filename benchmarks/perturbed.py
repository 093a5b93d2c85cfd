r"""How much the Dice of structures changes with noise that nobody sees, against another checkout.

    python benchmarks/perturbed.py FOLDER --labels 15 63 --against ../before/src

A sweep that passes a point at which the outline can follow one of two objects comes out on either
side by chance. A difference between two versions on such a structure means something only beside
the differences that noise makes in each of them. Every structure is annotated on its largest slice,
with its true ends marked; all are propagated together by ``compact``, once without noise and then
with Gaussian noise of each standard deviation, a share of the range of the intensities.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent.parent / "src"


def measure(folder: Path, labels: list[int], noise: float, draw: int) -> list[float]:
    """Dice of every structure, without the annotated slice, of one noisy volume."""
    import nibabel

    from napari_slmsam2.core.prompts import SlicePrompt
    from napari_slmsam2.core.volume import Volume
    from napari_slmsam2.session.session import SegmentationSession

    axis = json.loads((folder / "meta.json").read_text())["slice_axis"]
    image, truth = (
        np.moveaxis(np.asarray(nibabel.load(folder / name).dataobj), axis, 0)
        for name in ("image.nii.gz", "labels.nii.gz")
    )
    image = image.astype(np.float32)
    low, high = np.percentile(image, (0.5, 99.5))
    drawn = np.random.default_rng(draw).standard_normal(image.shape, dtype=np.float32)
    session = SegmentationSession(Volume(image + np.float32(noise * (high - low)) * drawn))
    annotated = {}
    for label in labels:
        mask = truth == label
        areas = mask.sum((1, 2))
        annotated[label] = int(areas.argmax())
        session.add_prompt(SlicePrompt.from_mask(label, annotated[label], mask[annotated[label]]))
        inside = np.flatnonzero(areas)
        session.set_extent(label, int(inside[0]), int(inside[-1]))
    for _ in session.propagate():
        pass
    found = np.asarray(session.labels)
    return [
        dice(*(np.delete(x == label, annotated[label], 0) for x in (found, truth)))
        for label in labels
    ]


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two masks."""
    return float(2 * (first & second).sum() / max(1, first.sum() + second.sum()))


def main() -> None:
    """Run all draws with every checkout, each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=int, nargs="+", required=True)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.001, 0.01])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--against", type=Path, help="folder src of another checkout")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        noise, draw = float(arguments.one[0]), int(arguments.one[1])
        print(json.dumps(measure(arguments.folder, arguments.labels, noise, draw)))
        return
    codes = {"here": HERE}
    if arguments.against is not None:
        codes["other"] = arguments.against
    print("| code | noise | " + " | ".join(map(str, arguments.labels)) + " | mean |")
    print("|---|---|" + "---|" * (len(arguments.labels) + 1))
    for code, source in codes.items():
        for noise in (0.0, *arguments.noise):
            draws = range(arguments.draws if noise else 1)
            values = np.array([_one(arguments, source, noise, draw) for draw in draws])
            columns = [*values.T, values.mean(1)]
            cells = (f"{c.mean():.3f} ({c.min():.3f} to {c.max():.3f})" for c in columns)
            print(f"| {code} | {noise:g} | " + " | ".join(cells) + " |", flush=True)


def _one(arguments: argparse.Namespace, source: Path, noise: float, draw: int) -> list[float]:
    labels = ["--labels", *map(str, arguments.labels)]
    options = [str(arguments.folder), *labels, "--one", str(noise), str(draw)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *options],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
