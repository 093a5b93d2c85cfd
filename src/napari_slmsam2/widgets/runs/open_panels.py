"""The Annotate panels that are open, for dock widgets that work on the same annotation."""

from __future__ import annotations

from dataclasses import dataclass

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
