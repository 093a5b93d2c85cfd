"""The content of a file before one volume of it is chosen, and lazy arrays in files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.io.geometry import Geometry
from napari_slmsam2.io.lazy_array import LazyArray

Colours = Callable[[npt.NDArray[np.integer]], npt.NDArray[np.floating]]
"""From n labels to their colours: RGBA from 0 to 1, shape (n, 4)."""

LABELS_MARK = "napari-slmsam2 label map"
"""What writers note in files of formats that have no field for it, so that readers know labels."""

_CHUNK = 2**24

MAX_GZIP_RATIO = 1032
"""Deflate cannot shrink data by more."""


@dataclass(frozen=True, eq=False)
class RawImage:
    """The array of a file and the meaning of its dimensions.

    Attributes
    ----------
    data : array_like
        May be lazy. A structured dtype holds channels by name.
    axes : str
        One letter per dimension of ``data``: ``x``, ``y`` and ``z``, ``c`` channel, ``t`` time,
        ``?`` not known.
    format : str
    geometry : Geometry
        Along `order`.
    template : object
        What the writer of the same format needs to give labels the same header.
    channel_names : tuple of str
        May be empty.
    aliases : tuple of tuple of str
        Other names of every channel.
    label_tables : tuple of LabelTable
        Names and colours of the labels: one table, or one per channel; empty where there are none.
    stored_dtype : dtype or None
        Of the file, where ``data`` yields another one because it is scaled.
    named : bool
        Whether the format or the file specifies which axis is which. A bare array does not.
    holds_labels : bool
        Whether the file is marked as a label map.
    """

    data: Any
    axes: str
    format: str
    geometry: Geometry = field(default_factory=Geometry)
    template: Any = None
    channel_names: tuple[str, ...] = ()
    aliases: tuple[tuple[str, ...], ...] = ()
    label_tables: tuple[LabelTable, ...] = ()
    stored_dtype: np.dtype[Any] | None = None
    named: bool = True
    holds_labels: bool = False

    @property
    def order(self) -> str:
        """The spatial axes in the order of the array; a missing z is where slices would be."""
        found = "".join(axis for axis in self.axes if axis in "xyz")
        if len(found) == 3:
            return found
        return {"xy": "xyz", "yx": "zyx"}.get(found, "zyx")

    @property
    def n_times(self) -> int:
        """Time points: along t, else along the only dimension whose meaning is not known."""
        sizes = [int(n) for n, axis in zip(self.data.shape, self.axes, strict=True) if axis == "t"]
        unknown = [
            int(n) for n, axis in zip(self.data.shape, self.axes, strict=True)
            if axis == "?" and n > 1
        ]  # fmt: skip
        return (sizes or (unknown if len(unknown) == 1 else [1]))[0]

    @property
    def roles(self) -> str:
        """The dimensions with one letter for all spatial ones: ``s``."""
        return "".join("s" if axis in "xyz" else axis for axis in self.axes)


class ArrayLike(Protocol):
    """What the lazy arrays of this package have in common with numpy, dask and zarr arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of every dimension."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """What indexing yields."""
        ...

    def __getitem__(self, key: Any) -> Any: ...


class ScaledArray(LazyArray):
    """A stored array times a slope plus an intercept, computed when it is read.

    Parameters
    ----------
    stored : array_like
    slope, intercept : float
    """

    def __init__(self, stored: ArrayLike, slope: float, intercept: float) -> None:
        self.stored = stored
        self.slope = slope
        self.intercept = intercept
        self.shape = stored.shape
        self.dtype = np.dtype(np.float64)

    def __getitem__(self, key: Any) -> npt.NDArray[np.float64]:
        return np.asarray(self.stored[key]).astype(np.float64) * self.slope + self.intercept


class IndexedView(LazyArray):
    """A lazy array with some of its dimensions fixed or cut.

    Parameters
    ----------
    data : array_like
        Written through this view if it can be written.
    fixed : sequence of int, slice or None
        For every dimension: the index that it is held at, the part that stays (a slice of step 1
        with a start and a stop), or None for all of it.
    name : str, optional
        Field of a structured dtype.
    """

    def __init__(
        self, data: ArrayLike, fixed: Sequence[int | slice | None], name: str | None = None
    ) -> None:
        self.data = data
        self.fixed = tuple(fixed)
        self.name = name
        self.shape = tuple(
            int(n) if one is None else int(one.stop) - int(one.start)
            for n, one in zip(data.shape, fixed, strict=True)
            if not isinstance(one, int)
        )
        dtype = np.dtype(data.dtype)
        self.dtype = dtype if name is None else dtype[name]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        part = np.asarray(self.data[self._full(key)])
        return part if self.name is None else part[self.name]

    def __setitem__(self, key: Any, values: Any) -> None:
        data: Any = self.data
        data[self._full(key)] = values

    def copy(self) -> npt.NDArray[Any]:
        """The view in memory."""
        return np.array(self[...])

    def astype(self, dtype: npt.DTypeLike) -> IndexedView:
        """The same view of a copy of the data in another dtype."""
        data: Any = self.data
        return IndexedView(data.astype(dtype), self.fixed, self.name)

    def _full(self, key: Any) -> tuple[Any, ...]:
        """The index into the data."""
        waiting = iter(self.full_key(key))
        full: list[Any] = []
        for one in self.fixed:
            if isinstance(one, int):
                full.append(one)
                continue
            wanted = next(waiting)
            full.append(wanted if one is None else _shifted(wanted, one))
        return tuple(full)


def _shifted(key: Any, part: slice) -> Any:
    """An index into a part of a dimension, as an index into the dimension."""
    size = part.stop - part.start
    if isinstance(key, slice):
        start, stop, step = key.indices(size)
        return slice(part.start + start, part.start + max(start, stop), step)
    if not -size <= key < size:
        raise IndexError(f"index {key} is out of range for an axis of {size}")
    return part.start + key % size


class SlabFiles(LazyArray):
    """An array whose parts along the last axis are arrays of their own, in files.

    Parameters
    ----------
    parts : sequence of array_like
        Of one shape and dtype.
    """

    def __init__(self, parts: Sequence[ArrayLike]) -> None:
        self.parts = parts
        first = parts[0]
        self.per_part = int(first.shape[-1])
        self.shape = (*first.shape[:-1], self.per_part * len(parts))
        self.dtype = np.dtype(first.dtype)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        keys = self.full_key(key)
        wanted = np.arange(self.shape[-1])[keys[-1]]
        planes = [
            np.asarray(self.parts[i // self.per_part][(*keys[:-1], i % self.per_part)])
            for i in np.atleast_1d(wanted).tolist()
        ]
        stacked: npt.NDArray[Any] = np.stack(planes, axis=-1) if planes else np.empty(0, self.dtype)
        return stacked if np.ndim(wanted) else stacked[..., 0]


def check_size(path: Path, needed: int, *, compressed: bool = False, ratio: int = 1) -> None:
    """Refuse a header that claims more than the file can hold, before memory is taken for it.

    Parameters
    ----------
    path : Path
        The file with the data.
    needed : int
        Bytes up to the end of the data, uncompressed.
    compressed : bool
    ratio : int
        How far the compression can shrink data at most.

    Raises
    ------
    VolumeError
    """
    size = path.stat().st_size
    if needed > size * (ratio if compressed else 1):
        raise VolumeError(
            str(path),
            "is shorter than its header says",
            expected=f"{needed} bytes{' after decompression' if compressed else ''}",
            found=f"a file of {size} bytes",
            hint="It is damaged or was not copied completely.",
        )


def read_stream(
    stream: Any, shape: Sequence[int], dtype: np.dtype[Any], what: str
) -> tuple[np.ndarray, int]:
    """Read an array of Fortran order from a decompressing stream.

    Memory is touched only as data arrive, and the stream is read to its end, where gzip checks its
    checksum.

    Returns
    -------
    array : ndarray
    surplus : int
        Bytes that follow the array.

    Raises
    ------
    VolumeError
        The stream ends early.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(n_bytes, np.uint8)
    view, position = memoryview(buffer.data), 0
    while position < n_bytes:
        count = stream.readinto(view[position : position + _CHUNK])
        if not count:
            raise VolumeError(
                what, "is truncated", expected=f"{n_bytes} bytes of data", found=f"{position}"
            )
        position += count
    surplus = 0
    while rest := stream.read(_CHUNK):
        surplus += len(rest)
    return buffer.view(dtype).reshape(tuple(shape), order="F"), surplus


def raw_array(
    path: Path, shape: Sequence[int], dtype: np.dtype[Any], offset: int, order: Literal["F", "C"]
) -> ArrayLike:
    """An uncompressed array in a file, of which only the parts asked for are read."""
    from nibabel.arrayproxy import ArrayProxy

    proxy_type: Any = ArrayProxy
    shape = tuple(int(n) for n in shape)
    check_size(path, offset + math.prod(shape) * dtype.itemsize)
    proxy: ArrayLike = proxy_type(str(path), (shape, dtype, offset), mmap=False, order=order)
    return proxy
