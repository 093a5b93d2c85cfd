"""What is pointed at or drawn on the canvas becomes a mask of the slice on screen, at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import QObject

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.widgets.prompts.asking import Asking, CanvasPrompt
from napari_slmsam2.widgets.prompts.bar import (
    BOX,
    LASSO,
    OFF,
    PAINT,
    REMOVE,
    SCRIBBLE,
    PromptBar,
)
from napari_slmsam2.widgets.prompts.drawing import DrawingLayer, LassoLayer, ScribbleLayer
from napari_slmsam2.widgets.prompts.marks import PromptMarks
from napari_slmsam2.widgets.prompts.preview import SweepPreview, describe_preview
from napari_slmsam2.widgets.runs.runner import Runner
from napari_slmsam2.widgets.runs.task import RunRequest
from napari_slmsam2.widgets.workspace.grid import place_on_slice
from napari_slmsam2.widgets.workspace.seeds import SeedTracker
from napari_slmsam2.widgets.workspace.workspace import Workspace

_SLACK = 4.0
"""A press that moves less, in pixels of the screen, is a click."""

Place = tuple[float, float]

_DRAWING: dict[str, type[LassoLayer] | type[ScribbleLayer]] = {
    LASSO: LassoLayer,
    SCRIBBLE: ScribbleLayer,
}
"""Modes with a layer of their own, in which napari's tools draw."""


@dataclass(frozen=True, slots=True)
class _CanvasPrompt:
    """A click or a box on the slice on screen; ``inside`` is None for a box."""

    inside: bool | None
    start: Place
    end: Place

    @property
    def needs_object(self) -> bool:
        """Whether this is a click outside of the object."""
        return self.inside is False

    @property
    def empty(self) -> bool:
        """Whether this is a box without any width or height."""
        return self.inside is None and 0.0 in np.subtract(self.end, self.start)

    def added_to(self, seed: SlicePrompt | None, label: int, index: int) -> SlicePrompt:
        """The prompt for the model, together with the clicks so far."""
        if self.inside is None:
            (top, bottom), (left, right) = (
                sorted(pair) for pair in zip(self.start, self.end, strict=True)
            )
            return SlicePrompt.from_box(label, index, (top, left, bottom, right))
        if seed is None:
            return SlicePrompt.from_points(label, index, [self.start], [int(self.inside)])
        return seed.refine([self.start], [int(self.inside)])


