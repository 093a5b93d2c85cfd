"""Layout of the label table: its controls and their texts."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QItemSelectionModel, Qt, Signal
from qtpy.QtGui import QKeyEvent, QPainter, QPalette
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QHeaderView,
    QLineEdit,
    QMenu,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from napari_slmsam2.widgets.common.choosers import wrapped_label
from napari_slmsam2.widgets.common.icons import glyph_icon
from napari_slmsam2.widgets.common.layout import button, row
from napari_slmsam2.widgets.labels.model import LABEL_ROLE, Column, LabelFilter, LabelTableModel

_WIDTHS = {
    Column.LABEL: 48,
    Column.LOCKED: 24,
    Column.DONE: 24,
    Column.VOLUME: 58,
    Column.SLICES: 42,
    Column.QUALITY: 38,
    Column.SEEDS: 44,
}
_NARROWEST_NAME = 76
"""In pixels; a table that is too narrow for it scrolls."""


class _OutlinedChecks(QStyledItemDelegate):
    """Draws check boxes with an outline in the colour of the text.

    Qt's own outline is darker than the background, which in a dark theme shows nothing.
    """

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Any) -> None:
        """Draw a cell."""
        super().paint(painter, option, index)
        self.initStyleOption(option, index)
        table = self.parent()
        assert isinstance(table, QTableView)
        box = table.style().subElementRect(
            QStyle.SubElement.SE_ItemViewItemCheckIndicator, option, table
        )
        colour = table.palette().color(QPalette.ColorRole.ButtonText)
        colour.setAlphaF(0.6)
        painter.save()
        painter.setPen(colour)
        painter.drawRect(box.adjusted(0, 0, -1, -1))
        painter.restore()


class LabelView(QTableView):
    """The table; a click chooses a label, a double-click shows its largest slice.

    Parameters
    ----------
    model : LabelTableModel
    """

    chosen = Signal(int)
    """A person chose the row of a label."""
    opened = Signal(int)
    """A person double-clicked a label."""
    delete = Signal()
    """The key Delete was pressed."""

    def __init__(self, model: LabelTableModel) -> None:
        super().__init__()
        self.filter = LabelFilter(model)
        self._model = model
        self.setModel(self.filter)
        self.setSortingEnabled(True)
        self.sortByColumn(Column.LABEL, Qt.SortOrder.AscendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setAlternatingRowColors(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setAccessibleName("Labels")
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(22)
        self._checks = _OutlinedChecks(self)
        for column in (Column.LOCKED, Column.DONE):
            self.setItemDelegateForColumn(column, self._checks)
        header = self.horizontalHeader()
        header.setMinimumSectionSize(20)
        header.setHighlightSections(False)
        for column, width in _WIDTHS.items():
            header.resizeSection(column, width)
        header.setSectionResizeMode(Column.NAME, QHeaderView.ResizeMode.Stretch)
        self._held: list[int] = []
        self._current: int | None = None
        model.modelAboutToBeReset.connect(self._hold)
        model.modelReset.connect(self._restore)
        self.doubleClicked.connect(self._on_double_click)
        self.clicked.connect(self._on_click)

    @property
    def labels(self) -> list[int]:
        """The labels whose rows are selected, ascending."""
        rows = self.selectionModel().selectedRows(Column.LABEL)
        return sorted(int(index.data(LABEL_ROLE)) for index in rows)

    @property
    def current(self) -> int | None:
        """The label whose row was selected last; None where none is selected."""
        index = self.selectionModel().currentIndex()
        label = int(index.data(LABEL_ROLE)) if index.isValid() else None
        return label if label in self.labels else next(iter(self.labels), None)

    def select(self, label: int, *, more: bool = False) -> None:
        """Select the row of a label; with ``more`` in addition to the others."""
        number = next((n for n, r in enumerate(self._model.rows) if r.label == label), None)
        if number is None:
            return
        index = self.filter.mapFromSource(self._model.index(number, Column.LABEL))
        flag = QItemSelectionModel.SelectionFlag
        mode = flag.Select if more else flag.ClearAndSelect
        self.selectionModel().setCurrentIndex(index, mode | flag.Rows)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Delete and Backspace delete the selected labels."""
        if event.key() in (Qt.Key.Key_Delete, Qt.Key.Key_Backspace):
            self.delete.emit()
        else:
            super().keyPressEvent(event)

    def event(self, event: QEvent) -> bool:
        """Draw the icons of the header again where the colours of the theme may have changed."""
        if event.type() in (QEvent.Type.Show, QEvent.Type.StyleChange, QEvent.Type.PaletteChange):
            self._model.set_icons(glyph_icon("lock", self), glyph_icon("check", self))
        return bool(super().event(event))

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Give the room that is left to the names."""
        super().resizeEvent(event)
        header = self.horizontalHeader()
        room = self.viewport().width() - sum(_WIDTHS.values())
        mode = QHeaderView.ResizeMode
        stretch = room >= _NARROWEST_NAME
        header.setSectionResizeMode(Column.NAME, mode.Stretch if stretch else mode.Fixed)
        if not stretch:
            header.resizeSection(Column.NAME, _NARROWEST_NAME)

    def _on_click(self, index: Any) -> None:
        self.chosen.emit(int(index.data(LABEL_ROLE)))

    def _on_double_click(self, index: Any) -> None:
        if index.column() not in (Column.NAME, Column.LOCKED, Column.DONE):
            self.opened.emit(int(index.data(LABEL_ROLE)))

    def _hold(self) -> None:
        self._held, self._current = self.labels, self.current

    def _restore(self) -> None:
        if self._current in self._held:
            self._held.append(self._current)  # the current one is selected last
        for label in self._held:
            self.select(label, more=True)


class LabelTableView(QWidget):
    """The controls of the label table, without any behaviour."""

    def __init__(self) -> None:
        super().__init__()
        self.model = LabelTableModel()
        self.table = LabelView(self.model)
        self.search = QLineEdit()
        self.search.setPlaceholderText("Filter by name or number")
        self.search.setToolTip("Show the labels whose name or number contains this text.")
        self.search.setClearButtonEnabled(True)
        self.search.setMinimumWidth(60)
        self.hide_done = QCheckBox("Hide done")
        self.hide_done.setToolTip("Leave out labels that are marked as done.")
        self.first = button("First slice", "Go to the first slice of the label.")
        self.largest = button("Largest slice", "Go to the slice with most voxels of the label.")
        self.merge = button(
            "Merge", "Give voxels and seeds of all selected labels to the one selected last."
        )
        self.remove = button(
            "Delete", "Delete the selected labels with their seeds. The panel's Undo restores them."
        )
        self.look = button("3D", "Show the label as a surface, in the 3D view.")
        self.more = button("More", "Colours, locks, files. Also by a right click on the table.")
        self.menu = QMenu(self.more)
        self.more.setMenu(self.menu)
        self.table.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.table.customContextMenuRequested.connect(
            lambda place: self.menu.popup(self.table.viewport().mapToGlobal(place))
        )
        self.message = wrapped_label()
        self.open_panel = button("Open the Annotate panel", "The table shows the labels of it.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 2, 4, 4)
        layout.setSpacing(3)
        top = row(self.search)
        top.addWidget(self.hide_done)
        layout.addLayout(top)
        layout.addWidget(self.table, 1)
        layout.addWidget(self.message)
        layout.addWidget(self.open_panel)
        layout.addLayout(row(self.first, self.largest, self.look))
        layout.addLayout(row(self.merge, self.remove, self.more))
        self.setMinimumWidth(240)
