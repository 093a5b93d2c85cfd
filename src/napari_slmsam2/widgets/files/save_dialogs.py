"""Which file to save or open, asked in a dialog; a worker writes or reads it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_slmsam2.io.formats import FORMATS
from napari_slmsam2.io.layer_grid import colours_of
from napari_slmsam2.widgets.common.file_dialogs import ask_save_path
from napari_slmsam2.widgets.files import saving
from napari_slmsam2.widgets.runs.task import RunRequest
from napari_slmsam2.widgets.workspace.grid import axis_name, make_volume
from napari_slmsam2.widgets.workspace.workspace import Workspace

if TYPE_CHECKING:
    from napari_slmsam2.session.session import SegmentationSession

_SESSIONS = "Session (*.slmsam2)"


def save_labels_as(parent: QWidget, space: Workspace, saved: Callable[[], None]) -> None:
    """Ask for a file and write all labels of the layer to it; then report it."""
    if space.stack is None or space.image is None:
        return
    sink = space.stack.sink
    source, grid = saving.describe_image(space.image, sink.view)
    name = _suggest(source, space.image, "_labels.nii.gz")
    writable = [suffix for known in FORMATS for suffix in known.writable]
    path = ask_save_path(parent, "Save labels", name, saving.LABEL_FILTER, writable)
    if path is not None:
        read, lead = saving.all_labels(sink.layer, sink.view)
        start(
            _save_labels,
            path,
            read,
            source,
            grid,
            colours_of(sink.layer.colormap),
            lead,
            space.stack.annotation.table,
            returned=partial(_report, saved, ""),
        )


def _save_labels(path: Path, read: Callable[[], Any], *how: Any) -> Path:
    return saving.save_labels(path, read(), *how)


def save_session_as(
    parent: QWidget, space: Workspace, request: RunRequest, saved: Callable[[], None]
) -> None:
    """Ask for a file and write the session of the stack on screen to it; not during a run."""
    if space.stack is None or space.image is None:
        return
    stack = space.stack
    source, grid = saving.describe_image(space.image, stack.sink.view)
    name = _suggest(source, space.image, ".slmsam2")
    path = ask_save_path(parent, "Save session", name, _SESSIONS)
    if path is not None:
        start(
            saving.save_session,
            path,
            saving.Snapshot.of(stack, request),
            source,
            grid,
            returned=partial(_report, saved, _left_out(space)),
        )


def _left_out(space: Workspace) -> str:
    """The other stacks of the layer with seeds, which a session file does not hold, in words."""
    others = [x for x in space.stacks if x is not space.stack and len(x.annotation.prompts)]
    if not others or space.image is None:
        return ""
    names = space.image.axis_labels
    places = [
        ", ".join(f"axis {axis_name(a, names)} at {i}" for a, i in x.sink.view.held)
        or f"slices along axis {axis_name(x.sink.view.layer_axis, names)}"
        for x in others
    ]
    return (
        " It holds the seeds of the slices on screen. There are other ones: "
        f"{'; '.join(places)}. Show those and save a session of each."
    )


def open_session_from(
    parent: QWidget, space: Workspace, take: Callable[[SegmentationSession], None]
) -> None:
    """Ask for a session file, read it, and hand the session over on the GUI thread."""
    if space.view is None or space.image is None:
        return
    path, _ = QFileDialog.getOpenFileName(parent, "Open session", filter=_SESSIONS)
    if not path:
        return

    def on_read(result: tuple[SegmentationSession | None, str]) -> None:
        session, problem = result
        if session is None:
            show_error(problem)
        else:
            take(session)

    volume = make_volume(space.image, space.view)
    start(saving.read_session, Path(path), volume, returned=on_read)


def _suggest(source: Path | None, image: Image, ending: str) -> str:
    if source is None:
        return image.name + ending
    return str(source.with_name(source.name.split(".")[0] + ending))


def start(function: Any, *args: Any, returned: Callable[[tuple[Any, str]], None]) -> None:
    """Call a function in a worker.

    Parameters
    ----------
    function : callable
    *args : object
    returned : callable
        Called on the GUI thread with the result, or with None and what went wrong.
    """
    worker = create_worker(
        saving.attempt, function, *args, _start_thread=False, _ignore_errors=True
    )
    worker.returned.connect(returned)
    worker.start()


def _report(saved: Callable[[], None], note: str, result: tuple[Path | None, str]) -> None:
    path, problem = result
    if path is None:
        show_error(problem)
    else:
        saved()
        show_info(f"Saved {path}.{note}")
