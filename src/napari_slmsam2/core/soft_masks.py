"""Mask logits of many slices in little memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.spilled_bytes import ByteStore, SpilledBytes

Box = tuple[slice, slice]

LIMIT = 8.0
"""Stored logits are clipped to plus and minus this value."""

BACKGROUND = -4.0
"""Logits up to this value are not stored."""

BUDGET = 2**25
"""Bytes of compressed logits in memory; older ones are moved to a temporary file."""

SCALE = 15.875
"""Steps of the stored logits per unit."""


@dataclass(frozen=True, slots=True, eq=False)
class LogitPatch:
    """Mask logits of one label inside a box; outside of it they are far below 0.

    Attributes
    ----------
    box : tuple of slice
        ``(rows, columns)`` in the slice. Empty where the label is absent.
    logits : ndarray of float32, shape (h, w)
        Inside the box.
    """

    box: Box
    logits: npt.NDArray[np.float32]

    @classmethod
    def empty(cls) -> LogitPatch:
        """The label is absent."""
        return cls((slice(0, 0), slice(0, 0)), np.empty((0, 0), np.float32))

    @classmethod
    def cut(cls, logits: npt.NDArray[np.floating], place: Box | None = None) -> LogitPatch:
        """The part of the logits that is stored: the box around those above -4, as a copy.

        Parameters
        ----------
        logits : ndarray, shape (H, W) or (h, w)
            Of a slice, or of the part of it that holds all logits above -4.
        place : tuple of slice, optional
            Rows and columns of that part in the slice.
        """
        box = find_box(logits > BACKGROUND)
        inside = logits[box].astype(np.float32)
        return cls(box if place is None else shift_box(box, place), inside)

    @classmethod
    def of_mask(cls, mask: npt.NDArray[np.bool_]) -> LogitPatch:
        """Logits with the signs of a mask, shape (H, W)."""
        box = find_box(mask)
        return cls(box, np.where(mask[box], np.float32(LIMIT), np.float32(-LIMIT)))

    def mask(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """The mask on the whole slice, shape (H, W)."""
        mask = np.zeros(shape, dtype=bool)
        mask[self.box] = self.logits > 0
        return mask

    def within(self, box: Box) -> npt.NDArray[np.float32]:
        """The logits in a box that holds this one, shape (h, w); -8 where nothing is known."""
        logits = np.full(tuple(side.stop - side.start for side in box), -LIMIT, np.float32)
        if not is_empty(self.box):
            rows, columns = (
                slice(mine.start - its.start, mine.stop - its.start)
                for mine, its in zip(self.box, box, strict=True)
            )
            logits[rows, columns] = self.logits
        return logits

    def as_stored(self) -> LogitPatch:
        """The patch with the values that `SoftMasks` gives back."""
        return replace(self, logits=unpack_logits(pack_logits(self.logits)))


def box_of_sides(rows: npt.NDArray[np.bool_], columns: npt.NDArray[np.bool_]) -> Box:
    """The smallest box around the rows, shape (H,), and columns, shape (W,), that are True."""
    (held_rows,), (held_columns,) = np.nonzero(rows), np.nonzero(columns)
    if not len(held_rows):
        return slice(0, 0), slice(0, 0)
    return (
        slice(int(held_rows[0]), int(held_rows[-1]) + 1),
        slice(int(held_columns[0]), int(held_columns[-1]) + 1),
    )


def find_box(inside: npt.NDArray[np.bool_]) -> Box:
    """The smallest ``(rows, columns)`` around the True pixels of a mask, shape (H, W)."""
    rows = np.flatnonzero(inside.any(1))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    first, last = rows[0], rows[-1] + 1
    columns = np.flatnonzero(inside[first:last].any(0))
    return slice(int(first), int(last)), slice(int(columns[0]), int(columns[-1]) + 1)


def unite_boxes(first: Box, second: Box) -> Box:
    """The smallest box around two boxes, of which one or both may be empty."""
    if is_empty(first):
        return second
    if is_empty(second):
        return first
    rows, columns = (
        slice(min(a.start, b.start), max(a.stop, b.stop))
        for a, b in zip(first, second, strict=True)
    )
    return rows, columns


def shift_box(inner: Box, outer: Box) -> Box:
    """A box inside another one, in the coordinates of the slice."""
    rows, columns = (
        slice(i.start + o.start, i.stop + o.start) for i, o in zip(inner, outer, strict=True)
    )
    return rows, columns


def is_empty(box: Box) -> bool:
    """Whether a box holds no pixel."""
    return any(side.start >= side.stop for side in box)


@dataclass(frozen=True, slots=True)
class _Crop:
    box: Box
    shape: tuple[int, int]
    packed: bytes | SpilledBytes
    """Plain bytes in session files only."""

    def unpack(self) -> npt.NDArray[np.float32]:
        size = tuple(side.stop - side.start for side in self.box)
        whole = np.frombuffer(zlib.decompress(self.content), dtype=np.int8).reshape(size)
        return unpack_logits(whole)

    @property
    def content(self) -> bytes:
        return self.packed if isinstance(self.packed, bytes) else self.packed.read()


def pack_logits(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.int8]:
    """Logits in 8 bits, clipped and rounded away from 0, so that their signs are exact."""
    clipped = np.clip(logits, -LIMIT, LIMIT) * SCALE
    return np.where(clipped > 0, np.ceil(clipped), np.floor(clipped)).astype(np.int8)


def unpack_logits(packed: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Logits from 8 bits; `pack_logits` gives the same 8 bits for them."""
    return packed.astype(np.float32) / np.float32(SCALE)


