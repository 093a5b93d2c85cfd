"""Paint, points or box: what the mouse does on the canvas."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QButtonGroup, QCheckBox, QPushButton, QVBoxLayout, QWidget

from napari_slmsam2.widgets.common.choosers import wrapped_label
from napari_slmsam2.widgets.common.layout import button, row, set_text

PAINT, POINTS, BOX = "paint", "points", "box"

_HINTS = {
    PAINT: "",
    POINTS: "Click on the object; Shift+click where it is not. Escape: back to painting.",
    BOX: "Drag a box; click, or Shift+click, to correct. Escape: back to painting.",
}


class PromptBar(QWidget):
    """Three buttons of which one is down, and a line that says what to do."""

    chosen = Signal(str)
    """A person chose ``paint``, ``points`` or ``box``."""

    def __init__(self) -> None:
        super().__init__()
        self.paint = self._button("Paint", "Paint seeds with napari's own brush.")
        self.points = self._button(
            "Points", "Click on the object: its mask on this slice appears at once."
        )
        self.box = self._button("Box", "Drag a box around the object: its mask appears at once.")
        self.outside = QCheckBox("Click where the object is not")
        self.outside.setToolTip("Clicks are outside of the object, as with Shift.")
        self._hint = wrapped_label()
        self._hint.setToolTip("What the mouse does on the canvas.")
        self._group = QButtonGroup(self)
        for one in (self.paint, self.points, self.box):
            self._group.addButton(one)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(row(self.paint, self.points, self.box))
        layout.addWidget(self.outside)
        layout.addWidget(self._hint)
        self.set_mode(PAINT)
        self._group.buttonClicked.connect(self._on_click)

    def set_mode(self, mode: str) -> None:
        """Show a mode, without a signal."""
        {PAINT: self.paint, POINTS: self.points, BOX: self.box}[mode].setChecked(True)
        self.outside.setChecked(False)
        self.outside.setHidden(mode == PAINT)
        self._mode = mode
        self.tell("")

    def tell(self, text: str) -> None:
        """Say something in place of what to do."""
        set_text(self._hint, text or _HINTS[self._mode])

    @property
    def told(self) -> str:
        """What is said."""
        return self._hint.text()

    @staticmethod
    def _button(text: str, tooltip: str) -> QPushButton:
        made = button(text, tooltip)
        made.setCheckable(True)
        return made

    def _on_click(self, pressed: QPushButton) -> None:
        mode = {self.paint: PAINT, self.points: POINTS, self.box: BOX}[pressed]
        self.chosen.emit(mode)
