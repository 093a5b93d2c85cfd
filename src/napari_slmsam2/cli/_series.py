"""All time points of a series in one command: ``propagate --time all``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from napari_slmsam2.cli._console import log, print_record, show_error
from napari_slmsam2.cli._errors import FAILED
from napari_slmsam2.cli._inputs import announce_window, listed, read_window
from napari_slmsam2.cli._outputs import check_space
from napari_slmsam2.cli._report import session_report, suggestion_text, write_json
from napari_slmsam2.cli._results import Result, rescue_labels, write_result
from napari_slmsam2.cli._run import Outcome, announce_model, follow, load_model
from napari_slmsam2.cli._signals import interruptible
from napari_slmsam2.core.errors import ConfigError, VolumeError

if TYPE_CHECKING:
    from napari_slmsam2.cli.propagate import PropagateOptions
    from napari_slmsam2.core.label_table import LabelTable
    from napari_slmsam2.io import LoadedImage, Series
    from napari_slmsam2.session.session import SegmentationSession

_Seeds = dict[int, Any]


def run_series(options: PropagateOptions) -> None:
    """Read, propagate every time point, write, and report it on the terminal.

    Raises
    ------
    typer.Exit
        Interrupted, or a result could not be written.
    SlmSam2Error
        The input cannot be used. Nothing was written.
    """
    from napari_slmsam2.io import open_series
    from napari_slmsam2.io.formats import check_holds

    _refuse(options)
    check_holds(options.out, "t")
    series = open_series(
        options.image,
        axis=options.axis,
        image=options.image_number,
        channel=options.channel,
        stack=options.stack,
    )
    if series.n_times == 1:
        raise ConfigError(
            "--time all", "the image has one time point", found=options.image,
            hint="Leave --time out.",
        )  # fmt: skip
    images = [series.image(time) for time in range(series.n_times)]
    seeds, table = _read_seeds(options, images)
    images = _with_axis(options, images, seeds, table)
    check_space("--out", options.out, series.n_times * seeds[min(seeds)].nbytes)
    _announce(options, series, images[0], seeds)
    labels, reports = _propagate(options, images, seeds)
    _write(options, images[0], labels, reports)


def _refuse(options: PropagateOptions) -> None:
    """Refuse options that belong to one volume."""
    one_volume = {
        "--session": options.session,
        "--resume": options.resume,
        "--qc": options.qc,
        "--keep-partial": options.keep_partial,
        "--extent": options.extent,
        "--absent": options.absent,
        "--level": options.level,
        "--roi": options.roi,
    }
    given = [option for option, value in one_volume.items() if value]
    if given:
        raise ConfigError(
            "--time all", f"cannot be combined with {', '.join(given)}",
            expected="options that hold for every time point",
            hint="Choose one time point for these: --time N.",
        )  # fmt: skip


def _read_seeds(options: PropagateOptions, images: list[LoadedImage]) -> tuple[_Seeds, LabelTable]:
    """The seeds of every time point that has some; of one volume those of ``--seeds-time``."""
    from napari_slmsam2.core.input_checks import check_labels
    from napari_slmsam2.io import open_series, read_label_names

    series = open_series(
        options.seeds,
        image=options.seeds_image,
        channel=options.seeds_channel,
        stack=options.seeds_stack,
        option_prefix="seeds-",
    )
    n_times = len(images)
    if series.n_times == 1:
        times = {options.seeds_time or 0: 0}
        log("Seeds", f"of one volume, taken as those of time point {options.seeds_time or 0}")
    elif series.n_times != n_times:
        raise VolumeError(
            str(options.seeds), "has another number of time points than the image",
            expected=n_times, found=series.n_times,
        )  # fmt: skip
    else:
        chosen = range(n_times) if options.seeds_time is None else [options.seeds_time]
        times = {time: time for time in chosen}
    if max(times) >= n_times:
        raise ConfigError(
            f"--seeds-time {max(times)}", "is not in the image", expected=f"0 to {n_times - 1}"
        )
    maps = {
        time: series.labels(source, images[time], trust_voxels=options.trust_voxels)
        for time, source in times.items()
    }
    for label_map in maps.values():
        if label_map.array.any():
            check_labels(label_map.array, str(options.seeds))
    table = maps[min(maps)].table
    if options.label_names is not None:
        table = table.updated(read_label_names(options.label_names))
    seeds = {time: found.array for time, found in maps.items() if found.array.any()}
    if not seeds:
        raise VolumeError(
            str(options.seeds), "holds no seeds", expected="at least one annotated slice",
            found="only background",
        )  # fmt: skip
    return seeds, table


def _with_axis(
    options: PropagateOptions, images: list[LoadedImage], seeds: _Seeds, table: LabelTable
) -> list[LoadedImage]:
    """The images with the axis of the first seeds, after checks of those with seeds."""
    from napari_slmsam2.core.input_checks import check_image
    from napari_slmsam2.core.intensity import check_contrast
    from napari_slmsam2.io import warn_of_few_values, with_seed_axis

    first = images[min(seeds)]
    check_contrast(first.volume)
    warn_of_few_values(first.volume)
    for time, labels in seeds.items():
        check_image(images[time].volume, labels)
    if options.axis is None:
        first = with_seed_axis(first, seeds[min(seeds)])
    return [
        replace(
            image, volume=image.volume.with_axis(first.volume.axis), label_table=table,
            axis_reason=first.axis_reason,
        )
        for image in images
    ]  # fmt: skip


def _announce(options: PropagateOptions, series: Series, image: LoadedImage, seeds: _Seeds) -> None:
    volume, time = image.volume, image.geometry.time
    size = " x ".join(map(str, volume.shape))
    every = "" if time is None else f" every {time.step:g} {time.unit}"
    log("Image", f"{options.image} ({series.n_times} time points{every} of {size} voxels)")
    log("Axis", f"{volume.axis}, {volume.n_slices} slices. {image.axis_reason}")
    log("Seeds", f"at time points {listed(sorted(seeds))}")
    carried = [t for t in range(series.n_times) if t not in seeds]
    if carried and options.carry:
        log("Carried", f"to time points {listed(carried)}")


def _load_model(session: SegmentationSession) -> None:
    load_model(session, fit_cpu=True)
    announce_model(session)


def _propagate(
    options: PropagateOptions, images: list[LoadedImage], seeds: _Seeds
) -> tuple[Any, list[dict[str, Any]]]:
    """The labels, shape (T, I, J, K), and a report of every time point."""
    from napari_slmsam2.session.series import series_sessions

    volumes = [image.volume for image in images]
    window = read_window(options.window, volumes[min(seeds)])
    announce_window(window)
    slices = None if options.slices is None else (options.slices.first, options.slices.last)
    found, reports = [], []
    with interruptible() as should_stop:
        sessions = series_sessions(
            volumes, seeds, carry=options.carry, should_stop=should_stop, window=window,
            model=options.model, device=options.device, config=options.config,
            models_folder=options.models_folder, load=_load_model,
        )  # fmt: skip
        for time, session in sessions:
            outcome = Outcome(finished=True)
            if session.prompts.labels and not should_stop():
                print_record({"event": "time", "time": time, "times": len(images)})
                events = session.propagate(write_range=slices, should_stop=should_stop)
                outcome = follow(events, should_stop, f"time point {time} of {len(images)}")
            if outcome.error is not None:
                raise outcome.error
            if not outcome.finished or should_stop():
                show_error(f"interrupted at time point {time}; nothing was written.")
                raise typer.Exit(FAILED)
            found.append(np.array(session.labels))
            advice = suggestion_text(session)
            if advice is not None:
                log("Check", f"time point {time}: {advice}")
            reports.append({"time": time, "carried": time not in seeds, **session_report(session)})
    return np.stack(found), reports


def _write(
    options: PropagateOptions, image: LoadedImage, labels: Any, reports: list[dict[str, Any]]
) -> None:
    from napari_slmsam2.io import named_labels, write_label_names, write_labels

    force, out = options.force, options.out
    results = [
        Result(
            "--out",
            out,
            lambda: write_labels(out, labels, image, overwrite=force),
            lambda: rescue_labels(out, labels, image),
        )
    ]
    names, report = options.save_label_names, options.report
    if names is not None:
        table = named_labels(image.label_table, [int(x) for x in np.unique(labels) if x])
        results.append(
            Result(
                "--save-label-names", names,
                lambda: write_label_names(names, table, overwrite=force),
            )
        )  # fmt: skip
    if report is not None:
        content = {
            "image": str(options.image),
            "seeds": str(options.seeds),
            "out": str(out),
            "axis": image.volume.axis,
            "axis_reason": image.axis_reason,
            "times": reports,
        }
        results.append(Result("--report", report, lambda: write_json(report, content, force=force)))
    written = [write_result(result) for result in results]
    for one in written:
        one.show()
    paths = {w.result.option: str(w.result.path) for w in written if not w.problem}
    print_record({"event": "finished", "written": paths})
    if any(one.problem for one in written):
        raise typer.Exit(FAILED)
