"""``napari-slmsam2 info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_slmsam2.cli._options import Axis, Channel, ImageNumber, Level, Stack, Time

EPILOG = """
[bold]Examples[/bold]

  napari-slmsam2 info scan.nii.gz

  napari-slmsam2 info stack.ome.tif --channel DAPI --json

  napari-slmsam2 info --system
"""


def info(
    image: Annotated[
        Path | None,
        typer.Argument(
            metavar="IMAGE",
            help="The scan: NIfTI, MGH, NRRD, TIFF, NPY, Zarr ...",
            show_default=False,
        ),
    ] = None,
    axis: Axis = None,
    image_number: ImageNumber = None,
    channel: Channel = None,
    time: Time = None,
    stack: Stack = None,
    level: Level = 0,
    system: Annotated[
        bool,
        typer.Option(
            "--system",
            help="Show versions, devices and folders of this installation, for bug reports.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a scan contains and how it would be propagated, or the installation."""
    if (image is None) != system:
        raise typer.BadParameter("give IMAGE or --system, one of them", param_hint="IMAGE")
    if image is None:
        from napari_slmsam2.cli._system import system_facts, system_rows

        facts = system_facts()
        rows = system_rows(facts)
    else:
        from napari_slmsam2.io import describe, read_image

        facts = describe(
            read_image(
                image,
                axis=axis,
                image=image_number,
                channel=channel,
                time=time,
                stack=stack,
                level=level,
            )
        )
        rows = _rows(facts)
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=1))
    else:
        _show(rows)


def _rows(facts: dict[str, Any]) -> dict[str, str]:
    """What a scan contains, as lines of text by title."""
    low_high = facts["intensity_range"]
    window = facts["window"]
    return {
        "file": facts["path"],
        "format": f"{facts['format']}, {facts['dtype']}",
        "shape": " x ".join(map(str, facts["shape"])),
        "voxel size": " x ".join(f"{s:.4g}" for s in facts["spacing"]) + f" {facts['unit']}",
        "orientation": facts["orientation"] or "not known",
        "axis": f"{facts['axis']}, {facts['slices']} slices of "
        f"{' x '.join(map(str, facts['slice_shape']))}. {facts['axis_reason']}",
        "intensities": "none are finite"
        if low_high is None
        else f"{low_high[0]:g} to {low_high[1]:g}"
        + (" (sampled)" if facts["intensity_sampled"] else ""),
        "window": f"{window['low']:g} to {window['high']:g} ({window['source']})",
    }


def _show(rows: dict[str, str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from napari_slmsam2.cli._console import show

    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, Text(text))
    show(table)
