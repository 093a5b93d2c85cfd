"""Image, labels and the plane on screen; one annotation per stack of slices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from types import EllipsisType
from typing import Any

import numpy as np
from napari import Viewer
from napari.components import Dims
from napari.layers import Image, Labels
from qtpy.QtCore import QObject, Signal

from napari_slmsam2.core.errors import GridMismatchError, PromptError, SlmSam2Error, VolumeError
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.checking import accept_slice
from napari_slmsam2.session.look_alikes import add_objects, remove_object
from napari_slmsam2.widgets.common.own_layers import is_own
from napari_slmsam2.widgets.workspace.grid import (
    SliceView,
    StackArray,
    axis_name,
    check_same_grid,
    is_same_grid,
    is_tilted,
    make_labels_layer,
    make_volume,
    show_slice,
    show_view,
    slice_on_screen,
    view_on_screen,
)
from napari_slmsam2.widgets.workspace.placement import (
    PlacementWatcher,
    is_made_for,
    note_made_for,
)
from napari_slmsam2.widgets.workspace.stacks import VOXELS_CHANGED, Stack, Stacks


class Workspace(QObject):
    """Image, Labels layer and stack of slices that the panel works on.

    Parameters
    ----------
    viewer : Viewer
    parent : QObject, optional

    Attributes
    ----------
    image, labels : layer or None
    problem : SlmSam2Error or None
        Why there is nothing to work on, or why image and labels do not fit.
    """

    target_changed = Signal()
    """Another image, labels layer or stack of slices."""
    slice_changed = Signal(int)
    """Another slice is on screen."""
    seeds_changed = Signal()
    """Seeds or marks of the present stack have changed."""
    label_changed = Signal()
    """Another label is selected."""
    volume_replaced = Signal(object, str)
    """An `Annotation` has another volume now, and what changed, for a message."""

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.image: Image | None = None
        self.labels: Labels | None = None
        self.problem: SlmSam2Error | None = None
        self._view: SliceView | None = None
        self._index = -1
        self._placement = PlacementWatcher(viewer, self)
        self._placement.changed.connect(self.update)
        self._stacks = Stacks(self._placement, viewer.dims)
        events = viewer.dims.events
        for event in (events.order, events.ndisplay, events.point):
            event.connect(self._on_dims)

    def close_connections(self) -> None:
        """Disconnect from viewer and layers."""
        events = self.viewer.dims.events
        for event in (events.order, events.ndisplay, events.point):
            event.disconnect(self._on_dims)
        self._placement.close_connections()

    # -- layers

    def set_image(self, image: Image | None) -> None:
        """Work on another image, with the labels that fit it best."""
        if image is self.image:
            return
        self.image = image
        if image is not None and (self.labels is None or not is_same_grid(image, self.labels)):
            self.labels = self.fitting_labels() or self.labels
        self.update()

    def fitting_labels(self) -> Labels | None:
        """The Labels layer that fits the image best: the top one of those made for it, or of all.

        None where no Labels layer is on the voxels of the image.
        """
        if self.image is None:
            return None
        layers = [x for x in reversed(self.viewer.layers) if isinstance(x, Labels)]
        fitting = [x for x in layers if not is_own(x) and is_same_grid(self.image, x)]
        return max(fitting, key=partial(is_made_for, self.image), default=None)

    def set_labels(self, labels: Labels | None) -> None:
        """Work on another Labels layer."""
        if labels is not self.labels:
            self.labels = labels
            self.update()

    def add_labels(self) -> Labels | None:
        """Add an empty Labels layer on the grid of the image and work on it."""
        if self.image is None:
            return None
        layer = make_labels_layer(self.image)
        note_made_for(layer, self.image)
        self.viewer.add_layer(layer)
        self.viewer.layers.selection.active = layer
        self.set_labels(layer)
        return layer

    def blank_labels(self, name: str) -> Labels | None:
        """Labels of this name that nobody has edited: the present ones, else new ones.

        The present ones are hidden below new ones.
        """
        here, annotation = self.labels, self.annotation
        unedited = here is not None and annotation is not None and not len(annotation.prompts)
        if here is not None and unedited and not any(np.any(x) for x in here.data):
            here.name = name
            return here
        layer = self.add_labels()
        if layer is not None:
            layer.name = name
            if here is not None:
                here.visible = False
        return layer

    def update(self) -> None:
        """Read layers and sliders again."""
        self._placement.watch(self.image, self.labels)
        before = self._view
        self._view, self.problem = None, None
        if self.image is not None:
            try:
                view = self._view_now(self.image, before)
                if self.labels is not None:
                    check_same_grid(self.image, self.labels)
                self._view = view
                self._activate()
            except SlmSam2Error as error:
                self.problem = error
                for annotation in self._stacks.with_replaced_voxels(self.image, self.labels):
                    self.volume_replaced.emit(annotation, VOXELS_CHANGED)
        self._index = self.index if self._view is not None else -1
        self.target_changed.emit()

    def replaced(self, labels: Labels) -> None:
        """The array of a Labels layer was replaced: its labels are accepted as they are."""
        if labels is self.labels and not self.writing:
            self.update()
            self.seeds_changed.emit()

    def _activate(self) -> None:
        """Make the annotation of the labels on screen, or bring it up to date."""
        if self.image is not None and self.labels is not None:
            self._stacks.forget_other_shape(self.labels)
            for annotation, what in self._stacks.renew_volumes(self.image, self.labels):
                self.volume_replaced.emit(annotation, what)
        stack = self.stack
        if stack is not None:
            stack.annotation.adopt(StackArray(stack.sink.layer.data, stack.sink.view))

    # -- what is on screen

    @property
    def view(self) -> SliceView | None:
        """The stack of slices on screen; None without an image."""
        return self._view

    @property
    def stack(self) -> Stack | None:
        """The stack of slices on screen with its annotation; None without image and labels."""
        if self._view is None or self.image is None or self.labels is None:
            return None
        return self._stacks.at(self.image, self.labels, self._view)

    @property
    def stacks(self) -> tuple[Stack, ...]:
        """All stacks of slices of the Labels layer that were on screen: planes, time points."""
        return self._stacks.of(self.labels)

    def stack_across(self, axis: int) -> Stack | None:
        """The voxels of the stack on screen, with slices along another of its three axes."""
        if self._view is None or self.image is None or self.labels is None:
            return None
        return self._stacks.at(self.image, self.labels, replace(self._view, axis=axis))

    def show_stack(self, stack: Stack) -> None:
        """Order the axes so that the sliders move through a stack."""
        if self.image is not None and stack.sink.view != self._view:
            show_view(self.image, stack.sink.view, self.viewer.dims)

    @property
    def annotation(self) -> Annotation | None:
        """What is annotated on the stack on screen."""
        stack = self.stack
        return None if stack is None else stack.annotation

    @property
    def writing(self) -> bool:
        """Whether the program itself is writing the labels right now."""
        return any(stack.sink.writing for stack in self.stacks)

    @property
    def index(self) -> int:
        """The slice on screen."""
        if self.image is None or self._view is None:
            return -1
        try:
            return slice_on_screen(self.image, self._view, self.viewer.dims)
        except VolumeError:  # its transform has just become unusable
            return -1

    @property
    def label(self) -> int:
        """The selected label of the Labels layer."""
        return 1 if self.labels is None else max(1, int(self.labels.selected_label))

    def go_to(self, index: int, label: int | None = None) -> None:
        """Show a slice, and select a label."""
        if self.image is None or self._view is None:
            return
        try:
            show_slice(self.image, self._view, self.viewer.dims, index)
        except VolumeError:
            self.update()
            return
        if label is not None and self.labels is not None:
            self.labels.selected_label = label

    def _view_now(self, image: Image, before: SliceView | None) -> SliceView:
        """The stack that the sliders move through; in 3D the same voxels keep their slices."""
        view = view_on_screen(image, self.viewer.dims)
        if self.viewer.dims.ndisplay == 3 and before is not None:
            same = view.axes == before.axes and view.held == before.held
            return before if same else view
        return view

    def _on_dims(self, event: Any = None) -> None:
        if self.image is None:
            return
        try:
            view = self._view_now(self.image, self._view)
        except SlmSam2Error:
            self.update()
            return
        if view != self._view and not isinstance(self.problem, GridMismatchError):
            self.update()
        if self._view is not None and self.index != self._index:
            self._index = self.index
            self.slice_changed.emit(self._index)

    # -- seeds

    def seeded_slices(self) -> dict[int, set[int]]:
        """Slices of the seeds, by label."""
        seeds: dict[int, set[int]] = {}
        for prompt in self.annotation.prompts if self.annotation is not None else ():
            seeds.setdefault(prompt.label, set()).add(prompt.index)
        return seeds

    def mark_absent(self) -> None:
        """The selected label is not on the slice on screen."""
        label, index = self.label, self.index
        self._edit(label, seeds={index: SlicePrompt.absent_at(label, index)})

    def mark_end(self, *, first: bool) -> None:
        """The selected label begins or ends on the slice on screen; a second time removes the mark.

        Raises
        ------
        PromptError
            A seed of the label lies outside.
        """
        self.mark_end_at(self.label, self.index, first=first)

    def mark_end_at(self, label: int, index: int, *, first: bool) -> None:
        """The same for any label and slice."""
        if self.annotation is not None:
            extent = self.annotation.extent_with(label, index, first=first)
            self._edit(label, extent=extent)

    def take_labelled_slices(self) -> None:
        """Every slice that holds a label, which is not locked, becomes a seed of it."""
        annotation = self.annotation
        if annotation is None:
            return
        seeds: dict[int, dict[int, SlicePrompt | None]] = {}
        for index in annotation.slices.labelled_slices():
            for seed in SlicePrompt.of_labels(annotation.plane(index), index):
                seeds.setdefault(seed.label, {})[index] = seed
        for label in sorted(seeds.keys() - annotation.table.locked):
            self._edit(label, seeds=seeds[label])

    def accept(self, *, all_labels: bool = False) -> bool:
        """Make seeds of the selected label, or of all labels, as they are on the slice on screen.

        Returns
        -------
        bool
            Whether there was a label that was no seed yet.

        Raises
        ------
        PromptError
            The selected label is locked.
        """
        if self.stack is None:
            return False
        annotation, plane = self.stack.annotation, self.stack.sink.read(self.index)
        labels = {self.label}
        if all_labels:
            labels = set(np.unique(plane[plane > 0]).tolist()) - annotation.table.locked
        accepted = accept_slice(annotation, self.index, sorted(labels), plane)
        self.show(())
        return bool(accepted)

    def add_objects(self, index: int, objects: Any) -> tuple[int, ...]:
        """Make objects on a slice seeds of new labels, see `session.look_alikes.add_objects`."""
        if self.stack is None:
            return ()
        labels = add_objects(self.stack.annotation, index, objects)
        self.show([index])
        return labels

    def remove_object_at(self, row: int, column: int) -> bool:
        """Remove the seed at a pixel of the slice on screen with its pixels.

        Returns
        -------
        bool
            Whether there is a label.

        Raises
        ------
        PromptError
            The label is locked, or has no seed on the slice.
        """
        if self.stack is None:
            return False
        height, width = self.stack.annotation.volume.slice_shape
        row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
        label = int(self.stack.sink.read(self.index)[row, column])
        if label:
            self.show(remove_object(self.stack.annotation, self.index, label))
        return bool(label)

    def set_clicks(self, prompt: SlicePrompt) -> None:
        """Clicks, or a box, and the mask that was found for them become a seed.

        What is a seed already, of another label or of another slice direction, keeps its pixels.

        Raises
        ------
        PromptError
            Nothing is left of the mask.
        """
        if self.stack is None:
            return
        annotation, sink = self.stack.annotation, self.stack.sink
        label, index = prompt.label, prompt.index
        plane = sink.read(index)
        free = ~annotation.crossing_seeds(index) | (plane == label)
        free &= ~np.isin(plane, sorted(annotation.table.locked))
        for other in annotation.prompts.on_slice(index):
            if other.label != label and other.mask is not None:
                free &= ~other.mask
        if sink.layer.preserve_labels:
            free &= (plane == 0) | (plane == label)
        assert prompt.mask is not None
        mask = prompt.mask & free
        if not mask.any():
            raise PromptError(
                f"clicks of label {label} on slice {index}",
                "all that they find belongs to other labels",
                hint="Take those seeds back first, or click elsewhere.",
            )
        self._edit(label, seeds={index: prompt.answered(mask)}, word="click")

    def remove_seed(self, label: int, index: int) -> None:
        """Remove a seed; its pixels stay."""
        self._edit(label, seeds={index: None})

    def _edit(
        self,
        label: int,
        *,
        extent: tuple[int, int] | EllipsisType | None = ...,
        seeds: Mapping[int, SlicePrompt | None] | None = None,
        word: str = "mark",
    ) -> None:
        """Make an undoable edit of a label, see `History.edit`."""
        if self.stack is not None:
            history = self.stack.annotation.history
            self.show(history.edit(label, extent=extent, seeds=seeds, word=word))

    def show(self, indices: Iterable[int]) -> None:
        """Show slices of the present stack that the program changed, and its seeds."""
        try:
            if self.stack is not None:
                self.stack.sink.show(indices)
                for other in self.stacks:  # an edit may have changed slices along another axis
                    other.sink.show(other.annotation.slices.waiting)
                self.stack.sink.show_table()
                self.stack.sink.flush()
        finally:
            self.seeds_changed.emit()


def describe_view(image: Image, view: SliceView, dims: Dims) -> str:
    """The stack of slices, and whether napari draws it as it lies, for the panel."""
    volume = make_volume(image, view)
    names = image.axis_labels
    text = f"{volume.n_slices} slices along axis {axis_name(view.layer_axis, names)}"
    if view.held:
        text += "; " + ", ".join(f"axis {axis_name(a, names)} at {i}" for a, i in view.held)
    if image.multiscale:
        text += f"; finest of {len(image.data)} levels"
    if image.rgb:
        text += "; colours as luminance"
    text += "."
    if is_tilted(image, dims):
        text += (
            " The layer is tilted out of the slice plane (rotation, shear or affine): napari draws "
            "whole slices all the same, but its brush meets voxels of other slices, and its slider "
            "may not reach the first and last ones. Use points and boxes, or open the file with "
            "the SLM-SAM 2 reader, which shows slices as they are in the file."
        )
    return text