class SoftMasks:
    """Logits per label and slice, cut to their box, in 8 bits and compressed.

    Beyond a budget the older ones are in a temporary file. The sign of every logit above -4 is
    kept exactly, so that a mask comes back as it went in; logits are clipped to +-8. Slices
    without anything above -4 are not stored.

    Parameters
    ----------
    budget : int
        Bytes of compressed logits to hold in memory, of this object and its copies together.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self._crops: dict[int, dict[int, _Crop]] = {}
        self._store = ByteStore(budget)

    def __getstate__(self) -> dict[str, Any]:
        """The crops, with their bytes."""
        crops = {
            index: {label: replace(crop, packed=crop.content) for label, crop in labels.items()}
            for index, labels in self._crops.items()
        }
        return {"_crops": crops}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """The inverse of `__getstate__`."""
        self._store = ByteStore(BUDGET)
        self._crops = {
            index: {
                label: replace(crop, packed=self._store.put(crop.content))
                for label, crop in labels.items()
            }
            for index, labels in state["_crops"].items()
        }

    def put(self, label: int, index: int, patch: LogitPatch, shape: tuple[int, int]) -> None:
        """Store the logits of a label on a slice of shape (H, W), in place of older ones."""
        if is_empty(patch.box):
            self.discard(label, index)
            return
        packed = self._store.put(zlib.compress(pack_logits(patch.logits).tobytes(), 1))
        self._crops.setdefault(index, {})[label] = _Crop(patch.box, shape, packed)

    def get(self, label: int, index: int) -> npt.NDArray[np.float32] | None:
        """Logits of shape (H, W); None where nothing is stored."""
        crop = self._crops.get(index, {}).get(label)
        if crop is None:
            return None
        logits = np.full(crop.shape, -LIMIT, dtype=np.float32)
        logits[crop.box] = crop.unpack()
        return logits

    def patch(self, label: int, index: int) -> LogitPatch | None:
        """Logits inside their box; None where nothing is stored."""
        crop = self._crops.get(index, {}).get(label)
        return None if crop is None else LogitPatch(crop.box, crop.unpack())

    def on_slice(self, index: int) -> dict[int, LogitPatch]:
        """Logits of all labels on a slice, in ascending order of the labels."""
        return {
            label: LogitPatch(crop.box, crop.unpack())
            for label, crop in sorted(self._crops.get(index, {}).items())
        }

    def discard(self, label: int, index: int) -> None:
        """Forget a label on a slice."""
        self._crops.get(index, {}).pop(label, None)

    def copy(self) -> SoftMasks:
        """A copy that shares the stored crops."""
        twin = SoftMasks()
        twin._store = self._store
        twin._crops = {index: dict(labels) for index, labels in self._crops.items()}
        return twin

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """``(label, index)`` of everything stored."""
        for index, labels in self._crops.items():
            for label in labels:
                yield label, index

    @property
    def nbytes(self) -> int:
        """Memory held by the compressed crops, without those in the temporary file."""
        packed = [crop.packed for labels in self._crops.values() for crop in labels.values()]
        return sum(
            one.size for one in packed if isinstance(one, SpilledBytes) and not one.is_spilled
        )
