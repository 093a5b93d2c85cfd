from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
from qtpy.QtWidgets import QCheckBox, QFormLayout, QLabel, QWidget

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.intensity import CT_PRESETS, DEFAULT_WINDOW, WINDOW_CHOICES, parse_window
from napari_slmsam2.core.settings import Settings, setting
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.session.finish import FinishRequest
from napari_slmsam2.training.recipes import AdaptRecipe
from napari_slmsam2.widgets.common.settings_form import (
    LAYER_LIMITS,
    SettingsForm,
    annotated_types,
    form_of,
)


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    """A record with every kind of field."""

    word: str = setting("a", "Word", "One of two.", choices=("a", "b"))
    number: int = setting(3, "Number", "Whole.", minimum=1, maximum=9, unit="slices")
    size: int | None = setting(None, "Size", "Or none.", minimum=32, unit="px", advanced=True)
    rate: float = setting(4e-4, "Rate", "Small.", minimum=1e-7, maximum=0.9999)


@pytest.fixture
def form(qtbot):
    made = form_of(Example())
    qtbot.addWidget(made)
    return made


def test_types_carry_title_help_choices_and_range():
    types = annotated_types(Example)
    assert get_args(types["word"]) == (
        str,
        {"label": "Word", "tooltip": "One of two.", "choices": ("a", "b")},
    )
    _, options = get_args(types["number"])
    assert (options["min"], options["max"]) == (1, 9)


@pytest.mark.parametrize(
    "record",
    [
        Example(),
        Example(word="b", number=9, size=32, rate=1e-7),
        Example(size=4096, rate=0.1234567),
    ],
)
def test_a_record_comes_back_as_it_was_shown(form, record):
    form.set_record(record)
    assert form.record == record


@pytest.mark.parametrize("record", [PropagationConfig(), AdaptRecipe()])
def test_records_of_the_package_make_a_form(qtbot, record):
    made = form_of(record)
    qtbot.addWidget(made)
    assert made.record == record
    shown = {label.text() for label in made.findChildren(QLabel)}
    assert {field.metadata["title"] for field in record.fields()} <= shown


def test_rows_have_title_tooltip_unit_and_order(form):
    [usual, advanced] = form.findChildren(QFormLayout)
    assert [usual.itemAt(i, QFormLayout.ItemRole.LabelRole).widget().text() for i in range(3)] == [
        "Word",
        "Number",
        "Rate",
    ]
    assert advanced.rowCount() == 1
    assert form.editors["word"].native.toolTip() == "One of two."
    assert form.editors["number"].native.text() == "3 slices"
    assert form.editors["size"].native.text() == "model's own"


def test_the_title_of_a_check_box_is_shown_once(qtbot):
    form = form_of(FinishRequest(first=0, last=0), ("labels",))
    qtbot.addWidget(form)
    [box] = [e for e in form.editors.values() if isinstance(e.native, QCheckBox)][-1:]
    titles = [label.text() for label in form.findChildren(QLabel)]
    assert box.native.text() == "Also seeds"
    assert "Also seeds" not in titles
    assert "First slice" in titles
    form.set_visible(box.name, False)
    assert box.native.isHidden()


def test_a_change_by_hand_is_reported_once(form, qtbot):
    with qtbot.waitSignal(form.changed):
        form.editors["number"].native.stepBy(1)
    assert form.record.number == 4
    with qtbot.waitSignal(form.changed):
        form.editors["size"].native.stepBy(1)
    assert form.record.size == 32
    with qtbot.waitSignal(form.changed):
        form.editors["word"].native.setCurrentIndex(1)
    assert form.record.word == "b"


def test_numbers_stay_within_their_range(form):
    form.editors["number"].native.setValue(100)
    assert form.record.number == 9
    form.editors["rate"].native.setValue(0.0)
    assert form.record.rate == 1e-7
    form.editors["rate"].native.setValue(2.0)
    assert form.record.rate == 0.9999


def test_what_is_left_out_keeps_its_value(qtbot):
    made = SettingsForm(PropagationConfig(direction="backward"))
    qtbot.addWidget(made)
    assert "direction" not in made.editors
    assert made.record.direction == "backward"


def test_every_window_that_is_offered_can_be_read(qtbot):
    made = SettingsForm(PropagationConfig())
    qtbot.addWidget(made)
    assert made.window == DEFAULT_WINDOW
    volume = Volume(np.arange(27.0).reshape(3, 3, 3))
    assert set(CT_PRESETS) < set(WINDOW_CHOICES)
    for window in WINDOW_CHOICES:
        made.set_window(window)
        assert made.window == window
        assert parse_window(window, volume).source == window
    made.set_window(LAYER_LIMITS)
    assert made.window == LAYER_LIMITS
    made.set_window("12,90")
    made.set_window("12,90")
    assert made.window == "12,90"
    assert made.findChildren(QWidget)[1].findText("12 to 90") >= 0


def test_the_form_is_as_narrow_as_the_panel(form):
    form.resize(200, 400)
    assert form.minimumSizeHint().width() <= 200
