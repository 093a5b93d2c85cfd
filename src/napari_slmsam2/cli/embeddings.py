"""``napari-slmsam2 embeddings``."""

from __future__ import annotations

from typing import Annotated

import typer

EPILOG = """
[bold]Examples[/bold]

  napari-slmsam2 propagate scan.nii.gz seeds.nii.gz -o labels.nii.gz --model sam2.1-tiny --embedding-disk 20

  napari-slmsam2 embeddings

  napari-slmsam2 embeddings --clear
"""  # noqa: E501 - the terminal breaks it


def embeddings(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show or delete the encoded slices that --embedding-disk keeps on this computer.

    They are in the folder NAPARI_SLMSAM2_EMBEDDINGS, else in the user's cache. They are computed
    again where they are needed.
    """
    from napari_slmsam2.cli._console import log
    from napari_slmsam2.engine.propagation.embedding_files import (
        clear_embeddings,
        embeddings_folder,
        stored_files,
    )

    folder = embeddings_folder()
    freed = clear_embeddings(folder) if clear else 0
    files = stored_files(folder)
    size = sum(file.nbytes for file in files)
    if as_json:
        import json

        facts = {"folder": str(folder), "slices": len(files), "bytes": size, "freed_bytes": freed}
        typer.echo(json.dumps(facts, indent=1))
        return
    if clear:
        log("Deleted", f"{freed / 2**20:.1f} MiB")
    log("Folder", folder)
    log("Slices", f"{len(files)}, {size / 2**20:.1f} MiB")
