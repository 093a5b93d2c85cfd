"""The seeds and marks of the stack on screen."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_slmsam2.core.input_checks import StraySeed, find_stray_seeds
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt

BEGINS, ENDS = "begins here", "ends here"
_WORDS = {PromptKind.MASK: "painted", PromptKind.POINTS: "points", PromptKind.ABSENT: "absent"}

Row = tuple[int, int, str]


def rows_of(prompts: PromptSet, n_slices: int) -> list[Row]:
    """``(slice, label, kind)`` of every seed and mark: first stray seeds, then by slice."""
    stray = {(s.index, s.label): s for s in find_stray_seeds(prompts)}
    rows = [
        (p.index, p.label, _voxels(stray[p.index, p.label]))
        if (p.index, p.label) in stray
        else (p.index, p.label, _word(p))
        for p in prompts
    ]
    for label, (first, last) in prompts.extents.items():
        if first > 0:
            rows.append((first, label, BEGINS))
        if last < n_slices - 1:
            rows.append((last, label, ENDS))
    return sorted(rows, key=lambda row: (row[:2] not in stray, row))


def describe_stray(stray: StraySeed) -> str:
    """Why a seed of few voxels is probably a mistake, and what it does."""
    return (
        f"Slice {stray.index}, label {stray.label}: {_voxels(stray)}, up to {stray.largest} on "
        "other slices. It counts as a complete annotation and cuts the object down to it. If it "
        "was painted by mistake, erase it and delete the seed."
    )


def _voxels(stray: StraySeed) -> str:
    return f"{stray.voxels} voxel{'' if stray.voxels == 1 else 's'} only"


def _word(prompt: SlicePrompt) -> str:
    if prompt.points is None or len(prompt.points):
        return _WORDS[prompt.kind]
    if prompt.scribble is not None:
        return "scribble"
    return "box" if prompt.lasso is None else "lasso"


class SeedList(QTableWidget):
    """Slice, label and kind; a click shows the slice, Delete removes the seed."""

    jump = Signal(int, int)
    """Slice and label."""
    delete = Signal(int, int, str)
    """Slice, label and kind."""

    def __init__(self) -> None:
        super().__init__(0, 3)
        self._rows: list[Row] = []
        self.setHorizontalHeaderLabels(["Slice", "Label", "Kind"])
        self.setToolTip(
            "Slices that you annotated. They are never overwritten. Click to go there; Delete "
            "removes the chosen ones."
        )
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(22)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.setMinimumHeight(70)
        self.setMaximumHeight(140)
        self.cellClicked.connect(lambda row, _: self.jump.emit(*self._rows[row][:2]))

    def set_rows(self, rows: list[Row]) -> None:
        """Show other seeds."""
        if rows == self._rows:
            return
        self._rows = rows
        self.clearSelection()
        self.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, value in enumerate(row):
                item = QTableWidgetItem(str(value))
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                self.setItem(number, column, item)

    @property
    def rows(self) -> list[Row]:
        """What is shown."""
        return list(self._rows)

    def delete_selected(self) -> None:
        """Ask to remove the chosen seeds."""
        chosen = {index.row() for index in self.selectedIndexes()}
        for row in [self._rows[number] for number in sorted(chosen)]:
            index, label, kind = row
            self.delete.emit(index, label, kind)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Delete and Backspace remove the chosen seeds."""
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.delete_selected()
        else:
            super().keyPressEvent(event)
