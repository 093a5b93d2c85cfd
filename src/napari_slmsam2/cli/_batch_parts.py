"""One large volume on many workers: ranges of slices as jobs that write one OME-Zarr."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from napari_slmsam2.batch.jobs import Event, Executed, Job, JobResult, Work, run_timed
from napari_slmsam2.batch.records import Check, check_job, run_recorded
from napari_slmsam2.batch.runner import Engine, run_jobs
from napari_slmsam2.core.errors import ConfigError, SlmSam2Error

if TYPE_CHECKING:
    from napari_slmsam2.io import LoadedImage
    from napari_slmsam2.io.label_store import LabelStore

_NOT_SPLIT = ("--range", "--resume", "--keep-partial", "--report", "--qc", "--session", "--roi")


@dataclass(frozen=True, slots=True)
class SplitJob:
    """A job and the jobs of its parts.

    Attributes
    ----------
    job : Job
        Of the whole volume, which its parts write.
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


@dataclass(frozen=True, slots=True)
class Region:
    """The slices of a part in the store of the whole volume.

    Attributes
    ----------
    store : LabelStore
        Of the whole volume; workers write different chunks of it.
    first, last : int
    step : tuple of int or None
        From the volume to its first coarser level, if it has one.
    """

    store: LabelStore
    first: int
    last: int
    step: tuple[int, int, int] | None

    def part(self, job: Job) -> LabelStore:
        """The store that the job of the part writes."""
        return replace(self.store, folder=job.main_output)

    @property
    def blocks(self) -> Iterator[range]:
        """The slices in chunks that no other part shares."""
        for block in self.store.blocks():
            if self.first <= block.start and block.stop <= self.last + 1:
                yield block

    @property
    def own(self) -> range:
        """All slices of these chunks."""
        blocks = list(self.blocks)
        return range(blocks[0].start, blocks[-1].stop) if blocks else range(0)


def run_part(regions: Mapping[int, Region], run: Callable[[Job], JobResult], job: Job) -> JobResult:
    """Run the job of a part, and write its own chunks of the whole volume.

    Parameters
    ----------
    regions : mapping of {number of a job: Region}
    run : callable
        Runs a job.
    job : Job
    """
    result = run(job)
    if result.status != "done":
        return result

    def copy(job: Job) -> Executed:
        region = regions[job.number]
        part = region.part(job)
        for block in region.blocks:
            region.store.write(block.start, part.read(block.start, block.stop))
        if region.step is not None:
            region.store.write_coarser(region.step, region.own)
        return Executed(True)

    copied = run_timed(job, copy)
    seconds = round(result.seconds + copied.seconds, 3)
    return replace(result, status=copied.status, error=copied.error, seconds=seconds)


class _Volume:
    """A volume of which the parts are running.

    Attributes
    ----------
    split : SplitJob
    stream : LabelStream
        Of the whole volume; removed where it is not completed.
    regions : dict of {number of a job: Region}
    left : set of int
        Jobs that have not ended.
    """

    def __init__(self, split: SplitJob) -> None:
        from napari_slmsam2.io import LabelStream

        out, overwrite = split.job.main_output, split.job.replace
        self.split = split
        self.stream = LabelStream(out, split.image, highest=split.highest, overwrite=overwrite)
        store = replace(self.stream.store)
        try:
            step = self.stream.begin_coarser()
        except BaseException:
            self.stream.discard()
            raise
        self.regions = {part.number: Region(store, *slices, step) for part, slices in split.parts}
        self.left = set(self.regions)
        self._written: set[int] = set()
        self._coarser: list[range] = []

    def end(self, result: JobResult) -> JobResult | None:
        """Take the result of a part; returns that of the volume when it is known."""
        self.left.discard(result.number)
        if result.status in ("failed", "cancelled"):
            self.left.clear()  # other parts may still write the file: `run_split` discards it
            where = next(p.where for p, _ in self.split.parts if p.number == result.number)
            text = f"{where}: {result.error}"
            return JobResult(self.split.job.number, result.status, error=text, attempts=0)
        if result.status == "done":
            region = self.regions[result.number]
            self._written.update(block.start for block in region.blocks)
            self._coarser.append(region.own)
        return None if self.left else self._complete()

    def _complete(self) -> JobResult:
        """Write what several parts share, the rest of the coarser levels, and the metadata."""

        def execute(words: tuple[str, ...]) -> Executed:
            del words
            self._write_rest()
            self.stream.finish(written=self._coarser)
            return Executed(True)

        result = run_timed(self.split.job, partial(run_recorded, execute=execute))
        self.stream.discard()
        if result.status == "done":
            shutil.rmtree(self.split.folder, ignore_errors=True)
        return result

    def _write_rest(self) -> None:
        """Also those of parts that an earlier batch has run."""
        import numpy as np

        store = self.stream.store
        parts = [(self.regions[p.number].part(p), *slices) for p, slices in self.split.parts]
        for block in store.blocks():
            if block.start not in self._written:
                pieces = [
                    part.read(max(first, block.start), min(last + 1, block.stop))
                    for part, first, last in parts
                    if first < block.stop and last >= block.start
                ]
                store.write(block.start, np.concatenate(pieces, axis=store.axis))


def run_split(
    splits: Sequence[SplitJob], engine: Engine, work: Work, should_stop: Callable[[], bool]
) -> Iterator[Event]:
    """Run all parts, whose workers write the volumes, and complete a volume after its last part.

    Yields
    ------
    Event
        Of the parts, and a `JobResult` per volume.
    """
    volumes: list[_Volume] = []
    try:
        for split in splits:
            try:
                volumes.append(_Volume(split))
            except SlmSam2Error as error:
                yield JobResult(split.job.number, "failed", error=str(error), attempts=0)
                continue
            split.folder.mkdir(exist_ok=True)
        checks = [(part, _check_part(part)) for v in volumes for part, _ in v.split.parts]
        parts = [(replace(job, replace=check.replace), check) for job, check in checks]
        of_part = {number: volume for volume in volumes for number in volume.regions}
        regions = {number: volume.regions[number] for number, volume in of_part.items()}
        copying = replace(work, run=partial(run_part, regions, work.run))
        for event in run_jobs(parts, engine, copying, should_stop):
            yield event
            volume = of_part.get(event.number)
            if isinstance(event, JobResult) and volume is not None and volume.left:
                result = volume.end(event)
                if result is not None:
                    yield result
    finally:
        for volume in volumes:
            volume.stream.discard()


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
