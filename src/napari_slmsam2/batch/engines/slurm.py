"""Jobs on a cluster with Slurm, by submitit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from napari_slmsam2.batch.jobs import (
    MAX_ATTEMPTS,
    Event,
    Job,
    JobResult,
    Retried,
    Started,
    Work,
    died,
    worker_name,
)
from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.errors import ConfigError, OutputError, SlmSam2Error
from napari_slmsam2.core.settings import Settings, setting

_POLL_S = 0.5
_STOP_S = 30.0
_SETTLE_S = 5.0
"""How long results of a Slurm job that has ended may take to appear on a network file system."""

_LOG_SHOWN = 300


_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)|(\d+)")
_SIZE = re.compile(r"(\d+)([MGT])B?", re.IGNORECASE)
_GB = {"M": 1 / 1024, "G": 1, "T": 1024}


@dataclass(frozen=True)
class SlurmSettings(Settings):
    """What a worker asks Slurm for."""

    partition: str | None = setting(None, "Partition", "Partition of the workers.", kind=str)
    account: str | None = setting(None, "Account", "Account that is charged.", kind=str)
    time: str = setting(
        "04:00:00", "Time", "Limit of each worker: minutes, HH:MM:SS or D-HH:MM:SS."
    )
    memory: str = setting("8G", "Memory", "Of each worker, such as 16G.")
    cpus: int = setting(2, "Cores", "Of each worker.", minimum=1)
    gpus: int = setting(0, "Graphics cards", "Of each worker.", minimum=0)
    folder: Path | None = setting(  # noqa: RUF009 - a dataclass field
        None,
        "Folder",
        "On a file system that all nodes see, for the state of the batch and the logs. "
        "Default: slurm-batch.",
        kind=Path,
    )
    local: bool = setting(
        False, "Without Slurm", "Start the workers on this computer, without Slurm, to try it."
    )

    def parameters(self) -> dict[str, Any]:
        """The parameters of ``submitit.AutoExecutor``.

        Raises
        ------
        ConfigError
            Time or memory cannot be read.
        """
        values = {
            "timeout_min": self._minutes(),
            "mem_gb": self._gigabytes(),
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
        }
        return {name: value for name, value in values.items() if value is not None}

    def _minutes(self) -> int:
        match = _TIME.fullmatch(self.time)
        if match is None:
            expected = "minutes, HH:MM:SS or D-HH:MM:SS"
            raise ConfigError("--slurm-time", "is no time", expected=expected, found=self.time)
        days, hours, minutes, seconds, only_minutes = (int(part or 0) for part in match.groups())
        return only_minutes + 1440 * days + 60 * hours + minutes + (seconds > 0)

    def _gigabytes(self) -> float:
        match = _SIZE.fullmatch(self.memory)
        if match is None:
            raise ConfigError(
                "--slurm-memory", "is no size", expected="such as 16G", found=self.memory
            )
        return int(match[1]) * _GB[match[2].upper()]


class SlurmError(SlmSam2Error):
    """Workers cannot be started by Slurm."""


class SlurmEngine:
    """Runs jobs in workers that are Slurm jobs; each takes one job after the other from a folder.

    Parameters
    ----------
    workers : int
        Slurm jobs at a time.
    settings : SlurmSettings
        Its folder holds a file per job that is taken and per result, and the logs; it is removed
        at the end if all jobs are done.

    Raises
    ------
    ConfigError
        submitit is not installed.
    """

    def __init__(self, workers: int, settings: SlurmSettings) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                "--on slurm",
                "needs a package that is not installed",
                expected="submitit",
                hint='Install "napari-slmsam2[slurm]".',
            ) from error
        self._workers = workers
        self._folder = (settings.folder or Path("slurm-batch")).absolute()
        self._submitit = submitit
        self._parameters = settings.parameters()
        self._cluster = "local" if settings.local else "slurm"

    def run(
        self, jobs: Sequence[Job], work: Work, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        """See `napari_slmsam2.batch.runner.Engine`."""
        folder = self._folder / jobs[0].batch
        settle_s = _SETTLE_S if self._cluster == "slurm" else _POLL_S
        pool = _Pool(jobs, work, folder, self._executor(folder), self._workers, settle_s)
        stop_at: float | None = None
        try:
            while pool.left and (stop_at is None or time.monotonic() < stop_at):
                if stop_at is None and should_stop():
                    stop_at = time.monotonic() + _STOP_S
                    pool.cancel()
                if stop_at is None:
                    pool.submit()
                time.sleep(_POLL_S)
                yield from pool.collect()
                if stop_at is not None and not pool.alive:
                    break
            if stop_at is None:
                pool.wait(_SETTLE_S)
        finally:
            pool.cancel()
            pool.wait(_STOP_S)
            if not pool.left and not pool.failed:
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # another batch uses it
                    self._folder.rmdir()

    def _executor(self, folder: Path) -> Any:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise OutputError(str(folder), "cannot be created", found=error.strerror) from error
        try:
            executor = self._submitit.AutoExecutor(folder=folder / "logs", cluster=self._cluster)
            executor.update_parameters(name="napari-slmsam2", **self._parameters)
        except (RuntimeError, ValueError, NameError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ConfigError("--on slurm", " ".join(str(error).split())) from error
        return executor


class _Handle(Protocol):
    """What is used of a job of submitit."""

    def done(self) -> bool: ...
    def cancel(self, check: bool = True) -> None: ...
    def stderr(self) -> str | None: ...
    @property
    def state(self) -> str: ...


@dataclass
class _Worker:
    handle: _Handle
    ended_at: float | None = None


class _Pool:
    """Workers that take jobs from a folder, as seen by the process that submitted them."""

    def __init__(
        self,
        jobs: Sequence[Job],
        work: Work,
        folder: Path,
        executor: Any,
        size: int,
        settle_s: float,
    ) -> None:
        self.left = {job.number: job for job in jobs}
        self.failed = False
        self._work = work
        self._folder = folder
        self._executor = executor
        self._size = size
        self._settle_s = settle_s
        self._workers: dict[str, _Worker] = {}
        self._attempts: Counter[int] = Counter()
        self._taken: dict[int, str] = {}
        self._n_submitted = 0
        self._n_broken = 0

    @property
    def alive(self) -> bool:
        """Whether a worker runs or waits for its start."""
        return any(worker.ended_at is None for worker in self._workers.values())

    def submit(self) -> None:
        """Submit as many workers as there are jobs that none has taken, up to the limit."""
        waiting = len(self.left.keys() - self._taken.keys())
        idle = len(self._workers) - len(set(self._taken.values()))
        n_new = min(waiting - idle, self._size - len(self._workers))
        if n_new <= 0:
            return
        names = [f"worker-{self._n_submitted + i + 1}" for i in range(n_new)]
        self._n_submitted += n_new
        jobs = list(self.left.values())
        with self._executor.batch():
            handles = [self._executor.submit(_serve, self._folder, n, jobs, self._work)
                       for n in names]  # fmt: skip
        self._workers.update((n, _Worker(h)) for n, h in zip(names, handles, strict=True))

    def collect(self) -> Iterator[Event]:
        """What is new in the folder, and the jobs of workers that have died."""
        for number in sorted(self.left):
            yield from self._check_files(number)
        for name, worker in list(self._workers.items()):
            if worker.ended_at is None and worker.handle.done():
                worker.ended_at = time.monotonic()
            elif worker.ended_at and time.monotonic() > worker.ended_at + self._settle_s:
                yield from self._lose(name)

    def cancel(self) -> None:
        """Let no worker take another job, and end those that run one between two slices."""
        (self._folder / "stop").touch()
        for worker in self._workers.values():
            if worker.ended_at is None and not worker.handle.done():
                worker.handle.cancel(check=False)

    def wait(self, seconds: float) -> None:
        """Wait until all workers have ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if all(worker.handle.done() for worker in self._workers.values()):
                return
            time.sleep(_POLL_S / 5)

    def _check_files(self, number: int) -> Iterator[Event]:
        """Report that a job was taken, or its result."""
        if number not in self._taken and (name := _read(_claim(self._folder, number))):
            self._taken[number] = name
            self._attempts[number] += 1
            yield Started(number, name)
        text = _read(_result(self._folder, number))
        if text:
            result = JobResult.from_dict(json.loads(text))
            del self.left[number]
            self._taken.pop(number, None)
            self.failed |= result.status == "failed"
            yield result

    def _lose(self, name: str) -> Iterator[Event]:
        """Free the job of a worker that has ended."""
        worker = self._workers.pop(name)
        lost = [number for number, taken_by in self._taken.items() if taken_by == name]
        if not _end(self._folder, name).exists() and not self._has_worked(name):
            self._n_broken += 1
            if self._n_broken >= MAX_ATTEMPTS:
                log = " ".join((worker.handle.stderr() or "").split())[-_LOG_SHOWN:]
                raise SlurmError(
                    f"{self._n_broken} workers ended without taking a job "
                    f"({worker.handle.state}). {log} Logs: {self._folder / 'logs'}"
                )
        for number in lost:
            logs = self._folder / "logs"
            reason = f"the Slurm job of {name} ended ({worker.handle.state}, logs in {logs})"
            del self._taken[number]
            if self._attempts[number] >= MAX_ATTEMPTS:
                self.failed = True
                yield died(self.left.pop(number), MAX_ATTEMPTS, reason)
            else:
                _claim(self._folder, number).unlink(missing_ok=True)
                yield Retried(number, reason)

    def _has_worked(self, name: str) -> bool:
        return any(_read(claim) == name for claim in self._folder.glob("*.taken"))


def _serve(folder: Path, name: str, jobs: Sequence[Job], work: Work) -> None:
    """Take and run jobs until none is left; runs in a worker."""
    for job in jobs:
        if (folder / "stop").exists():
            break
        if _take(folder, job.number, name):
            result = replace(work.run(job), worker=f"{name} on {worker_name()}")
            _write(_result(folder, job.number), json.dumps(result.to_dict()))
    _write(_end(folder, name), "")


def _take(folder: Path, number: int, name: str) -> bool:
    """Take a job, unless another worker has; making a link is atomic, on NFS too."""
    if _result(folder, number).exists():
        return False
    own = folder / f"{name}.name"
    own.write_text(name, encoding="utf-8")
    try:
        os.link(own, _claim(folder, number))
    except FileExistsError:
        return False
    return True


def _write(path: Path, text: str) -> None:
    atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"))


def _end(folder: Path, name: str) -> Path:
    return folder / f"{name}.ended"


def _claim(folder: Path, number: int) -> Path:
    return folder / f"{number}.taken"


def _result(folder: Path, number: int) -> Path:
    return folder / f"{number}.json"


def _read(path: Path) -> str:
    """The text of a file; empty where there is none yet."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
