"""``napari-slmsam2 replay``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_slmsam2.cli._options import (
    Force,
    LogFile,
    ModelsFolder,
    Out,
    ProgressFormat,
    Quiet,
    with_record,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_slmsam2.io import LoadedImage
    from napari_slmsam2.session.session import SegmentationSession

EPILOG = """
[bold]Example[/bold]

  napari-slmsam2 replay scan.slmsam2 -o labels.nii.gz

The image is expected where it was, also relative to the session file; --image names another place.
"""


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Arguments and options of `replay`."""

    session: Annotated[Path, typer.Argument(metavar="SESSION", help="A session file (.slmsam2).")]
    out: Out
    image: Annotated[Path | None, typer.Option(help="Where the image is now.")] = None
    model: Annotated[
        str | None, typer.Option(help="Where the file of weights is now; its hash must match.")
    ] = None
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, mps, cuda or cuda:N. Default: that of the session."),
    ] = None
    models_folder: ModelsFolder = None
    allow_differences: Annotated[
        bool,
        typer.Option(
            "--allow-differences",
            help="Write the labels also if they differ from the saved ones (another device or "
            "other versions).",
        ),
    ] = False
    force: Force = False
    quiet: Quiet = False
    log: LogFile = None
    progress: ProgressFormat = "auto"


@with_record(ReplayOptions)
def replay(options: ReplayOptions) -> None:
    """Compute a saved session again and compare with the labels in it.

    Every run is computed again from the recorded seeds, settings and model. The labels must come
    out the same, bit for bit; if not, nothing is written.
    """
    from napari_slmsam2.cli._console import configure_output, log
    from napari_slmsam2.cli._outputs import check_log, check_outputs, locked_outputs
    from napari_slmsam2.cli._run import load_model
    from napari_slmsam2.io.formats import format_to_write
    from napari_slmsam2.session.file import load_session, open_image

    check_log(options.log, (options.session, options.image, options.out))
    configure_output(quiet=options.quiet, log_file=options.log, progress=options.progress)
    outputs, force = {"--out": options.out}, options.force
    given = (options.session, options.image)
    check_outputs(outputs, [path for path in given if path is not None], force=force)
    format_to_write(options.out)
    with locked_outputs(outputs):
        loaded = open_image(options.session, options.image)
        check_outputs(outputs, [loaded.path], force=force)
        again = load_session(
            options.session,
            image=loaded.volume,
            model=options.model,
            device=options.device,
            models_folder=options.models_folder,
        )
        # What is kept on the disk of this computer is not decided by a file.
        again.config = again.config.replace(embedding_disk=0)
        saved = again.labels.copy()
        format_to_write(options.out).check_image(options.out, loaded.template)
        log("Session", f"{options.session} ({len(again.runs)} runs on {loaded.path})")
        load_model(again)
        seconds = _compute(again)
        differs = _check_same(again, saved, options)
        _write(options, again, loaded, f"in {seconds:.1f} s; {differs} the session file")


def _compute(session: SegmentationSession) -> float:
    """Do all runs again; seconds that it took."""
    from napari_slmsam2.cli._run import follow, until_asked
    from napari_slmsam2.cli._signals import interruptible
    from napari_slmsam2.session.file import replay as replay_session

    with interruptible() as should_stop:
        events = until_asked(replay_session(session), should_stop)
        outcome = follow(events, should_stop, "replaying")
    if outcome.error is not None:
        raise outcome.error
    return outcome.seconds


def _check_same(
    session: SegmentationSession, saved: npt.NDArray[np.integer], options: ReplayOptions
) -> str:
    """Compare with the saved labels; the result in words."""
    import numpy as np

    from napari_slmsam2.core.errors import SessionFileError

    differs = session.labels != saved
    if not differs.any():
        return "the same as"
    if not options.allow_differences:
        planes = np.flatnonzero(differs.any(axis=tuple({0, 1, 2} - {session.volume.axis})))
        raise SessionFileError(
            str(options.session),
            f"the labels come out differently: {int(differs.sum())} voxels on {len(planes)} slices",
            hint="Another device or other versions of the packages? --allow-differences writes "
            "the labels nevertheless.",
        )
    return f"{int(differs.sum())} voxels other than in"


def _write(
    options: ReplayOptions, session: SegmentationSession, image: LoadedImage, summary: str
) -> None:
    from napari_slmsam2.cli._console import log, show
    from napari_slmsam2.cli._errors import FAILED
    from napari_slmsam2.cli._report import label_facts, label_table
    from napari_slmsam2.cli._results import Result, rescue_labels, write_result
    from napari_slmsam2.io import write_labels

    written = write_result(
        Result(
            "--out",
            options.out,
            lambda: write_labels(options.out, session.labels, image, overwrite=options.force),
            lambda: rescue_labels(options.out, session.labels, image),
        )
    )
    show(label_table(label_facts(session)))
    log("Done", summary)
    written.show()
    if written.problem is not None:
        raise typer.Exit(FAILED)
