"""Layers for napari's own tools in which a lasso or a scribble is drawn on the slice on screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from napari import Viewer
from napari.layers import Image, Labels, Layer, Shapes
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import QObject, QTimer, Signal

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.widgets.common.own_layers import add_own_layer, remove_layer
from napari_slmsam2.widgets.workspace.grid import SliceView
from napari_slmsam2.widgets.workspace.slab import slab_key, slab_shape, slab_transform
from napari_slmsam2.widgets.workspace.slicing import transform_of

_INSIDE, _OUTSIDE = 1, 2
_COLOURS = {None: "transparent", _INSIDE: "#3fbf3f", _OUTSIDE: "#ff4f4f"}
_LINE = "#ffd24f"
_CLOSED = ("polygon", "rectangle")
_BRUSH_SHARE = 64
"""Shorter side of a slice over the first width of the brush."""


@dataclass(frozen=True, slots=True, eq=False)
class LassoDrawn:
    """A polygon on the slice on screen; it replaces earlier clicks and drawings."""

    outline: npt.NDArray[np.float64]

    @property
    def needs_object(self) -> bool:
        """It marks the object itself."""
        return False

    def added_to(self, seed: SlicePrompt | None, label: int, index: int) -> SlicePrompt:
        """The prompt for the model."""
        return SlicePrompt.from_lasso(label, index, self.outline)


@dataclass(frozen=True, slots=True, eq=False)
class ScribbleDrawn:
    """All strokes on the slice on screen, as pixels and labels (1 inside, 0 outside)."""

    pixels: npt.NDArray[np.int64]
    inside: npt.NDArray[np.bool_]

    @property
    def needs_object(self) -> bool:
        """Whether there are strokes outside of the object only."""
        return not self.inside.any()

    def added_to(self, seed: SlicePrompt | None, label: int, index: int) -> SlicePrompt:
        """The prompt for the model, together with clicks and other drawings so far."""
        if seed is None:
            return SlicePrompt.from_scribble(label, index, self.pixels, self.inside)
        return seed.with_scribble(self.pixels, self.inside)


class DrawingLayer(QObject):
    """A layer of its own in which one of napari's tools is chosen.

    Attributes
    ----------
    layer : Layer
    """

    drawn = Signal(object)
    """`LassoDrawn` or `ScribbleDrawn`."""

    def __init__(self, viewer: Viewer, layer: Layer) -> None:
        super().__init__()
        self._viewer, self.layer = viewer, layer
        add_own_layer(viewer, layer)

    def show(self, view: SliceView, index: int, prompt: SlicePrompt | None) -> None:
        """Show what was drawn for a prompt on a slice, unless it is shown among the marks."""

    def reset(self) -> None:
        """Show what was drawn for the prompt again the next time: the rest has no answer."""

    def set_outside(self, outside: bool) -> None:
        """Draw where the object is not, or where it is, with tools that can do both."""

    def remove(self) -> None:
        """Remove the layer."""
        remove_layer(self._viewer, self.layer)


class LassoLayer(DrawingLayer):
    """A Shapes layer in which the polygon lasso is chosen.

    Parameters
    ----------
    viewer : Viewer
    image : Image
    view : SliceView
    """

    def __init__(self, viewer: Viewer, image: Image, view: SliceView) -> None:
        layer = Shapes(
            ndim=image.ndim,
            name="lasso",
            edge_color=_LINE,
            face_color="transparent",
            **transform_of(image),
        )
        super().__init__(viewer, layer)
        self._axes = [axis for axis in view.axes if axis != view.layer_axis]
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._take)
        layer.mode = "add_polygon_lasso"
        layer.events.data.connect(self._on_data)

    def remove(self) -> None:
        """Remove the layer."""
        self._timer.stop()
        self.layer.events.data.disconnect(self._on_data)
        super().remove()

    def _on_data(self, event: Any) -> None:
        if str(getattr(event, "action", "")) == "added":
            self._timer.start(0)  # napari is still finishing the shape

    def _take(self) -> None:
        shapes, kinds = list(self.layer.data), list(self.layer.shape_type)
        if shapes:
            self.layer.data = []
        if shapes and kinds[-1] in _CLOSED:
            outline = np.asarray(shapes[-1], float)[:, self._axes]
            if len(outline) > 2 and np.ptp(outline, axis=0).all():
                self.drawn.emit(LassoDrawn(outline))


class ScribbleLayer(DrawingLayer):
    """A Labels layer over the slice on screen in which napari's brush is chosen.

    Parameters
    ----------
    viewer : Viewer
    image : Image
    view : SliceView
    """

    def __init__(self, viewer: Viewer, image: Image, view: SliceView) -> None:
        shape = slab_shape(image, view, 1)
        layer = Labels(
            np.zeros(shape, np.uint8),
            name="scribble",
            colormap=DirectLabelColormap(color_dict=_COLOURS),
            **slab_transform(image, view, 0),
        )
        super().__init__(viewer, layer)
        self._image, self._view = image, view
        self._shown: tuple[SliceView, int, object] | None = None
        sides = [shape[axis] for axis in view.axes if axis != view.layer_axis]
        layer.brush_size = max(2, round(min(sides) / _BRUSH_SHARE))
        layer.mode = "paint"
        layer.selected_label = _INSIDE
        layer.events.paint.connect(self._on_paint)

    def show(self, view: SliceView, index: int, prompt: SlicePrompt | None) -> None:
        """Show the strokes of a prompt on a slice, unless they are shown already."""
        scribble = None if prompt is None else prompt.scribble
        shown = view, index, scribble
        if self._shown is not None and self._shown[:2] == shown[:2] and self._shown[2] is scribble:
            return
        self._shown, self._view = shown, view
        plane = np.zeros(slab_shape(self._image, view, 1), np.uint8)
        if scribble is not None and prompt is not None and prompt.scribble_labels is not None:
            values = np.where(prompt.scribble_labels == 1, _INSIDE, _OUTSIDE)
            plane[slab_key(view, 0)][tuple(scribble.T)] = values
        self.layer.data = plane
        for name, value in slab_transform(self._image, view, index).items():
            setattr(self.layer, name, value)

    def reset(self) -> None:
        """See `DrawingLayer`."""
        self._shown = None

    def set_outside(self, outside: bool) -> None:
        """Draw where the object is not, or where it is."""
        self.layer.selected_label = _OUTSIDE if outside else _INSIDE

    def remove(self) -> None:
        """Remove the layer."""
        self.layer.events.paint.disconnect(self._on_paint)
        super().remove()

    def _on_paint(self, event: Any = None) -> None:
        plane = np.asarray(self.layer.data[slab_key(self._view, 0)])
        pixels = np.argwhere(plane)
        if len(pixels):
            self.drawn.emit(ScribbleDrawn(pixels, plane[tuple(pixels.T)] == _INSIDE))
