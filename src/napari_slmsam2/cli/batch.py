"""``napari-slmsam2 batch``."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_slmsam2.batch.engines.slurm import SlurmSettings
from napari_slmsam2.cli._batch_commands import COMMANDS
from napari_slmsam2.cli._options import (
    Force,
    LogFile,
    Quiet,
    SettingOptions,
    one_of,
    whole_number,
    with_record,
)

if TYPE_CHECKING:
    from rich.table import Table

    from napari_slmsam2.batch.jobs import Event, Job, JobResult
    from napari_slmsam2.batch.records import Check
    from napari_slmsam2.batch.runner import Engine
    from napari_slmsam2.cli._batch_parts import SplitJob
    from napari_slmsam2.cli._console import Meter

EPILOG = """
[bold]Examples[/bold]

All scans of a folder, two at a time:

  napari-slmsam2 batch propagate --images 'scans/*.nii.gz' --seeds 'seeds/{name}.nii.gz' -o 'out/{name}.nii.gz' --workers 2

A table whose columns are options of the command:

  napari-slmsam2 batch propagate --table jobs.csv --report jobs.jsonl

On a cluster:

  napari-slmsam2 batch propagate --table jobs.csv --on slurm --workers 8 --slurm-gpus 1
"""  # noqa: E501 - a command stands on one line

_ROWS_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Arguments and options of `batch`."""

    command: Annotated[
        str,
        typer.Argument(
            metavar="COMMAND", parser=one_of(tuple(COMMANDS)), help=" | ".join(COMMANDS)
        ),
    ]
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[OPTIONS OF COMMAND]",
            help="For all jobs, after -- where `batch` has one of the same name. Arguments are "
            "options here: --seeds FILE.",
        ),
    ] = field(default_factory=list)
    table: Annotated[
        Path | None,
        typer.Option(
            help="A job per row: .csv, .tsv or .jsonl with the names of options as columns."
        ),
    ] = None
    on: Annotated[
        str,
        typer.Option(
            parser=one_of(("local", "dask", "slurm")),
            metavar="local|dask|slurm",
            help="Where the workers run: processes of this computer, dask, Slurm.",
        ),
    ] = "local"
    workers: Annotated[
        int,
        typer.Option(
            parser=whole_number(1),
            metavar="NUMBER",
            help="Jobs that run at a time. Each worker loads its model once.",
        ),
    ] = 1
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a running dask scheduler. Default: a cluster of its own."),
    ] = None
    slurm: Annotated[
        SlurmSettings,
        SettingOptions(
            SlurmSettings(),
            {f.name: f"--slurm-{f.name}" for f in SlurmSettings.fields()},
            panel="Workers on Slurm",
        ),
    ] = field(default_factory=SlurmSettings)
    split: Annotated[
        int | None,
        typer.Option(
            parser=whole_number(1),
            metavar="NUMBER",
            help="Divide each volume of `propagate` into up to so many ranges of slices, each a "
            "job. They end at slices on which every label is annotated or outside of its extent.",
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the jobs, with their command lines.")
    ] = False
    report: Annotated[
        Path | None,
        typer.Option(help="JSON lines: the result of every job is appended when it ends."),
    ] = None
    force: Force = False
    quiet: Quiet = False
    log: LogFile = None
    progress: Annotated[
        str,
        typer.Option(
            parser=one_of(("auto", "json")),
            metavar="auto|json",
            help="auto: a bar on a terminal, elsewhere lines, on stderr. json: JSON lines on "
            "stdout for the start and the end of every job (docs/batch.md), everything else on "
            "stderr.",
            rich_help_panel="Messages",
        ),
    ] = "auto"


@with_record(BatchOptions)
def batch(options: BatchOptions) -> None:
    """Run a command on many files.

    Jobs come from a table or from a pattern: `--images 'scans/*.nii.gz'` makes one per file, and
    `{name}`, `{file}`, `{folder}` and `{1}` (what the first wildcard stands for) in the other
    options follow from it. A job that fails is reported, and the others continue. Jobs that are
    done are skipped, if their inputs, settings and model are the same.
    """
    from napari_slmsam2.batch.runner import check_jobs, run_jobs
    from napari_slmsam2.cli._batch_jobs import make_jobs
    from napari_slmsam2.cli._batch_parts import run_split
    from napari_slmsam2.cli._batch_worker import WORK
    from napari_slmsam2.cli._console import configure_output, log, meter
    from napari_slmsam2.cli._errors import FAILED
    from napari_slmsam2.cli._outputs import check_log
    from napari_slmsam2.cli._signals import interruptible

    check_log(options.log, (options.table, options.report))
    jobs = make_jobs(options.command, options.words, options.table, force=options.force)
    files = [path for job in jobs for path in _files(job)]
    check_log(options.log, files)
    _check_report(options, files)
    configure_output(quiet=options.quiet, log_file=options.log, progress=options.progress)
    engine = _engine(options)
    checks = check_jobs(jobs)
    splits = _split(checks, options.split)
    jobs = [*(part for split in splits for part, _ in split.parts), *jobs]
    if options.dry_run:
        _list_jobs(jobs, checks)
        return
    n_done = sum(check.done for _, check in checks)
    log("Jobs", f"{len(jobs) - n_done} to run, {n_done} done already")
    began = time.monotonic()
    with interruptible() as should_stop, meter(options.command) as shown:
        watch = _Watch(jobs, len(jobs) - n_done, options.report, shown)
        if splits:
            checks = [(job, check) for job, check in checks if check.done]
            events: Iterator[Event] = chain(
                run_jobs(checks, engine, WORK, should_stop),
                run_split(splits, engine, WORK, should_stop),
            )
        else:
            events = run_jobs(checks, engine, WORK, should_stop)
        for event in events:
            watch.take(event)
    _conclude(jobs, watch.results, time.monotonic() - began)
    if any(result.status in ("failed", "cancelled") for result in watch.results):
        raise typer.Exit(FAILED)


def _engine(options: BatchOptions) -> Engine:
    if options.on == "dask":
        from napari_slmsam2.batch.engines.dask import DaskEngine

        return DaskEngine(options.workers, options.scheduler)
    if options.on == "slurm":
        from napari_slmsam2.batch.engines.slurm import SlurmEngine

        return SlurmEngine(options.workers, options.slurm)
    from napari_slmsam2.batch.engines.local import LocalEngine

    return LocalEngine(options.workers)


def _files(job: Job) -> Iterable[Path]:
    for paths in job.inputs.values():
        yield from paths
    yield from job.outputs.values()


def _check_report(options: BatchOptions, files: Sequence[Path]) -> None:
    """Refuse a report that cannot be appended to, or that is another file of the batch."""
    from napari_slmsam2.cli._outputs import check_outputs

    if options.report is not None:
        others = [*files, *([options.table] if options.table else [])]
        check_outputs({"--report": options.report}, others, force=True)


def _split(checks: Sequence[tuple[Job, Check]], most: int | None) -> list[SplitJob]:
    """The jobs that are left, divided; none without ``--split``."""
    from napari_slmsam2.cli._batch_parts import split_job

    splits: list[SplitJob] = []
    number = len(checks) + 1
    for job, check in checks:
        if most is not None and not check.done:
            splits.append(split_job(replace(job, replace=check.replace), most, number))
            number += len(splits[-1].parts)
    return splits


def _list_jobs(jobs: Sequence[Job], checks: Sequence[tuple[Job, Check]]) -> None:
    from napari_slmsam2.cli._console import log

    done = {job.number for job, check in checks if check.done}
    for job in jobs:
        state = "done" if job.number in done else "to run"
        log(f"{job.number}", f"{state}: napari-slmsam2 {shlex.join(job.words)}")


class _Watch:
    """Shows and reports what happens to the jobs."""

    def __init__(self, jobs: Sequence[Job], n_left: int, report: Path | None, shown: Meter) -> None:
        from napari_slmsam2.batch.jobs import names_of

        self.results: list[JobResult] = []
        self._jobs = {job.number: job for job in jobs}
        self._names = names_of(jobs)
        self._total = n_left
        self._ended = 0
        self._report = report
        self._shown = shown
        self._began = time.monotonic()

    def take(self, event: Event) -> None:
        """Show an event; results are appended to the report."""
        from napari_slmsam2.batch.jobs import Retried, Started
        from napari_slmsam2.cli._console import print_record, show_error, show_note

        job, name = self._jobs[event.number], self._names[event.number]
        if isinstance(event, Started):
            print_record({"event": "started", "job": name, "worker": event.worker})
            return
        if isinstance(event, Retried):
            show_note(f"{name} is started again: {event.reason}.")
            return
        self.results.append(event)
        for note in event.notes:
            show_note(f"{name}: {note}")
        if event.status == "failed":
            show_error(f"{name}: {event.error}")
        facts = {"job": name, "where": job.where, **event.to_dict()}
        self._append({**facts, **_command(job)})
        left = None
        if event.status in ("done", "failed"):
            self._ended += 1
            elapsed = time.monotonic() - self._began
            left = elapsed / self._ended * (self._total - self._ended)
            self._shown.update(self._ended, self._total, left)
        count = {"ended": self._ended, "total": self._total, "left_s": left}
        print_record({"event": "job", **facts, **count})

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._report is not None:
            with self._report.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _command(job: Job) -> dict[str, Any]:
    return {
        "command": ["napari-slmsam2", *job.words],
        "outputs": {option: str(path) for option, path in job.outputs.items()},
    }


def _conclude(jobs: Sequence[Job], results: Sequence[JobResult], seconds: float) -> None:
    """Print the summary."""
    from napari_slmsam2.batch.jobs import names_of
    from napari_slmsam2.cli._console import log, print_record, show, show_note

    counts = {
        status: sum(result.status == status for result in results)
        for status in ("done", "failed", "skipped", "cancelled")
    }
    ordered = sorted(results, key=lambda result: result.number)
    if len(ordered) > _ROWS_SHOWN:
        ordered = [r for r in ordered if r.status not in ("done", "skipped")][:_ROWS_SHOWN]
    if ordered:
        show(_table(ordered, names_of(jobs)))
    if counts["cancelled"]:
        show_note("the batch was stopped. The same command runs the jobs that are left.")
    text = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    log("Batch", f"{text} in {seconds:.1f} s")
    print_record({"event": "finished", **counts, "seconds": round(seconds, 3)})


def _table(results: Sequence[JobResult], names: Mapping[int, str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("job")
    table.add_column("result")
    table.add_column("seconds", justify="right")
    table.add_column("why", overflow="fold")
    for result in results:
        seconds = f"{result.seconds:.1f}" if result.status in ("done", "failed") else ""
        table.add_row(names[result.number], result.status, seconds, result.error or "")
    return table
