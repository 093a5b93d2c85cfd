"""Scores on the held-out part, before and after."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QFont
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

if TYPE_CHECKING:
    from napari_slmsam2.training.adapt.evaluation import EvaluationResult

_MEASURES = {
    "dice": ("Dice", "Overlap with the true mask, 0 to 1; more is better."),
    "nsd": ("NSD", "Share of the surfaces that lie on each other; more is better."),
    "op_voxels": (
        "OP",
        "Over-propagation: voxels found beyond the ends of the object, as a share of the object; "
        "less is better.",
    ),
}


class ScoreTable(QTableWidget):
    """A row per held-out label, and their mean."""

    def __init__(self) -> None:
        super().__init__(0, 1 + len(_MEASURES))
        self.setHorizontalHeaderItem(0, QTableWidgetItem("Label"))
        for column, (title, tip) in enumerate(_MEASURES.values(), 1):
            item = QTableWidgetItem(title)
            item.setToolTip(tip)
            self.setHorizontalHeaderItem(column, item)
        self.setToolTip("Scores on the held-out part: the base model and the adapted one.")
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(22)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        font = self.font()
        font.setPointSizeF(max(7.0, 0.9 * font.pointSizeF()))
        self.setFont(font)
        self.hide()

    def clear_scores(self) -> None:
        """Show nothing."""
        self.setRowCount(0)
        self.hide()

    def show_scores(self, before: EvaluationResult, after: EvaluationResult) -> None:
        """Show all labels; the mean is the first row."""
        volumes = {s.held_out_volume for s in before.structures}
        self.setRowCount(1 + len(before.structures))
        self._fill(0, "mean", [(before.mean(m), after.mean(m)) for m in _MEASURES], bold=True)
        for row, (old, new) in enumerate(
            zip(before.structures, after.structures, strict=True), start=1
        ):
            name = (
                str(old.label) if len(volumes) == 1 else f"{old.held_out_volume + 1}: {old.label}"
            )
            self._fill(row, name, [(getattr(old, m), getattr(new, m)) for m in _MEASURES])
        height = self.horizontalHeader().sizeHint().height() + 22 * min(7, self.rowCount()) + 4
        self.setFixedHeight(height)
        self.show()

    def _fill(
        self, row: int, name: str, pairs: list[tuple[float, float]], *, bold: bool = False
    ) -> None:
        for column, text in enumerate([name, *(f"{_cell(a)} → {_cell(b)}" for a, b in pairs)]):
            item = QTableWidgetItem(text)
            item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
            if bold:
                font = QFont(self.font())
                font.setBold(True)
                item.setFont(font)
            self.setItem(row, column, item)


def _cell(value: float) -> str:
    """Four characters for all that fits, without a leading zero."""
    if not math.isfinite(value):
        return "-"
    return (f"{value:.3f}" if value < 0.9995 else f"{value:.2f}").removeprefix("0")
