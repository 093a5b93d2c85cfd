"""Panels of this plugin share one place in the window."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDockWidget

from napari_slmsam2.widgets import AdaptWidget


@pytest.mark.parametrize(
    ("area", "shared"),
    [("right", True), ("left", False)],
)
def test_adapt_is_a_tab_beside_annotate_where_both_are_docked_on_one_side(bench, area, shared):
    adapt = AdaptWidget(bench.viewer)
    bench.viewer.window.add_dock_widget(adapt, name="Adapt", area=area)
    QApplication.processEvents()
    annotate, other = _dock_of(bench.panel), _dock_of(adapt)
    window = annotate.parentWidget()
    assert window.tabifiedDockWidgets(annotate) == ([other] if shared else [])
    sides = Qt.DockWidgetArea
    expected = sides.RightDockWidgetArea if shared else sides.LeftDockWidgetArea
    assert window.dockWidgetArea(other) == expected


def _dock_of(widget):
    while not isinstance(widget, QDockWidget):
        widget = widget.parentWidget()
    return widget
