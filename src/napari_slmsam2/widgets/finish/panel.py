"""The dock widget: remove islands, fill holes and smooth labels, with a preview."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from napari import Viewer
from napari.layers import Labels
from napari.qt.threading import create_worker
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_warning
from qtpy.QtWidgets import QCheckBox, QVBoxLayout

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.finish import (
    HOLES,
    ISLANDS,
    SMOOTH,
    FinishChanges,
    FinishRequest,
    apply_changes,
    find_changes,
)
from napari_slmsam2.widgets.common.choosers import wrapped_label
from napari_slmsam2.widgets.common.closing import ClosingWidget
from napari_slmsam2.widgets.common.layout import button, row, set_text
from napari_slmsam2.widgets.common.own_layers import add_own_layer, remove_layer
from napari_slmsam2.widgets.common.settings_form import form_of
from napari_slmsam2.widgets.files.saving import attempt
from napari_slmsam2.widgets.runs.open_panels import OpenPanel, PanelFollower
from napari_slmsam2.widgets.workspace.grid import SliceView
from napari_slmsam2.widgets.workspace.slicing import transform_of

_FIELDS = {"smallest": ISLANDS, "largest": HOLES, "per_slice": HOLES, "sigma": SMOOTH}
"""Fields that belong to one tool."""
_AT_ZERO = {"smallest": "the largest only", "largest": "any size"}
"""What 0 stands for."""
_TITLES = {ISLANDS: "Remove islands", HOLES: "Fill holes", SMOOTH: "Smooth between slices"}
_REMOVED, _ADDED = 1, 2
_COLOURS = {None: "transparent", _REMOVED: "#ff3030", _ADDED: "#30e050"}


class FinishWidget(ClosingWidget):
    """Finishes labels of the Annotate panel; each application is one step of its undo.

    Parameters
    ----------
    napari_viewer : Viewer
        napari finds this parameter by its name, and gives a proxy of the viewer.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.form = form_of(FinishRequest(first=0, last=0), ("labels",))
        self.form.editors["tool"].choices = [(title, tool) for tool, title in _TITLES.items()]
        for name, text in _AT_ZERO.items():
            self.form.editors[name].native.setSpecialValueText(text)
        self.all_labels = QCheckBox("All labels")
        self.all_labels.setToolTip("All labels that are not locked; else the selected one.")
        self.preview_button = button("Preview", "Show what would change, and change nothing.")
        self.apply_button = button("Apply", "Change the labels; the panel's Undo restores them.")
        self.message = wrapped_label()
        self.message.setToolTip("What changes, or why nothing can be done.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 4)
        layout.setSpacing(3)
        layout.addWidget(self.form)
        layout.addWidget(self.all_labels)
        layout.addLayout(row(self.preview_button, self.apply_button))
        layout.addWidget(self.message)
        layout.addStretch()
        self.setMinimumWidth(240)
        self._follower = PanelFollower(self.viewer, self, self._signals, self._on_target)
        self._target: Annotation | None = None
        self._found: FinishChanges | None = None
        self._layer: Labels | None = None
        self._asked = 0
        self._working = False
        self.form.changed.connect(self._on_settings)
        self.all_labels.toggled.connect(lambda: self.discard())
        self.preview_button.clicked.connect(self.preview)
        self.apply_button.clicked.connect(self.apply)
        self._on_settings()
        self._follower.start()
        self.release_at_end(self._follower, self)

    def close_connections(self) -> None:
        """Remove the preview."""
        self.discard()

    # -- the panel

    @property
    def _panel(self) -> OpenPanel | None:
        return self._follower.panel

    def _signals(self, panel: OpenPanel) -> list[tuple[Any, Callable[[], None]]]:
        space = panel.workspace
        return [
            (space.target_changed, self._on_target),
            (space.seeds_changed, self.discard),
            (space.label_changed, self.discard),
            (panel.runs.changed, self.discard),
        ]

    def _on_target(self) -> None:
        annotation = self.annotation
        if annotation is not None and annotation is not self._target:
            last = annotation.volume.n_slices - 1
            self.form.editors["last"].max = self.form.editors["first"].max = last
            self.form.editors["first"].value, self.form.editors["last"].value = 0, last
        self._target = annotation
        self.discard()

    def _on_settings(self) -> None:
        tool = self.form.editors["tool"].value
        for name, owner in _FIELDS.items():
            self.form.set_visible(name, owner == tool)
        self.discard()

    @property
    def annotation(self) -> Annotation | None:
        """The annotation whose labels are finished."""
        return None if self._panel is None else self._panel.workspace.annotation

    @property
    def busy(self) -> bool:
        """Whether changes are being computed."""
        return self._working

    # -- what a person does

    def preview(self) -> None:
        """Show in a layer of its own what would change: red is removed, green is added."""
        self._compute(self._show)

    def apply(self) -> None:
        """Make the changes that are previewed, or compute and make them."""
        if self._found is not None:
            self._apply(self._found)
        else:
            self._compute(self._apply)

    def discard(self) -> None:
        """Remove the preview."""
        self._asked += 1
        self._found = None
        remove_layer(self.viewer, self._layer)
        self._layer = None
        self._show_state("")

    def _show_state(self, text: str) -> None:
        idle = self._panel is not None and not self._panel.runs.runner.running
        ready = idle and self.annotation is not None and not self._working
        if self._panel is None:
            text = "Open the Annotate panel first."
        for widget in (self.preview_button, self.apply_button):
            widget.setEnabled(ready)
        set_text(self.message, text)

    def _compute(self, then: Callable[[FinishChanges], None]) -> None:
        annotation, panel = self.annotation, self._panel
        if annotation is None or panel is None or self._working:
            return
        panel.tracker.scan_all()  # what was painted is part of it
        self.discard()
        labels = () if self.all_labels.isChecked() else (panel.workspace.label,)
        asked = self._asked
        try:
            request = self.form.record.replace(labels=labels)
        except SlmSam2Error as error:
            self._show_state(str(error))
            return

        def on_returned(result: tuple[FinishChanges | None, str]) -> None:
            self._working = False
            if self._closed:
                return
            found, problem = result
            if asked != self._asked:  # settings or labels have changed meanwhile
                self._show_state("")
            elif found is None:
                self._show_state(problem)
            elif not found.slices:
                self._show_state("There is nothing to change.")
            else:
                self._show_state("")
                then(found)

        worker = create_worker(
            attempt, find_changes, annotation, request, _start_thread=False, _ignore_errors=True
        )
        worker.returned.connect(on_returned)
        self._working = True
        self._show_state("Computing ...")
        worker.start()

    def _show(self, found: FinishChanges) -> None:
        panel = self._panel
        if panel is None or panel.workspace.labels is None or panel.workspace.view is None:
            return
        labels, space = panel.workspace.labels, panel.workspace
        layer = Labels(
            _difference(found, labels, panel.workspace.view),
            name=f"Preview: {_TITLES[found.request.tool].lower()}",
            colormap=DirectLabelColormap(color_dict=_COLOURS),
            opacity=1.0,
            **transform_of(labels),
        )
        layer.editable = False
        add_own_layer(self.viewer, layer)
        self._found, self._layer = found, layer
        if space.index not in found.slices:
            space.go_to(min(found.slices, key=lambda index: abs(index - space.index)))
        self._show_state(_describe(found, " (red)", " (green)"))

    def _apply(self, found: FinishChanges) -> None:
        annotation, panel = self.annotation, self._panel
        if annotation is None or panel is None:
            return
        panel.tracker.flush()
        try:
            slices = apply_changes(annotation, found)
            self.discard()
            panel.workspace.show(slices)
        except SlmSam2Error as error:
            show_warning(str(error))
            return
        self._show_state(f"Done. {_describe(found)}")


def _difference(found: FinishChanges, layer: Labels, view: SliceView) -> Any:
    """Removed and added voxels, on the grid of a layer."""
    shown = np.zeros(layer.data.shape, np.uint8)
    for index, (before, after) in found.slices.items():
        changed = before != after
        plane = np.where(after == 0, _REMOVED, _ADDED)
        shown[view.slice_key(index)] = np.where(changed, plane, 0)
    return shown


def _describe(found: FinishChanges, red: str = "", green: str = "") -> str:
    labels = ", ".join(map(str, found.labels[:6])) + (" ..." if len(found.labels) > 6 else "")
    one = len(found.labels) == 1
    return (
        f"Label{'' if one else 's'} {labels}: {found.removed} voxels removed{red}, "
        f"{found.added} added{green} on {len(found.slices)} slices."
    )
