"""Forms made by magicgui out of settings records."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import Field
from types import NoneType
from typing import Annotated, Any, Generic, TypeVar, get_args, get_type_hints

from magicgui.widgets import CheckBox, ComboBox, FloatSpinBox, create_widget
from magicgui.widgets.bases import ValueWidget
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QSizePolicy, QVBoxLayout, QWidget

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.intensity import WINDOW_CHOICES
from napari_slmsam2.core.settings import Settings
from napari_slmsam2.widgets.common.fold import Fold

LAYER_LIMITS = "layer"
"""Stands for the contrast limits of the image layer."""

_LARGEST = 2**20
_MOST_DECIMALS = 8

Record = TypeVar("Record", bound=Settings)


class NumberBox(FloatSpinBox):
    """A spin box of magicgui for whole numbers, too, with a unit and a place for None.

    magicgui's own `SpinBox` stands on a Qt widget without suffix and special value.

    Parameters
    ----------
    min, max : float
    decimals : int
        0: the value is an int.
    unit : str or None
    none : str or None
        What the value below the lowest one is called, which then stands for None.
    """

    def __init__(
        self,
        *,
        value: Any,
        min: float,  # noqa: A002 - magicgui's name
        max: float,  # noqa: A002
        decimals: int,
        unit: str | None = None,
        none: str | None = None,
        **options: Any,
    ) -> None:
        self._whole, self._none = decimals == 0, none is not None
        options["nullable"] = self._none
        super().__init__(**options)
        # First of all: Qt rounds the range to its decimals.
        self.native.setDecimals(decimals)
        self.native.setSuffix(f" {unit}" if unit else "")
        self.native.setSpecialValueText(none or "")
        self.range = min - self._none, max
        self.value = value

    def get_value(self) -> float | None:
        """The number, or None."""
        value = super().get_value()
        if self._none and value == self.min:
            return None
        return int(value) if self._whole else float(value)

    def set_value(self, value: float | None) -> None:
        """Show a number, or what stands for None."""
        super().set_value(self.min if value is None else value)


def annotated_types(record: type[Settings]) -> dict[str, Any]:
    """The fields of a settings record as `Annotated` types, with magicgui's options."""
    hints = get_type_hints(record)
    return {field.name: _annotated(field, hints[field.name]) for field in record.fields()}


def _annotated(field: Field[Any], hint: Any) -> Any:
    about = field.metadata
    options: dict[str, Any] = {"label": about["title"], "tooltip": about["help"]}
    if about["choices"] is not None:
        options["choices"] = about["choices"]
    elif hint is float or int in (hint, *get_args(hint)):
        low, high = about["minimum"], about["maximum"]
        low, high = (0 if low is None else low), (_LARGEST if high is None else high)
        options |= {"widget_type": NumberBox, "min": low, "max": high, "unit": about["unit"]}
        options |= {"step": 1, "decimals": 0}
        if hint is float:
            default: Any = field.default
            options["step"] = 10.0 ** math.floor(math.log10(abs(default) or 1.0))
            options["decimals"] = max(2, *map(_decimals, (default, low, high)))
        if NoneType in get_args(hint):
            options["none"] = about["none"]
    return Annotated[hint, options]


def _decimals(number: float) -> int:
    text = f"{number:.{_MOST_DECIMALS}f}".rstrip("0")
    return len(text) - text.index(".") - 1


class RecordForm(QWidget, Generic[Record]):
    """The fields of a settings record; the rarely used ones are folded.

    Parameters
    ----------
    record : Settings
        What is shown at first.
    leave_out : collection of str
        Fields that are shown elsewhere; they keep the value of the record.
    before : mapping of {title: editor}
        Editors of magicgui above the fields.

    Attributes
    ----------
    editors : dict of {field name: magicgui widget}
    """

    changed = Signal()

    def __init__(
        self,
        record: Record,
        leave_out: Collection[str] = (),
        before: Mapping[str, ValueWidget] | None = None,
    ) -> None:
        super().__init__()
        self._record = record
        self.editors: dict[str, ValueWidget] = {}
        self._places: dict[str, QFormLayout] = {}
        usual, advanced = _rows(), _rows()
        for title, editor in (before or {}).items():
            self._add(usual, title, editor)
        types = annotated_types(type(record))
        for field in record.fields():
            if field.name not in leave_out:
                editor = create_widget(
                    annotation=types[field.name],
                    name=field.name,
                    value=getattr(record, field.name),
                )
                self.editors[field.name] = editor
                rows = advanced if field.metadata["advanced"] else usual
                self._places[field.name] = rows
                self._add(rows, field.metadata["title"], editor)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(usual)
        if advanced.rowCount():
            inner = QWidget()
            inner.setLayout(advanced)
            layout.addWidget(Fold("Advanced", "Settings that are rarely changed.", inner))

    def set_visible(self, name: str, visible: bool) -> None:
        """Show or hide the row of a field."""
        self._places[name].setRowVisible(self.editors[name].native, visible)

    def _add(self, rows: QFormLayout, title: str, editor: ValueWidget) -> None:
        _make_narrow(editor)
        if isinstance(editor, CheckBox):  # has its title beside it
            rows.addRow(editor.native)
        else:
            rows.addRow(title, editor.native)
        editor.changed.connect(lambda: self.changed.emit())

    @property
    def record(self) -> Record:
        """The settings as shown.

        Raises
        ------
        ConfigError
            The record refuses them.
        """
        return self._record.replace(**{n: editor.value for n, editor in self.editors.items()})

    def set_record(self, record: Record) -> None:
        """Show other settings."""
        self._record = record
        for name, editor in self.editors.items():
            editor.value = getattr(record, name)


def form_of(record: Record, leave_out: Collection[str] = ()) -> RecordForm[Record]:
    """A form of a settings record, see `RecordForm`."""
    return RecordForm(record, leave_out)


class SettingsForm(RecordForm[PropagationConfig]):
    """Settings of a run, and the intensity window of the model.

    Parameters
    ----------
    config : PropagationConfig
        What is shown at first.
    """

    def __init__(self, config: PropagationConfig) -> None:
        self._window = window_chooser(
            "Contrast limits of the layer",
            "Which intensities the model sees as black and as white, the same for all slices.",
        )
        super().__init__(config, ("direction",), {"Intensity window": self._window})

    def set_window(self, window: str) -> None:
        """Show another intensity window; one that is no choice yet becomes one."""
        if window not in self._window.choices:
            title = window.replace(",", " to ")
            self._window.set_choice(title, window)
        self._window.value = window

    @property
    def window(self) -> str:
        """The intensity window: as `parse_window` reads it, or `LAYER_LIMITS`."""
        return str(self._window.value)


def window_chooser(layer_limits: str, tooltip: str) -> ComboBox:
    """A chooser of intensity windows, with a name for the contrast limits of the layer."""
    choices = [(title, text) for text, title in WINDOW_CHOICES.items()]
    choices.insert(1, (layer_limits, LAYER_LIMITS))
    made = ComboBox(choices=choices, tooltip=tooltip, value=choices[0][1])
    _make_narrow(made)
    return made


def _make_narrow(editor: ValueWidget) -> None:
    """Let an editor be narrower than its contents."""
    editor.native.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    editor.native.setMinimumWidth(80)


def _rows() -> QFormLayout:
    rows = QFormLayout()
    rows.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapAllRows)
    rows.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    return rows
