"""Engines: dead workers, errors in workers, workers that do not start."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from tests.batch_work import KILLS, RAISES, stop

from napari_slmsam2.batch.engines.local import LocalEngine, threads_per_worker
from napari_slmsam2.batch.engines.slurm import SlurmEngine, SlurmError, SlurmSettings
from napari_slmsam2.batch.jobs import Job, JobResult, Retried, Work
from napari_slmsam2.core.errors import ConfigError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def make_jobs(folder: Path, count: int) -> list[Job]:
    return [
        Job(n, f"row {n}", ("info",), {}, {"--out": folder / f"{n}.nii"}, batch="b")
        for n in range(1, count + 1)
    ]


def run(engine, jobs, work):
    return list(engine.run(jobs, work, lambda: False))


def test_a_job_that_kills_its_workers_is_given_up(tmp_path):
    events = run(LocalEngine(2), make_jobs(tmp_path, 1), KILLS)
    assert [type(event) for event in events if not hasattr(event, "worker")] == [Retried, Retried]
    result = events[-1]
    assert isinstance(result, JobResult)
    assert (result.status, result.attempts) == ("failed", 3)
    assert "SIGKILL, 3 times" in result.error


def test_an_error_in_a_worker_fails_its_job_only(tmp_path):
    events = run(LocalEngine(1), make_jobs(tmp_path, 3), RAISES)
    results = [event for event in events if isinstance(event, JobResult)]
    assert [result.status for result in results] == ["done", "failed", "done"]
    assert "ZeroDivisionError" in results[1].error
    assert "batch_work.py" in results[1].error
    assert len({result.worker for result in results}) == 1


@pytest.mark.slow
def test_slurm_workers_that_cannot_start_end_the_batch(tmp_path, monkeypatch):
    """This package is not installed on the nodes, for instance."""
    missing = types.ModuleType("missing_on_the_nodes")
    exec("def run(job): return job", missing.__dict__)
    monkeypatch.setitem(sys.modules, missing.__name__, missing)
    engine = SlurmEngine(1, SlurmSettings(folder=tmp_path / "slurm", local=True))
    with pytest.raises(SlurmError, match="missing_on_the_nodes"):
        run(engine, make_jobs(tmp_path, 1), Work(missing.run, stop))


@pytest.mark.parametrize(
    ("time", "minutes"), [("90", 90), ("01:30:00", 90), ("1-00:00:30", 1441), ("00:00:01", 1)]
)
def test_times_of_slurm(time, minutes):
    parameters = SlurmSettings(time=time, memory="512M", partition="gpu").parameters()
    assert parameters["timeout_min"] == minutes
    assert parameters["mem_gb"] == 0.5
    assert parameters["slurm_partition"] == "gpu"
    assert "slurm_account" not in parameters


@pytest.mark.parametrize("wrong", [{"time": "1h"}, {"memory": "much"}])
def test_wrong_sizes_and_times_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"--slurm-{next(iter(wrong))}"):
        SlurmSettings(**wrong).parameters()


def test_threads_are_divided(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_per_worker(2) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_per_worker(1) >= threads_per_worker(2) >= threads_per_worker(1000) == 1
