"""Image and seeds of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_slmsam2.cli._console import log, show_note
from napari_slmsam2.cli._options import Extent, LabelSlice
from napari_slmsam2.core.errors import ConfigError, PromptError, VolumeError

if TYPE_CHECKING:
    from napari_slmsam2.cli.propagate import PropagateOptions
    from napari_slmsam2.core.intensity import IntensityWindow
    from napari_slmsam2.core.volume import Volume
    from napari_slmsam2.io import LoadedImage
    from napari_slmsam2.session.file import ImageSource
    from napari_slmsam2.session.session import SegmentationSession


def open_inputs(
    options: PropagateOptions,
    stage_done: Callable[[str], None],
    make_labels: Callable[[LoadedImage, int], Any] = lambda image, highest: None,
) -> tuple[LoadedImage, SegmentationSession]:
    """Read image and seeds, and refuse what no run can use.

    Parameters
    ----------
    options : PropagateOptions
    stage_done : callable
        Called with the name of each stage when it is done.
    make_labels : callable
        ``make_labels(image, highest_label)`` gives the array of the labels; None for one in memory.

    Raises
    ------
    SlmSam2Error
        Image, seeds or options cannot be used.
    """
    from napari_slmsam2.core.input_checks import check_image, check_labels
    from napari_slmsam2.core.intensity import check_contrast
    from napari_slmsam2.io import (
        read_image,
        read_label_map,
        read_label_names,
        warn_of_few_values,
        with_seed_axis,
    )
    from napari_slmsam2.session.session import SegmentationSession

    image = read_image(
        options.image,
        axis=options.axis,
        image=options.image_number,
        channel=options.channel,
        time=options.time,
        stack=options.stack,
        level=options.level,
        roi=options.roi,
    )
    label_map = read_label_map(
        options.seeds,
        like=image,
        image=options.seeds_image,
        channel=options.seeds_channel,
        time=options.seeds_time,
        stack=options.seeds_stack,
        trust_voxels=options.trust_voxels,
        option_prefix="seeds-",
        compressed=True,
    )
    seeds, table = label_map.array, label_map.table
    if options.label_names is not None:
        table = table.updated(read_label_names(options.label_names))
    image = replace(image, label_table=table)
    check_labels(seeds, str(options.seeds))
    check_image(image.volume, seeds)
    check_contrast(image.volume)
    warn_of_few_values(image.volume)
    if options.axis is None:
        image = with_seed_axis(image, seeds)
    stage_done("read_s")
    window = read_window(options.window, image.volume)
    stage_done("window_s")
    if not seeds.any():
        raise VolumeError(
            str(options.seeds),
            "holds no seeds",
            expected="at least one annotated slice",
            found="only background"
            if image.region is None
            else f"only background in --roi {image.region}",
        )
    session = SegmentationSession(
        image.volume,
        model=options.model,
        device=options.device,
        config=options.config,
        window=window,
        labels=make_labels(image, int(seeds.max())),
        models_folder=options.models_folder,
    )
    session.add_seed_volume(seeds)
    _mark(session, options)
    stage_done("seeds_s")
    return image, session


def read_window(text: str | None, volume: Volume) -> IntensityWindow:
    """The intensity window of ``--window``, with a note where it shows nothing of the image.

    Raises
    ------
    ConfigError
        It cannot be read.
    """
    from napari_slmsam2.core.intensity import DEFAULT_WINDOW, parse_window

    try:
        window = parse_window(text or DEFAULT_WINDOW, volume)
    except ConfigError as error:
        raise ConfigError(
            "--window", error.problem, expected=error.expected, found=error.found, hint=error.hint
        ) from error
    _check_window(volume, window)
    return window


def announce_window(window: IntensityWindow) -> None:
    """Print an intensity window."""
    log("Window", f"{window.low:g} to {window.high:g} ({window.source})")


def _check_window(volume: Volume, window: IntensityWindow) -> None:
    """Warn of a window outside of the intensities: the model sees a uniform image."""
    from napari_slmsam2.core.intensity import sample_finite

    if window.source.endswith("%"):
        return
    values = sample_finite(volume)
    low, high = float(values.min()), float(values.max())
    if not (low < window.high and high > window.low):
        show_note(
            f"--window {window.low:g},{window.high:g} lies outside of the intensities of the image "
            f"({low:g} to {high:g}): the model sees a uniform image."
        )


def _mark(session: SegmentationSession, options: PropagateOptions) -> None:
    """Apply ``--range``, ``--extent`` and ``--absent``, which number the slices of the file."""
    from napari_slmsam2.core.prompts import PromptKind, SlicePrompt

    write_range(options, session.volume)
    first = session.volume.first_slice
    last = first + session.volume.n_slices - 1
    seeded = session.prompts.labels
    marks: list[tuple[str, LabelSlice | Extent]] = [("--absent", mark) for mark in options.absent]
    marks += [("--extent", mark) for mark in options.extent]
    for option, mark in marks:
        what = f"{option} {mark}"
        if mark.label not in seeded:
            raise PromptError(
                what, "there is no seed of this label", expected=f"label {listed(seeded)}"
            )
        try:
            if isinstance(mark, Extent):
                _set_extent(session, options, mark)
                continue
            if not first <= mark.index <= last:
                raise PromptError(
                    what, "is not in the volume", expected=f"a slice from {first} to {last}"
                )
            index = mark.index - first
            before = session.prompts.get(mark.label, index)
            if before is not None and before.kind is not PromptKind.ABSENT:
                raise PromptError(what, "the label is annotated on this slice", found=options.seeds)
            session.add_prompt(SlicePrompt.absent_at(mark.label, index))
        except PromptError as error:
            raise PromptError(
                what, error.problem, expected=error.expected, found=error.found, hint=error.hint
            ) from error


def _set_extent(session: SegmentationSession, options: PropagateOptions, mark: Extent) -> None:
    """Set the extent of a label; of a part of the image, what lies in it."""
    volume, ends = session.volume, (mark.first, mark.last)
    if options.roi is not None:
        low, high = volume.first_slice, volume.first_slice + volume.n_slices - 1
        if mark.first > mark.last or mark.last < low or mark.first > high:
            raise PromptError(
                "extent", "is not in the region", expected=f"slices from {low} to {high}"
            )
        ends = max(mark.first, low) - low, min(mark.last, high) - low
    session.set_extent(mark.label, *ends)


def image_source(options: PropagateOptions) -> ImageSource:
    """The image of the options, for a session file."""
    from napari_slmsam2.session.file import ImageSource

    return ImageSource(
        options.image,
        options.channel,
        options.time,
        options.image_number,
        options.stack,
        options.level,
        options.roi,
    )


def write_range(options: PropagateOptions, volume: Volume) -> tuple[int, int] | None:
    """The slices of ``--range``, counted within the volume.

    Raises
    ------
    ConfigError
        They are not in the volume.
    """
    wanted, first = options.slices, volume.first_slice
    if wanted is None:
        return None
    if not first <= wanted.first <= wanted.last < first + volume.n_slices:
        raise ConfigError(
            f"--range {wanted}",
            "is not in the volume",
            expected=f"FIRST:LAST from {first} to {first + volume.n_slices - 1}",
        )
    return wanted.first - first, wanted.last - first


def listed(values: Sequence[int], most: int = 12) -> str:
    """The first values, separated by commas."""
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")
