"""Layers that the plugin shows for a while and that nobody is to work on: previews, marks."""

from __future__ import annotations

from weakref import WeakSet

from napari import Viewer
from napari.layers import Layer

_own: WeakSet[Layer] = WeakSet()


def is_own(layer: Layer) -> bool:
    """Whether a layer was added by `add_own_layer`: choosers leave it out."""
    return layer in _own


def add_own_layer(viewer: Viewer, layer: Layer) -> None:
    """Add a layer on top; the layers that are selected and active stay so."""
    chosen = set(viewer.layers.selection)
    active = viewer.layers.selection.active
    _own.add(layer)
    # napari makes a new layer the active one: nobody is to see that, and end what is in progress.
    with viewer.layers.selection.events.active.blocker():
        viewer.add_layer(layer)
        viewer.layers.selection = chosen
        viewer.layers.selection.active = active


def remove_layer(viewer: Viewer, layer: Layer | None) -> None:
    """Remove a layer, unless a person has removed it."""
    if layer is not None and layer in viewer.layers:
        viewer.layers.remove(layer)
