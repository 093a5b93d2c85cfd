"""Tells every list of models in the window that the folder of models holds others now."""

from __future__ import annotations

from qtpy.QtCore import QObject, Signal


class ModelEvents(QObject):
    """One for all windows of the process."""

    changed = Signal(str, str)
    """Old and new name of a model; the old one is empty for a new model, the new one for a gone
    one."""


news = ModelEvents()