class Prompting(QObject):
    """The mouse on the canvas while points, boxes, lassos or scribbles are chosen.

    Parameters
    ----------
    bar : PromptBar
    workspace : Workspace
    tracker : SeedTracker
    runner : Runner
        Has the model to ask.
    request : callable
        Gives the `RunRequest` that the controls stand for, or a text why there is none.
    """

    def __init__(
        self,
        bar: PromptBar,
        workspace: Workspace,
        tracker: SeedTracker,
        runner: Runner,
        request: Callable[[], RunRequest | str],
    ) -> None:
        super().__init__(bar)
        self._bar, self._workspace, self._tracker = bar, workspace, tracker
        self._viewer = workspace.viewer
        self._marks = PromptMarks(workspace.viewer)
        self._asking = Asking(workspace, tracker, runner, request, lambda: bar.reach.value())
        self._mode = OFF
        self._layer: Labels | None = None
        self._drawing: DrawingLayer | None = None
        self._watched: Labels | None = None
        self._mode_before = "pan_zoom"
        self._double_clicks: list[Callable[..., None]] = []
        self._closed = False
        bar.chosen.connect(self.set_mode)
        bar.drop.clicked.connect(self.preview.drop)
        self._asking.began.connect(self._show)
        self._asking.refused.connect(self._on_refused)
        bar.outside.toggled.connect(self._on_outside)
        self._asking.hint.connect(bar.set_hint)
        self.preview.changed.connect(self._show_preview)
        workspace.target_changed.connect(self._on_target)
        workspace.slice_changed.connect(self._drop)
        workspace.label_changed.connect(self._drop)
        workspace.seeds_changed.connect(self._on_seeds)
        self._viewer.layers.selection.events.active.connect(self._on_active)
        self._viewer.layers.events.removed.connect(self._on_active)
        self._watch()

    def close_connections(self) -> None:
        """Disconnect from viewer and layers."""
        self._closed = True
        self._asking.close_connections()
        self.set_mode(OFF)
        self._viewer.layers.selection.events.active.disconnect(self._on_active)
        self._viewer.layers.events.removed.disconnect(self._on_active)
        if self._watched is not None:
            self._watched.events.mode.disconnect(self._show_mode)

    @property
    def mode(self) -> str:
        """The mode of the bar; ``off``: the mouse belongs to napari's own tools."""
        return self._mode

    @property
    def busy(self) -> bool:
        """Whether a mask is being computed, or waits for its turn."""
        return self._asking.busy

    @property
    def preview(self) -> SweepPreview:
        """What the last answer becomes on the next slices."""
        return self._asking.preview

    def take_preview(self) -> bool:
        """Make results of the slices that are previewed.

        Returns
        -------
        bool
            Whether there was a preview.
        """
        if not self.preview.slices:
            return False
        self._tracker.flush()
        try:
            taken = self.preview.take()
        except SlmSam2Error as error:
            self._bar.set_hint(str(error))
            return True
        if taken:
            self._bar.set_hint(f"Slices {taken[0]} to {taken[-1]} are filled; Undo removes them.")
        return True

    def _show_preview(self) -> None:
        if not self._closed:
            self._bar.show_preview(describe_preview(self.preview), bool(self.preview.slices))

    def toggle(self, mode: str) -> None:
        """Choose points or box, or napari's own tools where that is chosen already."""
        self.set_mode(OFF if mode == self._mode else mode)

    def set_mode(self, mode: str) -> None:
        """Choose a mode of the bar (``paint`` is napari's brush), or ``off``."""
        if self._workspace.stack is None:
            mode = OFF
        wanted = OFF if mode == PAINT else mode
        if wanted != self._mode:
            self._leave()
            if wanted != OFF:
                self._enter(wanted)
        if mode == PAINT and self._workspace.labels is not None:
            self._viewer.layers.selection.active = self._workspace.labels
            self._workspace.labels.mode = PAINT
        self._show_mode()

    def _show_mode(self, event: Any = None) -> None:
        """Show the mode that counts on the canvas: ours, or that of the active layer."""
        if self._closed:
            return
        shown, labels = self._mode, self._workspace.labels
        if shown == OFF and labels is not None and self._workspace.stack is not None:
            active = self._viewer.layers.selection.active is labels
            shown = PAINT if active and str(labels.mode) == PAINT else OFF
        self._bar.set_mode(shown)

    def _watch(self) -> None:
        """Show the mode of the Labels layer at hand from now on."""
        labels = self._workspace.labels
        if labels is not self._watched:
            if self._watched is not None:
                self._watched.events.mode.disconnect(self._show_mode)
            self._watched = labels
            if labels is not None:
                labels.events.mode.connect(self._show_mode)
        self._show_mode()

    def _on_active(self, event: Any = None) -> None:
        """Another layer takes the mouse: clicks are ours only while it pans."""
        active = self._viewer.layers.selection.active
        if self._drawing is not None:
            # None: napari is changing the selection, or several layers are selected.
            drawing = self._drawing.layer
            other = active not in (None, drawing) or drawing not in self._viewer.layers
        else:
            other = active is not None and str(active.mode) != "pan_zoom"
        if self._mode != OFF and other:
            self.set_mode(OFF)
        else:
            self._show_mode()

    # -- the canvas

    def _enter(self, mode: str) -> None:
        layer = self._workspace.labels
        assert layer is not None
        self._mode, self._layer, self._mode_before = mode, layer, str(layer.mode)
        # First of all: a layer that becomes active with another tool ends the mode.
        layer.mode = "pan_zoom"
        self._viewer.layers.selection.active = layer
        # A drag draws the box and must not move the picture.
        layer.mouse_pan = mode != BOX
        layer.events.mode.connect(self._on_layer_mode)
        layer.bind_key("Escape", self._on_escape, overwrite=True)
        self._viewer.mouse_drag_callbacks.append(self._on_mouse)
        # napari would zoom, and the second of two fast clicks would be lost.
        self._double_clicks = list(self._viewer.mouse_double_click_callbacks)
        self._viewer.mouse_double_click_callbacks[:] = [self._on_double_click]
        if mode in _DRAWING:
            self._begin_drawing(mode)
        self._show()

    def _begin_drawing(self, mode: str) -> None:
        image, view = self._workspace.image, self._workspace.view
        assert image is not None
        assert view is not None
        drawing = _DRAWING[mode](self._viewer, image, view)
        drawing.drawn.connect(self._asking.ask)
        drawing.layer.bind_key("Escape", self._on_escape, overwrite=True)
        self._drawing = drawing
        self._viewer.layers.selection.active = drawing.layer

    def _leave(self) -> None:
        self._drop()
        self.preview.drop()
        layer, self._layer = self._layer, None
        if layer is None:
            return
        self._mode = OFF
        drawing, self._drawing = self._drawing, None
        if drawing is not None:
            chosen = self._viewer.layers.selection.active in (None, drawing.layer)
            drawing.remove()
            if chosen and layer in self._viewer.layers:
                self._viewer.layers.selection.active = layer
        self._viewer.mouse_drag_callbacks.remove(self._on_mouse)
        self._viewer.mouse_double_click_callbacks.remove(self._on_double_click)
        self._viewer.mouse_double_click_callbacks[:0] = self._double_clicks
        layer.bind_key("Escape", None)
        layer.events.mode.disconnect(self._on_layer_mode)
        if str(layer.mode) == "pan_zoom":
            layer.mouse_pan = True
            layer.mode = self._mode_before
        self._marks.clear()

    def _on_escape(self, layer: Any) -> None:
        """Drop the preview; without one, return to napari's own tools."""
        if self.preview.active:
            self.preview.drop()
        else:
            self.set_mode(OFF)

    def _on_layer_mode(self, event: Any = None) -> None:
        """The user took the brush, or another tool of napari."""
        if self._layer is not None and str(self._layer.mode) != "pan_zoom":
            self.set_mode(OFF)

    def _on_target(self) -> None:
        self._watch()
        if self._workspace.labels is not self._layer or self._workspace.stack is None:
            self.set_mode(OFF)
        else:
            self._drop()
            self._show()

    def _on_mouse(self, viewer: Any, event: Any) -> Iterator[None]:
        """A press, what is dragged, and the release, see ``mouse_drag_callbacks``."""
        click = self._clicked(event)
        if click is None:
            return
        place = here = click.start
        pressed, dragged = np.array(event.pos), False
        yield
        while event.type == "mouse_move":
            dragged = dragged or float(np.hypot(*(event.pos - pressed))) > _SLACK
            here = self._place(event.position, clip=True) or here
            box = _CanvasPrompt(None, place, here)
            if dragged and self._mode == BOX and not box.empty:
                self._show(box)
            yield
        if not dragged:
            self._enqueue(click)
        elif self._mode == BOX:
            self._enqueue(_CanvasPrompt(None, place, here))

    def _on_double_click(self, viewer: Any, event: Any) -> None:
        """The second of two fast clicks; its press comes as this."""
        click = self._clicked(event)
        if click is not None:
            self._enqueue(click)

    def _clicked(self, event: Any) -> _CanvasPrompt | None:
        """The click of a press that does not become a drag; None where it is not for this panel."""
        place = self._place(event.position)
        if place is None or event.button != 1 or {"Alt", "Control"} & set(event.modifiers):
            return None
        inside = ("Shift" in event.modifiers) == self._bar.outside.isChecked()
        return _CanvasPrompt(inside, place, place)

    def _place(self, position: Any, *, clip: bool = False) -> Place | None:
        """``(row, column)`` on the slice on screen; None outside of it and in 3D."""
        space = self._workspace
        active = self._viewer.layers.selection.active
        if self._drawing is not None:
            return None
        if self._viewer.dims.ndisplay != 2 or space.image is None or space.view is None:
            return None
        if active is not None and str(active.mode) != "pan_zoom":
            return None
        row, column = place_on_slice(space.image, space.view, self._viewer.dims, position)
        annotation = space.annotation
        assert annotation is not None
        height, width = annotation.volume.slice_shape
        if clip:
            row, column = np.clip(row, -0.5, height - 0.5), np.clip(column, -0.5, width - 0.5)
        if not (-0.5 <= row <= height - 0.5 and -0.5 <= column <= width - 0.5):
            return None
        return float(row), float(column)

    # -- prompts

    def _enqueue(self, pointed: _CanvasPrompt) -> None:
        if self._mode == REMOVE:
            self._remove(*pointed.start)
        elif not pointed.empty:
            self._asking.ask(pointed)

    def _remove(self, row: float, column: float) -> None:
        """Remove the seed at a place of the slice on screen."""
        self._tracker.flush()
        try:
            found = self._workspace.remove_object_at(round(row), round(column))
        except SlmSam2Error as error:
            self._bar.set_hint(str(error))
        else:
            self._bar.set_hint("" if found else "There is no label.")

    def _drop(self, *_: object) -> None:
        """Discard pending clicks and messages: they are of another slice or label."""
        self._asking.discard()
        self._bar.set_hint("")
        if self._mode != OFF:
            self._show()

    def _on_seeds(self) -> None:
        """A message was about the labels before the change."""
        if not self._asking.busy:
            self._bar.set_hint("")
        self._show()

    def _on_refused(self) -> None:
        if self._drawing is not None:
            self._drawing.reset()
        self._show()

    def _on_outside(self, outside: bool) -> None:
        if self._drawing is not None:
            self._drawing.set_outside(outside)

    def _show(self, pointed: CanvasPrompt | None = None) -> None:
        """Show all prompts of the stack, and the pending one."""
        space = self._workspace
        annotation, view, image = space.annotation, space.view, space.image
        if self._mode == OFF or annotation is None or view is None or image is None:
            return
        drawn = None
        if pointed is not None:
            drawn = pointed.added_to(None, space.label, space.index)
        prompts = [p for p in annotation.prompts if p.kind is PromptKind.POINTS]
        self._marks.show(image, view, space.index, prompts, drawn)
        if self._drawing is not None and pointed is None:
            known = annotation.prompts.get(space.label, space.index)
            self._drawing.show(view, space.index, known)
