"""The only code that writes a Labels layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from napari.components import Dims
from napari.layers import Labels

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.core.events import SliceSegmented
from napari_slmsam2.widgets._annotation import Annotation
from napari_slmsam2.widgets._grid import SliceView, slice_on_screen, view_on_screen

_Plane = npt.NDArray[np.integer]


class LabelsSink:
    """Writes slices of one annotation into a Labels layer; on the GUI thread only.

    A person's pixels always win: what differs from the labels last seen is taken as an edit first,
    and seeds and marks are put into every slice that is written.

    Parameters
    ----------
    layer : Labels
    view : SliceView
    annotation : Annotation
    dims : Dims
        Of the viewer; only what is on screen is drawn again.
    others : callable
        Gives view and annotation of the other slice directions of the same layer: their seeds are
        kept too.
    """

    def __init__(
        self,
        layer: Labels,
        view: SliceView,
        annotation: Annotation,
        dims: Dims,
        others: Callable[[], list[tuple[SliceView, Annotation]]] = list,
    ) -> None:
        self.layer = layer
        self.view = view
        self.annotation = annotation
        self.writing = False
        self._dims = dims
        self._others = others
        self._stale = False

    def read(self, index: int) -> _Plane:
        """A copy of a slice of the layer, shape (H, W)."""
        return np.array(self.layer.data[self.view.slice_key(index)])

    def write_event(self, event: SliceSegmented) -> None:
        """Write what a run says about a slice."""
        plane = self._settled(event.index)
        if event.labels.size:
            plane = self._fitting(plane, int(event.labels.max()))
            plane[event.bbox] = event.labels
        self._write(event.index, plane)

    def write_plane(self, index: int, labels: _Plane) -> None:
        """Write a whole slice, shape (H, W)."""
        self._settled(index)
        self._write(index, self._fitting(labels, 0))

    def widen(self, label: int) -> bool:
        """Give the layer a dtype that holds a label; False where it had one already."""
        if label <= np.iinfo(self.layer.data.dtype).max:
            return False
        dtype = np.promote_types(self.layer.data.dtype, np.min_scalar_type(label))
        self.writing = True
        try:
            self.layer.data = np.asarray(self.layer.data).astype(dtype)
        finally:
            self.writing = False
        return True

    def flush(self) -> None:
        """Draw again what was written across the plane on screen; call it some times a second."""
        if self._stale:
            self._refresh()

    def _settled(self, index: int) -> _Plane:
        """The slice as it is, after anything that a person just did to it became a seed."""
        plane = self.read(index)
        self.annotation.take_edit(index, plane)
        return plane

    @staticmethod
    def _fitting(plane: _Plane, label: int) -> _Plane:
        """A copy that can hold a label."""
        return plane.astype(np.promote_types(plane.dtype, np.min_scalar_type(label)))

    def _write(self, index: int, plane: _Plane) -> None:
        current = self.read(index)
        self.annotation.protect(index, plane)
        kept = self.kept(index)
        plane[kept] = current[kept]
        changed = plane != current
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        if not len(rows):
            return
        self.widen(int(plane.max()))
        bbox = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        plane = plane.astype(self.layer.data.dtype)
        self.layer.data[self.view.slice_key(index, bbox)] = plane[bbox]
        self.annotation.note_written(index, plane)
        self._show(index)

    def kept(self, index: int) -> npt.NDArray[np.bool_]:
        """Pixels of this slice that lie on seeds of another slice direction."""
        kept = np.zeros(self.annotation.volume.slice_shape, bool)
        plane_axes = [a for i, a in enumerate(self.view.axes) if i != self.view.axis]
        for view, annotation in self._others():
            seeded = sorted({p.index for p in annotation.prompts if not p.is_open})
            if view.layer_axis in plane_axes and seeded:
                if plane_axes.index(view.layer_axis) == 0:
                    kept[seeded, :] = True
                else:
                    kept[:, seeded] = True
        return kept

    def _show(self, index: int) -> None:
        if self._is_shown(index):
            self._refresh()
        elif self._dims.ndisplay == 3 or not self._walks_here():
            self._stale = True

    def _is_shown(self, index: int) -> bool:
        if self._dims.ndisplay == 3 or not self._walks_here():
            return False
        return slice_on_screen(self.layer, self.view, self._dims) == index

    def _walks_here(self) -> bool:
        """Whether the sliders walk through the slices of this stack."""
        try:
            return view_on_screen(self.layer, self._dims) == self.view
        except VolumeError:  # the layers are gone, and with them the sliders
            return False

    def _refresh(self) -> None:
        self._stale = False
        self.writing = True
        try:
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)
        finally:
            self.writing = False
