"""Results that cannot be written: no work is lost, and one file does not cost the others."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest

from napari_slmsam2.cli import _propagation
from napari_slmsam2.io import read_image, read_labels

from .conftest import COMMAND, SLOW_MODEL, save


@pytest.fixture
def at_the_end(monkeypatch):
    """Do something after the last slice and before the results are written."""

    def plan(action) -> None:
        follow = _propagation.follow

        def and_then(*arguments):
            outcome = follow(*arguments)
            action()
            return outcome

        monkeypatch.setattr(_propagation, "follow", and_then)

    return plan


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The current folder and the user's data folder."""
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return folder


def job(scene, out, *options):
    return ("propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation", *options)


def expected(cli, scene) -> np.ndarray:
    out = scene.folder / "expected.nii.gz"
    assert cli(*job(scene, out)).code == 0
    return read_labels(out)


def test_another_process_made_the_file(cli, scene, at_the_end):
    wanted = expected(cli, scene)
    out = scene.folder / "labels.nii.gz"
    at_the_end(lambda: out.write_text("of another process"))
    result = cli(*job(scene, out))
    assert result.code == 1
    assert out.read_text() == "of another process"
    (rescued,) = scene.folder.glob("rescued-*-labels.nii.gz")
    assert f"--out was rescued to {rescued}" in result.err
    np.testing.assert_array_equal(read_labels(rescued, read_image(scene.image)), wanted)


def test_the_part_that_was_asked_for_is_rescued(cli, scene, at_the_end):
    options = ("--axis", "2", "--roi", "2:29,0:25,2:14", "--crop")
    assert cli(*job(scene, scene.folder / "expected.nii.gz", *options)).code == 0
    out = scene.folder / "labels.nii.gz"
    at_the_end(lambda: out.write_text("of another process"))
    assert cli(*job(scene, out, *options)).code == 1
    (rescued,) = scene.folder.glob("rescued-*-labels.nii.gz")
    found, wanted = (nibabel.load(x) for x in (rescued, scene.folder / "expected.nii.gz"))
    assert found.shape == (27, 25, 12)
    np.testing.assert_array_equal(found.affine, wanted.affine)
    np.testing.assert_array_equal(found.dataobj, wanted.dataobj)


def test_the_folder_is_gone(cli, scene, at_the_end, elsewhere):
    wanted = expected(cli, scene)
    folder = scene.folder / "results"
    folder.mkdir()
    at_the_end(lambda: shutil.rmtree(folder))
    report = scene.folder / "report.json"
    result = cli(*job(scene, folder / "labels.nrrd", "--report", report))
    assert result.code == 1
    (rescued,) = elsewhere.glob("rescued-*-labels.nrrd")
    assert str(rescued) in result.err
    np.testing.assert_array_equal(read_labels(rescued, read_image(scene.image)), wanted)
    assert f"Wrote    {report}" in result.out
    outputs = json.loads(report.read_text())["outputs"]
    assert "no folder" in outputs["--out"]


@pytest.mark.parametrize("failing", ["--qc", "--session", "--report"])
def test_one_file_does_not_cost_the_others(cli, scene, at_the_end, failing):
    outputs = {
        "--qc": scene.folder / "overview.png",
        "--session": scene.folder / "run.slmsam2",
        "--report": scene.folder / "report.json",
    }
    at_the_end(lambda: outputs[failing].mkdir())
    options = [word for pair in outputs.items() for word in pair]
    out = scene.folder / "labels.nii.gz"
    result = cli(*job(scene, out, *options))
    assert result.code == 1
    assert f"{failing} {outputs[failing]} was not written" in result.err
    for option, path in {"--out": out, **outputs}.items():
        if option != failing:
            assert path.is_file()
            assert f"Wrote    {path}" in result.out
    if failing != "--report":
        told = json.loads(outputs["--report"].read_text())["outputs"]
        assert told["--out"] == "written"
        assert "is a folder" in told[failing]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits of file sizes")
def test_a_full_disk(scene, elsewhere):
    """No file may grow beyond 20 KB: the uncompressed labels do not fit, compressed ones do."""
    import resource

    big = np.zeros((64, 64, 16), np.int16)
    big[20:40, 20:40] = np.random.default_rng(0).integers(0, 99, (20, 20, 16))
    seeds = np.zeros(big.shape, np.uint8)
    seeds[20:40, 20:40, (2, 13)] = 1
    image, seed_file = save(scene.folder / "b.nii", big), save(scene.folder / "s.nii", seeds)
    out = scene.folder / "labels.nii"
    done = subprocess.run(
        [
            *COMMAND,
            *("propagate", str(image), str(seed_file), "-o", str(out), "--model", "interpolation"),
        ],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    (rescued,) = scene.folder.glob("rescued-*-labels.nii.npz")
    assert str(rescued) in done.stderr
    with np.load(rescued) as file:
        assert file["labels"][30, 30].tolist() == [0] * 2 + [1] * 12 + [0] * 2
    assert sorted(scene.folder.glob(".*")) == []


def test_too_little_space_is_reported_before_the_run(cli, scene, monkeypatch):
    usage = shutil.disk_usage(scene.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    result = cli(*job(scene, scene.folder / "labels.nii"))
    assert result.code == 1
    assert "the disk has too little space" in result.err
    assert "propagating" not in result.err
    assert cli(*job(scene, scene.folder / "labels.nii.gz")).code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise there")
def test_two_runs_onto_one_output(cli, long_job, tmp_path):
    arguments = [*SLOW_MODEL, *map(str, long_job)]
    first = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stderr is not None
        assert "propagating" in first.stderr.readline()
        second = cli(*long_job, "--force")
        assert second.code == 1
        assert f"--out {tmp_path / 'out.nii'}: is being written by another run" in second.err
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    started = time.monotonic()
    third = cli(*long_job)
    assert third.code == 0, third.err
    assert time.monotonic() - started < 60
