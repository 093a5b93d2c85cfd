"""A held-out slice before and now, with the true outline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPainterPath, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_slmsam2.widgets.adapt.curve import AFTER, BEFORE

if TYPE_CHECKING:
    from napari_slmsam2.training.adapt.evaluation import Preview

_Mask = npt.NDArray[np.bool_]
_TRUE = QColor("#F0E442")
_GAP, _CAPTION, _LEGEND = 6, 15, 16
_AROUND = 0.4
"""Of the longer side of the object, shown around it."""


class SlicePreview(QWidget):
    """The same slice twice: with the outline of the base model, and with the present one."""

    def __init__(self) -> None:
        super().__init__()
        self._before: Preview | None = None
        self._now: Preview | None = None
        self._title = "Now"
        policy = QSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)
        self.setMinimumWidth(120)
        self.setAccessibleName("Held-out slice")
        self.setToolTip(
            "A held-out slice. Yellow: the true outline. Orange: what the base "
            "model finds. Blue: what the model finds now."
        )

    def hasHeightForWidth(self) -> bool:  # noqa: N802 - Qt's name
        """The pictures keep their shape."""
        return True

    def heightForWidth(self, width: int) -> int:  # noqa: N802 - Qt's name
        """Height of the pictures, their captions and the legend."""
        side = (width - _GAP) / 2
        shape = (1, 1) if self._before is None else part_of(self._before, self._now)[0].shape
        return int(min(1.5 * side, side * shape[0] / shape[1])) + _CAPTION + _LEGEND

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """The size without a layout."""
        return QSize(300, self.heightForWidth(300))

    @property
    def shown(self) -> tuple[Preview | None, Preview | None]:
        """Before and now."""
        return self._before, self._now

    def clear(self) -> None:
        """Show nothing."""
        self._before = self._now = None
        self._title = "Now"
        self.updateGeometry()
        self.update()

    def show_preview(self, preview: Preview) -> None:
        """The first one is that of the base model."""
        if self._before is None:
            self._before = preview
        else:
            self._now = preview
        self.updateGeometry()
        self.update()

    def show_result(self, preview: Preview | None) -> None:
        """What is kept in the end; None: the base model."""
        self._now, self._title = preview, "After"
        self.update()

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw the slice and its outlines."""
        del event
        if self._before is None:
            return
        side = (self.width() - _GAP) / 2
        height = self.height() - _CAPTION - _LEGEND
        with QPainter(self) as painter:
            painter.setRenderHint(QPainter.RenderHint.Antialiasing)
            font = painter.font()
            font.setPointSizeF(max(7.0, 0.85 * font.pointSizeF()))
            painter.setFont(font)
            for number, (title, preview, colour) in enumerate(
                (
                    ("Before", self._before, BEFORE["dark"]),
                    (self._title, self._now or self._before, AFTER["dark"]),
                )
            ):
                left = number * (side + _GAP)
                painter.setPen(self.palette().windowText().color())
                painter.drawText(
                    QRectF(left, 0, side, _CAPTION), Qt.AlignmentFlag.AlignVCenter, title
                )
                if number == 0 or self._now is not None:
                    self._draw(painter, QRectF(left, _CAPTION, side, height), preview, colour)
            self._draw_legend(painter)

    def _draw(self, painter: QPainter, room: QRectF, preview: Preview, colour: QColor) -> None:
        image, truth, found = part_of(preview, self._before, self._now)
        rows, columns = image.shape
        scale = min(room.width() / columns, room.height() / rows)
        place = QRectF(room.left(), room.top(), scale * columns, scale * rows)
        place.moveCenter(room.center())
        painter.drawImage(place, _grey(image))
        # Where both lie on each other, the true one shows on both sides.
        for mask, pen, width in ((truth, _TRUE, 4.0), (found, colour, 1.6)):
            painter.setPen(QPen(pen, width))
            painter.drawPath(outline(mask, place))

    def _draw_legend(self, painter: QPainter) -> None:
        top, left = self.height() - _LEGEND, 0.0
        text = self.palette().windowText().color()
        entries = ((_TRUE, "truth"), (BEFORE["dark"], "base model"), (AFTER["dark"], "adapted"))
        for colour, name in entries:
            width = painter.fontMetrics().horizontalAdvance(name)
            painter.fillRect(QRectF(left, top + _LEGEND / 2 - 1, 12, 4), colour)
            painter.setPen(text)
            painter.drawText(
                QRectF(left + 16, top, width + 2, _LEGEND), Qt.AlignmentFlag.AlignVCenter, name
            )
            left += width + 28


def part_of(
    preview: Preview, *others: Preview | None
) -> tuple[npt.NDArray[np.float32], _Mask, _Mask]:
    """Image, truth and found mask around what any of the previews outlines.

    Returns
    -------
    tuple of ndarray, each of shape (h, w)
    """
    shown = np.zeros(preview.image.shape, bool)
    for one in (preview, *others):
        if one is not None and one.image.shape == shown.shape:
            shown |= one.truth | one.found
    part = [slice(None), slice(None)]
    if shown.any():
        spans = [np.flatnonzero(shown.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
        margin = 8 + round(_AROUND * max(last - first for first, last in spans))
        part = [slice(max(0, a - margin), b + margin + 1) for a, b in spans]
    place = tuple(part)
    return preview.image[place], preview.truth[place], preview.found[place]


def outline(mask: _Mask, place: QRectF) -> QPainterPath:
    """The edges between pixels inside and outside, drawn over a rectangle."""
    path = QPainterPath()
    rows, columns = mask.shape
    dx, dy = place.width() / columns, place.height() / rows
    padded = np.pad(mask, 1)
    for row, column in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1]).tolist():
        y = place.top() + row * dy
        path.moveTo(QPointF(place.left() + column * dx, y))
        path.lineTo(QPointF(place.left() + (column + 1) * dx, y))
    for row, column in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1]).tolist():
        x = place.left() + column * dx
        path.moveTo(QPointF(x, place.top() + row * dy))
        path.lineTo(QPointF(x, place.top() + (row + 1) * dy))
    return path


def _grey(image: npt.NDArray[np.float32]) -> QImage:
    pixels = np.ascontiguousarray(np.clip(image * 255, 0, 255).astype(np.uint8))
    rows, columns = pixels.shape
    # The copy owns its pixels.
    return QImage(pixels.tobytes(), columns, rows, columns, QImage.Format.Format_Grayscale8).copy()
