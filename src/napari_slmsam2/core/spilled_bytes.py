"""Bytes that are held in memory up to a budget, the older ones in a temporary file."""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections import deque
from typing import IO


class SpilledBytes:
    """A bytes string that may lie in a temporary file.

    Attributes
    ----------
    size : int
    """

    __slots__ = ("__weakref__", "_content", "_store", "size")

    def __init__(self, content: bytes, store: ByteStore) -> None:
        self._content: bytes | int = content
        self._store = store
        self.size = len(content)

    def read(self) -> bytes:
        """The bytes, from memory or from the file."""
        content = self._content
        return self._store.read(content, self.size) if isinstance(content, int) else content

    @property
    def is_spilled(self) -> bool:
        """Whether the bytes are in the file."""
        return isinstance(self._content, int)

    def spill(self) -> None:
        """Move the bytes to the file.

        Raises
        ------
        OSError
            The disk is full. The bytes stay in memory.
        """
        if isinstance(self._content, bytes):
            self._content = self._store.append(self._content)


class ByteStore:
    """Holds bytes in memory up to a budget; the oldest are moved to a temporary file first.

    The file is removed with the last reference to the store. Where it cannot be written, the bytes
    stay in memory.

    Parameters
    ----------
    budget : int
        Bytes to hold in memory.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._held: deque[weakref.ref[SpilledBytes]] = deque()
        self._nbytes = 0
        self._file: IO[bytes] | None = None
        self._is_full = False
        self._lock = threading.RLock()

    def put(self, content: bytes) -> SpilledBytes:
        """Hold bytes, as long as something refers to what is returned."""
        held = SpilledBytes(content, self)
        with self._lock:
            self._held.append(weakref.ref(held))
            self._nbytes += held.size
            if self._nbytes > self.budget and not self._is_full:
                self._make_room()
        return held

    def _make_room(self) -> None:
        """Forget what is not used any more, then spill the oldest half."""
        alive = [one for ref in self._held if (one := ref()) is not None and not one.is_spilled]
        total = sum(one.size for one in alive)
        for one in alive if total > self.budget else ():
            if total <= self.budget // 2:
                break
            try:
                one.spill()
            except OSError:
                self._is_full = True
                break
            total -= one.size
        self._held = deque(weakref.ref(one) for one in alive if not one.is_spilled)
        self._nbytes = total

    def append(self, content: bytes) -> int:
        """Write bytes to the end of the file; their place."""
        with self._lock:
            if self._file is None:
                # A buffer would hold what a full disk refused, and fail again when it is read.
                self._file = tempfile.TemporaryFile(prefix="napari-slmsam2-", buffering=0)  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            place = self._file.seek(0, 2)
            left = memoryview(content)
            while left:
                left = left[self._file.write(left) :]
            return place

    def read(self, place: int, size: int) -> bytes:
        """Bytes that `append` wrote."""
        with self._lock:
            assert self._file is not None, "nothing is read before it was written"
            self._file.seek(place)
            return self._file.read(size)
