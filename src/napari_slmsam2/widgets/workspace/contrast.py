"""Contrast limits of the image layer, by the names of the model's intensity windows."""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakSet

from magicgui.widgets import ComboBox
from napari.layers import Image
from napari.qt.threading import create_worker
from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.core.intensity import (
    CT_PRESETS,
    IntensityWindow,
    looks_like_ct,
    parse_window,
)
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.widgets.common.settings_form import LAYER_LIMITS
from napari_slmsam2.widgets.workspace.grid import make_volume
from napari_slmsam2.widgets.workspace.workspace import Workspace

_FOR_CT = "soft_tissue"
_WIDE = -900.0, 300.0
"""Limits beyond both of these leave soft tissue about a tenth of the greys."""


class ContrastPresets(QObject):
    """Sets the contrast limits of the image at hand.

    A CT that is shown between its extremes, as napari does at first, is shown with the window of
    soft tissue, once.

    Parameters
    ----------
    workspace : Workspace
    chooser : ComboBox
        See `window_chooser`.
    """

    def __init__(self, workspace: Workspace, chooser: ComboBox) -> None:
        super().__init__(workspace)
        self._workspace, self._chooser = workspace, chooser
        self._image: Image | None = None
        self._seen: WeakSet[Image] = WeakSet()
        self._setting = False
        chooser.changed.connect(self._on_chosen)
        workspace.target_changed.connect(self._follow)

    def close_connections(self) -> None:
        """Disconnect from the image."""
        self._watch(None)

    def _watch(self, image: Image | None) -> None:
        if self._image is not None:
            self._image.events.contrast_limits.disconnect(self._on_limits)
        self._image = image
        if image is not None:
            image.events.contrast_limits.connect(self._on_limits)

    def _follow(self) -> None:
        image = self._workspace.image
        if image is not self._image:
            self._watch(image)
            self._show(_name_of(image))
        self._chooser.enabled = image is not None and not image.rgb
        if image is None or image.rgb or self._workspace.view is None or image in self._seen:
            return
        self._seen.add(image)
        low, high = image.contrast_limits
        wide = low <= _WIDE[0] and high >= _WIDE[1]
        if wide and _is_ct(make_volume(image, self._workspace.view)):
            self._chooser.value = _FOR_CT

    def _on_chosen(self, window: str) -> None:
        image, view = self._image, self._workspace.view
        if self._setting or window == LAYER_LIMITS or image is None or view is None:
            return
        if not window.endswith("%"):
            self._set(image, window, parse_window(window, make_volume(image, view)))
            return
        # Percentiles read the whole volume.
        worker = create_worker(_limits, make_volume(image, view), window, _start_thread=False)
        worker.returned.connect(partial(self._on_found, image, window))
        worker.start()

    def _on_found(self, image: Image, window: str, found: IntensityWindow | str) -> None:
        if isinstance(found, str):
            show_warning(found)
        elif image is self._image and self._chooser.value == window:
            self._set(image, window, found)

    def _set(self, image: Image, window: str, found: IntensityWindow) -> None:
        if found.low == found.high:
            show_warning(f"{image.name}: all intensities of this window are {found.low:g}.")
            self._show(LAYER_LIMITS)
            return
        self._setting = True
        try:
            image.contrast_limits = found.low, found.high
        finally:
            self._setting = False

    def _on_limits(self, event: Any = None) -> None:
        """A person set other limits."""
        if not self._setting:
            self._show(_name_of(self._image))

    def _show(self, window: str) -> None:
        self._setting = True
        try:
            self._chooser.value = window
        finally:
            self._setting = False


def _name_of(image: Image | None) -> str:
    """The preset that the limits of an image are, or `LAYER_LIMITS`."""
    limits = None if image is None else tuple(image.contrast_limits)
    for name in CT_PRESETS:
        preset = IntensityWindow.from_preset(name)
        if limits == (preset.low, preset.high):
            return name
    return LAYER_LIMITS


def _is_ct(volume: Volume) -> bool:
    try:
        return looks_like_ct(volume)
    except SlmSam2Error:  # a run reports what cannot be read
        return False


def _limits(volume: Volume, window: str) -> IntensityWindow | str:
    """The window of a volume, or why there is none; for a worker, which must not raise."""
    try:
        return parse_window(window, volume)
    except SlmSam2Error as error:
        return str(error)
