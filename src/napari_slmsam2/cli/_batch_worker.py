"""Runs the command lines of a batch in a worker."""

from __future__ import annotations

import gc
import io
import threading
from contextlib import redirect_stderr, redirect_stdout
from functools import partial

from napari_slmsam2.batch.jobs import Executed, Job, JobResult, Work, run_timed
from napari_slmsam2.batch.records import run_recorded
from napari_slmsam2.cli._signals import forget_stop, stop_running

_one_at_a_time = threading.Lock()
"""Workers of dask may have several threads; torch has its own, and the output is one."""


def run_job(job: Job) -> JobResult:
    """Run a job as its command would alone, with a record beside its outputs."""
    with _one_at_a_time:
        try:
            return run_timed(job, partial(run_recorded, execute=execute))
        finally:
            forget_stop()
            gc.collect()  # arrays of this job would add to the memory of the next one


def stop_job() -> None:
    """Stop the job that runs in this process; without one, nothing is remembered."""
    if _one_at_a_time.locked():
        stop_running()


def execute(words: tuple[str, ...]) -> Executed:
    """Run a command line in this process, which keeps the model for the next one."""
    import typer

    from napari_slmsam2.cli import app
    from napari_slmsam2.cli._report import peak_memory
    from napari_slmsam2.engine.loading import keep_last_model

    keep_last_model()
    command = typer.main.get_command(app)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = command.main(args=list(words), prog_name="napari-slmsam2", standalone_mode=False)
    lines = err.getvalue().splitlines()
    return Executed(
        not code,
        tuple(line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")),
        tuple(line.removeprefix("Note: ") for line in lines if line.startswith("Note: ")),
        peak_bytes=peak_memory()["peak_resident_bytes"],
    )


WORK = Work(run_job, stop_job)
