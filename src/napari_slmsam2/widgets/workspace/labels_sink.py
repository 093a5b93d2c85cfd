"""The only code that writes a Labels layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import numpy.typing as npt
from napari.components import Dims
from napari.layers import Labels
from napari.utils.colormaps import CyclicLabelColormap, DirectLabelColormap

from napari_slmsam2.core.errors import OutputError, VolumeError
from napari_slmsam2.io.layer_grid import TABLE_KEY, colour_cycle, table_of
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.workspace.grid import SliceView, slice_on_screen, view_on_screen

_colormaps: WeakKeyDictionary[Labels, Any] = WeakKeyDictionary()
"""The colormaps of layers before a label was given a colour."""

_Plane = npt.NDArray[np.integer]


class LabelsSink:
    """Shows slices of one annotation on a Labels layer; on the GUI thread only.

    What differs on the layer from the accepted labels was done by a person and becomes a seed
    before a slice is written.

    Parameters
    ----------
    layer : Labels
        Not kept alive: who uses the sink holds the layer.
    view : SliceView
    annotation : Annotation
        Its writes are deferred.
    dims : Dims
        Of the viewer; only what is on screen is drawn again.
    """

    def __init__(self, layer: Labels, view: SliceView, annotation: Annotation, dims: Dims) -> None:
        self._layer, self._name = ref(layer), layer.name
        self.view = view
        self.annotation = annotation
        self.writing = False
        self._dims = dims
        # The slices, or None, that were on screen when they were written and not drawn.
        self._stale: set[int | None] = set()

    @property
    def layer(self) -> Labels:
        """The Labels layer."""
        layer = self._layer()
        assert layer is not None, "nobody holds the layer"
        return layer

    @property
    def name(self) -> str:
        """The name of the layer; the last known one after the layer is gone."""
        layer = self._layer()
        if layer is not None:
            self._name = layer.name
        return self._name

    def read(self, index: int) -> _Plane:
        """A copy of a slice of the layer, shape (H, W)."""
        return np.array(self.layer.data[self.view.slice_key(index)])

    def show(self, indices: Iterable[int]) -> None:
        """Accept what the program wrote to slices and copy it to the layer; `flush` draws it.

        Raises
        ------
        OutputError
            The array of the layer cannot be written. The slice stays as it is on the layer.
        """
        for index in indices:
            current = self.read(index)
            self.annotation.take_edit(index, current)
            plane = self.annotation.slices.commit(index)
            try:
                self._write(index, current, plane)
            except Exception as error:  # each kind of array raises errors of its own
                with contextlib.suppress(Exception):
                    current = self.read(index)  # a part of it may have been written
                self.annotation.slices.assign(index, current)
                raise OutputError(
                    f"layer {self.name!r}",
                    f"slice {index} cannot be written",
                    found=f"{type(error).__name__}: {error}",
                    hint="Free space, or make a new Labels layer, then propagate again.",
                ) from error

    def widen(self, label: int) -> bool:
        """Give the layer a dtype that holds a label; False where it had one already.

        The dtype of an array that is not in memory (a Zarr array) cannot change.
        """
        if not isinstance(self.layer.data, np.ndarray):
            return False
        if label <= np.iinfo(self.layer.data.dtype).max:
            return False
        dtype = np.promote_types(self.layer.data.dtype, np.min_scalar_type(label))
        self.writing = True
        try:
            self.layer.data = np.asarray(self.layer.data).astype(dtype)
        finally:
            self.writing = False
        return True

    def show_table(self) -> None:
        """Give the layer the colours of the label table, and keep the table in its metadata."""
        table, layer = self.annotation.table, self.layer
        before = table_of(layer.metadata)
        layer.metadata[TABLE_KEY] = table
        if table.colours == before.colours:
            return
        base = _colormaps.setdefault(layer, layer.colormap)
        if isinstance(base, CyclicLabelColormap):
            layer.colormap = CyclicLabelColormap(colors=colour_cycle(table.colours, base.colors))
        else:
            layer.colormap = DirectLabelColormap(
                color_dict={**base.color_dict, **{k: np.array(v) for k, v in table.colours.items()}}
            )

    def flush(self) -> None:
        """Draw what was written, where it is on screen; called a few times a second."""
        if self._stale and self._shown() in self._stale:
            self._refresh()
        # napari drew the slices that the sliders went to.
        self._stale.clear()

    def _write(self, index: int, current: _Plane, plane: _Plane) -> None:
        changed = plane != current
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        if not len(rows):
            return
        highest = int(plane.max())
        self.widen(highest)
        if highest > np.iinfo(self.layer.data.dtype).max:
            raise ValueError(f"label {highest} does not fit {self.layer.data.dtype}")
        bbox = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        self.layer.data[self.view.slice_key(index, bbox)] = plane[bbox].astype(
            self.layer.data.dtype
        )
        shown = self._shown()
        if shown in (None, index):
            self._stale.add(shown)

    def _shown(self) -> int | None:
        """The slice on screen; None in 3D and where the sliders show another stack."""
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
