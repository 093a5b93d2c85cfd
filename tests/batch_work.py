"""What workers of test batches do; importable by name in their processes."""

from __future__ import annotations

import os
import signal
from functools import partial

from napari_slmsam2.batch.jobs import Executed, Job, JobResult, Work, run_timed


def stop() -> None:
    """There is nothing to stop."""


def kill_the_worker(job: Job) -> JobResult:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(job)


def raise_an_error(job: Job) -> JobResult:
    return run_timed(job, partial(_divide, by=job.number - 2))


def _divide(job: Job, by: int) -> Executed:
    return Executed(job.number / by != 0)


KILLS = Work(kill_the_worker, stop)
RAISES = Work(raise_an_error, stop)
