"""The Annotate panels that are open, for dock widgets that work on the same annotation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from napari import Viewer
from qtpy.QtCore import QObject, Signal

from napari_slmsam2.widgets.runs.runs import Runs
from napari_slmsam2.widgets.workspace.seeds import SeedTracker
from napari_slmsam2.widgets.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True, eq=False)
class OpenPanel:
    """The parts of an Annotate panel that other dock widgets use.

    Attributes
    ----------
    workspace : Workspace
    tracker : SeedTracker
    runs : Runs
    """

    workspace: Workspace
    tracker: SeedTracker
    runs: Runs

    def close_connections(self) -> None:
        """The panel is closed."""
        open_panels.remove(self)


class OpenPanels(QObject):
    """Finds the panel of a viewer; one object for all windows of the process."""

    changed = Signal()
    """A panel was opened or closed."""

    def __init__(self) -> None:
        super().__init__()
        self._panels: list[OpenPanel] = []

    def add(self, panel: OpenPanel) -> OpenPanel:
        """Announce a panel that was opened."""
        self._panels.append(panel)
        self.changed.emit()
        return panel

    def remove(self, panel: OpenPanel) -> None:
        """Forget a panel."""
        self._panels.remove(panel)
        self.changed.emit()

    def of(self, viewer: Viewer) -> OpenPanel | None:
        """The panel of a viewer that was opened last; None where there is none."""
        found = [panel for panel in self._panels if panel.workspace.viewer is viewer]
        return found[-1] if found else None


open_panels = OpenPanels()


class PanelFollower(QObject):
    """Keeps a dock widget connected to the panel of its viewer, whichever is open.

    Parameters
    ----------
    viewer : Viewer
    parent : QObject
    signals : callable
        ``signals(panel)`` gives the pairs of signal and slot that are to be connected.
    found : callable
        Called after a panel was opened or closed in any viewer.
    """

    def __init__(
        self,
        viewer: Viewer,
        parent: QObject,
        signals: Callable[[OpenPanel], list[tuple[Any, Callable[[], None]]]],
        found: Callable[[], None],
    ) -> None:
        super().__init__(parent)
        self.panel: OpenPanel | None = None
        self._viewer, self._signals, self._found = viewer, signals, found
        open_panels.changed.connect(self._find)

    def start(self) -> None:
        """Connect to the panel that is open now."""
        self._find()

    def close_connections(self) -> None:
        """Disconnect from the panel, and follow none any more."""
        open_panels.changed.disconnect(self._find)
        self._connect(None)

    def _find(self) -> None:
        panel = open_panels.of(self._viewer)
        if panel is not self.panel:
            self._connect(panel)
        self._found()

    def _connect(self, panel: OpenPanel | None) -> None:
        if self.panel is not None:
            for signal, slot in self._signals(self.panel):
                signal.disconnect(slot)
        self.panel = panel
        if panel is not None:
            for signal, slot in self._signals(panel):
                signal.connect(slot)
