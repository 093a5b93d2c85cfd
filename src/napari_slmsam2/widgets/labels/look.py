"""Surfaces of labels in napari's 3D view, and pictures of the volume; computed in a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt
from napari import Viewer
from napari.layers import Labels, Surface
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.evaluate.qc import contact_sheet
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.mesh import Mesh, label_mesh, write_stl
from napari_slmsam2.widgets.files.saving import attempt
from napari_slmsam2.widgets.workspace.grid import SliceView, world_affine
from napari_slmsam2.widgets.workspace.slicing import transform_of

_KEY = "napari_slmsam2_surface_of"
"""Where the metadata of a Surface layer holds the name of the Labels layer and the label."""

_Result = tuple[Any, str]


class Look(QObject):
    """Shows surfaces of labels, and saves surfaces and pictures.

    Parameters
    ----------
    viewer : Viewer
    parent : QObject
    """

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._closed = False
        self._workers: WeakSet[Any] = WeakSet()

    def close_connections(self) -> None:
        """Show nothing any more."""
        self._closed = True

    @property
    def busy(self) -> bool:
        """Whether something is being computed."""
        return bool(self._workers)

    def show(
        self,
        annotation: Annotation,
        layer: Labels,
        view: SliceView,
        labels: Sequence[int],
        names: Sequence[str],
    ) -> None:
        """Show the surfaces of labels in 3D; one that is shown already is replaced.

        Parameters
        ----------
        annotation : Annotation
        layer : Labels
            Its Labels layer: the surface lies exactly on its voxels.
        view : SliceView
        labels, names : sequence
        """
        then = partial(self._add, layer, view, labels, names)
        self._start(then, _meshes, annotation.labels, tuple(labels))

    def save_stl(
        self, path: Path, annotation: Annotation, layer: Labels, view: SliceView, label: int
    ) -> None:
        """Write the surface of a label in world coordinates, in the unit of the slice axis."""
        affine = world_affine(layer, view)
        self._start(self._report, _write_surface, path, annotation.labels, label, affine)

    def save_picture(self, path: Path, annotation: Annotation, window: str) -> None:
        """Write a picture of the slices that matter, see `contact_sheet`.

        Parameters
        ----------
        path : Path
        annotation : Annotation
        window : str
            The intensity window, as `parse_window` reads it.
        """
        seeds = {label: annotation.prompts.seeds(label) for label in annotation.prompts.labels}
        self._start(self._report, _write_picture, path, annotation, window, seeds)

    def _start(self, then: Callable[[Any], None], function: Callable[..., Any], *args: Any) -> None:
        worker = create_worker(attempt, function, *args, _start_thread=False, _ignore_errors=True)
        self._workers.add(worker)

        def on_returned(result: _Result) -> None:
            self._workers.discard(worker)
            if self._closed:
                return
            if result[1]:
                show_error(result[1])
            else:
                then(result[0])

        worker.returned.connect(on_returned)
        worker.start()

    @staticmethod
    def _report(path: Path) -> None:
        show_info(f"Saved {path}.")

    def _add(
        self,
        layer: Labels,
        view: SliceView,
        labels: Sequence[int],
        names: Sequence[str],
        meshes: list[Mesh],
    ) -> None:
        layers = self._viewer.layers
        if layer not in layers:
            return
        active = layers.selection.active
        for label, name, mesh in zip(labels, names, meshes, strict=True):
            key = layer.name, label
            for other in [x for x in layers if x.metadata.get(_KEY) == key]:
                layers.remove(other)
            colour = np.asarray(layer.colormap.map(label), np.float32)
            colours = np.tile(np.array([*colour[:3], 1.0], np.float32), (len(mesh.vertices), 1))
            surface = Surface(
                (_in_layer(mesh.vertices, layer, view), mesh.faces),
                vertex_colors=colours,
                name=f"{name} (surface)",
                shading="smooth",
                metadata={_KEY: key},
                **transform_of(layer),
            )
            self._viewer.add_layer(surface)
        if self._viewer.dims.ndisplay == 2:
            # The layer that is painted in stays the active one. In 3D, napari fails to make a
            # Labels layer active before the mouse has moved over the canvas.
            layers.selection.active = active
            _show_in_3d(self._viewer)


def _show_in_3d(viewer: Viewer) -> None:
    """Show the 3D view, with the axes of space in ascending order until it is left.

    napari 0.9 draws the vertices of a surface in that order, whatever the order of the axes. The
    order is restored even if the label table is closed before.
    """
    dims, order = viewer.dims, viewer.dims.order

    def restore() -> None:
        dims.events.ndisplay.disconnect(restore)
        if len(order) == dims.ndim:
            dims.order = order

    dims.ndisplay = 3
    dims.order = (*order[:-3], *sorted(order[-3:]))
    dims.events.ndisplay.connect(restore)


def _meshes(array: npt.NDArray[np.integer], labels: tuple[int, ...]) -> list[Mesh]:
    return [label_mesh(array, label) for label in labels]


def _in_layer(
    vertices: npt.NDArray[np.float32], layer: Labels, view: SliceView
) -> npt.NDArray[np.float32]:
    """Vertices of a stack as coordinates of all axes of the layer."""
    places = np.zeros((len(vertices), layer.ndim), np.float32)
    places[:, list(view.axes)] = vertices
    for axis, index in view.held:
        places[:, axis] = index
    return places


def _write_surface(
    path: Path, labels: npt.NDArray[np.integer], label: int, affine: npt.NDArray[np.float64]
) -> Path:
    return write_stl(path, label_mesh(labels, label).moved(affine), overwrite=True)


def _write_picture(
    path: Path, annotation: Annotation, window: str, seeds: dict[int, tuple[int, ...]]
) -> Path:
    def write(file: Path) -> None:
        contact_sheet(
            annotation.volume,
            annotation.labels,
            annotation.intensity_window(window),
            file,
            seeds=seeds,
            quality=annotation.quality,
        )

    return atomic_write(path, write, overwrite=True)
