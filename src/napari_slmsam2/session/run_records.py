"""What was done to a label volume: undo and redo of whole runs, and records to do them again."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.plan import Gap
from napari_slmsam2.core.prompts import PromptSet
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
    _packed: dict[int, tuple[np.dtype[Any], bytes]] = field(default_factory=dict)

    def keep(self, labels: Any, index: int) -> None:
        """Remember a slice as it is now, unless it is remembered already."""
        if index not in self._packed:
            self.put(index, np.asarray(labels[self.volume.slicer(index)]))

    def put(self, index: int, plane: np.ndarray) -> None:
        """Remember this as the state of a slice, shape (H, W)."""
        self._packed[index] = plane.dtype, zlib.compress(plane.tobytes(), 1)

    def swap(self, labels: Any) -> SliceStates:
        """Put the remembered slices back.

        Returns
        -------
        SliceStates
            The slices as they were before, for the way back.
        """
        before = SliceStates(self.volume)
        for index in self._packed:
            before.keep(labels, index)
        self.write(labels)
        return before

    def write(self, labels: Any) -> None:
        """Put the remembered slices back."""
        for index in self._packed:
            labels[self.volume.slicer(index)] = self.get(index)

    def get(self, index: int) -> np.ndarray:
        """A remembered slice, shape (H, W), in the dtype that it had."""
        dtype, packed = self._packed[index]
        return np.frombuffer(zlib.decompress(packed), dtype).reshape(self.volume.slice_shape)

    @property
    def indices(self) -> tuple[int, ...]:
        """The remembered slices, ascending."""
        return tuple(sorted(self._packed))


@dataclass(slots=True)
class RunRecord:
    """One run, so that it can be told and done again.

    Attributes
    ----------
    prompts : PromptSet
        The seeds at its start.
    gaps : tuple of Gap
    config : PropagationConfig
    write_range : tuple of int or None
    model : str
        Its name, or its file of weights.
    sha256 : str or None
        Of the file of weights.
    edits : SliceStates
        The slices that differed at its start from what the run before left (from empty slices
        for the first run): seeds, strokes, what was undone.
    digests : list of bytes
        Of all slices, as this run left them.
    known : frozenset of (label, index)
        What earlier runs had left in memory at its start.
    steps : int
        How far it came, in the propagator's steps.
    finished : bool
    seconds : float
        Time spent computing.
    """

    prompts: PromptSet
    gaps: tuple[Gap, ...]
    config: PropagationConfig
    write_range: tuple[int, int] | None
    model: str
    sha256: str | None
    edits: SliceStates
    digests: list[bytes]
    known: frozenset[tuple[int, int]] = frozenset()
    steps: int = 0
    finished: bool = False
    seconds: float = 0.0


def slice_digest(volume: Volume, labels: Any, index: int) -> bytes:
    """A hash of the labels on a slice, the same for every integer dtype."""
    plane = np.asarray(labels[volume.slicer(index)])
    return _digest(plane.astype(np.uint32)) if plane.any() else b""


def _digest(plane: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(plane).tobytes(), digest_size=16).digest()


def edits_since(
    volume: Volume, labels: Any, digests: Sequence[bytes] | None
) -> tuple[SliceStates, list[bytes]]:
    """The slices that changed, and the hashes of all slices as they are.

    Parameters
    ----------
    volume : Volume
    labels : array_like of int, shape of the volume
    digests : sequence of bytes or None
        Hashes of the slices to compare with. Default: empty slices.
    """
    now = [slice_digest(volume, labels, index) for index in range(volume.n_slices)]
    before = [b""] * volume.n_slices if digests is None else digests
    edits = SliceStates(volume)
    for index, (old, new) in enumerate(zip(before, now, strict=True)):
        if old != new:
            edits.keep(labels, index)
    return edits, now
