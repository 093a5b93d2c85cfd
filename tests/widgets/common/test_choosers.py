from __future__ import annotations

import pytest
from qtpy.QtCore import QRect

from napari_slmsam2.widgets.common.choosers import NarrowCombo


@pytest.fixture
def combo(qtbot):
    made = NarrowCombo()
    qtbot.addWidget(made)
    made.setFixedSize(140, 28)
    return made


def picture(combo, text):
    combo.clear()
    combo.addItem(text)
    return combo.grab(QRect(0, 0, 140, 28)).toImage()


def test_a_text_that_is_too_long_ends_in_dots(combo):
    title = "Short-long-memory network of this study"
    shown = picture(combo, title)
    beginnings = (title[:n].rstrip() + "\N{HORIZONTAL ELLIPSIS}" for n in range(3, 30))
    assert any(shown == picture(combo, text) for text in beginnings)


def test_a_text_that_fits_is_whole(combo):
    assert picture(combo, "auto") != picture(combo, "aut")
    assert combo.currentText() == "aut"
