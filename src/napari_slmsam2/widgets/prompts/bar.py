"""Paint, points, box, lasso, scribble or removal: what the mouse does on the canvas."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QPushButton, QSizePolicy, QSpinBox, QVBoxLayout, QWidget

from napari_slmsam2.widgets.common.choosers import wrapped_label
from napari_slmsam2.widgets.common.layout import button, row, set_text

PAINT, POINTS, BOX, REMOVE = "paint", "points", "box", "remove"
LASSO, SCRIBBLE = "lasso", "scribble"
OFF = "off"
"""The mouse belongs to napari's own tools."""

REACH, MOST_REACH = 5, 100
"""Slices to each side of the 3D preview: at first, and at most."""

_HINTS = {
    OFF: "",
    PAINT: "",
    POINTS: "Click on the object; Shift+click where it is not. Escape: napari's own tools.",
    REMOVE: "Click on a seed to remove it with its pixels. Escape: napari's own tools.",
    BOX: "Drag a box; click, or Shift+click, to correct. Escape: napari's own tools.",
    LASSO: "Drag roughly around the object. Points correct it. Escape: napari's own tools.",
    SCRIBBLE: "Draw through the object; then, where it is not. Escape: napari's own tools.",
}


class PromptBar(QWidget):
    """Six buttons, of which at most one is down, and a line that describes what to do.

    None is down while the mouse pans the canvas, or while another tool of napari is chosen.
    """

    chosen = Signal(str)
    """A person chose ``paint``, ``points``, ``box``, ``lasso``, ``scribble`` or ``remove``."""

    def __init__(self) -> None:
        super().__init__()
        self.paint = self._button(
            PAINT, "Paint", "Paint seeds with napari's own brush, in the Labels layer."
        )
        self.points = self._button(
            POINTS, "Points", "Click on the object: its mask on this slice appears at once."
        )
        self.box = self._button(
            BOX, "Box", "Drag a box around the object: its mask appears at once."
        )
        self.lasso = self._button(
            LASSO, "Lasso", "Draw a rough outline around the object: its mask appears at once."
        )
        self.scribble = self._button(
            SCRIBBLE, "Scribble", "Draw strokes through the object: its mask appears at once."
        )
        self.remove = self._button(
            REMOVE, "Remove", "Click on a seed of this slice to remove it with its pixels."
        )
        self.outside = QCheckBox("Mark where the object is not")
        self.outside.setToolTip("Clicks (as with Shift) and strokes are outside of the object.")
        self.reach = _reach_box()
        self.take = button("Accept all", "Fill the previewed slices; they are no seeds. Key: K")
        self.drop = button("Drop", "Remove the preview; the mask of this slice stays. Key: Escape")
        self._preview = wrapped_label()
        self._preview.setToolTip("What the object would be on the next slices.")
        self._buttons = QWidget()
        self._buttons.setLayout(row(self.take, self.drop))
        self._buttons.layout().setContentsMargins(0, 0, 0, 0)
        self._mode = OFF
        self._hint = wrapped_label()
        self._hint.setToolTip("What the mouse does on the canvas.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(3)
        layout.addLayout(row(self.paint, self.points, self.box))
        layout.addLayout(row(self.lasso, self.scribble, self.remove))
        layout.addWidget(self.outside)
        layout.addWidget(self.reach)
        layout.addWidget(self._hint)
        layout.addWidget(self._preview)
        layout.addWidget(self._buttons)
        self.show_preview("", False)
        self.set_mode(OFF)

    def set_mode(self, mode: str) -> None:
        """Show a mode, or ``off``, without a signal."""
        self._check(mode)
        if mode != self._mode:
            self.outside.setChecked(False)
        self.outside.setHidden(mode not in (POINTS, BOX, SCRIBBLE))
        self.reach.setHidden(mode not in (POINTS, BOX, LASSO, SCRIBBLE))
        self._mode = mode
        self.set_hint("")

    def set_hint(self, text: str) -> None:
        """Show a text in place of the description of the mode."""
        set_text(self._hint, text or _HINTS[self._mode])

    def show_preview(self, text: str, ready: bool) -> None:
        """Show the state of the 3D preview, and the buttons where it has slices."""
        set_text(self._preview, text)
        self._buttons.setHidden(not text)
        self.take.setEnabled(ready)

    @property
    def preview_text(self) -> str:
        """The state of the 3D preview that is shown."""
        return self._preview.text()

    @property
    def hint(self) -> str:
        """The text that is shown."""
        return self._hint.text()

    def _button(self, mode: str, text: str, tooltip: str) -> QPushButton:
        made = button(text, tooltip)
        made.setCheckable(True)
        made.clicked.connect(lambda: self._on_click(mode))
        return made

    def _on_click(self, mode: str) -> None:
        self.chosen.emit(mode)
        # Qt has toggled the button; the mode may be another one than was asked for.
        self._check(self._mode)

    def _check(self, mode: str) -> None:
        buttons = {
            PAINT: self.paint, POINTS: self.points, BOX: self.box, REMOVE: self.remove,
            LASSO: self.lasso, SCRIBBLE: self.scribble,
        }  # fmt: skip
        for name, one in buttons.items():
            one.setChecked(name == mode)


def _reach_box() -> QSpinBox:
    box = QSpinBox()
    box.setRange(0, MOST_REACH)
    box.setValue(REACH)
    box.setPrefix("3D preview: ")
    box.setSuffix(" slices to each side")
    box.setSpecialValueText("No 3D preview")
    box.setToolTip("How far a mask is followed at once, as a preview that changes no label.")
    box.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
    return box
