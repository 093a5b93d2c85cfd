"""Rows of labels as a Qt model, sorted and filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QPixmap

from napari_slmsam2.core.label_table import RGBA
from napari_slmsam2.session.label_rows import LabelRow, describe_volume

_Role = Qt.ItemDataRole
SORT_ROLE = _Role.UserRole
LABEL_ROLE = int(_Role.UserRole) + 1
_SWATCH = 16
"""Width and height of the colour of a label, in pixels."""


class Column(IntEnum):
    """The columns, from left to right."""

    LABEL = 0
    LOCKED = 1
    DONE = 2
    NAME = 3
    VOLUME = 4
    SLICES = 5
    QUALITY = 6
    SEEDS = 7


_TITLES = {
    Column.LABEL: ("#", "Value and colour of the label. Double-click: its largest slice."),
    Column.NAME: ("Name", "Name of the label. Double-click to edit."),
    Column.VOLUME: ("Volume", "Voxels times the exact volume of a voxel."),
    Column.SLICES: ("Slices", "Slices that hold the label."),
    Column.QUALITY: ("Conf.", "Mean confidence over the propagated slices, in percent."),
    Column.SEEDS: ("Seeds", "Slices that you annotated or checked."),
    Column.LOCKED: ("", "Locked: runs and the tools of the plugin do not change its voxels."),
    Column.DONE: ("", "Done: you consider this label finished."),
}
_CHECKED = (Column.LOCKED, Column.DONE)


def _swatch(colour: RGBA) -> QIcon:
    """The colour of a label; Qt would tint it in a row that is selected."""
    drawn = QPixmap(_SWATCH, _SWATCH)
    drawn.fill(QColor.fromRgbF(*colour[:3]))
    icon = QIcon(drawn)
    icon.addPixmap(drawn, QIcon.Mode.Selected)
    return icon


class LabelTableModel(QAbstractTableModel):
    """One row per label; edits are reported, not made."""

    renamed = Signal(int, str)
    """Label and name."""
    locked = Signal(int, bool)
    """Label, and whether it is to be locked."""
    marked_done = Signal(int, bool)
    """Label, and whether it is done."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[LabelRow] = []
        self._colours: Mapping[int, RGBA] = {}
        self._icons: dict[int, QIcon] = {}

    def set_icons(self, lock: QIcon, check: QIcon) -> None:
        """Icons of the columns of locks and of what is done."""
        self._icons = {Column.LOCKED: lock, Column.DONE: check}
        self.headerDataChanged.emit(Qt.Orientation.Horizontal, Column.LOCKED, Column.DONE)

    @property
    def rows(self) -> list[LabelRow]:
        """What is shown, in the order of the labels."""
        return list(self._rows)

    def row(self, number: int) -> LabelRow:
        """One of the rows."""
        return self._rows[number]

    def set_rows(self, rows: Sequence[LabelRow], colours: Mapping[int, RGBA]) -> None:
        """Show other rows; where the labels are the same, only what differs is drawn again."""
        before, recoloured = self._rows, self._colours != colours
        if [row.label for row in before] != [row.label for row in rows]:
            self.beginResetModel()
            self._rows, self._colours = list(rows), dict(colours)
            self.endResetModel()
            return
        self._rows, self._colours = list(rows), dict(colours)
        changed = [n for n, row in enumerate(rows) if recoloured or row != before[n]]
        renamed = [n for n in changed if rows[n].name != before[n].name]
        # A name that is being typed is lost where its cell is drawn again.
        for numbers, first, last in (
            (changed, Column.LABEL, Column.DONE),
            (renamed, Column.NAME, Column.NAME),
            (changed, Column.VOLUME, Column.SEEDS),
        ):
            if numbers:
                ends = self.index(numbers[0], first), self.index(numbers[-1], last)
                self.dataChanged.emit(*ends)

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Number of labels."""
        return 0 if parent is not None and parent.isValid() else len(self._rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Number of columns."""
        return 0 if parent is not None and parent.isValid() else len(Column)

    def headerData(  # noqa: N802 - Qt's name
        self, section: int, orientation: Qt.Orientation, role: int = _Role.DisplayRole
    ) -> Any:
        """Titles and tooltips of the columns."""
        if orientation == Qt.Orientation.Horizontal:
            title, tooltip = _TITLES[Column(section)]
            if role == _Role.DisplayRole:
                return title
            if role == _Role.ToolTipRole:
                return tooltip
            if role == _Role.DecorationRole:
                return self._icons.get(section)
        return None

    def flags(self, index: QModelIndex) -> Qt.ItemFlag:
        """Names can be edited, locks and states checked."""
        flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
        if index.column() == Column.NAME:
            flags |= Qt.ItemFlag.ItemIsEditable
        elif index.column() in _CHECKED:
            flags |= Qt.ItemFlag.ItemIsUserCheckable
        return flags

    def data(self, index: QModelIndex, role: int = _Role.DisplayRole) -> Any:
        """Text, colour, state and sort key of a cell."""
        row, column = self._rows[index.row()], Column(index.column())
        if role == LABEL_ROLE:
            return row.label
        if role == SORT_ROLE:
            return _sort_key(row, column)
        if role in (_Role.DisplayRole, _Role.EditRole):
            return _text(row, column)
        if role == _Role.DecorationRole and column == Column.LABEL and row.label in self._colours:
            return _swatch(self._colours[row.label])
        if role == _Role.CheckStateRole and column in _CHECKED:
            checked = row.locked if column == Column.LOCKED else row.done
            return Qt.CheckState.Checked if checked else Qt.CheckState.Unchecked
        if role == _Role.TextAlignmentRole and column not in (Column.LABEL, Column.NAME):
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if role == _Role.ToolTipRole:
            return _tooltip(row, column)
        return None

    def setData(  # noqa: N802 - Qt's name
        self, index: QModelIndex, value: Any, role: int = _Role.EditRole
    ) -> bool:
        """Report what a person edits."""
        row, column = self._rows[index.row()], index.column()
        if column == Column.NAME and role == _Role.EditRole:
            self.renamed.emit(row.label, str(value))
            return True
        if column in _CHECKED and role == _Role.CheckStateRole:
            checked = Qt.CheckState(value) == Qt.CheckState.Checked
            signal = self.locked if column == Column.LOCKED else self.marked_done
            signal.emit(row.label, checked)
            return True
        return False


