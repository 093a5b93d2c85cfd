"""Choosers of layers, of the model and of the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari import Viewer
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QLabel,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QVBoxLayout,
    QWidget,
)

from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL, ModelCard, get_model, list_models
from napari_slmsam2.widgets.common.layout import form
from napari_slmsam2.widgets.common.model_events import model_events
from napari_slmsam2.widgets.common.own_layers import is_own

_FILE = "A file of weights ..."
_PADDING = 10
"""Pixels around the text of a combo box, in napari's style."""


class NarrowCombo(QComboBox):
    """A combo box that may be narrower than its entries: their ends are left out with "..."."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(80)

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw it as Qt does, but for the text."""
        del event
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        room = self.style().subControlRect(
            QStyle.ComplexControl.CC_ComboBox,
            option,
            QStyle.SubControl.SC_ComboBoxEditField,
            self,
        )
        option.currentText = self.fontMetrics().elidedText(
            option.currentText, Qt.TextElideMode.ElideRight, room.width() - _PADDING
        )
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()


def wrapped_label() -> QLabel:
    """A line of text that breaks instead of widening the panel."""
    label = QLabel()
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
    return label


class LayerChooser(NarrowCombo):
    """A chooser of the layers of one kind; it follows the layer list.

    Parameters
    ----------
    viewer : Viewer
    kind : type
    """

    chosen = Signal(object)
    """The layer that the user chose, or that replaces a removed one; or None."""

    def __init__(self, viewer: Viewer, kind: type[Image] | type[Labels]) -> None:
        super().__init__()
        self._viewer = viewer
        self._kind = kind
        self._layers: list[Layer] = []
        self.currentIndexChanged.connect(lambda: self.chosen.emit(self.layer))
        for event in self._events():
            event.connect(self._on_layers)
        self._on_layers()

    @property
    def layer(self) -> Layer | None:
        """The chosen layer; None if there is none."""
        index = self.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def choose(self, layer: Layer | None) -> None:
        """Choose a layer without a signal."""
        with QSignalBlocker(self):
            self.setCurrentIndex(self._layers.index(layer) if layer in self._layers else -1)

    def close_connections(self) -> None:
        """Disconnect from viewer and layers."""
        for event in self._events():
            event.disconnect(self._on_layers)
        for layer in self._layers:
            layer.events.name.disconnect(self._on_layers)

    def _events(self) -> tuple[Any, ...]:
        events = self._viewer.layers.events
        return events.inserted, events.removed, events.reordered, events.changed

    def _on_layers(self, event: object = None) -> None:
        before = self.layer
        for layer in self._layers:
            layer.events.name.disconnect(self._on_layers)
        # The top layer first, as in the layer list.
        layers = reversed(self._viewer.layers)
        self._layers = [x for x in layers if isinstance(x, self._kind) and not is_own(x)]
        for layer in self._layers:
            layer.events.name.connect(self._on_layers)
        with QSignalBlocker(self):
            self.clear()
            self.addItems([layer.name for layer in self._layers])
            visible = [layer for layer in self._layers if layer.visible]
            after = before if before in self._layers else next(iter(visible or self._layers), None)
            self.setCurrentIndex(-1 if after is None else self._layers.index(after))
        if after is not before:
            self.chosen.emit(after)


