from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QSize
from qtpy.QtWidgets import QApplication, QLabel

from napari_slmsam2.widgets.common.fold import Fold


@pytest.fixture
def fold(qtbot):
    made = Fold("More", "What is in it.", QLabel("content"))
    qtbot.addWidget(made)
    made.show()
    return made


def colour_of_the_arrow(fold):
    image = fold.toggleButton().icon().pixmap(QSize(16, 12)).toImage()
    pixels = [image.pixelColor(x, y) for x in range(image.width()) for y in range(image.height())]
    drawn = [p.getRgb()[:3] for p in pixels if p.alpha() == 255]
    assert drawn
    return tuple(np.median(drawn, axis=0))


@pytest.mark.parametrize("colour", [(240, 241, 242), (10, 20, 30)])
@pytest.mark.parametrize("expanded", [False, True])
def test_the_arrow_has_the_colour_of_the_title(fold, colour, expanded):
    if expanded:
        fold.expand(animate=False)
    fold.setStyleSheet(f"QPushButton {{ color: rgb{colour}; }}")
    QApplication.processEvents()
    assert colour_of_the_arrow(fold) == colour


def test_the_arrow_points_another_way_when_it_is_open(fold):
    folded = fold.toggleButton().icon().pixmap(QSize(16, 12)).toImage()
    fold.expand(animate=False)
    assert fold.toggleButton().icon().pixmap(QSize(16, 12)).toImage() != folded


def test_the_title_has_the_tooltip(fold):
    assert fold.toggleButton().toolTip() == "What is in it."
