"""From an image and its seeds to files: what `propagate` and `demo` share."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from napari_slmsam2.cli._console import (
    configure_output,
    log,
    print_record,
    show,
    show_error,
    show_note,
)
from napari_slmsam2.cli._errors import FAILED
from napari_slmsam2.cli._inputs import (
    announce_window,
    image_source,
    listed,
    open_inputs,
    write_range,
)
from napari_slmsam2.cli._outputs import (
    check_log,
    check_outputs,
    check_space,
    check_suffix,
    locked_outputs,
)
from napari_slmsam2.cli._report import (
    label_facts,
    label_table,
    lost_labels,
    plural,
    session_report,
    suggestion_text,
    write_json,
)
from napari_slmsam2.cli._results import (
    LabelsOutput,
    Result,
    Written,
    rescue_labels,
    write_result,
)
from napari_slmsam2.cli._run import Outcome, announce_model, follow, load_model
from napari_slmsam2.cli._series import run_series
from napari_slmsam2.cli._signals import interruptible
from napari_slmsam2.core.errors import CheckpointError, ConfigError
from napari_slmsam2.engine.weights.registry import get_model

if TYPE_CHECKING:
    from napari_slmsam2.cli.propagate import PropagateOptions
    from napari_slmsam2.io import LoadedImage
    from napari_slmsam2.session.session import SegmentationSession

_Done = TypeVar("_Done")


class _Stages:
    """Seconds of every stage of the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def done(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._since
        self._since = now


def run_job(options: PropagateOptions) -> SegmentationSession:
    """Read, propagate, write, and report it on the terminal.

    Raises
    ------
    typer.Exit
        Interrupted, or a result could not be written.
    SlmSam2Error
        The input cannot be used. Nothing was written.
    """
    if options.carry:
        raise ConfigError("--carry", "carries seeds to other time points", expected="--time all")
    return _prepared(options, _run)


def run_all_times(options: PropagateOptions) -> None:
    """The same for every time point of a series (``--time all``)."""
    _prepared(options, run_series)


def _prepared(options: PropagateOptions, run: Callable[[PropagateOptions], _Done]) -> _Done:
    """Run after the checks of options and outputs, with the outputs locked."""
    given = (options.image, options.seeds, options.resume, Path(options.model))
    check_log(options.log, (*given, *_outputs(options).values()))
    configure_output(quiet=options.quiet, log_file=options.log, progress=options.progress)
    _check(options)
    with locked_outputs({**_outputs(options), "--resume": options.resume}):
        return run(options)


def _run(options: PropagateOptions) -> SegmentationSession:
    with LabelsOutput(options.out, force=options.force, crop=options.crop) as output:
        return _run_to(output, options)


def _run_to(output: LabelsOutput, options: PropagateOptions) -> SegmentationSession:
    stages = _Stages()
    image, session = open_inputs(options, stages.done, output.make_labels)
    check_space("--out", options.out, session.labels.nbytes)
    _announce(options, image, session)
    # A run that is continued has its input size already.
    is_kept = options.resume is not None and options.resume.exists()
    load_model(session, fit_cpu=not is_kept)
    stages.done("model_s")
    announce_model(session)
    slices = write_range(options, session.volume)
    if options.resume is not None:
        from napari_slmsam2.cli._resume import load_kept_run

        session = load_kept_run(options.resume, session, image_source(options), slices)
    with interruptible() as should_stop:
        if session.paused_state is None:
            events = session.propagate(write_range=slices, should_stop=should_stop)
        else:
            events = session.resume(should_stop)
        outcome = follow(events, should_stop, "propagating", session.volume.first_slice)
        stages.done("propagate_s")
        kept = _keep(options, session, outcome)
        if not outcome.finished and not options.keep_partial:
            if outcome.error is not None:
                raise outcome.error
            show_error(
                f"interrupted after {outcome.percent} % of the run; "
                + (kept or "nothing was written. --keep-partial writes the slices done so far.")
            )
            raise typer.Exit(FAILED)
        written = _write(options, output, image, session, outcome, stages)
        _conclude(session, outcome)
        for one in written:
            one.show()
        print_record(
            {
                "event": "finished" if outcome.finished else "interrupted",
                "written": {w.result.option: str(w.result.path) for w in written if not w.problem},
            }
        )
    if outcome.error is not None:
        show_error("what was done so far is written.")
        raise outcome.error
    if not outcome.finished:
        show_error(
            f"interrupted after {outcome.percent} % of the run; what was done so far is written. "
            + kept
        )
    if not outcome.finished or any(w.problem for w in written):
        raise typer.Exit(FAILED)
    return session


def _keep(options: PropagateOptions, session: SegmentationSession, outcome: Outcome) -> str:
    """Write the file of ``--resume`` after an interruption; what to report of it."""
    path = options.resume
    if path is None or outcome.finished or outcome.error is not None:
        return ""
    from napari_slmsam2.cli._resume import keep_run

    written = write_result(Result("--resume", path, lambda: keep_run(session, path, options)))
    if written.problem is None:
        return f"the run is kept in {path}, and the same command continues it."
    return f"the run could not be kept in {path}: {written.problem}"


def _outputs(options: PropagateOptions) -> dict[str, Path | None]:
    return {
        "--out": options.out,
        "--report": options.report,
        "--qc": options.qc,
        "--session": options.session,
        "--save-label-names": options.save_label_names,
    }


def _check(options: PropagateOptions) -> None:
    from napari_slmsam2.engine.weights.registry import is_weights_file
    from napari_slmsam2.io.formats import format_to_write

    inputs = [options.image, options.seeds]
    if options.label_names is not None:
        inputs.append(options.label_names)
    if not is_weights_file(options.model):
        get_model(options.model, options.models_folder)
    elif Path(options.model).is_file():
        inputs.append(Path(options.model))
    else:
        raise CheckpointError(f"--model {options.model}", "not found")
    if options.crop and options.roi is None:
        raise ConfigError("--crop", "writes the part of --roi alone", expected="--roi")
    check_suffix("--qc", options.qc, ".png")
    if options.resume is not None:
        check_outputs({"--resume": options.resume}, inputs, force=True)
        inputs.append(options.resume)
    check_outputs(_outputs(options), inputs, force=options.force)
    format_to_write(options.out)


def _announce(options: PropagateOptions, image: LoadedImage, session: SegmentationSession) -> None:
    from napari_slmsam2.core.input_checks import find_stray_seeds

    volume = image.volume
    size = " x ".join(map(str, volume.shape))
    spacing = " x ".join(f"{s:.3g}" for s in volume.spacing)
    at = "" if image.n_times == 1 else f"time point {options.time} of {image.n_times}, "
    log("Image", f"{options.image} ({at}{size} voxels of {spacing} {volume.unit})")
    log("Axis", f"{volume.axis}, {volume.n_slices} slices. {image.axis_reason}")
    announce_window(session.window)
    if image.region is not None:
        log("Region", f"{image.region} of {' x '.join(map(str, image.whole_shape))} voxels")
    first = volume.first_slice
    for label in session.prompts.labels:
        extent = session.prompts.extents.get(label)
        known = "" if extent is None else f"; from slice {extent[0] + first} to {extent[1] + first}"
        indices = [index + first for index in session.prompts.seeds(label)]
        several = "s" if len(indices) > 1 else ""
        name = image.label_table.names.get(label)
        named = f"label {label}" + ("" if name is None else f" ({name})")
        log("Seeds", f"{named} on slice{several} {listed(indices)}{known}")

    for seed in find_stray_seeds(session.prompts):
        show_note(
            f"label {seed.label} has {plural(seed.voxels, 'voxel')} on slice "
            f"{seed.index + first}, and up to {seed.largest} on others. It counts as a complete "
            "annotation: the object is cut down to it there. Erase it, if it was painted by "
            "mistake."
        )


def _write(
    options: PropagateOptions,
    output: LabelsOutput,
    image: LoadedImage,
    session: SegmentationSession,
    outcome: Outcome,
    stages: _Stages,
) -> list[Written]:
    """Write all files: the labels first, the report, which lists what was written, last."""
    from napari_slmsam2.io import named_labels, write_label_names
    from napari_slmsam2.session.file import save_session

    force, done = options.force, list[Written]()

    def write(name: str, option: str, path: Path | None, **how: Callable[[], Any]) -> None:
        if path is not None:
            done.append(write_result(Result(option, path, **how)))
            stages.done(name)

    def write_report(path: Path) -> None:
        content = _report(options, image, session, outcome, stages)
        content["outputs"] = {w.result.option: w.problem or "written" for w in done}
        write_json(path, content, force=force)

    out, qc, saved, report = options.out, options.qc, options.session, options.report
    source = image_source(options)
    write(
        *("write_s", "--out", out),
        write=lambda: output.write(session.labels, image),
        rescue=lambda: rescue_labels(out, session.labels, image, crop=options.crop),
    )
    if saved is not None:
        write(
            *("session_s", "--session", saved),
            write=lambda: save_session(
                session, saved, image=source, with_state=True, overwrite=force
            ),
        )
    names = options.save_label_names
    if names is not None:
        table = named_labels(image.label_table, session.prompts.labels)
        write(
            *("names_s", "--save-label-names", names),
            write=lambda: write_label_names(names, table, overwrite=force),
        )
    if qc is not None:
        write("qc_s", "--qc", qc, write=lambda: _write_sheet(qc, session, force=force))
    if report is not None:
        write("report_s", "--report", report, write=lambda: write_report(report))
    return done


def _write_sheet(path: Path, session: SegmentationSession, *, force: bool) -> None:
    """Write the contact sheet of ``--qc``."""
    from napari_slmsam2.evaluate import contact_sheet
    from napari_slmsam2.io import atomic_write

    seeds = {label: session.prompts.seeds(label) for label in session.prompts.labels}
    atomic_write(
        path,
        lambda file: contact_sheet(
            session.volume,
            session.labels,
            session.window,
            file,
            seeds=seeds,
            quality=session.quality,
        ),
        overwrite=force,
    )


def _report(
    options: PropagateOptions,
    image: LoadedImage,
    session: SegmentationSession,
    outcome: Outcome,
    stages: _Stages,
) -> dict[str, Any]:
    return {
        "image": str(options.image),
        "seeds": str(options.seeds),
        "out": str(options.out),
        "finished": outcome.finished,
        "axis": image.volume.axis,
        "axis_reason": image.axis_reason,
        "range": None if options.slices is None else [options.slices.first, options.slices.last],
        "timings": {
            **{name: round(seconds, 4) for name, seconds in stages.seconds.items()},
            "slices": len(outcome.slices),
            "slice_visits": outcome.visits,
            "slices_per_second": outcome.slices_per_second,
        },
        "notes": outcome.notes,
        **session_report(session),
    }


def _conclude(session: SegmentationSession, outcome: Outcome) -> None:
    facts = label_facts(session)
    show(label_table(facts))
    for label, fact in facts.items():
        if fact["slices"] <= len(fact["seeds"]):
            log("Note", f"label {label} was carried to no other slice than the annotated ones")
    lost = lost_labels(session)
    if lost:
        show_note(
            f"what was found beside the annotated slices of label {listed(lost)} hardly overlaps "
            "with the annotations. The model does not fit this image, or its weights are not "
            "trained."
        )
    advice = suggestion_text(session)
    if advice is not None:
        log("Check", advice)
    speed = outcome.slices_per_second
    rate = "" if speed is None else f" ({speed:.3g} slices/s)"
    log("Done", f"{len(outcome.slices)} slices in {outcome.seconds:.1f} s{rate}")
