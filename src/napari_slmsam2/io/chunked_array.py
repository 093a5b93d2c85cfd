"""Arrays in chunks that are read and written slice by slice, with the chunks in use in memory."""

from __future__ import annotations

import itertools
import math
import operator
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import OutputError
from napari_slmsam2.io.lazy_array import LazyArray

LIMIT = 2**29
"""Bytes of chunks that one array holds in memory at most: two sweeps that run side by side read a
slab of half of it each."""

_SLAB = 2**23
_CHUNK = 2**21
_SIDES = 128, 1024
_DEEPEST = 128

Number = tuple[int, ...]


def label_chunks(shape: Sequence[int], axis: int, made_from: int = 1) -> tuple[int, ...]:
    """The chunk shape of a label array that is written slice by slice.

    A slab of chunks across the whole slice has at most about 8 million voxels, so that it can be
    held in memory while its slices are written.

    Parameters
    ----------
    shape : sequence of int
    axis : int
        Along which slices are stacked.
    made_from : int
        Voxels of the array from which each voxel is computed: these are in memory as well.
    """
    plane = made_from * math.prod(n for a, n in enumerate(shape) if a != axis)
    depth = min(_power_of_two(_SLAB // plane), _DEEPEST)
    side = min(max(_power_of_two(math.isqrt(_CHUNK // depth)), _SIDES[0]), _SIDES[1])
    return tuple(min(n, depth if a == axis else side) for a, n in enumerate(shape))


def _power_of_two(number: int) -> int:
    """The highest power of 2 up to a number; 1 for 0."""
    return 1 << max(number.bit_length() - 1, 0)


class ChunkedArray(LazyArray):
    """A chunked array of which only some chunks are in memory, as many as two slices need.

    Reading neighbouring slices decodes every chunk once, and writing them encodes it once. Chunks
    that cannot be written (a full disk) stay in memory, so that nothing is lost; `flush` reports
    the error.

    Parameters
    ----------
    stored : zarr.Array
        Or any other array with ``chunks`` that is indexed with slices.
    axes : sequence of int, optional
        The dimension of ``stored`` for each dimension of this array. Default: the same order.
    name : str
        The file whose dtype cannot change, for messages.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
    chunk_shape : tuple of int
    """

    def __init__(self, stored: Any, axes: Sequence[int] | None = None, *, name: str = "") -> None:
        self.stored = stored
        self.name = name
        self._axes = tuple(range(stored.ndim)) if axes is None else tuple(axes)
        self.shape = tuple(int(stored.shape[a]) for a in self._axes)
        self.chunk_shape = tuple(int(stored.chunks[a]) for a in self._axes)
        self.dtype = np.dtype(stored.dtype)
        self._chunks: OrderedDict[Number, npt.NDArray[Any]] = OrderedDict()
        self._changed: set[Number] = set()
        self._nbytes = self._room = 0
        self._is_full = False
        self._lock = threading.RLock()

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        spans, rest = self._spans(key)
        found = np.empty([span.stop - span.start for span in spans], self.dtype)
        with self._lock:
            self._make_room(spans)
            for number, there, here in self._parts(spans):
                found[here] = 0 if self._is_empty(number) else self._chunk(number)[there]
                self._evict()
        part: npt.NDArray[Any] = found[rest]
        return part

    def __setitem__(self, key: Any, values: Any) -> None:
        spans, rest = self._spans(key)
        if any(isinstance(one, slice) and one.step != 1 for one in rest):
            raise IndexError("only slices of step 1 can be written")
        shape = [span.stop - span.start for span in spans]
        kept = [n for n, one in zip(shape, rest, strict=True) if isinstance(one, slice)]
        values = np.broadcast_to(np.asarray(values), kept).reshape(shape)
        with self._lock:
            self._make_room(spans)
            for number, there, here in self._parts(spans):
                if values[here].shape == self._shape_of(number):
                    self._put(number, np.array(values[here], self.dtype))
                else:
                    self._chunk(number)[there] = values[here]
                self._changed.add(number)
                self._evict()

    def copy(self) -> ChunkedArray:
        """A copy that is compressed in memory."""
        return self._compressed(self.dtype)

    def astype(self, dtype: npt.DTypeLike) -> ChunkedArray:
        """A copy of another dtype, compressed in memory.

        Raises
        ------
        OutputError
            This is the array of a file, whose dtype cannot change.
        """
        if self.name:
            raise OutputError(
                self.name, "holds labels of another dtype",
                expected=f"labels up to {np.iinfo(self.dtype).max}", found=np.dtype(dtype),
                hint="Create the file with the highest label.",
            )  # fmt: skip
        return self._compressed(dtype)

    def _compressed(self, dtype: npt.DTypeLike) -> ChunkedArray:
        copy = ChunkedArray(_CompressedChunks(self.shape, dtype, self.chunk_shape))
        for key in self._keys():
            part = self[key]
            if part.any():
                copy[key] = part
        copy.flush()
        return copy

    def any(self) -> bool:
        """Whether any value is not 0."""
        return any(bool(self[key].any()) for key in self._keys())

    def max(self) -> Any:
        """The highest value."""
        return max(self[key].max() for key in self._keys())

    def _keys(self) -> Iterator[tuple[slice, ...]]:
        """The places of all chunks."""
        grid = [range(-(-n // size)) for n, size in zip(self.shape, self.chunk_shape, strict=True)]
        return map(self._key, itertools.product(*grid))

    def flush(self) -> None:
        """Write every changed chunk.

        Raises
        ------
        OSError
            A chunk cannot be written; it stays in memory.
        """
        with self._lock:
            for number in sorted(self._changed):
                self._write(number)
            self._is_full = False

    # -- index expressions

    def _spans(self, key: Any) -> tuple[list[slice], tuple[slice | int, ...]]:
        """The slices of step 1 to read, and the index into what was read."""
        spans: list[slice] = []
        rest: list[slice | int] = []
        for one, n in zip(self.full_key(key), self.shape, strict=True):
            if isinstance(one, slice):
                start, stop, step = one.indices(n)
                if step < 1:
                    raise IndexError("slices must have a positive step")
                spans.append(slice(start, max(start, stop)))
                rest.append(slice(None, None, step))
                continue
            index = operator.index(one)
            if not -n <= index < n:
                raise IndexError(f"index {index} is out of range for an axis of {n}")
            spans.append(slice(index % n, index % n + 1))
            rest.append(0)
        return spans, tuple(rest)

    def _parts(
        self, spans: Sequence[slice]
    ) -> Iterator[tuple[Number, tuple[slice, ...], tuple[slice, ...]]]:
        """Every chunk in an area: its number, the part within it, and the part of the area."""
        sides = []
        for span, size in zip(spans, self.chunk_shape, strict=True):
            numbers = range(span.start // size, -(-span.stop // size))
            cut = [(max(span.start, i * size), min(span.stop, (i + 1) * size)) for i in numbers]
            sides.append(
                [
                    (i, slice(a - i * size, b - i * size), slice(a - span.start, b - span.start))
                    for i, (a, b) in zip(numbers, cut, strict=True)
                    if a < b
                ]
            )
        for parts in itertools.product(*sides):
            number, there, here = zip(*parts, strict=True)
            yield number, there, here

    def _key(self, number: Number) -> tuple[slice, ...]:
        """Where a chunk is in the array."""
        return tuple(
            slice(i * size, min((i + 1) * size, n))
            for i, size, n in zip(number, self.chunk_shape, self.shape, strict=True)
        )

    def _shape_of(self, number: Number) -> tuple[int, ...]:
        return tuple(side.stop - side.start for side in self._key(number))

    # -- chunks in memory

    def _make_room(self, spans: Sequence[slice]) -> None:
        """Allow for twice the chunks that an area needs."""
        size = self.dtype.itemsize
        for span, n in zip(spans, self.chunk_shape, strict=True):
            size *= n * (-(-span.stop // n) - span.start // n)
        self._room = max(self._room, min(2 * size, LIMIT))

    def _is_empty(self, number: Number) -> bool:
        """Whether a chunk is known to hold only 0, so that it need not be in memory."""
        if number in self._chunks or not isinstance(self.stored, _CompressedChunks):
            return False
        return self.stored.is_empty(self._stored_key(number))

    def _chunk(self, number: Number) -> npt.NDArray[Any]:
        if number not in self._chunks:
            part = np.asarray(self.stored[self._stored_key(number)])
            part = np.array(part.transpose(self._axes), order="C")
            self._put(number, part)
        self._chunks.move_to_end(number)
        return self._chunks[number]

    def _put(self, number: Number, part: npt.NDArray[Any]) -> None:
        before = self._chunks.get(number)
        self._nbytes += part.nbytes - (0 if before is None else before.nbytes)
        self._chunks[number] = part
        self._chunks.move_to_end(number)

    def _evict(self) -> None:
        """Drop the chunks that were used least recently, as far as they can be written."""
        for number in list(self._chunks)[:-1] if self._nbytes > self._room else ():
            if self._nbytes <= self._room:
                return
            if number in self._changed:
                if self._is_full:
                    continue
                try:
                    self._write(number)
                except OSError:
                    self._is_full = True
                    continue
            self._nbytes -= self._chunks.pop(number).nbytes

    def _write(self, number: Number) -> None:
        part = self._chunks[number]
        self.stored[self._stored_key(number)] = part.transpose(np.argsort(self._axes))
        self._changed.discard(number)

    def _stored_key(self, number: Number) -> tuple[slice, ...]:
        key = self._key(number)
        return tuple(key[self._axes.index(a)] for a in range(self.ndim))


def compressed_labels(shape: Sequence[int], dtype: npt.DTypeLike, axis: int) -> ChunkedArray:
    """Labels of zeros that are held in memory, compressed.

    Parameters
    ----------
    shape : sequence of int
    dtype : dtype-like
    axis : int
        Along which slices are stacked.
    """
    return ChunkedArray(_CompressedChunks(shape, dtype, label_chunks(shape, axis)))


class _CompressedChunks:
    """Chunks in memory, compressed; empty ones take no space. Indexed with whole chunks only."""

    def __init__(self, shape: Sequence[int], dtype: npt.DTypeLike, chunks: Sequence[int]) -> None:
        self.shape, self.chunks = tuple(shape), tuple(chunks)
        self.ndim, self.dtype = len(self.shape), np.dtype(dtype)
        self._packed: dict[Number, bytes] = {}

    def __getitem__(self, key: tuple[slice, ...]) -> npt.NDArray[Any]:
        shape = [side.stop - side.start for side in key]
        packed = self._packed.get(tuple(side.start for side in key))
        if packed is None:
            return np.zeros(shape, self.dtype)
        return np.frombuffer(zlib.decompress(packed), self.dtype).reshape(shape)

    def is_empty(self, key: tuple[slice, ...]) -> bool:
        """Whether a chunk holds only 0."""
        return tuple(side.start for side in key) not in self._packed

    def __setitem__(self, key: tuple[slice, ...], values: npt.NDArray[Any]) -> None:
        number = tuple(side.start for side in key)
        if values.any():
            self._packed[number] = zlib.compress(np.ascontiguousarray(values).tobytes(), 1)
        else:
            self._packed.pop(number, None)
