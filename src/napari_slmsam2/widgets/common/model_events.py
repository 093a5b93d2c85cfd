"""An event for all lists of models in the window: the folder of models has changed."""

from __future__ import annotations

from qtpy.QtCore import QObject, Signal


class ModelEvents(QObject):
    """Signals of the folder of models; one object for all windows of the process."""

    changed = Signal(str, str)
    """Old and new name of a model; the old name of a new model is empty, and the new name of a
    deleted one."""


model_events = ModelEvents()
