"""Saving and opening of labels and sessions, and recovery of unsaved work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from napari.layers import Image
from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QObject, Signal

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.core.prompts import PromptSet
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.common.wording import window_text
from napari_slmsam2.widgets.files.autosave import Autosave
from napari_slmsam2.widgets.files.recovery import Recovered
from napari_slmsam2.widgets.files.save_dialogs import (
    open_session_from,
    save_labels_as,
    save_session_as,
    start,
)
from napari_slmsam2.widgets.files.saving import read_snapshots
from napari_slmsam2.widgets.runs.runner import Runner
from napari_slmsam2.widgets.workspace.grid import SliceView, make_volume, show_view
from napari_slmsam2.widgets.workspace.seeds import SeedTracker
from napari_slmsam2.widgets.workspace.stacks import Stack
from napari_slmsam2.widgets.workspace.workspace import Workspace

if TYPE_CHECKING:
    from napari_slmsam2.session.session import SegmentationSession
    from napari_slmsam2.widgets.annotate.view import PanelView


class Files(QObject):
    """Saves and opens files, and keeps unsaved work.

    Parameters
    ----------
    view : PanelView
        The controls.
    workspace, runner, tracker : Workspace, Runner, SeedTracker
    """

    opened = Signal()
    """A session was opened."""

    def __init__(
        self, view: PanelView, workspace: Workspace, runner: Runner, tracker: SeedTracker
    ) -> None:
        super().__init__(view)
        self._view, self._workspace = view, workspace
        self._runner, self._tracker = runner, tracker
        self._offers: WeakKeyDictionary[Image, list[Recovered]] = WeakKeyDictionary()
        self._run_image: Image | None = None
        self._kept: WeakKeyDictionary[Annotation, PromptSet] = WeakKeyDictionary()
        self._closed = False
        self.autosave = Autosave(self)
        self.autosave.found.connect(self._on_found)
        self.autosave.failed.connect(show_warning)
        view.recovery.go_on.connect(self._go_on)
        view.recovery.discard.connect(self._discard)
        view.save_button.clicked.connect(self.save_labels)
        view.save_session_button.clicked.connect(self.save_session)
        view.open_session_button.clicked.connect(self.open_session)
        workspace.target_changed.connect(self._look)
        workspace.seeds_changed.connect(self._keep)
        runner.started.connect(self._on_started)
        runner.segmented.connect(self._keep_run)
        self._look()

    def close_connections(self) -> None:
        """Keep what is not saved, and end."""
        self._closed = True
        self.autosave.close_connections()

    # -- on request

    def save_labels(self) -> None:
        """Ask for a path, then write all labels of the layer, of a series at every time point."""
        self._tracker.flush()
        save_labels_as(self._view, self._workspace, self._mark_saved(self._workspace.stacks))

    def save_session(self) -> None:
        """Ask for a path, then write the session."""
        image, stack = self._workspace.image, self._workspace.stack
        if stack is not None and image is not None and not self._runner.running:
            self._tracker.scan_all()
            request = self._view.read_request(image)
            save_session_as(self._view, self._workspace, request, self._mark_saved((stack,)))

    def open_session(self) -> None:
        """Ask for a session of this image and continue it in a new Labels layer."""
        if not self._runner.running:
            open_session_from(self._view, self._workspace, self._on_opened)

    def _mark_saved(self, stacks: Sequence[Stack]) -> Callable[[], None]:
        """A callback for when the work on stacks as it is now has been written."""
        changes = [(x.annotation, self.autosave.changes(x.annotation)) for x in stacks]

        def saved() -> None:
            for annotation, count in changes:
                self.autosave.saved(annotation, count)

        return saved

    def _on_opened(self, session: SegmentationSession) -> None:
        space = self._workspace
        if self._is_free() and space.image is not None:
            space.blank_labels(f"{space.image.name} labels")
            self._take(session)
            self.opened.emit()

    def _is_free(self) -> bool:
        return not self._closed and not self._runner.running

    def _take(self, session: SegmentationSession) -> None:
        """Put a session into the present Labels layer."""
        stack = self._workspace.stack
        if stack is None:
            return
        annotation = stack.annotation
        table, scores = session.annotation.table, session.quality
        annotation.restore(session.prompts, session.runs, session.dirty, table, scores)
        written = [
            index
            for index in range(session.volume.n_slices)
            if session.annotation.plane(index).any() or annotation.plane(index).any()
        ]
        for index in written:
            annotation.slices.write(index, session.annotation.plane(index))
        self._workspace.show(written)
        view = self._view
        # What is kept on the disk of this computer is not decided by a file.
        disk = view.settings.record.embedding_disk
        view.settings.set_record(session.config.replace(embedding_disk=disk))
        view.settings.set_window(window_text(session.window))
        view.run_bar.direction = session.config.direction
        view.model.choose(str(session.model))

    # -- automatic

    def _keep(self) -> None:
        stack, image = self._workspace.stack, self._workspace.image
        if stack is None or image is None:
            return
        request = self._view.read_request(image)
        self.autosave.touch(stack, image, request)
        for other in self._workspace.stacks:  # painted in another view, or changed by an undo
            prompts, before = other.annotation.prompts, self._kept.get(other.annotation)
            if other is not stack and prompts is not before and (before or prompts):
                self.autosave.touch(other, image, request)
            self._kept[other.annotation] = prompts

    def _on_started(self) -> None:
        self._run_image = self._workspace.image

    def _keep_run(self) -> None:
        run = self._runner
        if run.stack and self._run_image and run.request:
            self.autosave.touch(run.stack, self._run_image, run.request)

    # -- recovery

    def _look(self) -> None:
        """Search once for unsaved work on the present image; show it."""
        image = self._workspace.image
        if image is None or self._workspace.view is None:
            self._view.recovery.show_offer(None)
        elif image not in self._offers:
            self._offers[image] = []
            self.autosave.look_for(image)
        else:
            self._view.recovery.show_offer(next(iter(self._offers[image]), None))

    def _on_found(self, image: Image, found: list[Recovered]) -> None:
        self._offers[image] = found
        if image is self._workspace.image:
            self._look()

    def _discard(self, offer: Recovered) -> None:
        self._forget(offer)
        self.autosave.discard(offer.folder)

    def _forget(self, offer: Recovered) -> None:
        for offers in self._offers.values():
            if offer in offers:
                offers.remove(offer)
        self._look()

    def _go_on(self, offer: Recovered) -> None:
        image = self._workspace.image
        if self._runner.running or image is None:
            show_warning("A run is in progress: stop it, or let it end, before you restore work.")
            return
        files: list[tuple[Path, Volume]] = []
        try:
            for path, info in offer.files:
                files.append((path, make_volume(image, SliceView.from_dict(info.note["view"]))))
        except (SlmSam2Error, LookupError, TypeError, ValueError) as error:
            show_error(f"{offer.folder}: cannot be restored; found {error!r}.")
            return
        self._view.recovery.show_busy()
        start(read_snapshots, files, returned=partial(self._on_read, image, offer))

    def _on_read(
        self, image: Image, offer: Recovered, result: tuple[list[SegmentationSession] | None, str]
    ) -> None:
        sessions, problem = result
        if self._closed:
            return
        if sessions is None or not self._is_free() or image is not self._workspace.image:
            show_error(
                problem or "Your work was not restored: the image has changed or a run has begun."
            )
            self._view.recovery.show_offer(None)
            self._look()
            return
        layers = {}
        for (_, info), session in zip(offer.files, sessions, strict=True):
            name = info.note["layer"]
            if name not in layers:
                layers[name] = self._workspace.blank_labels(name)
            self._workspace.set_labels(layers[name])
            show_view(image, SliceView.from_dict(info.note["view"]), self._workspace.viewer.dims)
            self._take(session)
            self._keep()
        annotation = self._workspace.annotation
        for prompt in list(annotation.prompts if annotation else ())[-1:]:
            self._workspace.go_to(prompt.index, prompt.label)
        self._forget(offer)
        self.opened.emit()
        # The old files are deleted when the work has been written again.
        self.autosave.flush(partial(self.autosave.discard, offer.folder))
