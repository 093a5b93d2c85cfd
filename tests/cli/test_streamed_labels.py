"""``-o out.ome.zarr`` is filled while the run computes: complete, or not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
import zarr

from napari_slmsam2.io import chunked_array, read_image, read_labels

from .conftest import N_LONG, SLOW_MODEL
from .test_terminal import interrupt


def test_the_labels_are_those_of_other_formats(cli, scene):
    for name in ("a.nii.gz", "a.ome.zarr"):
        done = cli(
            *("propagate", scene.image, scene.seeds, "-o", scene.folder / name),
            *("--model", "flow", "--report", scene.folder / f"{name}.json"),
            *("--session", scene.folder / f"{name}.slmsam2"),
        )
        assert done.code == 0, done.err
    image = read_image(scene.image)
    one, other = (read_labels(scene.folder / name, image) for name in ("a.nii.gz", "a.ome.zarr"))
    np.testing.assert_array_equal(one, other)
    one, other = (
        json.loads((scene.folder / f"{name}.json").read_text())
        for name in ("a.nii.gz", "a.ome.zarr")
    )
    assert one["labels"] == other["labels"]
    done = cli("replay", scene.folder / "a.ome.zarr.slmsam2", "-o", scene.folder / "again.ome.zarr")
    assert done.code == 0, done.err
    np.testing.assert_array_equal(
        *(read_labels(scene.folder / n, image) for n in ("a.nii.gz", "again.ome.zarr"))
    )


def test_an_interrupted_run_leaves_nothing_or_what_is_done(long_job, tmp_path):
    out = tmp_path / "out.ome.zarr"
    job = [*long_job, "-o", out]
    done = interrupt(job, signal.SIGTERM)
    assert done.returncode == 1
    assert "interrupted after" in done.stderr
    assert sorted(os.listdir(tmp_path)) == ["big.nii", "seeds.nii"]
    done = interrupt([*job, "--keep-partial"], signal.SIGTERM)
    assert "what was done so far is written" in done.stderr
    labels = read_labels(out, read_image(tmp_path / "big.nii"))
    n_filled = labels.any(axis=(0, 1)).sum()
    assert 2 < n_filled < N_LONG - 4, "more than the two seeds, less than the whole gap"


def test_a_resumed_run_fills_the_file_of_an_unbroken_one(cli, long_job, tmp_path):
    whole, kept = tmp_path / "whole.ome.zarr", tmp_path / "run.slmsam2"
    out = tmp_path / "out.ome.zarr"
    assert cli(*long_job, "-o", whole).code == 0
    job = [*long_job, "-o", out, "--resume", kept]
    done = interrupt(job, signal.SIGTERM)
    assert f"the run is kept in {kept}" in done.stderr
    assert not out.exists()
    resumed = cli(*job)
    assert resumed.code == 0, resumed.err
    assert f"Resumed  {kept}: " in resumed.out
    np.testing.assert_array_equal(
        *(zarr.open_group(path, mode="r")["0"][...] for path in (whole, out))
    )


def test_a_killed_run_leaves_the_old_file_and_its_rest_is_cleared(cli, long_job, tmp_path):
    out = tmp_path / "out.ome.zarr"
    job = [*map(str, long_job), "-o", str(out), "--force"]
    assert cli(*job, "--range", "25:35").code == 0
    before = read_labels(out)
    process = subprocess.Popen([*SLOW_MODEL, *job], stdout=subprocess.DEVNULL)
    waited = time.monotonic() + 60
    while not [x for x in os.listdir(tmp_path) if x.startswith(".out")]:
        assert process.poll() is None
        assert time.monotonic() < waited
        time.sleep(0.05)
    process.kill()
    process.wait()
    np.testing.assert_array_equal(read_labels(out), before)
    assert cli(*job).code == 0
    assert not [x for x in os.listdir(tmp_path) if x.startswith(".")]
    assert read_labels(out).any(axis=(1, 2)).sum() == N_LONG - 4


def test_a_full_disk_costs_no_labels(cli, scene, monkeypatch):
    """The chunks that cannot be written stay in memory, and the labels are rescued."""
    plain = scene.folder / "plain.nii.gz"
    assert cli("propagate", scene.image, scene.seeds, "-o", plain, "--model", "flow").code == 0
    write, full = zarr.Array.__setitem__, True

    def refuse(array, key, values):
        if full and "rescued" not in str(array.store_path):
            raise OSError(28, "No space left on device")
        write(array, key, values)

    monkeypatch.setattr(zarr.Array, "__setitem__", refuse)
    monkeypatch.setattr(chunked_array, "LIMIT", 1)
    out = scene.folder / "out.ome.zarr"
    done = cli("propagate", scene.image, scene.seeds, "-o", out, "--model", "flow")
    assert done.code == 1
    assert "No space left on device" in done.err
    assert not out.exists()
    [rescued] = scene.folder.glob("rescued-*.ome.zarr")
    image = read_image(scene.image)
    np.testing.assert_array_equal(read_labels(rescued, image), read_labels(plain, image))


@pytest.mark.parametrize("suffix", ["nii", "ome.zarr"])
def test_another_run_may_have_written_the_file_meanwhile(cli, scene, suffix, monkeypatch):
    from napari_slmsam2.session.session import SegmentationSession

    out = scene.folder / f"out.{suffix}"
    command = ("propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation")
    run = SegmentationSession.propagate

    def with_rival(self, **options):
        monkeypatch.setattr(SegmentationSession, "propagate", run)
        out.write_bytes(b"another one")
        return run(self, **options)

    monkeypatch.setattr(SegmentationSession, "propagate", with_rival)
    done = cli(*command)
    assert done.code == 1
    assert out.read_bytes() == b"another one"
    assert "exists already" in done.err
    [rescued] = scene.folder.glob("rescued-*")
    assert read_labels(rescued, read_image(scene.image)).any()
