"""Layout of the panel: its parts and their order."""

from __future__ import annotations

from napari import Viewer
from napari.layers import Image, Labels
from qtpy.QtWidgets import QCheckBox, QWidget

from napari_slmsam2.widgets.annotate.plane_bar import PlaneBar
from napari_slmsam2.widgets.annotate.seed_list import SeedList
from napari_slmsam2.widgets.common.choosers import (
    LayerChooser,
    ModelChooser,
    NarrowCombo,
    wrapped_label,
)
from napari_slmsam2.widgets.common.closing import ClosingWidget
from napari_slmsam2.widgets.common.fold import Fold
from napari_slmsam2.widgets.common.icons import GlyphButton
from napari_slmsam2.widgets.common.layout import button, column, form, group, row, scrolled
from napari_slmsam2.widgets.common.preferences import Preferences
from napari_slmsam2.widgets.common.settings_form import (
    LAYER_LIMITS,
    SettingsForm,
    window_chooser,
)
from napari_slmsam2.widgets.common.wording import LIMITS
from napari_slmsam2.widgets.files.recovery_bar import RecoveryBar
from napari_slmsam2.widgets.prompts.bar import PromptBar
from napari_slmsam2.widgets.runs.quality_strip import QualityStrip
from napari_slmsam2.widgets.runs.run_bar import RunBar
from napari_slmsam2.widgets.runs.task import RunRequest


