"""Turn a volume into a finished 3D label map: one annotated slice in, all slices out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_slmsam2.core.config import ModelConfig, PropagationConfig
    from napari_slmsam2.core.volume import Volume
    from napari_slmsam2.session.session import SegmentationSession

__version__ = "0.1.0.dev0"

__all__ = [
    "ModelConfig",
    "PropagationConfig",
    "SegmentationSession",
    "Volume",
    "__version__",
]

_HOME = {
    "ModelConfig": "core.config",
    "PropagationConfig": "core.config",
    "SegmentationSession": "session.session",
    "Volume": "core.volume",
}


def __getattr__(name: str) -> Any:
    # napari imports every plugin at start: torch must not come along.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
