"""Plot of a training: loss of every step, and the held-out Dice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_slmsam2.widgets.runs.quality_strip import mix

# Okabe and Ito's colours, in the shade that stands out from the background.
BEFORE = {"dark": QColor("#E69F00"), "light": QColor("#B35A00")}
AFTER = {"dark": QColor("#56B4E9"), "light": QColor("#0072B2")}

_LEFT, _RIGHT, _GAP, _TITLE = 34.0, 6.0, 8.0, 15.0
_SMOOTH = 0.8
_Point = tuple[float, float]


def theme_of(widget: QWidget) -> str:
    """``dark`` or ``light``, by the background of a widget."""
    return "dark" if widget.palette().window().color().lightnessF() < 0.5 else "light"


class TrainingCurve(QWidget):
    """Two plots above each other over the steps: held-out Dice and loss."""

    def __init__(self) -> None:
        super().__init__()
        self._total = 1
        self._loss: list[_Point] = []
        self._smooth: list[_Point] = []
        self._dice: list[_Point] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumSize(120, 150)
        self.setAccessibleName("Training")
        self.setToolTip(
            "Above: Dice of the held-out part at every evaluation; the dashed line is the base "
            "model. Below: the loss of every step, and its running mean."
        )

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """The size without a layout."""
        return QSize(300, 150)

    @property
    def losses(self) -> Sequence[_Point]:
        """``(step, loss)`` of every step."""
        return tuple(self._loss)

    @property
    def dice(self) -> Sequence[_Point]:
        """``(step, Dice)`` of every evaluation; step 0 is the base model."""
        return tuple(self._dice)

    def clear(self) -> None:
        """Remove all points."""
        self._total = 1
        self._loss, self._smooth, self._dice = [], [], []
        self._changed()

    def set_total(self, steps: int) -> None:
        """How many steps there will be at most."""
        self._total = max(1, steps)
        self._changed()

    def add_loss(self, step: int, loss: float) -> None:
        """The loss of a step."""
        if not math.isfinite(loss) or (self._loss and step <= self._loss[-1][0]):
            return
        before = self._smooth[-1][1] if self._smooth else loss
        self._loss.append((step, loss))
        self._smooth.append((step, _SMOOTH * before + (1 - _SMOOTH) * loss))
        self._changed()

    def add_dice(self, step: int, dice: float) -> None:
        """Add an evaluation after a step."""
        if math.isfinite(dice):
            self._dice.append((step, dice))
            self._changed()

    def _changed(self) -> None:
        dice = f"held-out Dice {self._dice[-1][1]:.3f}" if self._dice else "not evaluated yet"
        loss = f"loss {self._smooth[-1][1]:.3f}" if self._smooth else "no step yet"
        self.setAccessibleDescription(f"{dice}; {loss}")
        self.update()

    def changeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw again in the colours of a new theme."""
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange):
            self.update()
        super().changeEvent(event)

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw the curve."""
        del event
        theme = theme_of(self)
        height = (self.height() - _GAP) / 2
        with QPainter(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            font = painter.font()
            font.setPointSizeF(max(7.0, 0.85 * font.pointSizeF()))
            painter.setFont(font)
            upper = _Plot(painter, self, QRectF(0, 0, self.width(), height), self._total)
            upper.frame("Held-out Dice", [dice for _, dice in self._dice], (0.0, 1.0))
            if self._dice:
                upper.level(self._dice[0][1], BEFORE[theme])
                upper.line(self._dice, AFTER[theme], dots=True)
            lower = _Plot(
                painter, self, QRectF(0, height + _GAP, self.width(), height), self._total
            )
            lower.frame("Loss", [loss for _, loss in self._loss], (0.0, math.inf))
            lower.line(self._loss, mix(self._background(), self._text(), 0.35))
            lower.line(self._smooth, self._text())

    def _text(self) -> QColor:
        return self.palette().windowText().color()

    def _background(self) -> QColor:
        return self.palette().window().color()


class _Plot:
    """One plot: where a step and a value lie."""

    def __init__(self, painter: QPainter, widget: QWidget, whole: QRectF, total: int) -> None:
        self._painter = painter
        self._whole = whole
        self._area = whole.adjusted(_LEFT, _TITLE, -_RIGHT, -3)
        self._total = total
        palette = widget.palette()
        self._text, self._background = palette.windowText().color(), palette.window().color()
        self._low, self._high = 0.0, 1.0

    def frame(self, title: str, values: Sequence[float], limits: _Point) -> None:
        """Title, the two ends of the scale and the ground."""
        self._low, self._high = scale(values, limits)
        painter, area = self._painter, self._area
        painter.fillRect(area, mix(self._background, self._text, 0.08))
        painter.setPen(self._text)
        where = QRectF(self._whole.left() + _LEFT, self._whole.top(), area.width(), _TITLE)
        painter.drawText(where, Qt.AlignmentFlag.AlignVCenter, title)
        if values:
            last = f"{values[-1]:.3f}"
            right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(where, right, last)
            margin = QRectF(self._whole.left(), 0, _LEFT - 4, 12)
            for value, top in ((self._high, area.top() - 2), (self._low, area.bottom() - 10)):
                margin.moveTop(top)
                painter.drawText(margin, right, f"{value:.2f}")

    def level(self, value: float, colour: QColor) -> None:
        """A dashed line at a value."""
        self._painter.setPen(QPen(colour, 1.5, Qt.PenStyle.DashLine))
        y = self._place(0, value).y()
        self._painter.drawLine(QPointF(self._area.left(), y), QPointF(self._area.right(), y))

    def line(self, points: Sequence[_Point], colour: QColor, *, dots: bool = False) -> None:
        """A line through points."""
        places = [self._place(*point) for point in points]
        self._painter.setPen(QPen(colour, 1.5))
        self._painter.setBrush(Qt.BrushStyle.NoBrush)
        self._painter.drawPolyline(QPolygonF(places))
        if dots:
            self._painter.setPen(Qt.PenStyle.NoPen)
            self._painter.setBrush(colour)
            for place in places:
                self._painter.drawEllipse(place, 2.5, 2.5)

    def _place(self, step: float, value: float) -> QPointF:
        area, span = self._area.adjusted(4, 4, -4, -4), self._high - self._low
        x = area.left() + area.width() * min(1.0, step / self._total)
        return QPointF(x, area.bottom() - area.height() * (value - self._low) / span)


def scale(values: Sequence[float], limits: _Point) -> _Point:
    """Round ends of a scale that holds all values, within limits."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    step = 10 ** math.floor(math.log10(max(high - low, 0.05)))
    low = max(limits[0], math.floor(low / step) * step)
    high = min(limits[1], math.ceil(high / step + 1e-9) * step)
    return (low, high) if high > low else (low, low + step)
