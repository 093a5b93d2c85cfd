"""As a process: exit codes, what goes to which stream, Ctrl-C, a terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import nibabel
import numpy as np
import pytest

from .conftest import COMMAND, N_LONG, SLOW_MODEL


def test_importing_the_command_line_is_cheap():
    code = (
        "import sys, json; import napari_slmsam2.cli;"
        "print(json.dumps([m for m in ('torch', 'napari', 'qtpy', 'scipy') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_interpolation_needs_no_torch(scene, tmp_path):
    code = (
        "import sys; from napari_slmsam2.cli import app\n"
        "try: app()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    out = tmp_path / "labels.nii.gz"
    arguments = ["propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation"]
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


@pytest.fixture(autouse=True)
def _signals_that_end_a_run() -> Iterator[None]:
    """Under ``nohup`` the processes of the tests would inherit that SIGHUP is ignored."""
    if sys.platform == "win32":
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def interrupt(arguments, *signals: int) -> subprocess.CompletedProcess[str]:
    """Start, wait for a line of progress, press Ctrl-C or send other signals."""
    process = subprocess.Popen(
        [*SLOW_MODEL, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    while first and "propagating" not in first:
        first = process.stderr.readline()
    assert first, process.stdout.read() if process.stdout else ""
    for number in signals or (signal.SIGINT,):
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise there")
def test_interrupted_runs_write_nothing_unless_asked(cli, long_job, tmp_path):
    done = interrupt(long_job)
    assert done.returncode == 1, done.stderr
    assert "interrupted after" in done.stderr
    assert "nothing was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.nii", "seeds.nii"]
    report = tmp_path / "report.json"
    session = tmp_path / "half.slmsam2"
    done = interrupt([*long_job, "--keep-partial", "--report", report, "--session", session])
    assert done.returncode == 1, done.stderr
    assert "what was done so far is written" in done.stderr
    labels = np.asarray(nibabel.load(tmp_path / "out.nii").dataobj)
    filled = labels.any(axis=(0, 1)).sum()
    assert 2 < filled < N_LONG - 4, "more than the two seeds, less than the whole gap"
    assert json.loads(report.read_text())["finished"] is False
    again = tmp_path / "again.nii"
    replayed = cli("replay", session, "-o", again)
    assert replayed.code == 0, replayed.err
    assert again.read_bytes() == (tmp_path / "out.nii").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise there")
@pytest.mark.parametrize("names", [("SIGTERM",), ("SIGHUP",), ("SIGHUP", "SIGHUP", "SIGTERM")])
def test_schedulers_and_closed_terminals_end_a_run_like_ctrl_c(long_job, tmp_path, names):
    signals = [getattr(signal, name) for name in names]
    done = interrupt(long_job, *signals)
    assert done.returncode == 1, done.stderr
    assert "nothing was written" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.nii", "seeds.nii"]
    done = interrupt([*long_job, "--keep-partial"], *signals)
    assert done.returncode == 1, done.stderr
    assert "what was done so far is written" in done.stderr
    labels = np.asarray(nibabel.load(tmp_path / "out.nii").dataobj)
    assert 2 < labels.any(axis=(0, 1)).sum() < N_LONG - 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.nii", "out.nii", "seeds.nii"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise there")
def test_nohup_is_respected(scene, tmp_path):
    out = tmp_path / "labels.nii.gz"
    job = ["propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation"]
    process = subprocess.Popen(
        ["nohup", *SLOW_MODEL, *map(str, job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdout is not None
    while "Image" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGHUP)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert out.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_that_closes_costs_nothing(long_job, tmp_path):
    """The output has no reader any more, and SIGHUP asks to end."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*SLOW_MODEL, *map(str, long_job), "--keep-partial"],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "OMP_NUM_THREADS": "1"},
    )
    os.close(theirs)
    shown = b""
    while b"propagating" not in shown or b"/" not in shown.rpartition(b"propagating")[2]:
        shown += os.read(ours, 4096)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 1
    labels = np.asarray(nibabel.load(tmp_path / "out.nii").dataobj)
    assert labels.any()


