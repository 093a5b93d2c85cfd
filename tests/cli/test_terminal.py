"""As a process: exit codes, what goes to which stream, Ctrl-C, a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from .conftest import save

COMMAND = [sys.executable, "-c", "from napari_slmsam2.cli import main; main()"]


def test_importing_the_command_line_is_cheap():
    code = (
        "import sys, json; import napari_slmsam2.cli;"
        "print(json.dumps([m for m in ('torch', 'napari', 'qtpy', 'scipy') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_flow_needs_no_torch(scene, tmp_path):
    code = (
        "import sys; from napari_slmsam2.cli import app\n"
        "try: app()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    out = tmp_path / "labels.nii.gz"
    arguments = ["propagate", scene.image, scene.seeds, "-o", out, "--model", "flow"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_exit_codes_and_streams(shell, scene, tmp_path):
    out = tmp_path / "labels.nii.gz"
    job = ("propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation")
    good = shell(*job)
    assert good.code == 0
    assert "\x1b" not in good.out + good.err
    assert "propagating" not in good.out
    failed = shell(*job)
    assert failed.code == 1
    assert failed.out == ""
    assert failed.err.startswith("Error: --out ")
    assert failed.err.count("\n") == 1
    assert shell("propagate", scene.image).code == 2
    assert shell().code == 2


def test_the_traceback_is_there_for_who_asks(shell, scene, tmp_path):
    wrong = ("info", tmp_path / "nowhere.nii.gz")
    assert "Traceback" not in shell(*wrong).err
    assert "Traceback" in shell("--debug", *wrong).err
    assert "Traceback" in shell(*wrong, NAPARI_SLMSAM2_DEBUG="1").err


@pytest.fixture
def long_job(tmp_path):
    """A volume that takes a while."""
    rng = np.random.default_rng(0)
    shape = (96, 96, 140)
    x, y, _ = np.meshgrid(*map(np.arange, shape), indexing="ij")
    ball = np.hypot(x - 48, y - 48) < 28
    image = save(tmp_path / "big.nii", (200 * ball + rng.normal(0, 9, shape)).astype(np.int16))
    seeds = np.zeros(shape, np.uint8)
    seeds[..., 70] = ball[..., 70]
    return ["propagate", image, save(tmp_path / "seeds.nii", seeds), "-o", tmp_path / "out.nii"]


def interrupt(arguments) -> subprocess.CompletedProcess[str]:
    """Start, wait for the first line of progress, press Ctrl-C."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    assert "propagating" in first, first
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise there")
def test_interrupted_runs_write_nothing_unless_asked(shell, long_job, tmp_path):
    done = interrupt(long_job)
    assert done.returncode == 1, done.stderr
    assert "interrupted after" in done.stderr
    assert "nothing was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.nii", "seeds.nii"]
    report = tmp_path / "report.json"
    session = tmp_path / "half.slmsam2"
    partial = [*long_job, "--model", "flow", "--keep-partial"]
    done = interrupt([*partial, "--report", report, "--session", session])
    assert done.returncode == 1, done.stderr
    assert "what was done so far is written" in done.stderr
    labels = np.asarray(nibabel.load(tmp_path / "out.nii").dataobj)
    filled = labels.any(axis=(0, 1)).sum()
    assert 1 < filled < 140
    assert json.loads(report.read_text())["finished"] is False
    again = tmp_path / "again.nii"
    replayed = shell("replay", session, "-o", again)
    assert replayed.code == 0, replayed.err
    assert again.read_bytes() == (tmp_path / "out.nii").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_bar_on_a_terminal(scene, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    job = ["propagate", scene.image, scene.seeds, "-o", tmp_path / "labels.nii.gz"]
    arguments = [*job, "--model", "flow"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # how Linux tells that the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=60) == 0, shown.decode()
    text = shown.decode()
    assert "\x1b[" in text
    assert "left" in text
    assert "propagating: 100 %" not in text
    assert "mean confidence" in text


def test_a_reader_that_goes_away(scene):
    """As in ``napari-slmsam2 models list | head -1``."""
    process = subprocess.Popen(
        [*COMMAND, "info", str(scene.image)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
    assert "Traceback" not in error
