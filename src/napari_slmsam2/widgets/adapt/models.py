"""The models that were adapted here: renamed, deleted, exported."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from napari.utils.notifications import show_error, show_info
from qtpy.QtWidgets import (
    QInputDialog,
    QLineEdit,
    QMessageBox,
    QVBoxLayout,
    QWidget,
)

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.engine.weights.local_models import SUFFIX, find_adapted
from napari_slmsam2.engine.weights.model_folder import delete_model, file_of, rename_model
from napari_slmsam2.widgets.common.choosers import NarrowCombo, wrapped_label
from napari_slmsam2.widgets.common.file_dialogs import ask_save_path
from napari_slmsam2.widgets.common.layout import button, row
from napari_slmsam2.widgets.common.model_events import model_events


class ModelManager(QWidget):
    """A list of adapted models and what can be done with the chosen one.

    Parameters
    ----------
    folder : str or None
        Of models.
    """

    def __init__(self, folder: str | None) -> None:
        super().__init__()
        self._folder = folder
        self.models = NarrowCombo()
        self.models.setToolTip("Models in the folder of models.")
        self.about = wrapped_label()
        self.about.setToolTip("Metadata of the file.")
        self.rename_button = button("Rename ...", "Give the chosen model another name.")
        self.export_button = button(
            "Export ...", "Copy the file, to give it away; it names no files of yours."
        )
        self.delete_button = button("Delete ...", "Delete the file, after a confirmation.")
        self.rename_button.clicked.connect(self.rename)
        self.export_button.clicked.connect(self.export)
        self.delete_button.clicked.connect(self.delete)
        self.models.currentIndexChanged.connect(self._show_chosen)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.models)
        layout.addWidget(self.about)
        layout.addLayout(row(self.rename_button, self.export_button, self.delete_button))
        model_events.changed.connect(self._on_models)
        self._fill("")

    def close_connections(self) -> None:
        """Disconnect from the events of the folder of models."""
        model_events.changed.disconnect(self._on_models)

    def rename(self) -> None:
        """Ask for another name."""
        old = self.models.currentText()
        new, agreed = QInputDialog.getText(
            self, "Rename a model", f"New name of {old}:", QLineEdit.EchoMode.Normal, old
        )
        new = new.strip()
        if agreed and new and new != old:
            self._try(lambda: rename_model(old, new, self._folder), old, new)

    def delete(self) -> None:
        """Ask once more, then delete."""
        name = self.models.currentText()
        answer = QMessageBox.question(
            self, "Delete a model", f"Delete the model {name}? It cannot be brought back."
        )
        if answer == QMessageBox.StandardButton.Yes:
            self._try(lambda: delete_model(name, self._folder), name, "")

    def export(self) -> None:
        """Ask for a file and copy the model to it."""
        name = self.models.currentText()
        path = ask_save_path(self, "Export a model", name + SUFFIX, f"Weights (*{SUFFIX})")
        if path is None:
            return
        try:
            source = file_of(name, self._folder)
            atomic_write(path, lambda file: shutil.copyfile(source, file), overwrite=True)
        except SlmSam2Error as error:
            show_error(str(error))
        else:
            show_info(f"Exported {path}.")

    def _try(self, action: Callable[[], object], old: str, new: str) -> None:
        try:
            action()
        except SlmSam2Error as error:
            show_error(str(error))
        else:
            model_events.changed.emit(old, new)

    def _on_models(self, old: str, new: str) -> None:
        self._fill(new)

    def _fill(self, chosen: str) -> None:
        chosen = chosen or self.models.currentText()
        self.models.clear()
        for card in find_adapted(self._folder):
            self.models.addItem(card.name, card)
        self.models.setCurrentIndex(max(0, self.models.findText(chosen)))
        self._show_chosen()

    def _show_chosen(self) -> None:
        card = self.models.currentData()
        text = "No model yet. An adapted one appears here and in the lists of models."
        self.about.setText(text if card is None else card.description)
        for widget in (self.rename_button, self.export_button, self.delete_button):
            widget.setEnabled(card is not None)
