"""The dock widget: annotate a slice, propagate, check, correct."""

from __future__ import annotations

from typing import Any

from napari import Viewer
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QEvent, QTimer

from napari_slmsam2.core.errors import GridMismatchError, SlmSam2Error
from napari_slmsam2.core.input_checks import StraySeed, find_stray_seeds
from napari_slmsam2.widgets.annotate.checked import describe_checked
from napari_slmsam2.widgets.annotate.seed_list import BEGINS, ENDS, describe_stray, rows_of
from napari_slmsam2.widgets.annotate.view import PanelView
from napari_slmsam2.widgets.common.docking import open_panel
from napari_slmsam2.widgets.common.keys import Shortcut, Shortcuts, show_keys
from napari_slmsam2.widgets.common.layout import set_text
from napari_slmsam2.widgets.common.preferences import read_preferences
from napari_slmsam2.widgets.files.files import Files
from napari_slmsam2.widgets.prompts.bar import BOX, LASSO, POINTS, SCRIBBLE
from napari_slmsam2.widgets.prompts.look_alikes import LookAlikes
from napari_slmsam2.widgets.prompts.prompting import Prompting
from napari_slmsam2.widgets.runs.next_time import NextTime
from napari_slmsam2.widgets.runs.open_panels import OpenPanel, open_panels
from napari_slmsam2.widgets.runs.runs import Runs
from napari_slmsam2.widgets.runs.task import RunRequest
from napari_slmsam2.widgets.workspace.contrast import ContrastPresets
from napari_slmsam2.widgets.workspace.first_view import FirstView
from napari_slmsam2.widgets.workspace.levels import LevelChooser
from napari_slmsam2.widgets.workspace.removed_layers import RemovedLayers
from napari_slmsam2.widgets.workspace.seeds import SeedTracker
from napari_slmsam2.widgets.workspace.three_views import toggle_three_views
from napari_slmsam2.widgets.workspace.workspace import Workspace, describe_view


