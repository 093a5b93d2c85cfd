"""The rows of the label table as the features of a Labels layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari.layers import Labels

from napari_slmsam2.session.label_rows import LabelRow, feature_columns

_NUMBERS = ("volume_mm3", "mean_quality")


def fill_features(layer: Labels, rows: Sequence[LabelRow]) -> None:
    """Write rows into the features of a layer.

    Columns of others stay, by the value of the label; so does the row of the background.
    """
    ours = feature_columns(rows)
    for name in _NUMBERS:
        ours[name] = [float("nan") if value is None else value for value in ours[name]]
    before = {str(name): layer.features[name].tolist() for name in layer.features.columns}
    n_before = len(layer.features)
    # Without an index the row of a label is its value: napari's rule.
    indices = before.pop("index", list(range(n_before)))
    place = {label: number for number, label in enumerate(indices)}
    if 0 in place:
        ours = {
            name: [_background(before, name, place[0]), *values] for name, values in ours.items()
        }
    for name, values in before.items():
        if name not in ours:
            ours[name] = [
                values[place[label]] if label in place else _missing(values)
                for label in ours["index"]
            ]
    layer.features = ours


def _background(before: dict[str, list[Any]], name: str, number: int) -> Any:
    if name == "index":
        return 0
    if name in before:
        return before[name][number]
    return {"label_name": "background", "locked": False, "done": False}.get(
        name, float("nan") if name in _NUMBERS else 0
    )


def _missing(values: list[Any]) -> Any:
    return "" if values and isinstance(values[0], str) else float("nan")
