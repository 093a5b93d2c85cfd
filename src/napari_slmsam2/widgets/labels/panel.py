"""The dock widget: a table of the labels of the Annotate panel, to sort, jump to and edit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from napari import Viewer
from napari.layers import Labels
from napari.utils.notifications import show_info, show_warning
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QColorDialog, QFileDialog, QSizePolicy, QVBoxLayout

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.core.label_table import RGBA, LabelTable
from napari_slmsam2.io.label_names import named_labels, read_label_names, write_label_names
from napari_slmsam2.io.layer_grid import colours_of
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.label_edits import (
    delete_labels,
    lock_labels,
    mark_done,
    merge_labels,
    recolour_label,
    rename_label,
    take_names,
)
from napari_slmsam2.session.label_rows import LabelRow, write_csv
from napari_slmsam2.widgets.common.closing import ClosingWidget
from napari_slmsam2.widgets.common.docking import open_panel
from napari_slmsam2.widgets.common.file_dialogs import ask_save_path
from napari_slmsam2.widgets.common.layout import set_text
from napari_slmsam2.widgets.common.wording import LIMITS
from napari_slmsam2.widgets.labels.counting import LabelCounter
from napari_slmsam2.widgets.labels.features import fill_features
from napari_slmsam2.widgets.labels.look import Look
from napari_slmsam2.widgets.labels.view import LabelTableView
from napari_slmsam2.widgets.runs.open_panels import OpenPanel, PanelFollower
from napari_slmsam2.widgets.workspace.grid import voxel_volume


class LabelTableWidget(ClosingWidget):
    """Shows one row per label of the Annotate panel's Labels layer, and edits them.

    Every edit is one step of the panel's undo.

    Parameters
    ----------
    napari_viewer : Viewer
        napari finds this parameter by its name, and gives a proxy of the viewer.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.view = LabelTableView()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.view)
        # Else napari puts an empty space below.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self.counter, self.look = LabelCounter(self), Look(self.viewer, self)
        self._follower = PanelFollower(self.viewer, self, self._signals, self._on_target)
        self._layer: Labels | None = None
        self._shown: Annotation | None = None
        self._filled: tuple[Labels, list[LabelRow]] | None = None
        self.counter.counted.connect(self._on_counted)
        self._wire()
        self._follower.start()
        self.release_at_end(self.counter, self.look, self._follower, self)

    def _wire(self) -> None:
        view, model, table = self.view, self.view.model, self.view.table
        view.search.textChanged.connect(self._filter)
        view.hide_done.toggled.connect(self._filter)
        table.chosen.connect(self._choose)
        table.opened.connect(partial(self._go_to, first=False))
        table.delete.connect(self.delete)
        table.selectionModel().selectionChanged.connect(lambda *_: self._show_buttons())
        model.modelReset.connect(self._show_buttons)
        model.renamed.connect(lambda label, name: self._edit(rename_label, label, name))
        model.locked.connect(lambda label, locked: self._edit(lock_labels, [label], locked))
        model.marked_done.connect(lambda label, done: self._edit(mark_done, [label], done))
        view.first.clicked.connect(lambda: self._go_to(table.current, first=True))
        view.largest.clicked.connect(lambda: self._go_to(table.current, first=False))
        view.merge.clicked.connect(self.merge)
        view.remove.clicked.connect(self.delete)
        view.look.clicked.connect(self.look_at)
        view.open_panel.clicked.connect(self._open_panel)
        for title, action in (
            ("Colour of the label ...", self.recolour),
            ("Lock the selected labels", lambda: self._edit(lock_labels, table.labels, True)),
            ("Unlock the selected labels", lambda: self._edit(lock_labels, table.labels, False)),
            ("Mark the selected labels as done", lambda: self._edit(mark_done, table.labels, True)),
            ("Save the table as CSV ...", self.save_csv),
            ("Save names and colours ...", self.save_names),
            ("Read names and colours ...", self.read_names),
            ("Save a picture of the slices ...", self.save_picture),
            ("Save the surface as STL ...", self.save_surface),
        ):
            view.menu.addAction(title, action)

    # -- the panel

    @property
    def _panel(self) -> OpenPanel | None:
        return self._follower.panel

    def _signals(self, panel: OpenPanel) -> list[tuple[Any, Callable[[], None]]]:
        space, runs = panel.workspace, panel.runs
        return [
            (space.target_changed, self._on_target),
            (space.seeds_changed, self.refresh),
            (space.label_changed, self._on_label),
            (runs.runner.ticked, self.refresh),
            (runs.changed, self._on_run),
        ]

    def close_connections(self) -> None:
        """Disconnect from the layer."""
        self._follow(None)

    def _follow(self, layer: Labels | None) -> None:
        if layer is self._layer:
            return
        if self._layer is not None:
            self._layer.events.colormap.disconnect(self._on_colours)
        self._layer = layer
        if layer is not None:
            layer.events.colormap.connect(self._on_colours)

    def _on_target(self) -> None:
        annotation, layer = self.annotation, None
        if self._panel is not None and annotation is not None:
            layer = self._panel.workspace.labels
        self._follow(layer)
        if annotation is None or annotation is not self._shown:
            self._shown = None
            self.view.model.set_rows([], {})
        self.view.open_panel.setHidden(self._panel is not None)
        text = ""
        if self._panel is None:
            text = "The Annotate panel is not open."
        elif annotation is None:
            text = "Choose an image and a Labels layer in the Annotate panel."
        set_text(self.view.message, text)
        self.refresh()
        self._show_buttons()

    def _on_run(self) -> None:
        self.refresh()
        self._show_buttons()

    def _on_label(self) -> None:
        """Select the row of the label that is painted with."""
        if self._panel is not None and self._panel.workspace.label not in self.view.table.labels:
            self.view.table.select(self._panel.workspace.label)

    def _on_colours(self, event: Any = None) -> None:
        self.view.model.set_rows(self.view.model.rows, self._colours(self.view.model.rows))

    def _open_panel(self) -> None:
        open_panel(self.viewer, "Annotate")

    # -- rows

    @property
    def annotation(self) -> Annotation | None:
        """The annotation whose labels are shown."""
        return None if self._panel is None else self._panel.workspace.annotation

    @property
    def rows(self) -> list[LabelRow]:
        """The rows, in the order of the labels."""
        return self.view.model.rows

    def refresh(self) -> None:
        """Count again what has changed."""
        annotation = self.annotation
        if annotation is None or self._panel is None or self._closed:
            return
        space = self._panel.workspace
        if space.labels is not None and space.view is not None:
            self.counter.request(annotation, voxel_volume(space.labels, space.view))

    def _on_counted(self, annotation: Annotation, rows: list[LabelRow]) -> None:
        if annotation is not self.annotation:
            return
        self._shown = annotation
        self.view.model.set_rows(rows, self._colours(rows))
        running = self._panel is not None and self._panel.runs.runner.running
        if self._layer is not None and not running and self._filled != (self._layer, rows):
            self._filled = self._layer, rows
            fill_features(self._layer, rows)
        if not self.view.table.labels:
            self._on_label()
        self._show_buttons()

    def _colours(self, rows: list[LabelRow]) -> dict[int, RGBA]:
        if self._layer is None or not rows:
            return {}
        labels = [row.label for row in rows]
        found = np.asarray(colours_of(self._layer.colormap)(np.array(labels))).tolist()
        return {label: (r, g, b, a) for label, (r, g, b, a) in zip(labels, found, strict=True)}

    def _filter(self) -> None:
        view = self.view
        view.table.filter.set_filter(view.search.text(), hide_done=view.hide_done.isChecked())

    def _show_buttons(self) -> None:
        view, labels = self.view, self.view.table.labels
        ready = self.annotation is not None
        idle = ready and self._panel is not None and not self._panel.runs.runner.running
        for widget in (view.first, view.largest, view.look):
            widget.setEnabled(ready and len(labels) > 0)
        view.remove.setEnabled(idle and len(labels) > 0)
        view.merge.setEnabled(idle and len(labels) > 1)
        view.merge.setText(f"Merge into {view.table.current}" if len(labels) > 1 else "Merge")
        view.more.setEnabled(ready)

    # -- what a person does

    def _choose(self, label: int) -> None:
        """Paint with a label."""
        if self._layer is not None:
            self._layer.selected_label = label

    def _go_to(self, label: int | None, *, first: bool) -> None:
        found = next((row for row in self.rows if row.label == label), None)
        if found is None or self._panel is None:
            return
        index = found.first if first else found.largest
        if index < 0:
            show_info(f"Label {label} is on no slice.")
        else:
            self._panel.workspace.go_to(index, label)

    def recolour(self) -> None:
        """Ask for the colour of the label that was selected last."""
        label = self.view.table.current
        if label is None or self._layer is None:
            return
        now = QColor.fromRgbF(*self._colours([LabelRow(label)])[label][:3])
        chosen = QColorDialog.getColor(now, self, f"Colour of label {label}")
        if chosen.isValid():
            colour = chosen.redF(), chosen.greenF(), chosen.blueF(), 1.0
            self._edit(recolour_label, label, colour)

    def merge(self) -> None:
        """Merge the selected labels into the one that was selected last."""
        labels, into = self.view.table.labels, self.view.table.current
        if self.view.merge.isEnabled() and into is not None:
            self._edit(merge_labels, labels, into)

    def delete(self) -> None:
        """Delete the selected labels."""
        if self.view.remove.isEnabled():
            self._edit(delete_labels, self.view.table.labels)

    def look_at(self) -> None:
        """Show the surfaces of the selected labels in 3D."""
        annotation, space = self.annotation, None if self._panel is None else self._panel.workspace
        if annotation is None or space is None or space.view is None or self._layer is None:
            return
        labels = self.view.table.labels
        names = [row.name or f"Label {row.label}" for row in self.rows if row.label in labels]
        self.look.show(annotation, self._layer, space.view, labels, names)

    def _edit(self, edit: Callable[..., Any], *args: Any) -> None:
        """Make an edit of `session.label_edits`, and show it."""
        annotation, panel = self.annotation, self._panel
        if annotation is None or panel is None:
            return
        try:
            panel.tracker.flush()  # what was painted is part of it
            panel.workspace.show(edit(annotation, *args) or ())
        except SlmSam2Error as error:
            show_warning(str(error))
            self.refresh()

    # -- files

    def save_csv(self) -> None:
        """Ask for a file and write the table to it."""
        path = ask_save_path(self, "Save the label table", "labels.csv", "CSV (*.csv)")
        if path is not None:
            self._report(write_csv, path, self.rows)

    def save_names(self) -> None:
        """Ask for a file and write names and colours to it, as ITK-SNAP does."""
        path, annotation = None, self.annotation
        if annotation is not None:
            path = ask_save_path(self, "Save names and colours", "labels.txt", "ITK-SNAP (*.txt)")
        if path is not None and annotation is not None:
            labels = [row.label for row in self.rows]
            shown = LabelTable(colours=self._colours(self.rows))
            table = named_labels(shown.updated(annotation.table), labels)
            self._report(write_label_names, path, table)

    def read_names(self) -> None:
        """Ask for a label description file of ITK-SNAP and take over names and colours."""
        path, _ = QFileDialog.getOpenFileName(
            self, "Read names and colours", filter="ITK-SNAP (*.txt *.label)"
        )
        if path:
            try:
                table = read_label_names(path)
            except SlmSam2Error as error:
                show_warning(str(error))
            else:
                self._edit(take_names, table)

    def save_picture(self) -> None:
        """Ask for a file and write a picture of the slices that matter to it."""
        annotation, panel = self.annotation, self._panel
        if annotation is None or panel is None or panel.workspace.image is None:
            return
        window = LIMITS.format(*panel.workspace.image.contrast_limits)
        path = ask_save_path(self, "Save a picture", "slices.png", "PNG (*.png)")
        if path is not None:
            self.look.save_picture(path, annotation, window)

    def save_surface(self) -> None:
        """Ask for a file and write the surface of the label that was selected last to it."""
        label, annotation, panel = self.view.table.current, self.annotation, self._panel
        if label is None or annotation is None or panel is None or self._layer is None:
            return
        view = panel.workspace.view
        path = ask_save_path(
            self, f"Save the surface of label {label}", f"label_{label}.stl", "STL (*.stl)"
        )
        if path is not None and view is not None:
            self.look.save_stl(path, annotation, self._layer, view, label)

    @staticmethod
    def _report(write: Callable[..., Path], path: Path, content: Any) -> None:
        try:
            show_info(f"Saved {write(path, content, overwrite=True)}.")
        except SlmSam2Error as error:
            show_warning(str(error))
