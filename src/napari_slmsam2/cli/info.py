"""``napari-slmsam2 info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_slmsam2.cli._options import Axis, Channel, ImageNumber, Stack, Time

EPILOG = """
[bold]Examples[/bold]

  napari-slmsam2 info scan.nii.gz

  napari-slmsam2 info stack.ome.tif --channel DAPI --json
"""


def info(
    image: Annotated[
        Path,
        typer.Argument(metavar="IMAGE", help="The scan: NIfTI, MGH, NRRD, TIFF, NPY, Zarr ..."),
    ],
    axis: Axis = None,
    image_number: ImageNumber = None,
    channel: Channel = None,
    time: Time = None,
    stack: Stack = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a scan holds and how it would be propagated."""
    import json

    from napari_slmsam2.io import describe, read_image

    facts = describe(
        read_image(image, axis=axis, image=image_number, channel=channel, time=time, stack=stack)
    )
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from napari_slmsam2.cli._console import show

    low_high = facts["intensity_range"]
    window = facts["window"]
    rows = {
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
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, Text(text))
    show(table)
