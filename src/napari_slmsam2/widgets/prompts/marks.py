"""Layers that show clicks and boxes on the canvas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from napari import Viewer
from napari.layers import Image, Layer, Points, Vectors

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.widgets.common.own_layers import add_own_layer, remove_layer
from napari_slmsam2.widgets.workspace.grid import SliceView
from napari_slmsam2.widgets.workspace.slicing import (
    composed_transform,
    copy_transform,
    transform_of,
)

_INSIDE, _OUTSIDE, _BOX = "#3fbf3f", "#ff4f4f", "#ffd24f"
_SIZE_ON_SCREEN = 11
_LINE_ON_SCREEN = 2.0


class PromptMarks:
    """Shows prompts in a Points and a Vectors layer, which exist only while there are any.

    Parameters
    ----------
    viewer : Viewer
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._layers: list[Layer] = []

    def show(
        self,
        image: Image,
        view: SliceView,
        index: int,
        prompts: Iterable[SlicePrompt],
        drawn: SlicePrompt | None = None,
    ) -> None:
        """Show clicks, boxes and lassos of prompts, and of one that is being drawn on a slice."""
        here = False
        clicks: list[npt.NDArray[np.float64]] = []
        signs: list[int] = []
        lines: list[npt.NDArray[np.float64]] = []
        for prompt in (*prompts, *(() if drawn is None else (drawn,))):
            if prompt.points is not None and prompt.point_labels is not None:
                clicks += [in_layer(view, image.ndim, prompt.index, p) for p in prompt.points]
                signs += prompt.point_labels.tolist()
                here = here or (prompt.index == index and len(prompt.points) > 0)
            lines += _outlines(view, image.ndim, prompt)
        points = self._layer(image, Points, clicks)
        if points is not None and signs:
            colours = [_INSIDE if sign else _OUTSIDE for sign in signs]
            points.face_color = points.border_color = colours
            points.symbol = ["disc" if sign else "x" for sign in signs]
        if points is not None:
            # On a slice without points napari draws one of no size at the first voxel, which a
            # smallest size on the canvas would show.
            points.canvas_size_limits = (_SIZE_ON_SCREEN if here else 0, _SIZE_ON_SCREEN)
        boxes = self._layer(image, Vectors, lines)
        if boxes is not None and lines:
            boxes.edge_color = _BOX
            step = float(np.linalg.norm(composed_transform(image)[0], axis=0).min())
            boxes.edge_width = _LINE_ON_SCREEN / (self._viewer.scene.camera.zoom * step)

    def clear(self) -> None:
        """Remove the layers."""
        for layer in self._layers:
            remove_layer(self._viewer, layer)
        self._layers.clear()

    def _layer(self, image: Image, kind: type[Layer], data: list[Any]) -> Layer | None:
        """The layer of a kind with new data; None where there is nothing to show."""
        self._layers = [x for x in self._layers if x in self._viewer.layers]
        for layer in self._layers:
            if isinstance(layer, kind):
                layer.data = np.array(data) if data else _nothing(kind, image.ndim)
                copy_transform(image, layer)
                return layer
        return self._add(image, kind, data) if data else None

    def _add(self, image: Image, kind: type[Layer], data: list[Any]) -> Layer:
        grid = transform_of(image)
        if kind is Points:
            layer = Points(
                np.array(data),
                ndim=image.ndim,
                name="clicks",
                size=1,
                canvas_size_limits=(_SIZE_ON_SCREEN, _SIZE_ON_SCREEN),
                **grid,
            )
        else:
            layer = Vectors(
                np.array(data),
                ndim=image.ndim,
                name="boxes",
                vector_style="line",
                **grid,
            )
        add_own_layer(self._viewer, layer)
        layer.editable = False
        self._layers.append(layer)
        return layer


def in_layer(
    view: SliceView, ndim: int, index: int, place: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The coordinates in a layer's array of ``(row, column)`` on a slice."""
    row, column = (axis for axis in view.axes if axis != view.layer_axis)
    full = np.zeros(ndim)
    for axis, held in view.held:
        full[axis] = held
    full[view.layer_axis], full[row], full[column] = index, place[0], place[1]
    return full


def _outlines(view: SliceView, ndim: int, prompt: SlicePrompt) -> list[npt.NDArray[np.float64]]:
    """The sides of box and lasso, each as start and direction, shape (2, ndim)."""
    polygons: list[npt.NDArray[np.float64]] = []
    if prompt.box is not None:
        top, left, bottom, right = prompt.box
        polygons.append(np.array([(top, left), (top, right), (bottom, right), (bottom, left)]))
    if prompt.lasso is not None:
        polygons.append(prompt.lasso)
    sides = []
    for polygon in polygons:
        corners = [in_layer(view, ndim, prompt.index, corner) for corner in polygon]
        pairs = zip(corners, corners[1:] + corners[:1], strict=True)
        sides += [np.stack([a, b - a]) for a, b in pairs]
    return sides


def _nothing(kind: type[Layer], ndim: int) -> npt.NDArray[np.float64]:
    return np.empty((0, ndim) if kind is Points else (0, 2, ndim))
