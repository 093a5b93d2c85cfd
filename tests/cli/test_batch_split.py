"""One volume in parts: the file of a single run, from several workers."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zarr
from tests.cli.test_batch_faults import ENGINES

from napari_slmsam2.io import _pyramid, label_store
from napari_slmsam2.io.label_store import LabelStore

SHAPE = (60, 40, 44)
#: Slices on which both labels are annotated. Label 2 has another seed between two of them.
COMMON, EXTRA = (5, 20, 35, 50), 27


@pytest.fixture
def volume(tmp_path) -> Path:
    """Two tubes along the first axis that touch; label 2 begins and ends within the volume."""
    z, y, x = np.indices(SHAPE)
    labels = np.zeros(SHAPE, np.uint8)
    labels[np.hypot(y - 14 - 3 * np.sin(z / 6), x - 16) < 8] = 1
    labels[(np.hypot(y - 26, x - 27 - 2 * np.cos(z / 5)) < 8) & (z > 2) & (z < 54)] = 2
    noise = np.random.default_rng(5).normal(0, 25, SHAPE)
    image = (200 + 300.0 * (labels == 1) + 500.0 * (labels == 2) + noise).astype(np.uint16)
    seeds = np.zeros_like(labels)
    seeds[list(COMMON)] = labels[list(COMMON)]
    seeds[EXTRA] = np.where(labels[EXTRA] == 2, 2, 0)
    for name, array in (("image", image), ("seeds", seeds)):
        stored = zarr.create_array(
            str(tmp_path / f"{name}.zarr"), shape=SHAPE, dtype=array.dtype, chunks=(4, 20, 44),
            dimension_names=("z", "y", "x"),
        )  # fmt: skip
        stored[:] = array
    return tmp_path


def command(volume: Path, out: str, *options: object, model: str = "flow") -> list[object]:
    return [
        *(
            "batch",
            "propagate",
            "--images",
            volume / "image.zarr",
            "--seeds",
            volume / "seeds.zarr",
        ),
        *("-o", volume / out, "--axis", 0, "--model", model, *options),
    ]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "model"),
    [
        ("local", "flow"),
        ("local", "compact"),
        ("dask", "interpolation"),
        ("slurm", "interpolation"),
    ],
)
def test_the_file_is_that_of_a_single_run(cli, volume, engine, model, monkeypatch):
    """With closed and open gaps, and `compact`, whose batches differ between the parts."""
    monkeypatch.chdir(volume)
    single = ("propagate", volume / "image.zarr", volume / "seeds.zarr", "--axis", 0)
    assert cli(*single, "--model", model, "-o", volume / "same.ome.zarr").code == 0
    whole = content(volume / "same.ome.zarr")
    (volume / "same.ome.zarr").rename(volume / "single.ome.zarr")
    report = volume / "jobs.jsonl"
    options = ("--split", 3, "--workers", 2, "--report", report, *ENGINES[engine])
    done = cli(*command(volume, "same.ome.zarr", *options, model=model))
    assert done.code == 0, done.err
    assert content(volume / "same.ome.zarr") == whole
    assert (zarr.open_array(str(volume / "same.ome.zarr/0"))[:] > 0).sum() > 10_000
    assert not (volume / "same.ome.zarr.parts").exists()
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert len(lines) == 4
    assert all(line["peak_bytes"] > 10e6 for line in lines[:3])
    again = cli(*command(volume, "same.ome.zarr", *options, model=model))
    assert "1 skipped" in again.out


class InThisProcess:
    """An engine whose jobs the test can watch."""

    def __init__(self) -> None:
        self.working = False

    def run(self, jobs, work, should_stop):
        for job in jobs:
            self.working = True
            result = work.run(job)
            self.working = False
            yield result


def test_workers_write_the_chunks_that_they_do_not_share(cli, volume, monkeypatch):
    """Parts end before slices 20 and 35 here; a chunk has four slices, and a coarser one eight."""
    monkeypatch.setattr(label_store, "label_chunks", lambda shape, *_: (4, *shape[1:]))
    monkeypatch.setattr(_pyramid, "_SMALL", 20)
    engine, written = InThisProcess(), {True: [], False: []}
    write, write_coarser = LabelStore.write, LabelStore.write_coarser
    tiles, coarser, writing, commonest = Counter(), [], [], _pyramid._commonest

    def counting(labels, step):
        coarser.extend(writing)
        if writing or not engine.working:  # the files of parts have coarser levels as well
            tiles[labels.tobytes()] += 1
        return commonest(labels, step)

    monkeypatch.setattr(_pyramid, "_commonest", counting)
    single = ("propagate", volume / "image.zarr", volume / "seeds.zarr", "--axis", 0)
    assert cli(*single, "--model", "interpolation", "-o", volume / "same.ome.zarr").code == 0
    whole, once = content(volume / "same.ome.zarr"), tiles.copy()
    tiles.clear()
    (volume / "same.ome.zarr").rename(volume / "single.ome.zarr")

    def noting(store, first, labels):
        if ".parts" not in str(store.folder):
            written[engine.working].append(first)
        write(store, first, labels)

    def noting_coarser(store, step, slices):
        writing.append(slices)
        write_coarser(store, step, slices)
        writing.clear()

    monkeypatch.setattr(LabelStore, "write", noting)
    monkeypatch.setattr(LabelStore, "write_coarser", noting_coarser)
    # The package has the command under the name of its module.
    monkeypatch.setattr(sys.modules["napari_slmsam2.cli.batch"], "_engine", lambda options: engine)
    options = ("--split", 50, "--model", "interpolation")
    done = cli(*command(volume, "same.ome.zarr", *options))
    assert done.code == 0, done.err
    assert content(volume / "same.ome.zarr") == whole
    assert written[False] == [4, 32, 48], "those of slices 5, 35 and 50, where parts begin"
    assert sorted(written[True]) == sorted({*range(0, 60, 4)} - {4, 32, 48})
    assert (volume / "same.ome.zarr/2").is_dir()
    assert tiles == once, "no part of a coarser level is computed twice"
    assert coarser == [range(8, 20), range(20, 32), range(36, 48)], "8-15, 24-31 and 40-47"
    left = sorted(path.name for path in volume.iterdir() if "same" in path.name)
    assert left == ["same.ome.zarr", "same.ome.zarr.batch.json"]


def test_a_part_that_cannot_be_copied_fails_alone(cli, volume, monkeypatch):
    monkeypatch.setattr(label_store, "label_chunks", lambda shape, *_: (4, *shape[1:]))
    engine, write = InThisProcess(), LabelStore.write
    errors = [OSError(28, "No space left on device")]

    def failing_once(store, first, labels):
        write(store, first, labels)
        if engine.working and ".parts" not in str(store.folder) and errors:
            raise errors.pop()

    monkeypatch.setattr(LabelStore, "write", failing_once)
    monkeypatch.setattr(sys.modules["napari_slmsam2.cli.batch"], "_engine", lambda options: engine)
    report = volume / "jobs.jsonl"
    options = ("--split", 50, "--model", "interpolation", "--report", report)
    failed = cli(*command(volume, "out.ome.zarr", *options))
    assert failed.code == 1
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    ends = [(line["status"], "No space left" in (line["error"] or "")) for line in lines]
    assert sorted(ends) == [("done", False)] * 4 + [("failed", True)] * 2
    assert not [path for path in volume.iterdir() if path.name.startswith(".")]
    assert not (volume / "out.ome.zarr").exists()
    again = cli(*command(volume, "out.ome.zarr", *options))
    assert again.code == 0, again.err
    assert "5 skipped" in again.out


def test_a_full_disk_before_the_parts_leaves_no_files(cli, volume, monkeypatch):
    def failing(store, *args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LabelStore, "begin_coarser", failing)
    failed = cli(*command(volume, "out.ome.zarr", "--split", 50, "--model", "interpolation"))
    assert failed.code == 1
    assert not [path for path in volume.iterdir() if path.name.startswith(".")]
    assert not (volume / "out.ome.zarr").exists()


def test_parts_end_where_no_gap_is_cut(cli, volume):
    listed = cli(*command(volume, "out.ome.zarr", "--split", 50, "--dry-run"))
    assert listed.code == 0, listed.err
    ranges = [line.split("--range ")[1].split()[0] for line in listed.out.splitlines()[:-1]]
    assert ranges == ["0:4", "5:19", "20:34", "35:49", "50:59"]
    assert sorted(path.name for path in volume.iterdir()) == ["image.zarr", "seeds.zarr"]
    few = cli(*command(volume, "out.ome.zarr", "--split", 2, "--dry-run"))
    assert few.out.count("--range") == 2


@pytest.mark.slow
def test_parts_that_are_done_are_used_again(cli, volume):
    options = ("--split", 3, "--report", volume / "jobs.jsonl", "--model", "interpolation")
    parts = volume / "out.ome.zarr.parts"
    listed = cli(*command(volume, "out.ome.zarr", "--split", 3, "--dry-run")).out
    broken = listed.splitlines()[1].split("--range ")[1].split()[0].replace(":", "-")
    parts.mkdir()
    (parts / f"{broken}.ome.zarr").write_text("in the way")
    failed = cli(*command(volume, "out.ome.zarr", *options))
    assert failed.code == 1, failed.out
    assert not (volume / "out.ome.zarr").exists()
    assert not [path for path in volume.iterdir() if path.name.startswith(".")]
    (parts / f"{broken}.ome.zarr").unlink()
    done = cli(*command(volume, "out.ome.zarr", *options))
    assert done.code == 0, done.err
    assert "2 done, 2 skipped" in done.out
    assert (volume / "out.ome.zarr").is_dir()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-o", "out.nii.gz"), "expected .ome.zarr"),
        (("--", "--qc", "sheet.png"), "--qc: cannot be used with --split"),
        (("--time", "all"), "--time all: cannot be used with --split"),
        (("--range", "3:9"), "--range: cannot be used with --split"),
        (("--roi", "5:50,:,:"), "--roi: cannot be used with --split"),
    ],
)
def test_what_cannot_be_split_is_refused(cli, volume, monkeypatch, options, expected):
    monkeypatch.chdir(volume)
    refused = cli(*command(volume, "out.ome.zarr", "--split", 2, *options))
    assert refused.code == 2
    assert expected in refused.err
