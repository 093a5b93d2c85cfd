"""``napari-slmsam2 replay``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_slmsam2.cli._options import Force, ModelsFolder, Out

EPILOG = """
[bold]Example[/bold]

  napari-slmsam2 replay scan.slmsam2 -o labels.nii.gz

The image is looked for where it was, also relative to the session file; else give --image.
"""


def replay(
    session: Annotated[Path, typer.Argument(metavar="SESSION", help="A session file (.slmsam2).")],
    out: Out,
    image: Annotated[Path | None, typer.Option(help="Where the image is now.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the file of weights is now; its hash must match.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, mps, cuda or cuda:N. Default: as it was.")
    ] = None,
    models_folder: ModelsFolder = None,
    allow_differences: Annotated[
        bool,
        typer.Option(
            "--allow-differences",
            help="Write the labels also if they differ from the saved ones (another device or "
            "other versions).",
        ),
    ] = False,
    force: Force = False,
) -> None:
    """Do a saved session again and compare with the labels in it.

    Every run is computed again from the seeds, settings and model of then. The labels must come
    out the same, bit for bit; if not, nothing is written.
    """
    import numpy as np

    from napari_slmsam2.cli._console import log, show
    from napari_slmsam2.cli._outputs import check_outputs
    from napari_slmsam2.cli._report import label_facts, label_table
    from napari_slmsam2.cli._run import follow, load_model, until_asked
    from napari_slmsam2.core.errors import SessionFileError
    from napari_slmsam2.io import write_labels
    from napari_slmsam2.io.formats import format_to_write
    from napari_slmsam2.session.file import load_session, open_image
    from napari_slmsam2.session.file import replay as replay_session

    check_outputs({"--out": out}, [session, *([image] if image else [])], force=force)
    format_to_write(out)
    loaded = open_image(session, image)
    check_outputs({"--out": out}, [loaded.path], force=force)
    again = load_session(
        session, image=loaded.volume, model=model, device=device, models_folder=models_folder
    )
    saved = again.labels.copy()
    log("Session", f"{session} ({len(again.runs)} runs on {loaded.path})")
    load_model(again)
    outcome = follow(lambda stop: until_asked(replay_session(again), stop), "replaying")
    differs = again.labels != saved
    if differs.any() and not allow_differences:
        planes = np.flatnonzero(differs.any(axis=tuple({0, 1, 2} - {again.volume.axis})))
        raise SessionFileError(
            str(session),
            f"the labels come out differently: {int(differs.sum())} voxels on {len(planes)} slices",
            hint="Another device or other versions of the packages? --allow-differences writes "
            "the labels nevertheless.",
        )
    write_labels(out, again.labels, loaded, overwrite=force)
    show(label_table(label_facts(again)))
    same = "the same as" if not differs.any() else f"{int(differs.sum())} voxels other than in"
    log("Done", f"in {outcome.seconds:.1f} s; {same} the session file")
    log("Wrote", out)
