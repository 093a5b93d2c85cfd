"""Building blocks of the panels: buttons, rows, forms, groups."""

from __future__ import annotations

from collections.abc import Iterable

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import (
    QFormLayout,
    QFrame,
    QGroupBox,
    QHBoxLayout,
    QLabel,
    QLayout,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

_NAME_WIDTH = 60
"""Width of the longest name in a form, in pixels."""


def button(text: str, tooltip: str) -> QPushButton:
    """A push button that may become narrow."""
    made = QPushButton(text)
    made.setToolTip(tooltip)
    made.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    made.setMinimumWidth(60)
    return made


def set_text(label: QLabel, text: str) -> None:
    """Show a text; an empty one takes no space."""
    label.setText(text)
    label.setHidden(not text)


def row(*widgets: QWidget) -> QHBoxLayout:
    """A row of widgets of equal width."""
    layout = QHBoxLayout()
    layout.setSpacing(4)
    for widget in widgets:
        layout.addWidget(widget, 1)
    return layout


def form(*rows: tuple[str, QWidget]) -> QFormLayout:
    """A form of named widgets; the widgets of all forms of a panel are aligned."""
    layout = QFormLayout()
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    layout.setVerticalSpacing(3)
    for name, widget in rows:
        label = QLabel(name)
        label.setMinimumWidth(_NAME_WIDTH)
        layout.addRow(label, widget)
    return layout


def group(title: str, *parts: QWidget | QLayout) -> QGroupBox:
    """A column of parts under a title."""
    box = QGroupBox(title)
    layout = QVBoxLayout(box)
    layout.setContentsMargins(6, 3, 6, 4)
    layout.setSpacing(3)
    _fill(layout, parts)
    return box


def column(*parts: QWidget | QLayout) -> QWidget:
    """A column of parts without margins."""
    made = QWidget()
    layout = QVBoxLayout(made)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(5)
    _fill(layout, parts)
    return made


def _fill(layout: QVBoxLayout, parts: Iterable[QWidget | QLayout]) -> None:
    for part in parts:
        if isinstance(part, QLayout):
            layout.addLayout(part)
        else:
            layout.addWidget(part)


class _Column(QScrollArea):
    """Scrolls its content vertically, and is never narrower than it."""

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """The width of the content beside the scroll bar."""
        content, bar = self.widget().minimumSizeHint(), self.verticalScrollBar().sizeHint()
        return QSize(content.width() + bar.width(), super().minimumSizeHint().height())


def scrolled(parent: QWidget, *parts: QWidget) -> None:
    """Fill a widget with a column of parts that scrolls if the window is too low."""
    inner = QWidget()
    layout = QVBoxLayout(inner)
    layout.setContentsMargins(4, 2, 4, 4)
    layout.setSpacing(3)
    for part in parts:
        layout.addWidget(part)
    layout.addStretch()
    area = _Column()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(inner)
    outer = QVBoxLayout(parent)
    outer.setContentsMargins(0, 0, 0, 0)
    outer.addWidget(area)
