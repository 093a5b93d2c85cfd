"""The first view of a scan: the planes with the smallest pixels."""

from __future__ import annotations

from weakref import WeakSet

import numpy as np
from napari.layers import Image, Labels
from qtpy.QtCore import QObject, QTimer
from qtpy.QtWidgets import QPushButton

from napari_slmsam2.io.layer_grid import METADATA_KEY
from napari_slmsam2.widgets.workspace.grid import (
    SliceView,
    axis_name,
    is_same_grid,
    sharpest_view,
    show_view,
)
from napari_slmsam2.widgets.workspace.workspace import Workspace


class FirstView(QObject):
    """Shows the planes between which voxels are longest, or offers to.

    napari displays the last two axes of an array. In the files of most scans these are not the
    plane of acquisition. A scan that was read by this plugin is shown along its longest voxels
    once, unless the axes were changed or labels were painted before; for any other image a button
    appears.

    Parameters
    ----------
    workspace : Workspace
    button : QPushButton
        Shown where there are sharper planes than those on screen.
    """

    def __init__(self, workspace: Workspace, button: QPushButton) -> None:
        super().__init__(workspace)
        self._workspace, self._button = workspace, button
        self._seen: WeakSet[Image] = WeakSet()
        # A layer is inserted before the dims have its axes.
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._check)
        button.clicked.connect(self.turn)
        button.hide()
        workspace.target_changed.connect(lambda: self._timer.start(0))

    def close_connections(self) -> None:
        """Cancel the pending check."""
        self._timer.stop()

    def turn(self) -> None:
        """Show the sharpest planes, scaled to the canvas."""
        image, view = self._workspace.image, self._sharpest()
        if image is not None and view is not None:
            show_view(image, view, self._workspace.viewer.dims)
            self._workspace.viewer.reset_view()

    def _check(self) -> None:
        image, view = self._workspace.image, self._sharpest()
        if image is not None and self._workspace.view is not None and image not in self._seen:
            self._seen.add(image)
            if view is not None and self._may_turn(image):
                self.turn()
                return
        if image is not None and view is not None:
            name = axis_name(view.layer_axis, image.axis_labels)
            self._button.setText(f"Slices along axis {name} instead")
        self._button.setHidden(view is None)

    def _sharpest(self) -> SliceView | None:
        """The stack of the sharpest planes; None where it is on screen, or there is no image."""
        space = self._workspace
        if space.image is None or space.view is None:
            return None
        view = sharpest_view(space.image, space.view)
        return None if view == space.view else view

    def _may_turn(self, image: Image) -> bool:
        viewer = self._workspace.viewer
        natural = tuple(range(viewer.dims.ndim))
        if METADATA_KEY not in image.metadata or tuple(viewer.dims.order) != natural:
            return False
        here = [x for x in viewer.layers if isinstance(x, Labels) and is_same_grid(image, x)]
        return not any(_may_be_painted(layer) for layer in here)


def _may_be_painted(layer: Labels) -> bool:
    """Whether the labels may have been painted in this viewer."""
    if layer.source.path is not None or layer.source.sample is not None:
        return False
    return not isinstance(layer.data, np.ndarray) or bool(layer.data.any())