class ModelChooser(QWidget):
    """The model, with its licence and the size of what would be downloaded; and the device.

    Parameters
    ----------
    model, device : str
        Initial choice.
    folder : str or None
        Where files of weights are kept.

    Attributes
    ----------
    devices : NarrowCombo
        The device, to be placed elsewhere: it is rarely changed.
    """

    changed = Signal()

    def __init__(
        self, model: str = DEFAULT_MODEL, device: str = "auto", folder: str | None = None
    ) -> None:
        super().__init__()
        self.folder = folder
        self._models = NarrowCombo()
        self._models.setToolTip("The model that propagates the masks from slice to slice.")
        self._fill()
        self.devices = NarrowCombo()
        self.devices.addItems(["auto", "cpu", "cuda", "mps"])
        self.devices.setToolTip(
            "Where a network runs. auto: the graphics card, if there is one. Models without "
            "weights run on the CPU."
        )
        self._about = wrapped_label()
        self._about.setToolTip("Licence and requirements of the model.")
        chosen = self._models.findData(model)
        self._models.setCurrentIndex(
            chosen if chosen >= 0 else self._models.findData(DEFAULT_MODEL)
        )
        self.devices.setCurrentText(device)
        self._last = self._models.currentIndex()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form(("Model", self._models)))
        layout.addWidget(self._about)
        self._models.activated.connect(self._on_activated)
        self._models.currentIndexChanged.connect(self._on_changed)
        self.devices.currentIndexChanged.connect(lambda: self.changed.emit())
        model_events.changed.connect(self._on_models)
        self._on_changed()

    @property
    def model(self) -> str:
        """Name of the model, or its file."""
        return str(self._models.currentData() or DEFAULT_MODEL)

    @property
    def device(self) -> str:
        """Name of the device."""
        return self.devices.currentText()

    @property
    def to_download(self) -> ModelCard | None:
        """The model, if its weights have to be downloaded first; else None."""
        card = self._card()
        if card is None or not card.needs_download:
            return None
        from napari_slmsam2.engine.weights.download import is_downloaded

        return None if is_downloaded(card, self.folder) else card

    def choose(self, model: str) -> None:
        """Choose a model by name, or a file of weights."""
        index = self._models.findData(model)
        if index < 0:
            index = self._models.count() - 1
            self._models.insertItem(index, Path(model).name, model)
        self._models.setCurrentIndex(index)

    def show_ready(self, model: str, device: str, precision: str) -> None:
        """Show on which device the model runs."""
        self._about.setText(f"{model} runs on {device} in {precision}.")

    def _fill(self) -> None:
        self._models.clear()
        for card in list_models(self.folder):
            self._models.addItem(card.title, card.name)
            self._models.setItemData(self._models.count() - 1, card.description, 3)
        self._models.addItem(_FILE, None)

    def _on_models(self, old: str, new: str) -> None:
        """List the present models; one that was renamed stays chosen."""
        chosen = new if self.model == old else self.model
        with QSignalBlocker(self._models):
            self._fill()
            index = self._models.findData(chosen or DEFAULT_MODEL)
            self._models.setCurrentIndex(index)
        if index < 0:
            self.choose(chosen)
        self._on_changed()

    def _card(self) -> ModelCard | None:
        try:
            return get_model(self.model, self.folder)
        except ConfigError:
            return None

    def _on_activated(self, index: int) -> None:
        if self._models.itemText(index) != _FILE:
            return
        path, _ = QFileDialog.getOpenFileName(
            self, "File of weights", filter="Weights (*.safetensors *.pt *.pth)"
        )
        if path:
            self.choose(path)
        else:
            self._models.setCurrentIndex(self._last)

    def _on_changed(self) -> None:
        if self._models.currentText() == _FILE:
            return
        self._last = self._models.currentIndex()
        card, missing = self._card(), self.to_download
        if card is None:
            text = f"From the file {self.model}."
        elif missing is not None and missing.weights is not None:
            text = f"{card.licence}; downloads {missing.weights.size / 1e6:.0f} MB at the first run"
        elif card.path is not None and not card.bundled:
            text = card.description
        elif card.needs_download:
            text = f"{card.licence}; weights are on this computer"
        elif card.bundled:
            text = f"{card.licence}; comes with this package"
        else:
            text = f"{card.licence}; needs no weights, runs on the CPU"
        self._about.setText(text)
        about = text if card is None else card.description
        self._models.setToolTip(about)
        self._about.setToolTip(about)
        self.changed.emit()
