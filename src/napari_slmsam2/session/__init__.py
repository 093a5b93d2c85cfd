"""One annotated volume: seeds in, labels out, runs recorded, saved in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_slmsam2.session.session import SegmentationSession

__all__ = ["SegmentationSession"]


def __getattr__(name: str) -> Any:
    # The session imports torch; the file format and the records do not.
    if name != "SegmentationSession":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from napari_slmsam2.session.session import SegmentationSession

    return SegmentationSession
