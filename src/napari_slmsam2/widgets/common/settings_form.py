"""A form made out of the fields of `PropagationConfig`."""

from __future__ import annotations

import dataclasses
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QSpinBox, QVBoxLayout, QWidget

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.intensity import CT_PRESETS, DEFAULT_WINDOW
from napari_slmsam2.widgets.common.choosers import NarrowCombo
from napari_slmsam2.widgets.common.layout import folded

LAYER_LIMITS = "layer"
"""Stands for the contrast limits of the image layer."""

_ELSEWHERE = ("direction",)
_LARGEST = 2**20


class SettingsForm(QWidget):
    """Settings of a run; the rarely used ones are folded.

    Parameters
    ----------
    config : PropagationConfig, optional
        What is shown at first.
    """

    changed = Signal()

    def __init__(self, config: PropagationConfig | None = None) -> None:
        super().__init__()
        self._editors: dict[str, QComboBox | QSpinBox] = {}
        usual, advanced = QFormLayout(), QFormLayout()
        for form in (usual, advanced):
            form.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapAllRows)
            form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.window_editor = NarrowCombo()
        self.window_editor.addItem("Percentiles 0.5 to 99.5", DEFAULT_WINDOW)
        self.window_editor.addItem("Contrast limits of the layer", LAYER_LIMITS)
        for name in CT_PRESETS:
            self.window_editor.addItem(f"CT {name.replace('_', ' ')}", name)
        self.window_editor.setToolTip(
            "Which intensities the model sees as black and as white, the same for all slices."
        )
        self.window_editor.currentIndexChanged.connect(lambda: self.changed.emit())
        usual.addRow("Intensity window", self.window_editor)
        for field in PropagationConfig.fields():
            if field.name not in _ELSEWHERE:
                editor = self._editor(field)
                self._editors[field.name] = editor
                form = advanced if field.metadata["advanced"] else usual
                form.addRow(field.metadata["title"], editor)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(usual)
        inner = QWidget()
        inner.setLayout(advanced)
        layout.addWidget(folded("Advanced", "Settings that are rarely changed.", inner))
        self.set_config(config or PropagationConfig())

    def _editor(self, field: dataclasses.Field[Any]) -> QComboBox | QSpinBox:
        about, editor = field.metadata, QSpinBox()
        if about["choices"] is not None:
            editor = NarrowCombo()
            for choice in about["choices"]:
                editor.addItem(str(choice), choice)
            editor.currentIndexChanged.connect(lambda: self.changed.emit())
        else:
            lowest = int(about["minimum"] or 0)
            # The value below the lowest one stands for none.
            editor.setRange(lowest - 1 if field.default is None else lowest, _LARGEST)
            if field.default is None:
                editor.setSpecialValueText("model's own")
            if about["unit"]:
                editor.setSuffix(f" {about['unit']}")
            editor.valueChanged.connect(lambda: self.changed.emit())
        editor.setToolTip(about["help"])
        return editor

    @property
    def config(self) -> PropagationConfig:
        """The settings as shown."""
        values: dict[str, Any] = {}
        for field in PropagationConfig.fields():
            editor = self._editors.get(field.name)
            if isinstance(editor, QComboBox):
                values[field.name] = editor.currentData()
            elif editor is not None:
                value = editor.value()
                none = field.default is None and value == editor.minimum()
                values[field.name] = None if none else value
        return PropagationConfig(**values)

    def set_config(self, config: PropagationConfig) -> None:
        """Show other settings."""
        for name, editor in self._editors.items():
            value = getattr(config, name)
            if isinstance(editor, QComboBox):
                editor.setCurrentIndex(editor.findData(value))
            else:
                editor.setValue(editor.minimum() if value is None else value)

    def set_window(self, window: str) -> None:
        """Show another intensity window; one that is no choice yet becomes one."""
        index = self.window_editor.findData(window)
        if index < 0:
            index = self.window_editor.count()
            self.window_editor.addItem(window.replace(",", " to "), window)
        self.window_editor.setCurrentIndex(index)

    @property
    def window(self) -> str:
        """The intensity window: as `parse_window` reads it, or `LAYER_LIMITS`."""
        return str(self.window_editor.currentData())
