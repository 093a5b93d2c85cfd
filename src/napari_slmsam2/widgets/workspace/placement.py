"""Follows the transforms of image and labels: scale, rotation, units and the like."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, ref

from napari import Viewer
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QObject, Signal

from napari_slmsam2.widgets.workspace.slicing import (
    PLACE,
    copy_transform,
    is_placed,
    transform_of,
)

_EVENTS = (*PLACE, "axis_labels")

_made_for: WeakKeyDictionary[Labels, ref[Image]] = WeakKeyDictionary()
"""The image that a Labels layer of this plugin was made for; also when the panel is reopened."""


def note_made_for(labels: Labels, image: Image) -> None:
    """Record that this plugin made a Labels layer for an image."""
    _made_for[labels] = ref(image)


def is_made_for(image: Image, labels: Labels) -> bool:
    """Whether this plugin made a Labels layer for an image."""
    made_for = _made_for.get(labels)
    return made_for is not None and made_for() is image


class PlacementWatcher(QObject):
    """Reports new transforms, and keeps labels of this plugin on the grid of their image.

    A person who sets the voxel size of an image after its labels were made means both. Labels that
    a person moved, or that come from elsewhere, stay where they are.

    Parameters
    ----------
    viewer : Viewer
    parent : QObject
    """

    changed = Signal()
    """The image or the Labels layer at hand has another transform, or the image other voxels."""

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._transforms: WeakKeyDictionary[Image, dict[str, Any]] = WeakKeyDictionary()
        self._versions: WeakKeyDictionary[Image, int] = WeakKeyDictionary()
        self._image: Image | None = None
        self._labels: Labels | None = None
        self._moving = False

    def watch(self, image: Image | None, labels: Labels | None) -> None:
        """Report changes of these layers; the labels of earlier images still follow them."""
        self._image = image
        if image is not None and image not in self._transforms:
            self._transforms[image] = transform_of(image)
            self._versions[image] = 0
            _connect(image, self._on_image)
            image.events.data.connect(self._on_voxels)
        if labels is not self._labels:
            if self._labels is not None:
                _disconnect(self._labels, self._on_labels)
            self._labels = labels
            if labels is not None:
                _connect(labels, self._on_labels)

    def version(self, image: Image) -> int:
        """How often the voxels of an image were replaced since it is watched."""
        return self._versions.get(image, 0)

    def close_connections(self) -> None:
        """Disconnect from all layers."""
        for image in list(self._transforms):
            _disconnect(image, self._on_image)
            image.events.data.disconnect(self._on_voxels)
        self._transforms.clear()
        self.watch(None, None)

    def _on_voxels(self, event: Any) -> None:
        self._versions[event.source] += 1
        if event.source is self._image:
            self.changed.emit()

    def _on_image(self, event: Any) -> None:
        image = event.source
        before, self._transforms[image] = self._transforms[image], transform_of(image)
        self._move_labels(image, before)
        if image is self._image:
            self.changed.emit()

    def _move_labels(self, image: Image, before: dict[str, Any]) -> None:
        """Move the labels that lay exactly where the image lay."""
        self._moving = True
        try:
            for layer in self._viewer.layers:
                ours = isinstance(layer, Labels) and is_made_for(image, layer)
                if ours and is_placed(layer, before):
                    copy_transform(image, layer)
        finally:
            self._moving = False

    def _on_labels(self, event: Any) -> None:
        if not self._moving:
            self.changed.emit()


def _connect(layer: Layer, callback: Any) -> None:
    for name in _EVENTS:
        getattr(layer.events, name).connect(callback)


def _disconnect(layer: Layer, callback: Any) -> None:
    for name in _EVENTS:
        getattr(layer.events, name).disconnect(callback)
