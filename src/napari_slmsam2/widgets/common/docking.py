"""Where a panel is docked."""

from __future__ import annotations

from napari import Viewer
from qtpy.QtWidgets import QDockWidget, QMainWindow, QWidget

_PLUGIN = "napari-slmsam2"


def open_panel(viewer: Viewer, name: str) -> None:
    """Open a dock widget of this plugin, or bring the one that is open to the front.

    Parameters
    ----------
    viewer : Viewer
    name : str
        As in the menu of plugins.
    """
    # napari returns a dock that is hidden, or behind another tab, as it is.
    dock, _ = viewer.window.add_plugin_dock_widget(_PLUGIN, name)
    dock.show()
    dock.raise_()


def tabify(panel: QWidget, kind: type[QWidget]) -> None:
    """Put a panel into one place with another one, as tabs: below each other both are too low.

    Parameters
    ----------
    panel : QWidget
        Nothing happens where it is not docked.
    kind : type
        The class of the other panels.
    """
    dock = _dock_of(panel)
    window = None if dock is None else dock.parentWidget()
    if dock is None or dock.isFloating() or not isinstance(window, QMainWindow):
        return
    area = window.dockWidgetArea(dock)
    for other in window.findChildren(QDockWidget):
        beside = other is not dock and not other.isFloating()
        if beside and window.dockWidgetArea(other) == area and other.findChild(kind) is not None:
            window.tabifyDockWidget(other, dock)
            dock.raise_()
            return


def _dock_of(panel: QWidget) -> QDockWidget | None:
    parent = panel.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent
