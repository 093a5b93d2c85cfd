"""Peak memory of `propagate` against the number of slices and of labels.

Every case is a process of its own: ``propagate image.zarr seeds.zarr -o out.ome.zarr`` on a
generated stack of 512 x 512 voxels with small discs that drift, each annotated on three slices.

    python benchmarks/memory.py
    python benchmarks/memory.py --slices 50 150 300 --labels 1 20 --model flow
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDE = 512
RADIUS = 11
TARGET = 1.10

COMMAND = (sys.executable, "-c", "from napari_slmsam2.cli import main; main()", "propagate")


def make_stack(folder: Path, n_slices: int, n_labels: int) -> None:
    """Write image and seeds slice by slice; run in a process of its own."""
    import numpy as np
    import zarr

    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    stores = {}
    for name, dtype in (("image", np.uint16), ("seeds", np.uint8)):
        stores[name] = zarr.create_array(
            str(folder / f"{name}.zarr"), shape=(n_slices, SIDE, SIDE), dtype=dtype,
            chunks=(1, SIDE, SIDE), dimension_names=("z", "y", "x"), fill_value=0,
        )  # fmt: skip
    seeded = {0, n_slices // 2, n_slices - 1}
    for index in range(n_slices):
        labels = np.zeros((SIDE, SIDE), np.uint8)
        for label in range(1, n_labels + 1):
            row, column = 60 + 95 * ((label - 1) // 5), 60 + 95 * ((label - 1) % 5)
            row, column = row + 12 * np.sin(index / 40 + label), column + 12 * np.cos(index / 50)
            labels[np.hypot(rows - row, columns - column) < RADIUS] = label
        image = rng.normal(1000, 50, labels.shape) + 600 * (labels > 0)
        stores["image"][index] = image.astype(np.uint16)
        if index in seeded:
            stores["seeds"][index] = labels


def measure(n_slices: int, n_labels: int, model: str, timeout: float) -> tuple[float, float]:
    """Peak resident memory in MiB and seconds of one case.

    Raises
    ------
    subprocess.SubprocessError
        It failed or took longer than the timeout.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case = (str(folder), str(n_slices), str(n_labels))
        subprocess.run([sys.executable, __file__, "--make", *case], check=True)
        began = time.perf_counter()
        subprocess.run(
            [*COMMAND, str(folder / "image.zarr"), str(folder / "seeds.zarr"), "--quiet",
             "-o", str(folder / "out.ome.zarr"), "--report", str(folder / "report.json"),
             "--model", model, "--device", "cpu"],
            check=True, timeout=timeout,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        report = json.loads((folder / "report.json").read_text())
        return report["memory"]["peak_resident_bytes"] / 2**20, seconds


def main() -> None:
    """Print one row per number of labels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--model", default="flow")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds of one case")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make_stack(Path(options.make[0]), int(options.make[1]), int(options.make[2]))
        return
    print(f"| labels | {' | '.join(f'{n} slices' for n in options.slices)} | largest / smallest |")
    print("|---" * (len(options.slices) + 2) + "|")
    for n_labels in options.labels:
        cells, peaks = [], []
        for n_slices in options.slices:
            try:
                peak, seconds = measure(n_slices, n_labels, options.model, options.timeout)
            except subprocess.SubprocessError as error:
                cells.append(type(error).__name__)
                continue
            peaks.append(peak)
            cells.append(f"{peak:.0f} MiB, {seconds:.0f} s")
        ratio = max(peaks) / min(peaks) if peaks else float("nan")
        verdict = "flat" if ratio <= TARGET and len(peaks) == len(cells) else "not flat"
        print(f"| {n_labels} | {' | '.join(cells)} | {ratio:.2f} ({verdict}) |", flush=True)


if __name__ == "__main__":
    main()
