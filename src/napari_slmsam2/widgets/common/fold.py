"""Parts of a panel that are shown when their title is clicked."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QWidget
from superqt import QCollapsible

from napari_slmsam2.widgets.common.icons import glyph_icon, text_colours

_RECOLOURED = (QEvent.Type.Show, QEvent.Type.PaletteChange, QEvent.Type.StyleChange)


class Fold(QCollapsible):
    """A folded part, with an arrow in the colour of its title.

    Parameters
    ----------
    title, tooltip : str
    content : QWidget
    """

    def __init__(self, title: str, tooltip: str, content: QWidget) -> None:
        super().__init__(title)
        self._drawn: tuple[int, int] | None = None
        self.setToolTip(tooltip)
        self.toggleButton().setToolTip(tooltip)
        self.addWidget(content)
        for part in (self, self.content()):
            part.layout().setContentsMargins(0, 0, 0, 0)
            part.layout().setSpacing(2)
        self.toggleButton().installEventFilter(self)
        self._draw()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """Draw the arrows again where the colours of the theme may have changed."""
        if watched is self.toggleButton():
            if event.type() in _RECOLOURED:
                self._draw()
            return False
        return bool(super().eventFilter(watched, event))

    def _draw(self) -> None:
        colours = text_colours(self.toggleButton())
        if colours != self._drawn:
            self._drawn = colours
            self.setCollapsedIcon(glyph_icon("right", self.toggleButton()))
            self.setExpandedIcon(glyph_icon("down", self.toggleButton()))
