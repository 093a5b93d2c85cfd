"""Durations and intensity windows as text."""

from __future__ import annotations

from napari_slmsam2.core.intensity import IntensityWindow

LIMITS = "{:.9g},{:.9g}"


def duration(seconds: float) -> str:
    """``40 s``, ``3 min``, ``1.5 h``."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def window_text(window: IntensityWindow) -> str:
    """An intensity window in the form that `parse_window` reads."""
    if window.source == "limits":
        return LIMITS.format(window.low, window.high)
    return window.source
