"""Panels of this plugin share one place in the window."""

from __future__ import annotations

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QDockWidget, QTabBar

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


@pytest.mark.parametrize(
    ("button", "title"), [("label_table", "Label table"), ("finish", "Finish")]
)
def test_a_button_brings_an_open_panel_to_the_front(bench, button, title):
    def settle():
        for _ in range(3):
            QApplication.processEvents()

    def in_front():
        [tabs] = [t for t in window.findChildren(QTabBar) if t.parent() is window and t.count()]
        return tabs.tabText(tabs.currentIndex())

    annotate = _dock_of(bench.panel)
    window = annotate.parentWidget()
    getattr(bench.panel, button).click()
    settle()
    assert in_front().startswith(title)
    annotate.raise_()
    settle()
    assert not in_front().startswith(title)
    getattr(bench.panel, button).click()
    settle()
    assert in_front().startswith(title)


@pytest.mark.parametrize("panel", ["annotate", "adapt"])
def test_a_panel_is_not_narrower_than_its_content(bench, panel):
    widget = bench.panel if panel == "annotate" else AdaptWidget(bench.viewer)
    if panel == "adapt":
        bench.viewer.window.add_dock_widget(widget, name="Adapt")
    QApplication.processEvents()
    area = widget.layout().itemAt(0).widget()
    needed = area.widget().minimumSizeHint().width() + area.verticalScrollBar().sizeHint().width()
    assert (widget.minimumWidth() or widget.minimumSizeHint().width()) >= needed


def _dock_of(widget):
    while not isinstance(widget, QDockWidget):
        widget = widget.parentWidget()
    return widget
