"""One volume of 4 GiB on two workers: peak memory of each process, time, and equal labels.

Makes an OME-Zarr-like stack in a folder, propagates it in one process and with
``batch propagate --split``, and compares the labels.

    python benchmarks/divided_volume.py FOLDER
    python benchmarks/divided_volume.py FOLDER --slices 256 --side 1024 --split 4 --on dask
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import zarr

COMMAND = (sys.executable, "-c", "from napari_slmsam2.cli import main; main()")
RADIUS = 40
SEED_EVERY = 32
MIB = 2**20


def make_volume(folder: Path, n_slices: int, side: int) -> None:
    """Two discs that drift through noise, annotated together on every 32nd slice."""
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:side, :side]
    noise = rng.normal(1000, 60, (side, side)).astype(np.uint16)
    stores = {
        name: zarr.create_array(
            str(folder / f"{name}.zarr"), shape=(n_slices, side, side), dtype=dtype,
            chunks=(1, 1024, 1024), dimension_names=("z", "y", "x"), fill_value=0,
        )
        for name, dtype in (("image", np.uint16), ("seeds", np.uint8))
    }  # fmt: skip
    for index in range(n_slices):
        labels = np.zeros((side, side), np.uint8)
        for label in (1, 2):
            row = side * label / 3 + 30 * np.sin(index / 40 + label)
            column = side / 2 + 30 * np.cos(index / 50)
            labels[np.hypot(rows - row, columns - column) < RADIUS] = label
        stores["image"][index] = np.roll(noise, 37 * index, axis=1) + 400 * (labels > 0)
        if index % SEED_EVERY == 0 or index == n_slices - 1:
            stores["seeds"][index] = labels


def run(*words: object) -> tuple[float, float]:
    """Seconds and, of this and all earlier commands, the peak memory in MiB of one process."""
    began = time.perf_counter()
    subprocess.run([*COMMAND, *map(str, words), "--quiet"], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return time.perf_counter() - began, peak


def same_labels(one: Path, other: Path) -> bool:
    """Whether two files hold the same labels, compared slice by slice."""
    arrays = [zarr.open_array(str(path / "0"), mode="r") for path in (one, other)]
    return all(np.array_equal(arrays[0][i], arrays[1][i]) for i in range(arrays[0].shape[0]))


def main() -> None:
    """Print one row per way to run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slices", type=int, default=513)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--split", type=int, default=8)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--on", default="local")
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    image, seeds = folder / "image.zarr", folder / "seeds.zarr"
    if not image.exists():
        make_volume(folder, options.slices, options.side)
    size = zarr.open_array(str(image), mode="r").nbytes
    print(f"{size / 2**30:.2f} GiB, {options.model}")
    common = ("--model", options.model, "--device", "cpu", "--axis", 0, "--embedding-budget", 64)
    divided, report = folder / "divided.ome.zarr", folder / "jobs.jsonl"
    report.unlink(missing_ok=True)
    seconds, coordinator = run(
        *("batch", "propagate", "--images", image, "--seeds", seeds, "-o", divided, *common),
        *("--workers", options.workers, "--split", options.split, "--on", options.on, "--force"),
        *("--report", report),
    )
    parts = [
        line for line in map(json.loads, report.read_text().splitlines()) if line["peak_bytes"]
    ]
    peak = max(part["peak_bytes"] for part in parts) / MIB
    print(f"{len(parts)} parts, {options.workers} workers: {seconds:.0f} s, "
          f"worker {peak:.0f} MiB, coordinating process at most {coordinator:.0f} MiB")  # fmt: skip
    single, facts = folder / "single.ome.zarr", folder / "single.json"
    seconds, _ = run(
        *("propagate", image, seeds, "-o", single, *common, "--force", "--report", facts)
    )
    peak = json.loads(facts.read_text())["memory"]["peak_resident_bytes"] / MIB
    print(f"1 process: {seconds:.0f} s, {peak:.0f} MiB")
    print("same labels" if same_labels(single, divided) else "DIFFERENT labels")


if __name__ == "__main__":
    main()