def _text(row: LabelRow, column: Column) -> str:
    if column == Column.LABEL:
        return str(row.label)
    if column == Column.NAME:
        return row.name
    if column == Column.VOLUME:
        return f"{row.voxels} vx" if row.volume is None else describe_volume(row.volume)
    if column == Column.SLICES:
        return str(row.slices)
    if column == Column.QUALITY:
        return "" if row.quality is None else f"{100 * row.quality:.0f}"
    return str(row.seeds) if column == Column.SEEDS else ""


def _sort_key(row: LabelRow, column: Column) -> Any:
    return {
        Column.LABEL: row.label,
        # Labels without a name come last, in the order of their values.
        Column.NAME: row.name.casefold() or f"\U0010ffff{row.label:020d}",
        Column.VOLUME: float(row.voxels),
        Column.SLICES: row.slices,
        Column.QUALITY: -1.0 if row.quality is None else row.quality,
        Column.SEEDS: row.seeds,
        Column.LOCKED: int(row.locked),
        Column.DONE: int(row.done),
    }[column]


def _tooltip(row: LabelRow, column: Column) -> str:
    if column == Column.VOLUME:
        return f"{row.voxels} voxels"
    if column in _CHECKED:
        return _TITLES[column][1]
    return row.name or f"Label {row.label}"


class LabelFilter(QSortFilterProxyModel):
    """Rows whose name or value contains a text, sorted by their values, not their texts."""

    def __init__(self, source: LabelTableModel) -> None:
        super().__init__()
        self._source = source
        self._text, self._hide_done = "", False
        self.setSortRole(SORT_ROLE)
        self.setSourceModel(source)
        self.sort(Column.LABEL)

    def set_filter(self, text: str, *, hide_done: bool) -> None:
        """Show the rows that contain a text; all where it is empty.

        Parameters
        ----------
        text : str
            Capitals do not matter.
        hide_done : bool
            Leave out labels that are done.
        """
        self._text, self._hide_done = text.strip().casefold(), hide_done
        self.invalidate()

    def filterAcceptsRow(self, source_row: int, source_parent: QModelIndex) -> bool:  # noqa: N802
        """Whether a row is shown."""
        row = self._source.row(source_row)
        found = self._text in row.name.casefold() or self._text in str(row.label)
        return found and not (self._hide_done and row.done)
