"""The dock widget: annotate a slice, propagate, look, correct."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari import Viewer
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QMessageBox

from napari_slmsam2.core.errors import GridMismatchError, SlmSam2Error
from napari_slmsam2.core.events import FinishReason, SliceSegmented
from napari_slmsam2.widgets._annotation import Annotation
from napari_slmsam2.widgets._choosers import LayerChooser
from napari_slmsam2.widgets._keys import Shortcut, Shortcuts, show_keys
from napari_slmsam2.widgets._preferences import read_preferences
from napari_slmsam2.widgets._quality import Scores
from napari_slmsam2.widgets._runner import Runner, describe_end
from napari_slmsam2.widgets._save_dialogs import (
    open_session_from,
    save_labels_as,
    save_session_as,
)
from napari_slmsam2.widgets._seed_list import BEGINS, ENDS, rows_of
from napari_slmsam2.widgets._seeds import SeedTracker
from napari_slmsam2.widgets._task import Failed, Ready, RunRequest
from napari_slmsam2.widgets._view import PanelView
from napari_slmsam2.widgets._workspace import Workspace, describe_view

if TYPE_CHECKING:
    from napari_slmsam2.session import SegmentationSession


class AnnotateWidget(PanelView):
    """Carries what a person paints on one slice through the volume.

    Parameters
    ----------
    napari_viewer : Viewer
        napari finds this parameter by its name, and gives a proxy of the viewer.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        # Layers of the proxy are proxies too: no layer is the same as itself among them.
        viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        super().__init__(viewer, read_preferences())
        self.viewer = viewer
        self._closed = False
        self.workspace = Workspace(viewer, self)
        self.runner = Runner(self)
        self.scores = Scores(self)
        self._wire()
        self.shortcuts = Shortcuts(viewer, self._wanted_shortcuts())
        self.keys.setText("\n".join(f"{s.key}:  {s.title}" for s in self.shortcuts.bound))
        show_keys(
            self.shortcuts,
            {
                self.run_bar.go_button: self.propagate_or_stop,
                self.next_button: self.next_to_fix,
                self.starts: self.mark_start,
                self.ends: self.mark_end,
                self.absent: self.mark_absent,
                self.undo_button: self.undo_run,
                self.redo_button: self.redo_run,
            },
        )
        self.tracker = SeedTracker(self.workspace)
        self._on_image(self.images.layer)
        self._show_target()
        self._release = partial(
            _release,
            (
                self.runner,
                self.tracker,
                self.workspace,
                self.images,
                self.labels,
                self.shortcuts,
            ),
        )
        # A window may be deleted without the panel ever being closed.
        self.destroyed.connect(self._release)

    def _wire(self) -> None:
        space, runner, bar = self.workspace, self.runner, self.run_bar
        self.images.chosen.connect(self._on_image)
        self.labels.chosen.connect(self._on_labels)
        self.new_labels.clicked.connect(lambda: space.add_labels())
        self.starts.clicked.connect(self.mark_start)
        self.ends.clicked.connect(self.mark_end)
        self.absent.clicked.connect(self.mark_absent)
        self.seeds.jump.connect(space.go_to)
        self.seeds.delete.connect(self._delete_seed)
        self.delete_seed.clicked.connect(self.seeds.delete_selected)
        bar.propagate.connect(self.propagate)
        bar.stop.connect(runner.stop)
        bar.pause.connect(self.pause_or_resume)
        bar.range_changed.connect(lambda: self.strip.set_range(bar.write_range))
        self.strip.slice_clicked.connect(space.go_to)
        self.next_button.clicked.connect(self.next_to_fix)
        self.undo_button.clicked.connect(self.undo_run)
        self.redo_button.clicked.connect(self.redo_run)
        self.save_button.clicked.connect(self.save_labels)
        self.save_session_button.clicked.connect(self.save_session)
        self.open_session_button.clicked.connect(self.open_session)
        space.target_changed.connect(self._show_target)
        space.slice_changed.connect(self.strip.set_current)
        space.seeds_changed.connect(self._show_seeds)
        runner.ready.connect(self._on_ready)
        runner.segmented.connect(self._on_slice)
        runner.ticked.connect(self._on_tick)
        runner.noted.connect(show_warning)
        runner.ended.connect(self._on_ended)

    def _wanted_shortcuts(self) -> list[Shortcut]:
        return [
            Shortcut("G", "Propagate, or stop", self.propagate_or_stop),
            Shortcut("H", "Pause, or resume", self.pause_or_resume),
            Shortcut("N", "Next slice to fix", self.next_to_fix),
            Shortcut("Shift+S", "Starts here", self.mark_start),
            Shortcut("Shift+E", "Ends here", self.mark_end),
            Shortcut("Shift+X", "Absent here", self.mark_absent),
            Shortcut("Ctrl+Alt+Z", "Undo run", self.undo_run),
            Shortcut("Ctrl+Alt+Shift+Z", "Redo run", self.redo_run),
        ]

    # -- layers

    def _on_image(self, layer: Layer | None) -> None:
        if layer is None and self.runner.running:
            show_warning("The image was removed: the run ends; its finished slices stay.")
            self.runner.stop()
        assert layer is None or isinstance(layer, Image)
        self.workspace.set_image(layer)
        space = self.workspace
        if isinstance(layer, Image) and space.problem is None and space.labels is None:
            space.add_labels()

    def _on_labels(self, layer: Layer | None) -> None:
        sink = self.runner.sink
        if self.runner.running and sink is not None and sink.layer not in self.viewer.layers:
            show_warning("The Labels layer was removed: the run ends; its slices stay in it.")
            self.runner.stop()
        assert layer is None or isinstance(layer, Labels)
        self.workspace.set_labels(layer)

    def _show_target(self) -> None:
        space = self.workspace
        self.images.choose(space.image)
        self.labels.choose(space.labels)
        annotation = space.annotation
        text = ""
        if space.image is not None and space.view is not None:
            text = describe_view(space.image, space.view)
        self.about_view.setText(text)
        self.about_view.setVisible(bool(text))
        problem = "" if space.problem is None else str(space.problem)
        if space.image is None:
            problem = "Open a 3D image to begin: File > Open, or drop a file on the canvas."
        self.problem.setText(problem)
        self.problem.setVisible(bool(problem))
        needs_labels = space.labels is None or isinstance(space.problem, GridMismatchError)
        self.new_labels.setText(
            "Make a matching Labels layer" if needs_labels else "New Labels layer"
        )
        self.new_labels.setEnabled(space.image is not None)
        n = 0 if annotation is None else annotation.volume.n_slices
        if n != self.strip.n_slices:
            self.run_bar.set_slices(n)
        self.strip.set_slices(n)
        if n:
            self.strip.set_current(space.index)
        if not self.runner.running or self.runner.annotation is not annotation:
            self.scores.take_over(None if self.runner.running else annotation)
        self.hint.setText("")
        self._show_seeds()

    def _show_seeds(self) -> None:
        annotation, running = self.workspace.annotation, self.runner.running
        n = 0 if annotation is None else annotation.volume.n_slices
        self.seeds.set_rows([] if annotation is None else rows_of(annotation.prompts, n))
        self.strip.set_seeds(self.workspace.seeded_slices())
        self.strip.set_quality(self.scores.lowest(annotation))
        ready = annotation is not None
        for widget in (self.starts, self.ends, self.absent, self.save_button, self.delete_seed):
            widget.setEnabled(ready)
        idle = ready and not running
        with_session = idle and annotation is not None and annotation.session is not None
        for widget in (self.undo_button, self.redo_button, self.next_button):
            widget.setEnabled(with_session)
        self.save_session_button.setEnabled(idle)
        self.open_session_button.setEnabled(not running and self.workspace.view is not None)
        self.run_bar.set_running(
            running, paused=self.runner.paused, resumable=self._resumable(annotation)
        )
        self.run_bar.go_button.setEnabled(idle)

    # -- marks

    def mark_start(self) -> None:
        """The selected label begins on the slice on screen."""
        self._tell(lambda: self.workspace.mark_end(first=True))

    def mark_end(self) -> None:
        """The selected label ends on the slice on screen."""
        self._tell(lambda: self.workspace.mark_end(first=False))

    def mark_absent(self) -> None:
        """The selected label is not on the slice on screen."""
        self._tell(self.workspace.mark_absent)

    def _delete_seed(self, index: int, label: int, kind: str) -> None:
        if kind in (BEGINS, ENDS):
            self._tell(lambda: self.workspace.take_back_mark(label, index, first=kind == BEGINS))
        else:
            self.workspace.remove_seed(label, index)

    @staticmethod
    def _tell(action: Any) -> None:
        try:
            action()
        except SlmSam2Error as error:
            show_warning(str(error))

    # -- runs

    def propagate(self, mode: str = "auto") -> None:
        """Start a run.

        Parameters
        ----------
        mode : {"auto", "gaps", "all", "resume"}
        """
        stack = self.workspace.stack
        if stack is None or self.runner.running:
            return
        self.tracker.scan_all()
        annotation, sink = stack
        try:
            request = self.request(mode)
        except SlmSam2Error as error:
            show_warning(str(error))
            return
        if self._may_download():
            self.scores.visited.clear()
            self.run_bar.show_loading()
            self.runner.start(annotation, sink, request)
            self._show_seeds()

    def request(self, mode: str = "auto") -> RunRequest:
        """What the panel asks for.

        Raises
        ------
        PromptError
            There is nothing to propagate.
        """
        annotation, image = self.workspace.annotation, self.workspace.image
        assert annotation is not None
        assert image is not None
        labels = annotation.labels_to_run()
        if self.run_bar.only_label.isChecked() and self.workspace.label in labels:
            labels = (self.workspace.label,)
        return self.read_request(annotation, image, mode, labels)

    def _may_download(self) -> bool:
        card = self.model.to_download
        if card is None or card.weights is None:
            return True
        answer = QMessageBox.question(
            self,
            "Download a model",
            f"{card.title} has {card.weights.size / 1e6:.0f} MB of weights (licence "
            f"{card.licence}). Download them now?",
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def propagate_or_stop(self) -> None:
        """Start a run, or end the one that goes on."""
        if self.runner.running:
            self.runner.stop()
        else:
            self.propagate()

    def pause_or_resume(self) -> None:
        """Hold the run, let it go on, or take up the one that was stopped."""
        if self.runner.running:
            self.runner.toggle_pause()
            self._show_seeds()
        elif self._resumable(self.workspace.annotation):
            self.propagate("resume")

    def _resumable(self, annotation: Annotation | None) -> bool:
        runner = self.runner
        return (
            not runner.running
            and runner.outcome is FinishReason.STOPPED
            and annotation is not None
            and runner.annotation is annotation
            and runner.request is not None
            and runner.request.prompts is annotation.prompts
            and runner.request.model == self.model.model
        )

    def _on_ready(self, ready: Ready) -> None:
        self.model.say_ready(ready.model, ready.device, ready.precision)
        self.run_bar.show_progress(0, 0, None, paused=False)

    def _on_slice(self, event: SliceSegmented) -> None:
        if self.workspace.annotation is self.runner.annotation:
            self.scores.add(event)

    def _on_tick(self) -> None:
        runner, bar = self.runner, self.run_bar
        if runner.total:
            bar.show_progress(runner.done, runner.total, runner.rate, paused=runner.paused)
        elif runner.control.download is not None:
            bar.show_loading(*runner.control.download)
        if self.workspace.annotation is runner.annotation:
            self.strip.set_progress(self.scores.visited)
            self.strip.set_quality(self.scores.lowest(runner.annotation))
            if bar.follow.isChecked() and runner.latest is not None and not runner.paused:
                self.workspace.go_to(runner.latest)

    def _on_ended(self, outcome: FinishReason | Failed | None) -> None:
        if isinstance(outcome, Failed):
            show_error(outcome.message)
        text = describe_end(outcome, self.runner.done, self.runner.total)
        self.run_bar.show_end(text)
        self.scores.take_over(self.workspace.annotation)
        self.strip.set_progress(())
        self._show_seeds()

    # -- after a run

    def next_to_fix(self) -> None:
        """Go to the slice on which a correction helps most."""
        if self.runner.running:
            return
        found = self.scores.next_to_fix(self.workspace.annotation)
        if found is None:
            self.hint.setText("No slice to suggest: propagate first.")
            return
        self.workspace.go_to(found.index, found.label)
        self.hint.setText(f"Slice {found.index}, label {found.label}: {found.reason}.")

    def undo_run(self) -> None:
        """Take back the last run."""
        self._swap_run("undo")

    def redo_run(self) -> None:
        """Bring back the run that was undone last."""
        self._swap_run("redo")

    def _swap_run(self, what: str) -> None:
        stack = self.workspace.stack
        if stack is None or self.runner.running or stack[0].session is None:
            return
        self.tracker.flush()
        annotation, sink = stack
        session = annotation.session
        assert session is not None
        changed = session.undo() if what == "undo" else session.redo()
        if not changed:
            show_info(f"There is no run to {what}.")
            return
        for index in changed:
            sink.write_plane(index, np.asarray(session.labels[session.volume.slicer(index)]))
        sink.flush()
        self.scores.take_over(annotation)
        self._show_seeds()

    # -- files

    def save_labels(self) -> None:
        """Ask where to, then write the labels of the stack on screen."""
        self.tracker.flush()
        save_labels_as(self, self.workspace)

    def save_session(self) -> None:
        """Ask where to, then write the session."""
        annotation, image = self.workspace.annotation, self.workspace.image
        if annotation is not None and image is not None and not self.runner.running:
            self.tracker.scan_all()
            save_session_as(self, self.workspace, self.read_request(annotation, image))

    def open_session(self) -> None:
        """Ask for a session of this image and go on with it, in a Labels layer of its own."""
        if not self.runner.running:
            open_session_from(self, self.workspace, self._take_session)

    def _take_session(self, session: SegmentationSession) -> None:
        if self._closed or self.runner.running or self.workspace.add_labels() is None:
            return
        stack = self.workspace.stack
        if stack is None:
            return
        annotation, sink = stack
        annotation.restore(session.prompts)
        annotation.session, annotation.window = session, session.window.source
        for index in range(session.volume.n_slices):
            plane = np.asarray(session.labels[session.volume.slicer(index)])
            if plane.any():
                sink.write_plane(index, plane)
        self.settings.set_config(session.config)
        self.settings.set_window(session.window.source)
        self.run_bar.direction = session.config.direction
        self.model.choose(str(session.model))
        self._show_target()

    # -- the end

    def event(self, event: QEvent) -> bool:
        """Let go of the viewer when the dock widget is closed: napari takes the panel out."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.shut_down()
        return bool(super().event(event))

    def shut_down(self) -> None:
        """Stop the run and let go of viewer and layers; the labels stay."""
        if self._closed:
            return
        self._closed = True
        self.destroyed.disconnect(self._release)
        self._release()


def _release(
    parts: tuple[Runner | SeedTracker | Workspace | LayerChooser | Shortcuts, ...],
    destroyed: object = None,
) -> None:
    for part in parts:
        part.let_go()
