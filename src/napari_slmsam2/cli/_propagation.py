"""From an image and its seeds to files: what `propagate` and `demo` share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from napari_slmsam2.cli._console import log, show
from napari_slmsam2.cli._errors import FAILED, show_error
from napari_slmsam2.cli._options import Extent, LabelSlice
from napari_slmsam2.cli._outputs import check_outputs, check_suffix
from napari_slmsam2.cli._report import (
    label_facts,
    label_table,
    session_report,
    suggestion_text,
    write_json,
)
from napari_slmsam2.cli._run import Outcome, follow, load_model
from napari_slmsam2.core.errors import CheckpointError, ConfigError, PromptError, VolumeError
from napari_slmsam2.engine.weights.registry import get_model

if TYPE_CHECKING:
    from napari_slmsam2.cli.propagate import PropagateOptions
    from napari_slmsam2.io import LoadedImage
    from napari_slmsam2.session.session import SegmentationSession


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
    """Read, propagate, write; tell about it on the terminal.

    Raises
    ------
    typer.Exit
        Interrupted.
    SlmSam2Error
        Something is wrong with what was given. Nothing was written.
    """
    _check(options)
    stages = _Stages()
    image, session = _open(options, stages)
    _announce(options, image, session)
    load_model(session)
    stages.done("model_s")
    _announce_model(session)
    slices = None if options.slices is None else (options.slices.first, options.slices.last)
    outcome = follow(
        lambda stop: session.propagate(write_range=slices, should_stop=stop), "propagating"
    )
    stages.done("propagate_s")
    if not outcome.finished and not options.keep_partial:
        show_error(
            f"interrupted after {outcome.done} of {outcome.total} steps; nothing was written. "
            "With --keep-partial the slices done so far are."
        )
        raise typer.Exit(FAILED)
    _write(options, image, session, outcome, stages)
    _conclude(options, session, outcome)
    if not outcome.finished:
        show_error(
            f"interrupted after {outcome.done} of {outcome.total} steps; "
            "what was done so far is written."
        )
        raise typer.Exit(FAILED)
    return session


def _check(options: PropagateOptions) -> None:
    from napari_slmsam2.engine.weights.registry import is_weights_file
    from napari_slmsam2.io.formats import format_to_write

    inputs = [options.image, options.seeds]
    if not is_weights_file(options.model):
        get_model(options.model, options.models_folder)
    elif Path(options.model).is_file():
        inputs.append(Path(options.model))
    else:
        raise CheckpointError(f"--model {options.model}", "is not there")
    outputs = {
        "--out": options.out,
        "--report": options.report,
        "--qc": options.qc,
        "--session": options.session,
    }
    check_suffix("--qc", options.qc, ".png")
    check_outputs(outputs, inputs, force=options.force)
    format_to_write(options.out)


def _open(options: PropagateOptions, stages: _Stages) -> tuple[LoadedImage, SegmentationSession]:
    from napari_slmsam2.core.intensity import DEFAULT_WINDOW, parse_window
    from napari_slmsam2.io import read_image, read_labels, with_seed_axis
    from napari_slmsam2.session.session import SegmentationSession

    image = read_image(options.image, axis=options.axis, channel=options.channel, time=options.time)
    seeds = read_labels(options.seeds, like=image)
    if options.axis is None:
        image = with_seed_axis(image, seeds)
    stages.done("read_s")
    try:
        window = parse_window(options.window or DEFAULT_WINDOW, image.volume)
    except ConfigError as error:
        raise ConfigError(
            "--window", error.problem, expected=error.expected, found=error.found, hint=error.hint
        ) from error
    stages.done("window_s")
    session = SegmentationSession(
        image.volume,
        model=options.model,
        device=options.device,
        config=options.config,
        window=window,
        models_folder=options.models_folder,
    )
    if not seeds.any():
        raise VolumeError(
            str(options.seeds),
            "holds no seeds",
            expected="at least one annotated slice",
            found="only background",
        )
    session.add_seed_volume(seeds)
    _mark(session, options)
    stages.done("seeds_s")
    return image, session


def _mark(session: SegmentationSession, options: PropagateOptions) -> None:
    """Say where labels end and where they are absent."""
    from napari_slmsam2.core.prompts import PromptKind, SlicePrompt

    if (
        options.slices is not None
        and not options.slices.first <= options.slices.last < session.volume.n_slices
    ):
        raise ConfigError(
            f"--range {options.slices}",
            "is not in the volume",
            expected=f"FIRST:LAST from 0 to {session.volume.n_slices - 1}",
        )
    seeded = session.prompts.labels
    marks: list[tuple[str, LabelSlice | Extent]] = [("--absent", mark) for mark in options.absent]
    marks += [("--extent", mark) for mark in options.extent]
    for option, mark in marks:
        what = f"{option} {mark}"
        if mark.label not in seeded:
            raise PromptError(
                what, "there is no seed of this label", expected=f"label {_listed(seeded)}"
            )
        try:
            if isinstance(mark, Extent):
                session.set_extent(mark.label, mark.first, mark.last)
                continue
            before = session.prompts.get(mark.label, mark.index)
            if before is not None and before.kind is not PromptKind.ABSENT:
                raise PromptError(what, "the label is annotated on this slice", found=options.seeds)
            session.add_prompt(SlicePrompt.absent_at(mark.label, mark.index))
        except PromptError as error:
            raise PromptError(
                what, error.problem, expected=error.expected, found=error.found, hint=error.hint
            ) from error


def _listed(values: Sequence[int], most: int = 12) -> str:
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")


def _announce(options: PropagateOptions, image: LoadedImage, session: SegmentationSession) -> None:
    volume = image.volume
    size = " x ".join(map(str, volume.shape))
    spacing = " x ".join(f"{s:.3g}" for s in volume.spacing)
    log("Image", f"{options.image} ({size} voxels of {spacing} {volume.unit})")
    log("Axis", f"{volume.axis}, {volume.n_slices} slices. {image.axis_reason}")
    window = session.window
    log("Window", f"{window.low:g} to {window.high:g} ({window.source})")
    for label in session.prompts.labels:
        extent = session.prompts.extents.get(label)
        known = "" if extent is None else f"; from slice {extent[0]} to {extent[1]}"
        indices = session.prompts.seeds(label)
        plural = "s" if len(indices) > 1 else ""
        log("Seeds", f"label {label} on slice{plural} {_listed(indices)}{known}")


def _announce_model(session: SegmentationSession) -> None:
    model = session.load_model()
    weights = "no weights" if model.sha256 is None else f"SHA-256 {model.sha256[:12]}"
    log("Model", f"{model.name} ({weights}) on {model.device}, {model.precision}")


def _write(
    options: PropagateOptions,
    image: LoadedImage,
    session: SegmentationSession,
    outcome: Outcome,
    stages: _Stages,
) -> None:
    from napari_slmsam2.io import atomic_write, write_labels
    from napari_slmsam2.session.file import ImageSource, save_session

    write_labels(options.out, session.labels, image, overwrite=options.force)
    stages.done("write_s")
    seeds = {label: session.prompts.seeds(label) for label in session.prompts.labels}
    if options.qc is not None:
        from napari_slmsam2.evaluate import contact_sheet

        atomic_write(
            options.qc,
            lambda file: contact_sheet(
                session.volume,
                session.labels,
                session.window,
                file,
                seeds=seeds,
                quality=session.quality,
            ),
            overwrite=options.force,
        )
        stages.done("qc_s")
    if options.session is not None:
        source = ImageSource(options.image, options.channel, options.time)
        save_session(session, options.session, image=source, overwrite=options.force)
        stages.done("session_s")
    if options.report is not None:
        write_json(
            options.report, _report(options, image, session, outcome, stages), force=options.force
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


def _conclude(options: PropagateOptions, session: SegmentationSession, outcome: Outcome) -> None:
    facts = label_facts(session)
    show(label_table(facts))
    for label, fact in facts.items():
        if fact["slices"] <= len(fact["seeds"]):
            log("Note", f"label {label} was carried to no other slice than the annotated ones")
    advice = suggestion_text(session)
    if advice is not None:
        log("Check", advice)
    speed = outcome.slices_per_second
    rate = "" if speed is None else f" ({speed:.3g} slices/s)"
    log("Done", f"{len(outcome.slices)} slices in {outcome.seconds:.1f} s{rate}")
    for path in (options.out, options.report, options.qc, options.session):
        if path is not None:
            log("Wrote", path)