class AnnotateWidget(PanelView):
    """Propagates what a person paints on one slice through the volume.

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
        self.removed_layers = RemovedLayers(viewer, self)
        self.workspace = Workspace(viewer, self)
        self.tracker = SeedTracker(self.workspace)
        self.runs = Runs(self, self.workspace, self.tracker)
        self.runner, self.scores = self.runs.runner, self.runs.scores
        self.first_view = FirstView(self.workspace, self.turn_view)
        self.level_chooser = LevelChooser(self.workspace, self.levels)
        self.contrast_presets = ContrastPresets(self.workspace, self.contrast)
        self.prompting = Prompting(
            self.prompt_bar,
            self.workspace,
            self.tracker,
            self.runner,
            self._request_for_clicks,
        )
        self.look_alike_finder = LookAlikes(
            self.look_alikes, self.prompt_bar, self.workspace, self.tracker
        )
        self.carrying = NextTime(
            self.next_time, self.workspace, self.tracker, self.runner, self._request_for_clicks
        )
        self._offered: set[StraySeed] = set()
        self._fitting: Labels | None = None
        self._hint_slice = -1
        self._wire()
        self.shortcuts = Shortcuts(viewer, self._wanted_shortcuts())
        self.keys.setText("\n".join(f"{s.key}:  {s.title}" for s in self.shortcuts.bound))
        show_keys(
            self.shortcuts,
            {
                self.run_bar.go_button: self.runs.propagate_or_stop,
                self.next_button: self.next_to_fix,
                self.accept_button: self.accept,
                self.prompt_bar.points: self.click_points,
                self.prompt_bar.box: self.draw_box,
                self.prompt_bar.lasso: self.draw_lasso,
                self.prompt_bar.scribble: self.draw_scribble,
                self.starts: self.mark_start,
                self.ends: self.mark_end,
                self.absent: self.mark_absent,
                self.undo_button: self.undo,
                self.redo_button: self.redo,
            },
        )
        self.files = Files(self, self.workspace, self.runner, self.tracker)
        self.files.opened.connect(self._show_target)
        self._take_image(self.images.layer)
        self._show_target()
        # napari's first Labels layer takes longer than all of the panel: it loads pandas. The
        # panel is drawn before.
        self._drawn = False
        self._opening = QTimer(self)
        self._opening.setSingleShot(True)
        self._opening.timeout.connect(self._open)
        self._opening.start(0)
        self.release_at_end(
            open_panels.add(OpenPanel(self.workspace, self.tracker, self.runs)),
            self.files,
            self.prompting,
            self.look_alike_finder,
            self.carrying,
            self.runs,
            self.tracker,
            self.first_view,
            self.contrast_presets,
            self.level_chooser,
            self.workspace,
            self.images,
            self.labels,
            self.removed_layers,
            self.shortcuts,
        )

    def _wire(self) -> None:
        space, bar = self.workspace, self.run_bar
        self.images.chosen.connect(self._on_image)
        self.labels.chosen.connect(self._on_labels)
        self.add_labels.clicked.connect(lambda: space.add_labels())
        self.new_labels.clicked.connect(self._on_new_labels)
        self.starts.clicked.connect(self.mark_start)
        self.ends.clicked.connect(self.mark_end)
        self.absent.clicked.connect(self.mark_absent)
        self.take_labels.clicked.connect(lambda: self._attempt(space.take_labelled_slices))
        self.plane_bar.follow(self.tracker.across)
        self.seeds.jump.connect(space.go_to)
        self.seeds.delete.connect(self._delete_seed)
        self.delete_seed.clicked.connect(self.seeds.delete_selected)
        bar.range_changed.connect(lambda: self.strip.set_range(bar.write_range))
        self.strip.slice_clicked.connect(space.go_to)
        self.next_button.clicked.connect(self.next_to_fix)
        self.accept_button.clicked.connect(self.accept)
        self.prompt_bar.take.clicked.connect(self.accept)
        self.undo_button.clicked.connect(self.undo)
        self.redo_button.clicked.connect(self.redo)
        self.label_table.clicked.connect(lambda: open_panel(self.viewer, "Label table"))
        self.finish.clicked.connect(lambda: open_panel(self.viewer, "Finish"))
        self.three_views.clicked.connect(
            lambda: self._attempt(lambda: toggle_three_views(self.viewer))
        )
        space.target_changed.connect(self._show_target)
        space.slice_changed.connect(self._on_slice)
        space.seeds_changed.connect(self._show_seeds)
        space.label_changed.connect(self._show_strip)
        self.one_label.toggled.connect(lambda: self._show_strip())
        self.runs.changed.connect(self._show_seeds)
        self.runs.changed.connect(self._drop_preview)

    def _wanted_shortcuts(self) -> list[Shortcut]:
        return [
            Shortcut("G", "Propagate, or stop", self.runs.propagate_or_stop),
            Shortcut("H", "Pause, or resume", self.runs.pause_or_resume),
            Shortcut("N", "Next slice to fix", self.next_to_fix),
            Shortcut("K", "Accept the label on this slice, or the 3D preview", self.accept),
            Shortcut("Shift+K", "Accept all labels on this slice", self.accept_all),
            Shortcut("Shift+C", "Click points; again: napari's own tools", self.click_points),
            Shortcut("Shift+B", "Draw a box; again: napari's own tools", self.draw_box),
            Shortcut("Shift+O", "Draw a lasso; again: napari's own tools", self.draw_lasso),
            Shortcut("Shift+D", "Draw a scribble; again: napari's own tools", self.draw_scribble),
            Shortcut("Shift+S", "Starts here", self.mark_start),
            Shortcut("Shift+E", "Ends here", self.mark_end),
            Shortcut("Shift+X", "Absent here", self.mark_absent),
            Shortcut("Ctrl+Alt+Z", "Undo run, mark or click", self.undo),
            Shortcut("Ctrl+Alt+Shift+Z", "Redo run, mark or click", self.redo),
        ]

    # -- layers

    def _on_image(self, layer: Layer | None) -> None:
        before = self.workspace.image
        if self.runner.running and before is not None and before not in self.viewer.layers:
            show_warning("The image was removed: the run ends; its finished slices stay.")
            self.runner.stop()
        self._take_image(layer)
        self._make_first_labels()

    def _take_image(self, layer: Layer | None) -> None:
        assert layer is None or isinstance(layer, Image)
        self.workspace.set_image(layer)

    def _on_new_labels(self) -> None:
        """Work on the Labels layer that is offered, or on a new one."""
        if self._fitting is not None:
            self.workspace.set_labels(self._fitting)
        else:
            self.workspace.add_labels()

    def _open(self) -> None:
        if self._drawn or not self.isVisible():
            self._make_first_labels()

    def _make_first_labels(self) -> None:
        space = self.workspace
        wanted = space.image is not None and space.problem is None and space.labels is None
        if wanted and not self._closed:
            space.add_labels()

    def _on_labels(self, layer: Layer | None) -> None:
        run = self.runner.stack
        if self.runner.running and run is not None and run.sink.layer not in self.viewer.layers:
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
            text = describe_view(space.image, space.view, self.viewer.dims)
        set_text(self.about_view, text)
        problem = "" if space.problem is None else str(space.problem)
        if space.image is None:
            problem = "Open a 3D image to begin: File > Open, or drop a file on the canvas."
        set_text(self.problem, problem)
        needs_labels = space.labels is None or isinstance(space.problem, GridMismatchError)
        self._fitting = space.fitting_labels() if needs_labels else None
        self.new_labels.setText(
            "Make a matching Labels layer"
            if self._fitting is None
            else f"Use the Labels layer {self._fitting.name}"
        )
        self.new_labels.setVisible(needs_labels and space.image is not None)
        self.add_labels.setEnabled(space.image is not None)
        n = 0 if annotation is None else annotation.volume.n_slices
        if n != self.strip.n_slices:
            self.run_bar.set_slices(n)
        self.strip.set_slices(n)
        self.strip.set_range(self.run_bar.write_range)
        if n:
            self.strip.set_current(space.index)
        self.runs.take_over()
        set_text(self.hint, "")
        self._show_seeds()

    def _on_slice(self, index: int) -> None:
        self.strip.set_current(index)
        if index != self._hint_slice:
            set_text(self.hint, "")

    def _show_hint(self, text: str) -> None:
        """Show a text about the slice on screen until another one is shown."""
        self._hint_slice = self.workspace.index
        set_text(self.hint, text)

    def _show_seeds(self) -> None:
        annotation, running = self.workspace.annotation, self.runner.running
        n = 0 if annotation is None else annotation.volume.n_slices
        self.seeds.set_rows([] if annotation is None else rows_of(annotation.prompts, n))
        self.seed_fold.setText(f"Seeds and marks: {len(self.seeds.rows)}")
        stray = () if annotation is None else find_stray_seeds(annotation.prompts)
        set_text(self.stray, describe_stray(stray[0]) if stray else "")
        unseeded = annotation is not None and not len(annotation.prompts) and not running
        self.show_labelled(
            len(annotation.slices.labelled_slices()) if annotation and unseeded else 0
        )
        self._show_strip()
        ready = annotation is not None
        marks = self.starts, self.ends, self.absent, self.accept_button
        for widget in (*marks, self.save_button, self.delete_seed):
            widget.setEnabled(ready)
        idle = ready and not running
        self.next_button.setEnabled(idle and annotation is not None and bool(annotation.runs))
        history = None if annotation is None else annotation.history
        self.show_undo(
            *(
                None if word == "run" and running else word
                for word in ((history.to_undo, history.to_redo) if history else (None, None))
            )
        )
        self.save_session_button.setEnabled(idle)
        self.open_session_button.setEnabled(not running and self.workspace.view is not None)
        self.run_bar.set_running(running, paused=self.runner.paused, resumable=self.runs.resumable)
        self.run_bar.go_button.setEnabled(idle)
        self.plane_bar.show_question(self.tracker.across.question, running=running)

    def _show_strip(self) -> None:
        """Show seeds and confidence of all labels, or of the selected one."""
        seeds, label = self.workspace.seeded_slices(), self.workspace.label
        self.scores.label = label if self.one_label.isChecked() else None
        if self.one_label.isChecked():
            seeds = {label: seeds.get(label, set())}
        self.strip.set_seeds(seeds)
        annotation = self.workspace.annotation
        self.strip.set_quality(self.scores.lowest(annotation))
        self.checked.setText("" if annotation is None else describe_checked(annotation, label))

    # -- clicks and boxes

    def click_points(self) -> None:
        """Clicks on the canvas are points of the object; again: napari's own tools."""
        self.prompting.toggle(POINTS)

    def draw_box(self) -> None:
        """Drags on the canvas are boxes around the object; again: napari's own tools."""
        self.prompting.toggle(BOX)

    def draw_lasso(self) -> None:
        """A polygon on the canvas is a rough outline of the object; again: napari's own tools."""
        self.prompting.toggle(LASSO)

    def draw_scribble(self) -> None:
        """Strokes on the canvas mark the object; again: napari's own tools."""
        self.prompting.toggle(SCRIBBLE)

    def _drop_preview(self) -> None:
        """A run fills the slices that are previewed."""
        if self.runner.running:
            self.prompting.preview.drop()

    def _request_for_clicks(self) -> RunRequest | str:
        image = self.workspace.image
        assert image is not None
        card = self.model.to_download
        if card is not None:
            return f"{card.title} is not on this computer: propagate once, or choose another model."
        return self.read_request(image)

    # -- marks

    def mark_start(self) -> None:
        """The selected label begins on the slice on screen."""
        self._attempt(lambda: self.workspace.mark_end(first=True))

    def mark_end(self) -> None:
        """The selected label ends on the slice on screen."""
        self._attempt(lambda: self.workspace.mark_end(first=False))

    def mark_absent(self) -> None:
        """The selected label is not on the slice on screen."""
        self._attempt(self.workspace.mark_absent)

    def _delete_seed(self, index: int, label: int, kind: str) -> None:
        if kind in (BEGINS, ENDS):
            self._attempt(lambda: self.workspace.mark_end_at(label, index, first=kind == BEGINS))
        else:
            self._attempt(lambda: self.workspace.remove_seed(label, index))

    @staticmethod
    def _attempt(action: Any) -> None:
        try:
            action()
        except SlmSam2Error as error:
            show_warning(str(error))

    # -- runs

    def propagate(self, mode: str = "auto") -> None:
        """Start a run, see `Runs.propagate`."""
        self.runs.propagate(mode)

    def next_to_fix(self) -> None:
        """Go to the slice on which a correction helps most."""
        if self.runner.running:
            return
        annotation = self.workspace.annotation
        for stray in () if annotation is None else find_stray_seeds(annotation.prompts):
            if stray not in self._offered:
                self._offered.add(stray)
                self.workspace.go_to(stray.index, stray.label)
                self._show_hint(describe_stray(stray))
                return
        found = self.scores.next_to_fix(annotation)
        if found is None:
            checked = annotation is not None and annotation.quality
            text = "Every slice is checked." if checked else "No slice to suggest: propagate first."
            self._show_hint(text)
            return
        self.workspace.go_to(found.index, found.label)
        self._show_hint(f"Slice {found.index}, label {found.label}: {found.reason}.")

    def accept(self) -> None:
        """The selected label is right on the slice on screen."""
        self._accept(all_labels=False)

    def accept_all(self) -> None:
        """All labels are right on the slice on screen."""
        self._accept(all_labels=True)

    def _accept(self, *, all_labels: bool) -> None:
        space = self.workspace
        if space.annotation is None:
            return
        if self.prompting.take_preview():
            self.scores.take_over(space.annotation)
            self._show_seeds()
            return
        self.tracker.flush()
        try:
            accepted = space.accept(all_labels=all_labels)
        except SlmSam2Error as error:
            show_warning(str(error))
            return
        self._show_hint("" if accepted else f"Slice {space.index} is checked already.")

    def undo(self) -> None:
        """Take back the last run, mark or click."""
        self._swap("undo")

    def redo(self) -> None:
        """Restore what was undone last."""
        self._swap("redo")

    def _swap(self, what: str) -> None:
        annotation, running = self.workspace.annotation, self.runner.running
        if annotation is None:
            return
        self.tracker.flush()
        history = annotation.history
        if running and (history.to_undo if what == "undo" else history.to_redo) == "run":
            return
        swap = history.undo if what == "undo" else history.redo
        swapped = swap(edits_only=running)
        if swapped is None:
            show_info(f"There is nothing to {what}.")
            return
        if not running:
            self.scores.take_over(annotation)
        self._attempt(lambda: self.workspace.show(swapped.slices))

    # -- the end

    def event(self, event: QEvent) -> bool:
        """Make the Labels layer when the panel was drawn for the first time."""
        if event.type() == QEvent.Type.Paint and not self._drawn:
            self._drawn = True
            self._opening.start(0)
        return super().event(event)
