"""The window: napari and Qt. Nothing here knows how a model works, or imports torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_slmsam2.widgets.adapt.panel import AdaptWidget
    from napari_slmsam2.widgets.annotate.panel import AnnotateWidget
    from napari_slmsam2.widgets.finish.panel import FinishWidget
    from napari_slmsam2.widgets.labels.panel import LabelTableWidget

__all__ = ["AdaptWidget", "AnnotateWidget", "FinishWidget", "LabelTableWidget"]

_HOME = {
    "AdaptWidget": "adapt.panel",
    "AnnotateWidget": "annotate.panel",
    "FinishWidget": "finish.panel",
    "LabelTableWidget": "labels.panel",
}


def __getattr__(name: str) -> Any:
    # Who opens one panel need not wait for the other.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
