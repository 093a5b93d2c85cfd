"""Icons of buttons and folds, drawn in the colour of the text beside them."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QEvent, QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QIcon, QPainter, QPalette, QPixmap, QPolygonF
from qtpy.QtWidgets import QPushButton, QSizePolicy, QWidget

_SIZE = 12
_GAP = 4
"""Between the icon and the text."""
_Point = tuple[float, float]

# Polygons in a unit square.
_GLYPHS: dict[str, tuple[tuple[_Point, ...], ...]] = {
    "play": (((0.1, 0.0), (1.0, 0.5), (0.1, 1.0)),),
    "pause": (
        ((0.1, 0.0), (0.4, 0.0), (0.4, 1.0), (0.1, 1.0)),
        ((0.6, 0.0), (0.9, 0.0), (0.9, 1.0), (0.6, 1.0)),
    ),
    "stop": (((0.05, 0.05), (0.95, 0.05), (0.95, 0.95), (0.05, 0.95)),),
    "next": (
        ((0.0, 0.0), (0.7, 0.5), (0.0, 1.0)),
        ((0.75, 0.0), (1.0, 0.0), (1.0, 1.0), (0.75, 1.0)),
    ),
    "right": (((0.25, 0.1), (0.75, 0.5), (0.25, 0.9)),),
    "lock": (
        ((0.1, 0.45), (0.9, 0.45), (0.9, 1.0), (0.1, 1.0)),
        ((0.2, 0.45), (0.2, 0.0), (0.35, 0.0), (0.35, 0.45)),
        ((0.65, 0.45), (0.65, 0.0), (0.8, 0.0), (0.8, 0.45)),
        ((0.2, 0.15), (0.2, 0.0), (0.8, 0.0), (0.8, 0.15)),
    ),
    "check": (((0.0, 0.5), (0.15, 0.35), (0.4, 0.65), (0.85, 0.1), (1.0, 0.25), (0.4, 0.95)),),
    "down": (((0.1, 0.25), (0.9, 0.25), (0.5, 0.75)),),
}


class GlyphButton(QPushButton):
    """A push button with a text and an icon that follows the theme.

    Parameters
    ----------
    text, tooltip : str
    glyph : {"play", "pause", "stop", "next"}
    """

    def __init__(self, text: str, tooltip: str, glyph: str) -> None:
        super().__init__(text)
        self._glyph = glyph
        self._drawn: tuple[object, ...] = ()
        self.setToolTip(tooltip)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.setMinimumWidth(60)
        self.setIconSize(QSize(_SIZE + _GAP, _SIZE))
        self._draw()

    def set_glyph(self, glyph: str) -> None:
        """Show another icon."""
        self._glyph = glyph
        self._draw()

    def changeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw the icon again where colours may have changed."""
        super().changeEvent(event)
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange):
            self._draw()

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Draw the icon again: the style has set the colours by now."""
        super().showEvent(event)
        self._draw()

    def _draw(self) -> None:
        wanted = self._glyph, *text_colours(self)
        if wanted != self._drawn:
            self._drawn = wanted
            self.setIcon(glyph_icon(self._glyph, self))


def text_colours(widget: QWidget) -> tuple[int, int]:
    """Colours of the text of a button, enabled and disabled, as RGBA."""
    groups, role = QPalette.ColorGroup, QPalette.ColorRole.ButtonText
    normal, disabled = (
        widget.palette().color(group, role).rgba() for group in (groups.Active, groups.Disabled)
    )
    return normal, disabled


def glyph_icon(glyph: str, widget: QWidget) -> QIcon:
    """An icon in the colours that the text of a button has now.

    Parameters
    ----------
    glyph : {"play", "pause", "stop", "next", "right", "down", "lock", "check"}
    widget : QWidget
        The button.
    """
    icon = QIcon()
    modes = QIcon.Mode.Normal, QIcon.Mode.Disabled
    for mode, colour in zip(modes, text_colours(widget), strict=True):
        for scale in (1, 2):
            icon.addPixmap(_picture(glyph, QColor.fromRgba(colour), scale), mode)
    return icon


def _picture(glyph: str, colour: QColor, scale: int) -> QPixmap:
    picture = QPixmap((_SIZE + _GAP) * scale, _SIZE * scale)
    picture.setDevicePixelRatio(scale)
    picture.fill(Qt.GlobalColor.transparent)
    square = QRectF(1, 1, _SIZE - 2, _SIZE - 2)
    with QPainter(picture) as painter:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        for polygon in _GLYPHS[glyph]:
            points = [
                QPointF(square.left() + x * square.width(), square.top() + y * square.height())
                for x, y in polygon
            ]
            painter.drawPolygon(QPolygonF(points))
    return picture
