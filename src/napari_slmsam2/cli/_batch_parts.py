"""One large volume on many workers: ranges of slices as jobs, merged into one OME-Zarr."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from napari_slmsam2.batch.jobs import Event, Executed, Job, JobResult, Work, run_timed
from napari_slmsam2.batch.records import Check, check_job, run_recorded
from napari_slmsam2.batch.runner import Engine, run_jobs
from napari_slmsam2.core.errors import ConfigError

if TYPE_CHECKING:
    from napari_slmsam2.io import LoadedImage

_NOT_SPLIT = ("--range", "--resume", "--keep-partial", "--report", "--qc", "--session", "--roi")


@dataclass(frozen=True, slots=True)
class SplitJob:
    """A job and the jobs of its parts.

    Attributes
    ----------
    job : Job
        Of the whole volume; only merges what its parts have written.
    image : LoadedImage
    highest : int
        The highest label of the seeds.
    parts : tuple of (Job, (first, last))
        In the order of the slices.
    """

    job: Job
    image: LoadedImage
    highest: int
    parts: tuple[tuple[Job, tuple[int, int]], ...]

    @property
    def folder(self) -> Path:
        """Of the labels of the parts."""
        return parts_folder(self.job)


def parts_folder(job: Job) -> Path:
    """The folder beside the output in which its parts are kept until it is complete."""
    return job.main_output.with_name(job.main_output.name + ".parts")


def split_job(job: Job, most: int, first_number: int) -> SplitJob:
    """Divide a job of `propagate` where no gap is cut.

    Parameters
    ----------
    job : Job
    most : int
        Parts at the most.
    first_number : int
        Of the first part.

    Raises
    ------
    ConfigError
        The output is no OME-Zarr, or an option needs the whole run.
    SlmSam2Error
        Image or seeds cannot be used.
    """
    from napari_slmsam2.cli import app
    from napari_slmsam2.cli._inputs import open_inputs
    from napari_slmsam2.cli._options import ALL_TIMES, fill_record
    from napari_slmsam2.cli._results import LabelsOutput
    from napari_slmsam2.cli.propagate import PropagateOptions
    from napari_slmsam2.core.plan import independent_ranges

    _check(job)
    group: Any = typer.main.get_command(app)
    context = group.commands[job.words[0]].make_context(job.words[0], list(job.words[1:]))
    options = fill_record(PropagateOptions, context.params)
    if options.time == ALL_TIMES:
        raise ConfigError(f"{job.where}, --time all", "cannot be used with --split")
    plan = job.main_output.with_name(f"{job.main_output.name}.plan.ome.zarr")
    with LabelsOutput(plan, force=False) as output:  # never completed: it holds the seeds
        image, session = open_inputs(options, lambda stage: None, output.make_labels)
        ranges = independent_ranges(session.gaps(), image.volume.n_slices, most)
        highest = max(session.prompts.labels)
    parts = tuple(
        (_part(job, number, slices), slices) for number, slices in enumerate(ranges, first_number)
    )
    return SplitJob(job, image, highest, parts)


def run_split(
    splits: Sequence[SplitJob], engine: Engine, work: Work, should_stop: Callable[[], bool]
) -> Iterator[Event]:
    """Run all parts, and merge those of a volume when the last of them is done.

    Yields
    ------
    Event
        Of the parts, and a `JobResult` per volume.
    """
    for split in splits:
        split.folder.mkdir(exist_ok=True)
    checks = [(part, _check_part(part)) for split in splits for part, _ in split.parts]
    parts = [(replace(job, replace=check.replace), check) for job, check in checks]
    by_number = {part.number: (part, split) for split in splits for part, _ in split.parts}
    left = {number: split for number, (_, split) in by_number.items()}
    for event in run_jobs(parts, engine, work, should_stop):
        yield event
        if not isinstance(event, JobResult) or left.pop(event.number, None) is None:
            continue
        part, split = by_number[event.number]
        if event.status in ("failed", "cancelled"):
            left = {number: other for number, other in left.items() if other is not split}
            text = f"{part.where}: {event.error}"
            yield JobResult(split.job.number, event.status, error=text, attempts=0)
        elif not any(other is split for other in left.values()):
            yield merge(split)


def merge(split: SplitJob) -> JobResult:
    """Write the labels of all parts into one OME-Zarr, in blocks of whole chunks."""

    def execute(words: tuple[str, ...]) -> Executed:
        _write(split, overwrite="--force" in words)
        return Executed(True)

    result = run_timed(split.job, partial(run_recorded, execute=execute))
    if result.status == "done":
        shutil.rmtree(split.folder, ignore_errors=True)
    return result


def _write(split: SplitJob, *, overwrite: bool) -> None:
    import numpy as np

    from napari_slmsam2.io import LabelStream

    out = split.job.main_output
    with LabelStream(out, split.image, highest=split.highest, overwrite=overwrite) as stream:
        store = stream.store
        stores = [
            (replace(store, folder=part.main_output), first, last)
            for part, (first, last) in split.parts
        ]
        for block in store.blocks():
            pieces = [
                part.read(max(first, block.start), min(last + 1, block.stop))
                for part, first, last in stores
                if first < block.stop and last >= block.start
            ]
            store.write(block.start, np.concatenate(pieces, axis=store.axis))
        stream.finish()


def _check(job: Job) -> None:
    from napari_slmsam2.io.formats import format_to_write

    if job.words[0] != "propagate":
        raise ConfigError("--split", "is for propagate only", found=job.words[0])
    if not format_to_write(job.main_output).is_written_in_blocks:
        raise ConfigError(
            "--split", "needs another output", expected=".ome.zarr", found=job.main_output.name
        )
    for option in (*_NOT_SPLIT, "--save-label-names"):
        if option in job.words:
            raise ConfigError(f"{job.where}, {option}", "cannot be used with --split")


def _part(job: Job, number: int, slices: tuple[int, int]) -> Job:
    """The job of some slices: the same command with a range and an output of its own."""
    first, last = slices
    out = parts_folder(job) / f"{first}-{last}.ome.zarr"
    words, span = list(job.words), f"{first}:{last}"
    words[words.index("--out") + 1] = str(out)
    return replace(
        job,
        number=number,
        where=f"{job.where}, slices {first} to {last}",
        words=(words[0], "--range", span, *words[1:]),
        outputs={"--out": out},
        settings={**job.settings, "--range": span},
        replace=False,
    )


def _check_part(part: Job) -> Check:
    """Parts of an interrupted batch are used again, and others replaced."""
    check = check_job(part)
    return check if check.problem is None else Check(replace=True)
