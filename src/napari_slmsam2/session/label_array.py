"""The label array: one for a whole layer, cut into slices by one annotation or several."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import GridMismatchError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io.raw import IndexedView

Plane = npt.NDArray[np.integer]
LabelArray: TypeAlias = Any
"""Labels of a volume or of a layer: an ndarray of int, a `ChunkedArray`, or a view of one."""
_Owner = TypeVar("_Owner")


def with_room_for(plane: Plane, label: int) -> Plane:
    """A copy of a slice, of a wider dtype where a label needs it."""
    return plane.astype(np.promote_types(plane.dtype, np.min_scalar_type(label)))


class SharedLabels(Generic[_Owner]):
    """The accepted labels of a layer, with the annotations whose slices are cut from them.

    Parameters
    ----------
    array : ndarray of int, or ChunkedArray
        Any number of axes. It is written in place, until a label does not fit its dtype: then
        `array` becomes a wider copy.

    Attributes
    ----------
    lock : RLock
        Held while the array is written or replaced, and while several values change together.
    owners : WeakSet
        The annotations.
    table : LabelTable
        Names, colours and states of the labels.
    stacks : WeakSet
        The slices that are cut from the array.
    """

    def __init__(self, array: LabelArray) -> None:
        self.array = array
        self.lock = threading.RLock()
        self.owners: WeakSet[_Owner] = WeakSet()
        self.table = LabelTable()
        self.stacks: WeakSet[SliceLabels] = WeakSet()

    def widen(self, dtype: npt.DTypeLike) -> None:
        """Make room for the values of another dtype."""
        needed = np.promote_types(self.array.dtype, dtype)
        if needed != self.array.dtype:
            self._convert(needed)

    def fit(self, label: int) -> None:
        """Make room for a label."""
        dtype = self.array.dtype
        if label > np.iinfo(dtype).max:
            needed = np.min_scalar_type(label)
            negative = dtype.kind == "i" and any(bool((part < 0).any()) for part in self.array)
            self._convert(np.promote_types(dtype, needed) if negative else needed)

    def _convert(self, dtype: np.dtype[Any]) -> None:
        with self.lock:
            self.array = self.array.astype(dtype)


class SliceLabels:
    """The labels of one stack of slices, and what was written to them and is not accepted yet.

    Parameters
    ----------
    volume : Volume
        Specifies shape and axis of the slices.
    shared : SharedLabels
    key : tuple
        The index expression of the volume in the shared array; empty for the whole array.
    deferred : bool
        Whether what is written waits for `commit`. Else it is accepted at once.
    protected : callable
        ``protected(index, plane)`` gives a slice with everything restored that must not be
        overwritten.

    Attributes
    ----------
    counted : dict of slice index to (labels, voxels)
        See `LabelCounts`.
    uncounted : set of int
        Slices whose accepted labels may differ from those that were last counted.

    Raises
    ------
    GridMismatchError
        The labels have another shape than the volume.
    """

    def __init__(
        self,
        volume: Volume,
        shared: SharedLabels[Any],
        key: tuple[Any, ...],
        deferred: bool,
        protected: Callable[[int, Plane], Plane],
    ) -> None:
        self._axis, self._shared, self._key = volume.axis, shared, key
        self._deferred, self._protected = deferred, protected
        self._pending: dict[int, Plane] = {}
        check_shape(self.array, volume, "labels")
        self._n_slices = volume.n_slices
        self.counted: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}
        self.uncounted = set(range(self._n_slices))
        shared.stacks.add(self)

    @property
    def array(self) -> LabelArray:
        """The accepted labels, shape of the volume; a view where the array is shared."""
        array, key = self._shared.array, self._key
        if isinstance(array, np.ndarray):
            return array[key] if key else array
        held = [one if isinstance(one, int) else None for one in key]
        return array if held.count(None) == len(held) else IndexedView(array, held)

    def plane(self, index: int) -> Plane:
        """The accepted labels of a slice, shape (H, W), not to be written."""
        plane: Plane = self.array[self._slicer(index)]
        return plane

    def _slicer(self, index: int) -> tuple[Any, ...]:
        return (slice(None),) * self._axis + (index,)

    def read(self, index: int) -> Plane:
        """A copy of the newest labels of a slice, accepted or not, shape (H, W)."""
        with self._shared.lock:
            pending = self._pending.get(index)
            return np.array(self.plane(index) if pending is None else pending)

    def write(self, index: int, plane: Plane) -> None:
        """Write a slice, shape (H, W); accepted by `commit`, at once unless deferred."""
        with self._shared.lock:
            self._pending[index] = plane
            if not self._deferred:
                self.commit(index)

    def overlay(self, index: int, bbox: tuple[slice, slice], labels: Plane) -> tuple[Plane, Plane]:
        """Write a part of a slice.

        Parameters
        ----------
        index : int
        bbox : tuple of slice
            Rows and columns.
        labels : ndarray of int, shape of the part

        Returns
        -------
        before, after : ndarray of int, shape (H, W)
            The newest labels of the slice before, and what was written.
        """
        with self._shared.lock:
            before = self.read(index)
            after = before.astype(np.promote_types(before.dtype, labels.dtype))
            after[bbox] = labels
            self.write(index, after)
        return before, after

    def commit(self, index: int) -> Plane:
        """Accept what was written to a slice, apart from what is protected.

        Returns
        -------
        ndarray of int, shape (H, W)
            The accepted labels of the slice, not to be written.
        """
        with self._shared.lock:
            plane = self._pending.pop(index, None)
            if plane is not None:
                self.assign(index, self._protected(index, plane))
            return self.plane(index)

    def accept(self, index: int, plane: Plane, changed: npt.NDArray[np.bool_]) -> None:
        """Accept the pixels of a slice that its owner changed, also in what waits for `commit`.

        Parameters
        ----------
        index : int
        plane : ndarray of int, shape (H, W)
        changed : ndarray of bool, shape (H, W)
            Where it differs from the accepted labels.
        """
        with self._shared.lock:
            self.assign(index, plane)
            pending = self._pending.get(index)
            if pending is not None:
                dtype = np.promote_types(pending.dtype, plane.dtype)
                self._pending[index] = np.where(changed, plane, pending).astype(dtype)

    def assign(self, index: int, plane: Plane) -> None:
        """Set the accepted labels of a slice, shape (H, W), exactly."""
        with self._shared.lock:
            if plane.min(initial=0) < 0:
                self._shared.widen(plane.dtype)
            self._shared.fit(int(plane.max(initial=0)))
            self.array[self._slicer(index)] = plane
            self._note_changed([index])

    def _note_changed(self, indices: Iterable[int]) -> None:
        """Have slices counted again, and all slices along another axis of the same voxels."""
        self.uncounted.update(indices)
        for other in self._shared.stacks:
            if other is not self and other._key == self._key:
                other.uncounted.update(range(other._n_slices))

    @property
    def waiting(self) -> tuple[int, ...]:
        """The slices with labels that wait for `commit`."""
        with self._shared.lock:
            return tuple(self._pending)

    def labelled_slices(self) -> tuple[int, ...]:
        """The slices that hold a label."""
        n_slices = self.array.shape[self._axis]
        return tuple(index for index in range(n_slices) if self.plane(index).any())

    def changed_slices(self, labels: Any) -> tuple[int, ...]:
        """The slices on which labels (array_like, shape of the volume) differ from these.

        They are read in blocks along their first axis.
        """
        return tuple(sorted({index for index, _, _ in self._differences(labels)}))

    def replace(self, labels: Any) -> set[tuple[int, int]]:
        """Accept labels (array_like, shape of the volume) as they are.

        Returns
        -------
        set of (label, index)
            Whose pixels changed.
        """
        changed = {
            (int(label), index)
            for index, before, after in self._differences(labels)
            for label in np.union1d(before, after)
            if label > 0
        }
        self._shared.widen(labels.dtype)
        for block in _blocks(self.array.shape):
            now = np.asarray(labels[block, :, :])
            with self._shared.lock:
                if not np.array_equal(now, self.array[block]):
                    self.array[block] = now
        self._note_changed(range(self._n_slices))
        return changed

    def _differences(self, labels: Any) -> Iterator[tuple[int, Plane, Plane]]:
        """Index, and labels before and after at the pixels that differ, by slice and block."""
        axis = self._axis
        for block in _blocks(self.array.shape):
            before = np.moveaxis(self.array[block], axis, 0)
            after = np.moveaxis(np.asarray(labels[block, :, :]), axis, 0)
            differs = before != after
            start = block.start if axis == 0 else 0
            for i in np.flatnonzero(differs.any(axis=(1, 2))).tolist():
                yield start + i, before[i][differs[i]], after[i][differs[i]]


def check_shape(array: Any, volume: Volume, what: str) -> None:
    """Raise `GridMismatchError` where an array has another shape than a volume."""
    if tuple(array.shape) != volume.shape:
        raise GridMismatchError(
            what,
            "differ in shape from the image",
            expected=volume.shape,
            found=tuple(array.shape),
        )


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Blocks along the first axis of about a million voxels."""
    step = max(1, 2**20 // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))
