"""Undo and redo of whole runs on a label volume."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_slmsam2.core.volume import Volume


@dataclass(slots=True)
class SliceStates:
    """Labels of some slices at one time, compressed.

    Attributes
    ----------
    volume : Volume
        Says where the slices lie.
    """

    volume: Volume
    _packed: dict[int, bytes] = field(default_factory=dict)

    def keep(self, labels: Any, index: int) -> None:
        """Remember a slice as it is now, unless it is remembered already."""
        if index not in self._packed:
            self._packed[index] = zlib.compress(self._read(labels, index).tobytes(), 1)

    def swap(self, labels: Any) -> SliceStates:
        """Put the remembered slices back.

        Returns
        -------
        SliceStates
            The slices as they were before, for the way back.
        """
        before = SliceStates(self.volume)
        for index, packed in self._packed.items():
            before.keep(labels, index)
            flat = np.frombuffer(zlib.decompress(packed), dtype=_DTYPE)
            labels[self.volume.slicer(index)] = flat.reshape(self.volume.slice_shape)
        return before

    def _read(self, labels: Any, index: int) -> np.ndarray:
        return np.asarray(labels[self.volume.slicer(index)], dtype=_DTYPE)

    @property
    def indices(self) -> tuple[int, ...]:
        """The remembered slices, ascending."""
        return tuple(sorted(self._packed))


#: Wide enough for every label; the array may have been widened in between.
_DTYPE = np.dtype(np.int64)
