"""The window: napari and Qt. Nothing here knows how a model works, or imports torch."""

from __future__ import annotations

from napari_slmsam2.widgets.panel import AnnotateWidget

__all__ = ["AnnotateWidget"]
