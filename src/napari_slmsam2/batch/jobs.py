"""Jobs of a batch, their results, and what an engine reports of them."""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["done", "failed", "skipped", "cancelled"]

MAX_ATTEMPTS = 3
"""How often a job is started whose worker dies."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a command.

    Attributes
    ----------
    number : int
        From 1, in the order of the table or of the files.
    where : str
        Where it was specified, for messages: ``jobs.csv, row 3``.
    words : tuple of str
        The command line without the program's name; all paths are absolute.
    inputs : mapping of {str: tuple of Path}
        Files to be read, by option.
    outputs : mapping of {str: Path}
        Files to be written, by option. The record of the job is kept beside the first.
    settings : mapping of {str: str}
        Options that change the result, without those that have their default value.
    model : str or None
        Name or file of the model; None where the command takes it from an input.
    models_folder : Path or None
        See `napari_slmsam2.engine.weights.model_card.models_folder`.
    batch : str
        Identifies the call of the batch.
    replace : bool
        Whether existing outputs are replaced.
    """

    number: int
    where: str
    words: tuple[str, ...]
    inputs: Mapping[str, tuple[Path, ...]]
    outputs: Mapping[str, Path]
    settings: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    models_folder: Path | None = None
    batch: str = ""
    replace: bool = False

    @property
    def main_output(self) -> Path:
        """The first output."""
        return next(iter(self.outputs.values()))


def names_of(jobs: Sequence[Job]) -> dict[int, str]:
    """Names of jobs by number: the first output, with as many folders as tell the jobs apart."""
    outputs = {job.number: job.main_output for job in jobs}
    names = {number: path.name for number, path in outputs.items()}
    longest = max((len(path.parts) for path in outputs.values()), default=0)
    for n_parts in range(2, longest + 1):
        if len(set(names.values())) == len(names):
            break
        names = {n: Path(*path.parts[-n_parts:]).as_posix() for n, path in outputs.items()}
    return names


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended.

    Attributes
    ----------
    number : int
        Of the job.
    status : {"done", "failed", "skipped", "cancelled"}
    seconds : float
    error : str or None
        Why it failed, was skipped or was cancelled.
    notes : tuple of str
        Warnings.
    worker : str or None
        ``computer:process`` that ran it.
    attempts : int
        How often it was started.
    peak_bytes : int or None
        The most memory that its worker has held so far.
    """

    number: int
    status: Status
    seconds: float = 0.0
    error: str | None = None
    notes: tuple[str, ...] = ()
    worker: str | None = None
    attempts: int = 1
    peak_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> JobResult:
        """The inverse of `to_dict`."""
        return cls(**{**values, "notes": tuple(values["notes"])})


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has begun a job."""

    number: int
    worker: str


@dataclass(frozen=True, slots=True)
class Retried:
    """A worker has died, and its job is started again.

    Attributes
    ----------
    number : int
    reason : str
    """

    number: int
    reason: str


Event = Started | Retried | JobResult


@dataclass(frozen=True, slots=True)
class Executed:
    """What a command has printed, and how it ended.

    Attributes
    ----------
    ok : bool
    errors, notes : tuple of str
        Messages.
    attempts : int
        How often the job was started in this batch.
    peak_bytes : int or None
        The most memory that the worker has held so far.
    """

    ok: bool
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    attempts: int = 1
    peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What workers do; both functions are importable by name, so that they can be pickled.

    Attributes
    ----------
    run : callable
        ``run(job)`` runs a job and returns its `JobResult`.
    stop : callable
        Asks the running job of the calling process to stop, from any thread.
    """

    run: Callable[[Job], JobResult]
    stop: Callable[[], None]


def worker_name() -> str:
    """The computer and the process."""
    return f"{platform.node()}:{os.getpid()}"


def run_timed(job: Job, run: Callable[[Job], Executed]) -> JobResult:
    """Run a job; every error becomes a failed result."""
    began = time.perf_counter()
    try:
        executed = run(job)
    except Exception as error:  # noqa: BLE001 - one job must not end the batch
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        text = " ".join(str(error).split())
        executed = Executed(False, (f"{type(error).__name__}: {text} ({place})",))
    return JobResult(
        job.number,
        "done" if executed.ok else "failed",
        round(time.perf_counter() - began, 3),
        None if executed.ok else " ".join(executed.errors) or "failed without a message.",
        executed.notes,
        worker_name(),
        executed.attempts,
        executed.peak_bytes,
    )


def died(job: Job, attempts: int, reason: str) -> JobResult:
    """The result of a job whose workers have died too often."""
    return JobResult(
        job.number,
        "failed",
        error=f"{reason}, {attempts} times. Is the memory of the worker too small?",
        attempts=attempts,
    )