class PanelView(ClosingWidget):
    """The controls and their texts, without any behaviour.

    Parameters
    ----------
    viewer : Viewer
    preferences : Preferences
    """

    def __init__(self, viewer: Viewer, preferences: Preferences) -> None:
        super().__init__()
        self._make_parts(viewer, preferences)
        scrolled(self, *self._arrange())

    def _make_parts(self, viewer: Viewer, preferences: Preferences) -> None:
        self.recovery, self.plane_bar = RecoveryBar(), PlaneBar()
        self.images, self.labels = LayerChooser(viewer, Image), LayerChooser(viewer, Labels)
        self.images.setToolTip("The image that is segmented.")
        self.levels = NarrowCombo()
        self.levels.setToolTip(
            "The resolution level that is segmented; its labels are on the grid of the level."
        )
        self.labels.setToolTip("The Labels layer that you paint in and that is filled.")
        self.contrast = window_chooser(
            "Limits of the layer", "Contrast of the image on screen; a run does not change with it."
        )
        self.contrast.value = LAYER_LIMITS
        self.add_labels = button("New", "Add an empty Labels layer on the image's grid.")
        self.new_labels = button("", "Work on labels that lie on the voxels of the image.")
        self.about_view, self.problem = wrapped_label(), wrapped_label()
        self.about_view.setToolTip("Roll the axes (Ctrl+E) to slice the volume along another axis.")
        self.problem.setToolTip("Why nothing can be done yet.")
        self.turn_view = button(
            "", "Voxels are longest along this axis: its planes are the sharpest ones."
        )
        self.model = ModelChooser(preferences.model, preferences.device, preferences.models_folder)
        self.prompt_bar = PromptBar()
        self.starts = button(
            "Starts here",
            "The selected label begins on this slice. Press again to remove the mark.",
        )
        self.ends = button(
            "Ends here", "The selected label ends on this slice; a second time removes the mark."
        )
        self.absent = button("Absent here", "The selected label is not on this slice.")
        self.look_alikes = button(
            "Find look-alikes",
            "All objects of this slice that look like its seeds become seeds of new labels.",
        )
        self.seeds = SeedList()
        self.stray = wrapped_label()
        self.stray.setToolTip("An annotation of few voxels, first in the list of seeds.")
        self.take_labels = button(
            "", "Every slice that holds a label becomes a seed, which is never overwritten."
        )
        self.delete_seed = button("Delete seed", "Remove the chosen seeds; their pixels stay.")
        self.run_bar = RunBar()
        self.next_time = button(
            "Carry on to the next time",
            "Find the seeds of this time point on the next one, and show it.",
        )
        self.strip = QualityStrip()
        self.one_label = QCheckBox("Only the selected label")
        self.one_label.setToolTip("Seeds and confidence of the selected label alone.")
        self.next_button = GlyphButton(
            "Next slice to fix", "Go to the slice on which a correction helps most.", "next"
        )
        self.accept_button = button(
            "Accept",
            "The selected label is right on this slice: it becomes a seed and counts as checked.",
        )
        self.checked = wrapped_label()
        self.checked.setToolTip("Slices with the selected label that you painted or accepted.")
        # Its line stays, so that nothing moves when a run begins.
        self.checked.setMinimumHeight(self.checked.fontMetrics().lineSpacing() + 4)
        self.hint = wrapped_label()
        self.hint.setToolTip("Why this slice should be checked.")
        self.undo_button = button(
            "Undo run",
            "Take back the last run on all slices and labels, or the last mark or click.",
        )
        self.redo_button = button("Redo run", "Restore what was undone last.")
        self.label_table = button(
            "Label table", "Names, volumes, locks: a row for each label, to jump to and to edit."
        )
        self.finish = button("Finish ...", "Remove islands, fill holes, smooth between slices.")
        self.three_views = button(
            "Three views", "The other two planes beside the canvas, with a crosshair; or hide them."
        )
        self.save_button = button(
            "Save labels ...",
            "NIfTI, TIFF, OME-Zarr, NRRD, MGH or NPY, with the geometry of the scan.",
        )
        self.save_session_button = button(
            "Save session ...",
            "Seeds, settings, runs and labels in one file, to continue or replay.",
        )
        self.open_session_button = button(
            "Open session ...", "Continue a saved session of this image, in a new Labels layer."
        )
        self.settings = SettingsForm(preferences.config)
        self.keys = wrapped_label()
        self.keys.setToolTip("Keys that work while the canvas has the focus.")

    def _arrange(self) -> list[QWidget]:
        labels = QWidget()
        labels.setLayout(row(self.labels, self.add_labels))
        labels.layout().setContentsMargins(0, 0, 0, 0)
        labels.layout().setStretch(0, 4)
        image = column(self.images, self.levels)
        layers = form(("Image", image), ("Contrast", self.contrast.native), ("Labels", labels))
        self.seed_fold = Fold(
            "",
            "Slices that you annotated, to jump to or to delete.",
            column(self.seeds, self.delete_seed),
        )
        following = row(self.next_button, self.accept_button)
        following.setStretch(0, 2)
        settings = column(form(("Device", self.model.devices)), self.settings)
        return [
            self.recovery,
            self.plane_bar,
            group(
                "Layers",
                layers,
                self.about_view,
                self.turn_view,
                self.problem,
                self.new_labels,
                self.model,
            ),
            group(
                "Seeds",
                self.prompt_bar,
                row(self.starts, self.ends, self.absent),
                self.look_alikes,
                self.take_labels,
                self.stray,
                self.seed_fold,
            ),
            group("Run", self.run_bar, row(self.undo_button, self.redo_button), self.next_time),
            group(
                "Quality",
                self.strip,
                following,
                self.checked,
                self.hint,
                self.one_label,
            ),
            group("Labels", row(self.label_table, self.finish, self.three_views)),
            group(
                "Files",
                self.save_button,
                row(self.save_session_button, self.open_session_button),
            ),
            Fold("Settings", "How masks are propagated through the volume.", settings),
            Fold("Keys", "Keyboard shortcuts of this panel.", self.keys),
        ]

    def show_labelled(self, n_slices: int) -> None:
        """Offer to use labelled slices as seeds; hidden where there are none."""
        one = n_slices == 1
        what = "the labelled slice as a seed" if one else f"{n_slices} labelled slices as seeds"
        self.take_labels.setText(f"Take {what}")
        self.take_labels.setHidden(not n_slices)

    def show_undo(self, undo: str | None, redo: str | None) -> None:
        """Show what can be undone and redone: ``run``, ``mark``, ``click`` or nothing."""
        for widget, verb, word in (
            (self.undo_button, "Undo", undo),
            (self.redo_button, "Redo", redo),
        ):
            widget.setText(f"{verb} {word or 'run'}")
            widget.setEnabled(word is not None)

    def read_request(
        self, image: Image, mode: str = "auto", labels: tuple[int, ...] = ()
    ) -> RunRequest:
        """A run with the settings of the controls."""
        window = self.settings.window
        if window == LAYER_LIMITS:
            window = LIMITS.format(*image.contrast_limits)
        return RunRequest(
            model=self.model.model,
            device=self.model.device,
            config=self.settings.record.replace(direction=self.run_bar.direction),
            window=window,
            models_folder=self.model.folder,
            labels=labels,
            mode=mode,
            write_range=self.run_bar.write_range,
        )
