"""The only code that writes a Labels layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from napari.components import Dims
from napari.layers import Labels

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.core.events import SliceSegmented
from napari_slmsam2.widgets.workspace.annotation import Annotation
from napari_slmsam2.widgets.workspace.grid import SliceView, slice_on_screen, view_on_screen

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
        # The slices, or None, that were on screen when they were written and not drawn.
        self._stale: set[int | None] = set()

    def read(self, index: int) -> _Plane:
        """A copy of a slice of the layer, shape (H, W)."""
        return np.array(self.layer.data[self.view.slice_key(index)])

    def write_event(self, event: SliceSegmented) -> None:
        """Write what a run says about a slice; `flush` draws it."""
        plane = self._settled(event.index)
        if event.labels.size:
            plane = self._fitting(plane, int(event.labels.max()))
            plane[event.bbox] = event.labels
        self._write(event.index, plane)

    def write_plane(self, index: int, labels: _Plane) -> None:
        """Write a whole slice, shape (H, W), and draw it if it is on screen."""
        self._settled(index)
        self._write(index, self._fitting(labels, 0))
        if index in self._stale:
            self._refresh()

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
        """Draw what was written, where it is on screen; call it some times a second."""
        if self._stale and self._shown() in self._stale:
            self._refresh()
        # napari drew the slices that the sliders went to.
        self._stale.clear()

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
        shown = self._shown()
        if shown in (None, index):
            self._stale.add(shown)

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

    def _shown(self) -> int | None:
        """The slice on screen; None in 3D and where the sliders walk through other slices."""
        try:
            if self._dims.ndisplay == 2 and view_on_screen(self.layer, self._dims) == self.view:
                return slice_on_screen(self.layer, self.view, self._dims)
        except VolumeError:  # the layers are gone, and with them the sliders
            pass
        return None

    def _refresh(self) -> None:
        self._stale.clear()
        self.writing = True
        try:
            self.layer.refresh(thumbnail=False, highlight=False, extent=False)
        finally:
            self.writing = False
