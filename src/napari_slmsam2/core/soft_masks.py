"""Mask logits of many slices in little memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SCALE = 15.875
_LIMIT = 8.0
_BACKGROUND = -4.0


@dataclass(frozen=True, slots=True)
class _Crop:
    rows: slice
    columns: slice
    shape: tuple[int, int]
    packed: bytes


class SoftMasks:
    """Logits per label and slice, cut to their box, in 8 bits and compressed.

    The sign of every logit above -4 is kept exactly, so that a mask comes back as it went in;
    logits are clipped to +-8. Slices without anything above -4 are not stored.
    """

    def __init__(self) -> None:
        self._crops: dict[int, dict[int, _Crop]] = {}

    def put(self, label: int, index: int, logits: npt.NDArray[np.floating]) -> None:
        """Store the logits of shape (H, W) of a label on a slice, in place of older ones."""
        inside = logits > _BACKGROUND
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if not len(rows):
            self.discard(label, index)
            return
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        clipped = np.clip(logits[window], -_LIMIT, _LIMIT) * _SCALE
        whole = np.where(clipped > 0, np.ceil(clipped), np.floor(clipped)).astype(np.int8)
        self._crops.setdefault(index, {})[label] = _Crop(
            *window, (logits.shape[0], logits.shape[1]), zlib.compress(whole.tobytes(), 1)
        )

    def get(self, label: int, index: int) -> npt.NDArray[np.float32] | None:
        """Logits of shape (H, W); None where nothing is stored."""
        crop = self._crops.get(index, {}).get(label)
        if crop is None:
            return None
        logits = np.full(crop.shape, -_LIMIT, dtype=np.float32)
        size = crop.rows.stop - crop.rows.start, crop.columns.stop - crop.columns.start
        whole = np.frombuffer(zlib.decompress(crop.packed), dtype=np.int8).reshape(size)
        logits[crop.rows, crop.columns] = whole / np.float32(_SCALE)
        return logits

    def on_slice(self, index: int) -> dict[int, npt.NDArray[np.float32]]:
        """Logits of all labels on a slice."""
        found = {}
        for label in sorted(self._crops.get(index, {})):
            logits = self.get(label, index)
            assert logits is not None
            found[label] = logits
        return found

    def discard(self, label: int, index: int) -> None:
        """Forget a label on a slice."""
        self._crops.get(index, {}).pop(label, None)

    def copy(self) -> SoftMasks:
        """A copy that shares the stored crops."""
        twin = SoftMasks()
        twin._crops = {index: dict(labels) for index, labels in self._crops.items()}
        return twin

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """``(label, index)`` of everything stored."""
        for index, labels in self._crops.items():
            for label in labels:
                yield label, index

    @property
    def nbytes(self) -> int:
        """Memory held by the compressed crops."""
        return sum(len(c.packed) for labels in self._crops.values() for c in labels.values())
