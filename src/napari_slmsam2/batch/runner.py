"""Runs a batch: checks all jobs before the first one starts, skips what is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from napari_slmsam2.batch.jobs import Event, Job, JobResult, Work
from napari_slmsam2.batch.records import Check, check_job
from napari_slmsam2.core.atomic_write import check_writable
from napari_slmsam2.core.errors import ConfigError, OutputError
from napari_slmsam2.io import is_label_store

_SHOWN = 5


class Engine(Protocol):
    """Runs jobs in workers."""

    def run(
        self, jobs: Sequence[Job], work: Work, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        """Run all jobs, in any order.

        A job whose worker dies is started again, `MAX_ATTEMPTS` times at most. When the generator
        ends or is closed, no worker runs any more. Jobs without a `JobResult` were stopped.

        Parameters
        ----------
        jobs : sequence of Job
        work : Work
        should_stop : callable
            Checked all the time; then the running jobs are stopped and no other is started.

        Yields
        ------
        Event
        """


def check_jobs(jobs: Sequence[Job]) -> list[tuple[Job, Check]]:
    """Check inputs and outputs of all jobs, before the first one runs.

    Returns
    -------
    list of (Job, Check)

    Raises
    ------
    ConfigError
        An input is missing, or two jobs have an output in common.
    OutputError
        An output cannot be written, or exists and must not be replaced.
    """
    _check_inputs(jobs)
    _check_conflicts(jobs)
    checks = [(job, check_job(job)) for job in jobs]
    blocked = [f"{job.where}: {check.problem}" for job, check in checks if check.problem]
    if blocked:
        raise OutputError(
            "outputs",
            _some(blocked),
            hint="--force runs these jobs again and replaces the files.",
        )
    for job, check in checks:
        if not check.done:
            for path in job.outputs.values():
                _check_output(job, path)
    return checks


def run_jobs(
    checks: Sequence[tuple[Job, Check]],
    engine: Engine,
    work: Work,
    should_stop: Callable[[], bool],
) -> Iterator[Event]:
    """Run the jobs that are not done.

    Yields
    ------
    Event
        One `JobResult` per job among them: first those of jobs that are done, last those of jobs
        that were not run because of ``should_stop``.
    """
    for job, check in checks:
        if check.done:
            yield JobResult(job.number, "skipped", error="done already", attempts=0)
    left = {job.number: job for job, check in checks if not check.done}
    if left and not should_stop():
        with closing(engine.run(list(left.values()), work, should_stop)) as events:  # type: ignore[type-var]
            for event in events:
                if isinstance(event, JobResult):
                    if event.number not in left:
                        continue
                    del left[event.number]
                    if event.status == "failed" and should_stop():
                        event = replace(event, status="cancelled")
                yield event
    for number in left:
        yield JobResult(number, "cancelled", error="stopped before its end", attempts=0)


def _check_inputs(jobs: Sequence[Job]) -> None:
    missing = [
        f"{job.where}, {option}: {path} not found"
        for job in jobs
        for option, paths in job.inputs.items()
        for path in paths
        if not path.exists()
    ]
    if missing:
        raise ConfigError("inputs", _some(missing))


def _check_conflicts(jobs: Sequence[Job]) -> None:
    """Refuse an output that is an output or an input of another job as well."""
    inputs: dict[Path, Job] = {}
    for job in jobs:
        for paths in job.inputs.values():
            inputs.update({path.resolve(): job for path in paths})
    taken: dict[Path, Job] = {}
    for job in jobs:
        for option, path in job.outputs.items():
            place = path.resolve()
            for others, kind in ((taken, "an output"), (inputs, "an input")):
                if place in others:
                    raise ConfigError(
                        f"{job.where}, {option}",
                        f"is {kind} of {others[place].where} too",
                        found=path,
                    )
            taken[place] = job


def _check_output(job: Job, path: Path) -> None:
    try:
        check_writable(path, overwrite=True, replaceable_folder=is_label_store)
    except OutputError as error:
        raise OutputError(
            f"{job.where}: {path}",
            error.problem,
            expected=error.expected,
            found=error.found,
            hint=error.hint,
        ) from error


def _some(messages: Sequence[str]) -> str:
    """The first messages, and the number of the others."""
    more = len(messages) - _SHOWN
    rest = f"; and {more} more" if more > 0 else ""
    return "; ".join(messages[:_SHOWN]) + rest
