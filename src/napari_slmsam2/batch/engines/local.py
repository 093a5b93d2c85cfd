"""Jobs in processes of this computer."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

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
from napari_slmsam2.core.cores import count_cores

_POLL_S = 0.1
_STOP_S = 20.0
"""How long stopped jobs may take to end between two slices."""


class LocalEngine:
    """Runs jobs in spawned processes, each of which loads its model once.

    Parameters
    ----------
    workers : int
        Processes.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def run(
        self, jobs: Sequence[Job], work: Work, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        """See `napari_slmsam2.batch.runner.Engine`."""
        pool = _Pool(jobs, work, min(self._workers, len(jobs)))
        stop_at: float | None = None
        try:
            while pool.has_work and (stop_at is None or time.monotonic() < stop_at):
                if stop_at is None and should_stop():
                    stop_at = time.monotonic() + _STOP_S
                    pool.stop()
                pool.hand_out()
                yield from pool.collect()
        finally:
            pool.close()


@dataclass
class _Worker:
    """A process, the pipe to it, and its job."""

    process: SpawnProcess
    pipe: Connection
    job: Job | None = None


class _Pool:
    """Processes and the jobs that they have or that wait for one."""

    def __init__(self, jobs: Sequence[Job], work: Work, size: int) -> None:
        self._waiting = deque(jobs)
        self._work = work
        self._size = size
        self._threads = threads_per_worker(size)
        self._workers: list[_Worker] = []
        self._attempts: Counter[int] = Counter()
        self._stopped = False

    @property
    def has_work(self) -> bool:
        return bool(self._waiting) or any(worker.job for worker in self._workers)

    def hand_out(self) -> None:
        """Give waiting jobs to idle and to new processes."""
        for worker in self._workers:
            if worker.job is None and self._waiting:
                self._give(worker)
        while self._waiting and len(self._workers) < self._size:
            self._give(self._start())

    def collect(self) -> Iterator[Event]:
        """What the processes have sent, within a moment."""
        for pipe in wait([worker.pipe for worker in self._workers], timeout=_POLL_S):
            [worker] = [w for w in self._workers if w.pipe is pipe]
            try:
                event = worker.pipe.recv()
            except (EOFError, OSError):
                yield from self._lose(worker)
                continue
            if isinstance(event, JobResult):
                worker.job = None
            yield event

    def stop(self) -> None:
        """Start no other job, and ask the running ones to end between two slices."""
        self._stopped = True
        self._waiting.clear()
        for worker in self._workers:
            worker.process.terminate()

    def close(self) -> None:
        """End all processes: idle ones end by themselves, others are killed."""
        for worker in self._workers:
            worker.pipe.close()
            if worker.job is not None:
                worker.process.kill()
        for worker in self._workers:
            worker.process.join(_STOP_S)
            worker.process.kill()
            worker.process.join()

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._work, self._threads))
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _give(self, worker: _Worker) -> None:
        worker.job = self._waiting.popleft()
        self._attempts[worker.job.number] += 1
        with contextlib.suppress(OSError):  # a process that has died is seen by `collect`
            worker.pipe.send(worker.job)

    def _lose(self, worker: _Worker) -> Iterator[Event]:
        """Start the job of a dead process again, or give it up."""
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        job = worker.job
        if job is None or self._stopped:
            return
        reason = f"the worker process ended with {_code(worker.process.exitcode)}"
        if self._attempts[job.number] >= MAX_ATTEMPTS:
            yield died(job, MAX_ATTEMPTS, reason)
        else:
            self._waiting.appendleft(job)
            yield Retried(job.number, reason)


def threads_per_worker(workers: int) -> int:
    """Threads of torch in each process: ``OMP_NUM_THREADS``, else the cores divided."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return max(1, count_cores() // max(1, workers))


def _serve(pipe: Connection, work: Work, threads: int) -> None:
    """Run jobs until the other end of the pipe is closed."""
    # torch reads it when it is imported, by the first job that needs it.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # Ctrl-C in a terminal reaches all processes; the main one decides, and ends these.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            job = pipe.recv()
            pipe.send(Started(job.number, worker_name()))
            pipe.send(work.run(job))


def _code(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"
