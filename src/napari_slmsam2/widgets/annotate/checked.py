"""How far a label is checked, as text."""

from __future__ import annotations

from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.checking import count_checked


def describe_checked(annotation: Annotation, label: int) -> str:
    """``Label 2: checked 12 of 40 slices.``; empty before a run."""
    if not annotation.runs:
        return ""
    checked = count_checked(annotation, label)
    name = annotation.table.names.get(label) or f"Label {label}"
    done = " Done." if label in annotation.table.done else ""
    return f"{name}: checked {checked.slices} of {checked.total} slices.{done}"
