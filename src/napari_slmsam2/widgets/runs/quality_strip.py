"""A strip along the slice axis: how sure the model is of every slice, and where the seeds are."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPen, QPixmap, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

_MARGIN = 3.0
_SEED_LANE = 7.0
_RANGE_LANE = 6.0
_VISITED_HEIGHT = 3.0
_MIN_BAR = 2.0
_GAPS_FROM = 4.0
"""Bars at least this wide are set apart by a pixel."""

# Okabe and Ito's colours, which all kinds of colour vision can distinguish; the height of
# the bar shows the same. Blue is the lighter one on dark backgrounds.
_LOW, _MIDDLE = QColor("#D55E00"), QColor("#E69F00")
_HIGH = {"dark": QColor("#56B4E9"), "light": QColor("#0072B2")}


class QualityStrip(QWidget):
    """Confidence per slice, seeds, range and progress of a run, and the current slice.

    A click, a drag or the arrow keys ask for a slice. A strip of more slices than pixels shows the
    lowest confidence of the slices that share a pixel.

    Parameters
    ----------
    parent : QWidget, optional
    """

    slice_clicked = Signal(int)
    """A slice was asked for."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._n = 0
        self._current = 0
        self._seeds: dict[int, tuple[int, ...]] = {}
        self._quality = np.zeros(0, np.float32)
        self._visited = np.zeros(0, bool)
        self._range: tuple[int, int] | None = None
        self._picture: QPixmap | None = None
        self._asked: int | None = None
        # A click must not take the keys from the canvas; Tab reaches the strip.
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMinimumSize(80, 36)
        self.setAccessibleName("Confidence per slice")
        self._describe_to_readers()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """The size without a layout."""
        return QSize(320, 36)

    @property
    def n_slices(self) -> int:
        """Number of slices along the strip."""
        return self._n

    @property
    def current(self) -> int:
        """The slice that is marked as shown."""
        return self._current

    def set_slices(self, n: int) -> None:
        """Reset to ``n`` slices, without seeds, scores, range and progress."""
        self._n = max(0, int(n))
        self._current = min(self._current, max(0, self._n - 1))
        self._seeds = {}
        self._quality = np.full(self._n, np.nan, np.float32)
        self._visited = np.zeros(self._n, bool)
        self._range = None
        self._changed()

    def set_current(self, index: int) -> None:
        """Mark the slice that is shown; beyond the ends, the nearest one."""
        index = min(max(0, int(index)), max(0, self._n - 1))
        if index != self._current:
            self._current = index
            self._describe_to_readers()
            self.update()

    def set_seeds(self, seeds: Mapping[int, Collection[int]]) -> None:
        """Mark annotated slices.

        Parameters
        ----------
        seeds : mapping of label to slice indices
        """
        labels: dict[int, list[int]] = {}
        for label in sorted(seeds):
            for index in self._inside(seeds[label]):
                labels.setdefault(index, []).append(int(label))
        self._seeds = {index: tuple(found) for index, found in labels.items()}
        self._changed()

    def set_quality(self, quality: Mapping[int, float]) -> None:
        """Show confidences.

        Parameters
        ----------
        quality : mapping of slice index to confidence from 0 to 1
            Slices that are missing, or NaN, have none.
        """
        self._quality = np.full(self._n, np.nan, np.float32)
        indices = self._inside(quality)
        self._quality[indices] = [quality[i] for i in indices]
        np.clip(self._quality, 0, 1, out=self._quality)
        self._changed()

    def set_range(self, limits: tuple[int, int] | None) -> None:
        """Bracket the first and the last slice of a run; None for the whole volume."""
        self._range = None if limits is None else (int(limits[0]), int(limits[1]))
        self._changed()

    def set_progress(self, visited: Collection[int]) -> None:
        """Underline the slices that a run has come by so far."""
        self._visited = np.zeros(self._n, bool)
        self._visited[self._inside(visited)] = True
        self._changed()

    def describe(self, index: int) -> str:
        """What is known of a slice, in words."""
        parts = []
        if not np.isnan(self._quality[index]):
            parts.append(f"confidence {self._quality[index]:.2f}")
        labels = self._seeds.get(index, ())
        if labels:
            names = ", ".join(map(str, labels))
            parts.append(f"seed of label{'s' if len(labels) > 1 else ''} {names}")
        return f"slice {index}: {', '.join(parts) or 'not segmented'}"

    def slice_at(self, x: float) -> int | None:
        """The slice under a horizontal position in the widget; None without slices."""
        if self._n == 0:
            return None
        left, width = self._extent()
        return min(max(0, math.floor((x - left) / width * self._n)), self._n - 1)

    def _inside(self, indices: Iterable[int]) -> list[int]:
        return [int(i) for i in indices if 0 <= i < self._n]

    def _extent(self) -> tuple[float, float]:
        return _MARGIN, max(1.0, self.width() - 2 * _MARGIN)

    def _changed(self) -> None:
        self._picture = None
        self._describe_to_readers()
        self.update()

    def _describe_to_readers(self) -> None:
        text = self.describe(self._current) if self._n else "no slices"
        self.setAccessibleDescription(text)

    def _ask(self, index: int | None) -> None:
        if index is not None and index != self._asked:
            self._asked = index
            self.slice_clicked.emit(index)

    # Events. Their names are Qt's.

    def mousePressEvent(self, event: Any) -> None:  # noqa: D102, N802
        if event.button() == Qt.MouseButton.LeftButton:
            self._ask(self.slice_at(event.position().x()))

    def mouseMoveEvent(self, event: Any) -> None:  # noqa: D102, N802
        if event.buttons() & Qt.MouseButton.LeftButton:
            self._ask(self.slice_at(event.position().x()))

    def mouseReleaseEvent(self, event: Any) -> None:  # noqa: D102, N802
        del event
        self._asked = None

    def keyPressEvent(self, event: Any) -> None:  # noqa: D102, N802
        key, page = Qt.Key, max(1, self._n // 10)
        steps = {
            key.Key_Left: -1, key.Key_Down: -1, key.Key_Right: 1, key.Key_Up: 1,
            key.Key_PageDown: -page, key.Key_PageUp: page,
            key.Key_Home: -self._n, key.Key_End: self._n,
        }  # fmt: skip
        if event.key() not in steps or self._n == 0:
            super().keyPressEvent(event)
            return
        target = min(max(0, self._current + steps[event.key()]), self._n - 1)
        if target != self._current:
            self.slice_clicked.emit(target)

    def event(self, event: Any) -> bool:  # noqa: D102
        if event.type() == QEvent.Type.ToolTip:
            index = self.slice_at(event.pos().x())
            if index is not None:
                QToolTip.showText(event.globalPos(), self.describe(index), self)
            return True
        return bool(super().event(event))

    def changeEvent(self, event: Any) -> None:  # noqa: D102, N802
        self._picture = None
        self.update()
        super().changeEvent(event)

    def resizeEvent(self, event: Any) -> None:  # noqa: D102, N802
        self._picture = None
        super().resizeEvent(event)

    # Painting: everything but the current slice is kept as a picture.

    def paintEvent(self, event: Any) -> None:  # noqa: D102, N802
        del event
        scale = self.devicePixelRatioF()
        if self._picture is None or self._picture.devicePixelRatio() != scale:
            self._picture = QPixmap(self.size() * scale)
            self._picture.setDevicePixelRatio(scale)
            self._picture.fill(Qt.GlobalColor.transparent)
            with QPainter(self._picture) as painter:
                self._draw(painter)
        with QPainter(self) as painter:
            painter.drawPixmap(0, 0, self._picture)
            if self._n:
                self._draw_current(painter)
            if self.hasFocus():
                painter.setPen(QPen(self._text(), 1, Qt.PenStyle.DotLine))
                painter.drawRect(QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5))

    def _text(self, strength: float = 1.0) -> QColor:
        """The colour of text, or one between it and the background."""
        palette = self.palette()
        return mix(palette.window().color(), palette.windowText().color(), strength)

    def _lanes(self) -> tuple[QRectF, QRectF, QRectF]:
        """Seeds above, bars, range below."""
        left, width = self._extent()
        height = self.height() - _SEED_LANE - _RANGE_LANE - 2
        bars = QRectF(left, 1 + _SEED_LANE, width, height)
        return (
            QRectF(left, 1, width, _SEED_LANE),
            bars,
            QRectF(left, bars.bottom(), width, _RANGE_LANE),
        )

    def _draw(self, painter: QPainter) -> None:
        seeds, bars, below = self._lanes()
        painter.fillRect(bars, self._text(0.14))
        if self._n == 0:
            return
        self._draw_bars(painter, bars)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._draw_seeds(painter, seeds, bars)
        if self._range is not None:
            self._draw_range(painter, bars, below, *self._range)

    def _bins(self, lane: QRectF) -> npt.NDArray[np.intp]:
        """The first slice of every bin; a bin is a slice or a pixel, whichever is wider."""
        n_bins = max(1, min(self._n, int(lane.width())))
        return np.arange(n_bins) * self._n // n_bins

    def _draw_bars(self, painter: QPainter, lane: QRectF) -> None:
        starts = self._bins(lane)
        known = np.minimum.reduceat(np.nan_to_num(self._quality, nan=2.0), starts)
        visited = np.logical_or.reduceat(self._visited, starts)
        width = lane.width() / len(starts)
        gap = 1.0 if width >= _GAPS_FROM else 0.0
        dark = self.palette().window().color().lightnessF() < 0.5
        high = _HIGH["dark" if dark else "light"]
        for position in np.flatnonzero((known <= 1) | visited).tolist():
            cell = QRectF(lane.left() + position * width, lane.top(), width - gap, lane.height())
            confidence = float(known[position])
            if confidence <= 1:
                colour = _of_confidence(confidence, high)
                painter.fillRect(cell, mix(self._text(0.14), colour, 0.3))
                top = cell.bottom() - max(_MIN_BAR, confidence * cell.height())
                painter.fillRect(
                    QRectF(cell.left(), top, cell.width(), cell.bottom() - top), colour
                )
            if visited[position]:
                top = lane.bottom() - _VISITED_HEIGHT
                painter.fillRect(
                    QRectF(cell.left(), top, cell.width(), _VISITED_HEIGHT), self._text(0.75)
                )

    def _centre(self, index: int) -> float:
        left, width = self._extent()
        return left + (index + 0.5) * width / self._n

    def _draw_seeds(self, painter: QPainter, lane: QRectF, bars: QRectF) -> None:
        painter.setBrush(self._text())
        for x in sorted({round(self._centre(index)) + 0.5 for index in self._seeds}):
            painter.setPen(QPen(self._text(), 1))
            painter.drawLine(QPointF(x, lane.bottom() - 1), QPointF(x, bars.bottom()))
            painter.setPen(Qt.PenStyle.NoPen)
            half = _SEED_LANE / 2
            corners = [(x - half, lane.top()), (x + half, lane.top()), (x, lane.bottom())]
            painter.drawPolygon(QPolygonF([QPointF(*corner) for corner in corners]))

    def _draw_range(
        self, painter: QPainter, bars: QRectF, lane: QRectF, first: int, last: int
    ) -> None:
        left, width = self._extent()
        start = left + width * min(max(0, first), self._n) / self._n
        stop = left + width * min(max(0, last + 1), self._n) / self._n
        veil = self._text(0)
        veil.setAlphaF(0.6)
        painter.fillRect(QRectF(bars.left(), bars.top(), start - left, bars.height()), veil)
        painter.fillRect(QRectF(stop, bars.top(), bars.right() - stop, bars.height()), veil)
        painter.setPen(QPen(self._text(0.75), 1.5))
        painter.setBrush(Qt.BrushStyle.NoBrush)
        top, bottom = lane.top() + 1.5, lane.bottom() - 2
        points = [(start + 1, top), (start + 1, bottom), (stop - 1, bottom), (stop - 1, top)]
        painter.drawPolyline(QPolygonF([QPointF(*point) for point in points]))

    def _draw_current(self, painter: QPainter) -> None:
        """A line in the colour of text; a rim of the background sets it off from any bar."""
        x = round(self._centre(self._current))
        # Seed markers stay in sight above it.
        top = self._lanes()[1].top()
        painter.fillRect(QRectF(x - 2, top, 5, self.height() - top), self._text(0))
        painter.fillRect(QRectF(x - 1, top, 3, self.height() - top), self._text())


def mix(first: QColor, second: QColor, share: float) -> QColor:
    """A colour between two: ``share`` 0 is the first one."""
    return QColor.fromRgbF(
        *(
            (1 - share) * a + share * b
            for a, b in zip(first.getRgbF()[:3], second.getRgbF()[:3], strict=True)
        )
    )


def _of_confidence(confidence: float, high: QColor) -> QColor:
    if confidence < 0.5:
        return mix(_LOW, _MIDDLE, 2 * confidence)
    return mix(_MIDDLE, high, 2 * confidence - 1)
