"""The drawing of a contact sheet: tiles with outlines on a grid, with Pillow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

WIDTH = 1600
"""Width of the picture in pixels."""

_BEST_HEIGHT = 1000
_EMPTY_COST = 60
_LARGEST_TILE = 760
_GAP = 12
_FRAME = 4
_LINE = 20
_HEADER = 68
_BACKGROUND = (24, 24, 27)
_TEXT = (235, 235, 235)
_FAINT = (150, 150, 155)
_SEED = (255, 255, 255)
_FLAG = (255, 80, 80)


@dataclass(frozen=True, eq=False)
class Tile:
    """One slice of the sheet.

    Attributes
    ----------
    image : ndarray of float32, shape (H, W)
        0 is black, 1 white.
    labels : ndarray of integer, shape (H, W)
    title, seeded, flag : str
        ``seeded`` and ``flag`` are empty where they do not apply.
    """

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.integer]
    title: str
    seeded: str
    flag: str


@dataclass(frozen=True, eq=False)
class Sheet:
    """Tiles of one size, a header and the colours of the labels.

    Attributes
    ----------
    tiles : sequence of Tile
    spacing : tuple of float
        Height and width of a pixel.
    colours : mapping of label to (red, green, blue)
    header : str
    """

    tiles: Sequence[Tile]
    spacing: tuple[float, float]
    colours: Mapping[int, tuple[int, int, int]]
    header: str

    @cached_property
    def caption_height(self) -> int:
        """Two lines below the tiles where any slice is flagged, else one."""
        return _LINE * (2 if any(tile.flag for tile in self.tiles) else 1) + 4

    @cached_property
    def columns(self) -> int:
        """The number of columns that comes near a screen's height and leaves few places empty."""

        def cost(columns: int) -> float:
            empty = -len(self.tiles) % columns
            return abs(self._height(columns) - _BEST_HEIGHT) + _EMPTY_COST * empty

        return min(range(1, len(self.tiles) + 1), key=cost)

    def tile_size(self, columns: int) -> tuple[int, int]:
        """``(height, width)`` of the tiles in pixels; the physical aspect ratio."""
        rows, cols = self.tiles[0].image.shape
        height, width = rows * self.spacing[0], cols * self.spacing[1]
        room = (WIDTH - _GAP) / columns - _GAP - 2 * _FRAME
        scale = min(room / width, _LARGEST_TILE / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _height(self, columns: int) -> int:
        rows = -(-len(self.tiles) // columns)
        return _HEADER + rows * self._row_height(columns) + _GAP

    def _row_height(self, columns: int) -> int:
        return self.tile_size(columns)[0] + 2 * _FRAME + self.caption_height + _GAP

    def save(self, path: str | os.PathLike[str]) -> None:
        """Draw the sheet and write it as a PNG file."""
        from PIL import Image, ImageDraw

        sheet = Image.new("RGB", (WIDTH, self._height(self.columns)), _BACKGROUND)
        draw = ImageDraw.Draw(sheet)
        _draw_text(draw, (_GAP, 10), self.header, 18, _TEXT, WIDTH - 2 * _GAP)
        self._draw_legend(draw)
        height, width = self.tile_size(self.columns)
        step = (WIDTH - _GAP) // self.columns
        for place, tile in enumerate(self.tiles):
            row, column = divmod(place, self.columns)
            x = _GAP + column * step
            y = _HEADER + row * self._row_height(self.columns)
            frame = _FLAG if tile.flag else _SEED if tile.seeded else None
            if frame:
                box = (x, y, x + width + 2 * _FRAME - 1, y + height + 2 * _FRAME - 1)
                draw.rectangle(box, fill=frame)
            picture = Image.fromarray(render_tile(tile, (height, width), self.colours))
            sheet.paste(picture, (x + _FRAME, y + _FRAME))
            self._draw_caption(draw, tile, (x + _FRAME, y + height + 2 * _FRAME + 2), step)
        with open(path, "wb") as file:
            sheet.save(file, format="PNG")

    def _draw_caption(
        self, draw: ImageDraw, tile: Tile, corner: tuple[int, int], step: int
    ) -> None:
        x, y = corner
        room = step - _GAP - 2 * _FRAME
        end = _draw_text(draw, (x, y), tile.title, 15, _TEXT, room)
        if tile.seeded:
            _draw_text(draw, (end + 10, y), tile.seeded, 15, _FAINT, room - (end + 10 - x))
        if tile.flag:
            _draw_text(draw, (x, y + _LINE), tile.flag, 14, _FLAG, room)

    def _draw_legend(self, draw: ImageDraw) -> None:
        x, y = float(_GAP), 38
        if not self.colours:
            _draw_text(draw, (x, y), "no label", 16, _FAINT, WIDTH)
            return
        for drawn, (label, colour) in enumerate(self.colours.items()):
            if x > WIDTH - 170:
                rest = len(self.colours) - drawn
                _draw_text(draw, (x, y), f"and {rest} more", 16, _FAINT, WIDTH - x)
                return
            draw.rectangle((x, y + 2, x + 14, y + 16), fill=colour)
            x = _draw_text(draw, (x + 20, y), str(label), 16, _TEXT, WIDTH) + 18


def render_tile(
    tile: Tile, size: tuple[int, int], colours: Mapping[int, tuple[int, int, int]]
) -> npt.NDArray[np.uint8]:
    """One tile at the size of the sheet.

    Parameters
    ----------
    tile : Tile
    size : tuple of int
        ``(height, width)`` in pixels.
    colours : mapping of label to (red, green, blue)

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
    """
    from PIL import Image

    height, width = size
    grey = Image.fromarray((tile.image * 255).round().astype(np.uint8))
    pixels = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC))
    rows, columns = (
        ((np.arange(n) + 0.5) * have / n).astype(int)
        for n, have in zip(size, tile.labels.shape, strict=True)
    )
    labels = tile.labels[np.ix_(rows, columns)]
    rgb = np.repeat(pixels[:, :, None], 3, axis=2)
    magnification = min(height / tile.labels.shape[0], width / tile.labels.shape[1])
    edge = outline(labels, 2 if magnification >= 1.5 else 1)
    for label in np.unique(labels[edge]).tolist():
        rgb[edge & (labels == label)] = colours[label]
    return rgb


def outline(labels: npt.NDArray[np.integer], thickness: int) -> npt.NDArray[np.bool_]:
    """Pixels of a label within that many pixels of another label or the background."""
    padded = np.pad(labels, thickness, mode="edge")
    height, width = labels.shape
    reach = range(-thickness, thickness + 1)
    edge = np.zeros(labels.shape, bool)
    for i, j in product(reach, reach):
        shifted = padded[thickness + i :, thickness + j :][:height, :width]
        edge |= shifted != labels
    edge &= labels != 0
    return edge


def _draw_text(
    draw: ImageDraw,
    corner: tuple[float, float],
    text: str,
    size: int,
    colour: tuple[int, int, int],
    room: float,
) -> float:
    """Draw text, shortened to the room; returns where it ends."""
    from PIL import ImageFont

    font = ImageFont.load_default(size=size)
    shown = text
    while shown and font.getlength(shown) > room:
        shown = shown.removesuffix("...")[:-1].rstrip() + "..." if len(shown) > 4 else ""
    draw.text(corner, shown, font=font, fill=colour)
    return corner[0] + font.getlength(shown)
