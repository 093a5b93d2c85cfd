"""The resolution levels of multiscale images, each to be segmented as a layer of its own."""

from __future__ import annotations

from weakref import WeakKeyDictionary, ref

import numpy as np
from napari.layers import Image
from qtpy.QtCore import QObject, QSignalBlocker
from qtpy.QtWidgets import QComboBox

from napari_slmsam2.io.layer_grid import METADATA_KEY
from napari_slmsam2.widgets.workspace.grid import grid_shape
from napari_slmsam2.widgets.workspace.slicing import composed_transform, transform_of
from napari_slmsam2.widgets.workspace.workspace import Workspace

_made_from: WeakKeyDictionary[Image, tuple[ref[Image], int]] = WeakKeyDictionary()
"""The multiscale image and the level of the layers made here; also when the panel is reopened."""


def level_layer(image: Image, level: int) -> Image:
    """A level of a multiscale image as a layer; its array is shared, not copied.

    A voxel lies in the middle of the voxels of the finest level that it stands for, as napari
    draws it.

    Parameters
    ----------
    image : Image
        Multiscale.
    level : int
        0 is the finest.
    """
    data = image.data[level]
    shape = data.shape[: image.ndim]
    factors = np.array(grid_shape(image), float) / np.array(shape, float)
    composed, _ = composed_transform(image)
    # Without the affine, which napari applies after scale, rotation, shear and translation.
    matrix = np.linalg.inv(image.affine.linear_matrix) @ composed
    place = transform_of(image)
    place["scale"] = np.asarray(image.scale) * factors
    place["translate"] = np.asarray(image.translate) + matrix @ ((factors - 1) / 2)
    layer = Image(
        data,
        name=f"{image.name} level {level}",
        rgb=image.rgb,
        multiscale=False,
        contrast_limits=None if image.rgb else image.contrast_limits,
        colormap=None if image.rgb else image.colormap,
        # The grid of the file is that of its finest level.
        metadata={key: value for key, value in image.metadata.items() if key != METADATA_KEY},
        **place,
    )
    _made_from[layer] = ref(image), level
    return layer


class LevelChooser(QObject):
    """Chooses the level of a multiscale image that is segmented; hidden for other images.

    Another level is shown as a layer above the image, which is hidden meanwhile. Labels are on the
    grid of the level.

    Parameters
    ----------
    workspace : Workspace
    chooser : QComboBox
    """

    def __init__(self, workspace: Workspace, chooser: QComboBox) -> None:
        super().__init__(workspace)
        self._workspace, self._chooser = workspace, chooser
        chooser.activated.connect(self.choose)
        workspace.target_changed.connect(self._show)
        workspace.viewer.layers.events.removed.connect(self._show)
        self._show()

    def close_connections(self) -> None:
        """Disconnect from the viewer."""
        self._workspace.viewer.layers.events.removed.disconnect(self._show)

    def choose(self, level: int) -> None:
        """Segment a level; 0 is the finest, the multiscale layer itself."""
        image, before = self._source()
        layers = self._workspace.viewer.layers
        shown = self._workspace.image
        if image is None or shown is None or level == before:
            return
        wanted = image if level == 0 else self._present(image, level)
        if wanted is None:
            wanted = level_layer(image, level)
            layers.insert(layers.index(image) + 1, wanted)
        wanted.visible, shown.visible = True, False
        self._workspace.set_image(wanted)
        if self._workspace.fitting_labels() is None:
            self._workspace.add_labels()

    def _present(self, image: Image, level: int) -> Image | None:
        """The layer of a level that was added before and not removed."""
        for layer in self._workspace.viewer.layers:
            source, number = _made_from.get(layer, (None, 0))
            if source is not None and source() is image and number == level:
                return layer
        return None

    def _source(self) -> tuple[Image | None, int]:
        """The multiscale image that is segmented and its level; None for other images."""
        shown = self._workspace.image
        if shown is None:
            return None, 0
        made_from, level = _made_from.get(shown, (ref(shown), 0))
        image = made_from()
        here = image is not None and image.multiscale and image in self._workspace.viewer.layers
        return (image, level) if here else (None, 0)

    def _show(self, event: object = None) -> None:
        del event
        image, level = self._source()
        with QSignalBlocker(self._chooser):
            self._chooser.clear()
            for number, array in enumerate(() if image is None else image.data):
                shape = array.shape[: 0 if image is None else image.ndim]
                self._chooser.addItem(f"Level {number}: {' x '.join(map(str, shape))}")
            self._chooser.setCurrentIndex(level if image is not None else -1)
        self._chooser.setHidden(image is None)
