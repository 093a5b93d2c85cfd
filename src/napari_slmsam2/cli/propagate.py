"""``napari-slmsam2 propagate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_slmsam2.cli._options import (
    ALL_TIMES,
    Axis,
    Channel,
    Crop,
    Device,
    Extent,
    FileChannel,
    FileImage,
    FileStack,
    FileTime,
    Force,
    ImageNumber,
    LabelSlice,
    Level,
    LogFile,
    ModelsFolder,
    Out,
    ProgressFormat,
    Quiet,
    Roi,
    SliceRange,
    Stack,
    TrustVoxels,
    parse_extent,
    parse_label_slice,
    parse_range,
    parse_time,
    with_record,
)
from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL

_RESULTS = "More results"

EPILOG = """
[bold]Examples[/bold]

One annotated slice, everything else by itself:

  napari-slmsam2 propagate scan.nii.gz seeds.nii.gz -o labels.nii.gz

Label 1 reaches from slice 20 to slice 61, label 2 is not on slice 40:

  napari-slmsam2 propagate ct.nii seeds.nii -o out.nii --extent 1:20:61 --absent 2:40

A part of a large image at half its resolution, written slice by slice:

  napari-slmsam2 propagate em.ome.zarr seeds.ome.zarr -o out.ome.zarr --level 1 --roi 0:200,:,300:812

On a cluster that may end the job: the same command continues it

  napari-slmsam2 propagate ct.nii seeds.nii -o out.nii --resume run.slmsam2

A CT in its soft-tissue window, with SAM 2.1:

  napari-slmsam2 propagate ct.nii seeds.nii -o out.nii --window soft_tissue --model sam2.1-tiny

A time series, annotated at its first time point:

  napari-slmsam2 propagate series.nii.gz seeds.nii.gz -o labels.nii.gz --time all --carry

A quality report, a picture, and a session file to replay:

  napari-slmsam2 propagate ct.nii seeds.nii -o out.nii --report report.json --qc overview.png --session ct.slmsam2

Slices are counted from 0 along the propagation axis, in the voxel order of the file.
"""  # noqa: E501 - a command stands on one line


@dataclass(frozen=True, kw_only=True)
class PropagateOptions:
    """Arguments and options of `propagate`."""

    image: Annotated[
        Path,
        typer.Argument(metavar="IMAGE", help="The scan: NIfTI, MGH, NRRD, TIFF, NPY, Zarr ..."),
    ]
    seeds: Annotated[
        Path,
        typer.Argument(
            metavar="SEEDS",
            help="A label map on the same grid. Its non-empty slices along the axis are the seeds.",
        ),
    ]
    out: Out
    extent: Annotated[
        list[Extent],
        typer.Option(
            parser=parse_extent,
            metavar="LABEL:FIRST:LAST",
            help="First and last slice of a label. May be repeated.",
        ),
    ] = field(default_factory=list)
    absent: Annotated[
        list[LabelSlice],
        typer.Option(
            parser=parse_label_slice,
            metavar="LABEL:SLICE",
            help="A slice without the label. May be repeated.",
        ),
    ] = field(default_factory=list)
    axis: Axis = None
    model: Annotated[
        str,
        typer.Option(help="A name of `models list`, or a file of weights (.safetensors, .pt)."),
    ] = DEFAULT_MODEL
    device: Device = "auto"
    window: Annotated[
        str | None,
        typer.Option(
            help="Intensities that become black and white: percentiles (0.5-99.5%), a CT preset "
            "(soft_tissue, lung, bone, brain) or LOW,HIGH. Default: 0.5-99.5%.",
        ),
    ] = None
    slices: Annotated[
        SliceRange | None,
        typer.Option(
            "--range",
            parser=parse_range,
            metavar="FIRST:LAST",
            help="Fill these slices only.",
        ),
    ] = None
    level: Level = 0
    roi: Roi = None
    crop: Crop = False
    image_number: ImageNumber = None
    channel: Channel = None
    time: Annotated[
        Any,  # int or str: typer has no unions
        typer.Option(
            parser=parse_time,
            metavar="NUMBER|all",
            help="Number of the time point, for images with several; all: every one, with seeds "
            "for each, or with --carry. The labels then keep the time axis.",
        ),
    ] = None
    carry: Annotated[
        bool,
        typer.Option(
            "--carry",
            help="With --time all: propagate the annotated slices along time to the time points "
            "without seeds. Seeds in a file of one volume are those of time point 0, or of "
            "--seeds-time.",
        ),
    ] = False
    stack: Stack = None
    seeds_image: FileImage = None
    seeds_channel: FileChannel = None
    seeds_time: FileTime = None
    seeds_stack: FileStack = None
    trust_voxels: TrustVoxels = False
    label_names: Annotated[
        Path | None,
        typer.Option(
            help="Label description file of ITK-SNAP with names and colours, which .seg.nrrd and "
            "OME-Zarr outputs keep.",
        ),
    ] = None
    save_label_names: Annotated[
        Path | None,
        typer.Option(
            help="Label description file of ITK-SNAP to write, for formats without names.",
            rich_help_panel=_RESULTS,
        ),
    ] = None
    models_folder: ModelsFolder = None
    report: Annotated[
        Path | None,
        typer.Option(
            help="JSON: quality of every slice, what to check, timings, versions.",
            rich_help_panel=_RESULTS,
        ),
    ] = None
    qc: Annotated[
        Path | None,
        typer.Option(
            help="PNG: a contact sheet of slices with outlines.", rich_help_panel=_RESULTS
        ),
    ] = None
    session: Annotated[
        Path | None,
        typer.Option(
            help="Session file (.slmsam2), for `replay` and to continue later.",
            rich_help_panel=_RESULTS,
        ),
    ] = None
    keep_partial: Annotated[
        bool,
        typer.Option(
            "--keep-partial",
            help="After Ctrl-C, SIGTERM, SIGHUP or an error, write what was done so far.",
        ),
    ] = False
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Session file (.slmsam2) in which the run is kept when it is interrupted. The "
            "same command continues it there, with the result of an unbroken run.",
        ),
    ] = None
    force: Force = False
    quiet: Quiet = False
    log: LogFile = None
    progress: ProgressFormat = "auto"
    config: PropagationConfig = field(default_factory=PropagationConfig)


@with_record(PropagateOptions)
def propagate(options: PropagateOptions) -> None:
    """Propagate annotated slices through the whole volume.

    Every slice that is annotated in SEEDS comes back exactly as it was drawn. The result has the
    grid of IMAGE. Ctrl-C, SIGTERM and SIGHUP stop after the current slice, and nothing is written
    unless --keep-partial was given. Labels that cannot be written to their place at the end are
    written to another one, which is printed.
    """
    from napari_slmsam2.cli._propagation import run_all_times, run_job

    if options.time == ALL_TIMES:
        run_all_times(options)
    else:
        run_job(options)