def test_a_reader_that_goes_away_costs_no_result(scene, tmp_path):
    """As in ``napari-slmsam2 propagate ... | head -1``."""
    out = tmp_path / "labels.nii.gz"
    job = ["propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, job)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert out.exists()
    assert "Traceback" not in error


def test_quiet_log_and_json(shell, scene, tmp_path):
    job = ["propagate", scene.image, scene.seeds, "--model", "interpolation"]
    log = tmp_path / "run.log"
    quiet = shell(*job, "-o", tmp_path / "a.nii.gz", "--quiet", "--log", log)
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    text = log.read_text()
    for part in ("Axis     2, 16 slices", "propagating: 100 %", "mean confidence", "Wrote"):
        assert part in text
    assert all(line[:4].isdecimal() for line in text.splitlines())
    failed = shell(*job, "-o", tmp_path / "a.nii.gz", "--quiet", "--log", log)
    assert failed.code == 1
    assert failed.err.startswith("Error: --out")
    assert "exists already" in log.read_text().splitlines()[-1]
    assert log.read_text().startswith(text)
    machine = shell(*job, "-o", tmp_path / "b.nii.gz", "--progress", "json")
    assert machine.code == 0
    records = [json.loads(line) for line in machine.out.splitlines()]
    slices = [r for r in records if r["event"] == "slice"]
    assert {r["slice"] for r in slices} >= set(range(5, 11))
    for record in slices:
        assert 0 < record["done"] <= record["total"]
        assert record["elapsed_s"] >= 0
        assert record["left_s"] is None or record["left_s"] >= 0
    assert records[-1]["event"] == "finished"
    assert records[-1]["written"] == {"--out": str(tmp_path / "b.nii.gz")}
    assert "Axis     2" in machine.err
    wrong = shell(*job, "-o", tmp_path / "b.nii.gz", "--progress", "json")
    assert [json.loads(line)["event"] for line in wrong.out.splitlines()] == ["error"]
    assert shell(*job, "-o", tmp_path / "c.nii.gz", "--progress", "xml").code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_bar_on_a_terminal(scene, tmp_path):
    import pty

    ours, theirs = pty.openpty()
    job = ["propagate", scene.image, scene.seeds, "-o", tmp_path / "labels.nii.gz"]
    arguments = [*job, "--model", "interpolation"]
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


@pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise there")
def test_a_terminated_run_is_resumed_with_the_result_of_an_unbroken_one(cli, long_job, tmp_path):
    """With a model that segments a slice from those before it."""
    out, kept, whole = tmp_path / "out.nii", tmp_path / "run.slmsam2", tmp_path / "whole.nii"
    job = [*long_job[:-1], "flow", "--resume", kept]
    for _ in range(2):
        done = interrupt(job, signal.SIGTERM)
        assert done.returncode == 1, done.stderr
        assert f"the run is kept in {kept}" in done.stderr
        assert not out.exists()
    other = cli(*job, "--extent", "1:2:57")
    assert other.code == 2
    assert "holds another run; expected the same seeds, extents" in other.flat_err
    image = nibabel.load(job[1])  # of the same shape and intensities
    mirrored = nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1], image.affine, image.header)
    mirrored.to_filename(tmp_path / "mirrored.nii")
    other = cli(job[0], tmp_path / "mirrored.nii", *job[2:])
    assert other.code == 2
    assert "holds another run; expected the same image" in other.flat_err
    resumed = cli(*job)
    assert resumed.code == 0, resumed.err
    assert f"Resumed  {kept}: " in resumed.out
    *command, _, _ = job
    command[command.index(out)] = whole
    assert cli(*command).code == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="signals work otherwise there")
def test_what_keep_partial_saved_can_be_resumed(cli, long_job, tmp_path):
    session = tmp_path / "half.slmsam2"
    job = [*long_job[:-1], "flow"]
    interrupt([*job, "--keep-partial", "--session", session], signal.SIGHUP)
    (tmp_path / "out.nii").unlink()
    resumed = cli(*job, "--resume", session)
    assert resumed.code == 0, resumed.err
    whole = [*job]
    whole[whole.index(tmp_path / "out.nii")] = tmp_path / "whole.nii"
    assert cli(*whole).code == 0
    assert (tmp_path / "out.nii").read_bytes() == (tmp_path / "whole.nii").read_bytes()
    finished = cli(*whole, "--force", "--session", tmp_path / "done.slmsam2")
    assert finished.code == 0
    again = cli(*whole, "--force", "--resume", tmp_path / "done.slmsam2")
    assert again.code == 2
    assert "holds no interrupted run" in again.flat_err
