"""Broken scans, full disks, killed workers and Ctrl-C in the middle of a batch."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.scans import Scans, make_scans

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX"),
]
PROGRAM = [sys.executable, "-c", "from napari_slmsam2.cli import main; main()"]
ENGINES = {
    "local": ("--on", "local"),
    "dask": ("--on", "dask"),
    "slurm": ("--on", "slurm", "--slurm-local"),
}


def start(scans: Scans, *options: object, before: str = "") -> subprocess.Popen[str]:
    """A batch of `propagate` as a process of its own."""
    program = [PROGRAM[0], PROGRAM[1], before + PROGRAM[2]]
    return subprocess.Popen(
        [*program, "batch", "propagate", *scans.pattern, *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=scans.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def started(scans: Scans, name: str) -> int:
    """The process that runs a job, from the record beside its output."""
    record = scans.out / f"{name}.nii.gz.batch.json"
    until = time.monotonic() + 100
    while time.monotonic() < until:
        if record.is_file():
            facts = json.loads(record.read_text())
            computer, _, process = facts["worker"].rpartition(":")
            assert (facts["state"], computer) == ("started", platform.node())
            return int(process)
        time.sleep(0.005)
    raise AssertionError("the job has not started")


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_job_of_a_killed_worker_runs_again_elsewhere(cli, tmp_path, engine):
    """The labels are those of single runs, bit for bit."""
    scans, report = make_scans(tmp_path), tmp_path / "jobs.jsonl"
    options = ("--model", "flow", "--workers", 2, "--report", report)
    process = start(scans, *options, *ENGINES[engine])
    try:
        os.kill(started(scans, "case0"), signal.SIGKILL)
    finally:
        code, _, err = end(process)
    assert code == 0, err
    by_job = {line["job"]: line for line in map(json.loads, report.read_text().splitlines())}
    assert {line["status"] for line in by_job.values()} == {"done"}
    assert by_job["case0.nii.gz"]["attempts"] == 2
    assert leftovers(scans.out) == []
    for name in scans.names:
        alone = tmp_path / f"{name}.nii.gz"
        job = ("propagate", scans.image(name), scans.seeds(name), "-o", alone, "--model", "flow")
        assert cli(*job).code == 0
        assert alone.read_bytes() == (scans.out / alone.name).read_bytes()
    assert not (tmp_path / "slurm-batch").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_broken_scan_does_not_end_the_batch(tmp_path, engine):
    scans, report = make_scans(tmp_path), tmp_path / "jobs.jsonl"
    broken = scans.image("case1").read_bytes()
    scans.image("case1").write_bytes(broken[: len(broken) // 2])
    options = ("--model", "interpolation", "--report", report, *ENGINES[engine])
    code, out, err = end(start(scans, *options))
    assert code == 1
    assert "case1.nii.gz" in err
    assert "case1_0000.nii.gz" in err
    assert "2 done, 1 failed" in out
    by_job = {line["job"]: line for line in map(json.loads, report.read_text().splitlines())}
    assert by_job["case1.nii.gz"]["status"] == "failed"
    assert sorted(p.name for p in scans.out.iterdir() if p.suffix == ".gz") == [
        "case0.nii.gz",
        "case2.nii.gz",
    ]
    assert not (scans.out / "case1.nii.gz.batch.json").exists()
    scans.image("case1").write_bytes(broken)
    code, out, _ = end(start(scans, *options))
    assert code == 0
    assert "1 done, 2 skipped" in out


def test_a_full_disk_for_one_job_costs_no_other(tmp_path):
    """Files of more than 5000 bytes cannot be written, as with a full disk."""
    scans, table = make_scans(tmp_path), tmp_path / "jobs.jsonl"
    rows = [
        {"image": str(scans.image(n)), "seeds": str(scans.seeds(n)), "out": str(scans.out / out)}
        for n, out in zip(scans.names, ("a.nii.gz", "b.nii", "c.nii.gz"), strict=True)
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); "
    done = subprocess.run(
        [*PROGRAM[:2], limit + PROGRAM[2], "batch", "propagate", "--table", str(table), "--model",
         "interpolation"],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=200,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--out" in done.stderr
    assert "was not written" in done.stderr
    assert "2 done, 1 failed" in done.stdout
    names = {path.name for path in scans.out.iterdir()}
    assert {"a.nii.gz", "c.nii.gz"} <= names
    assert "b.nii" not in names
    assert any(name.startswith("rescued-") for name in names)
    assert leftovers(scans.out) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_keeps_what_is_done_and_the_same_command_does_the_rest(tmp_path, engine):
    scans = make_scans(tmp_path, count=2, shape=(64, 64, 80))
    options = ("--model", "flow", "--workers", 1, *ENGINES[engine])
    process = start(scans, *options)
    started(scans, "case1")
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    assert code == 1
    assert "1 done, 1 cancelled" in out, out + err
    assert (scans.out / "case0.nii.gz").is_file()
    assert not (scans.out / "case1.nii.gz").exists()
    assert leftovers(scans.out) == []
    code, out, err = end(start(scans, *options))
    assert code == 0, err
    assert "1 done, 1 skipped" in out


def test_sigterm_stops_all_workers(tmp_path):
    scans = make_scans(tmp_path, count=2, shape=(64, 64, 80))
    process = start(scans, "--model", "flow", "--workers", 2)
    workers = [started(scans, name) for name in scans.names]
    process.terminate()
    code, out, _ = end(process)
    assert code == 1
    assert "2 cancelled" in out
    assert not any(is_alive(worker) for worker in workers)
    assert leftovers(scans.out) == []


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_running_cluster_is_used_and_stopped_between_two_slices(tmp_path):
    """The cluster belongs to others: its workers stay."""
    from distributed import Client, LocalCluster

    scans = make_scans(tmp_path, count=2, shape=(64, 64, 80))
    settings = {"threads_per_worker": 1, "dashboard_address": None, "processes": True}
    with LocalCluster(n_workers=1, env={"OMP_NUM_THREADS": "1"}, **settings) as cluster:
        address = ("--on", "dask", "--scheduler", cluster.scheduler_address)
        process = start(scans, "--model", "flow", *address)
        worker = started(scans, "case0")
        process.send_signal(signal.SIGINT)
        code, out, err = end(process)
        assert code == 1
        assert "2 cancelled" in out, out + err
        until = time.monotonic() + 60
        while (record := scans.out / "case0.nii.gz.batch.json").exists():
            assert time.monotonic() < until, record.read_text()
            time.sleep(0.1)
        assert list(scans.out.iterdir()) == []
        code, out, err = end(start(scans, "--model", "interpolation", *address))
        assert code == 0, err
        assert "2 done" in out
        with Client(cluster, set_as_default=False) as client:
            assert list(client.run(os.getpid).values()) == [worker]


def test_a_scheduler_that_does_not_answer_is_named(cli, tmp_path, monkeypatch):
    from napari_slmsam2.batch.engines import dask

    monkeypatch.setattr(dask, "_CONNECT_S", 1)
    scans = make_scans(tmp_path, count=1)
    nowhere = "tcp://127.0.0.1:1"
    refused = cli("batch", "propagate", *scans.pattern, "--on", "dask", "--scheduler", nowhere)
    assert refused.code == 2
    assert f"--scheduler {nowhere}: no scheduler answers" in refused.err
