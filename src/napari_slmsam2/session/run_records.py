"""Records of runs, so that they can be undone and repeated: slices before, settings, hashes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.plan import Gap
from napari_slmsam2.core.prompts import PromptSet
from napari_slmsam2.core.soft_masks import Box, find_box

CHANGED = b"changed"
"""Replaces the hash of a slice that repeating the run may not reproduce."""


@dataclass(slots=True)
class SliceStates:
    """Labels of some slices at one time: the box that holds labels, compressed.

    Attributes
    ----------
    slice_shape : tuple of int
    """

    slice_shape: tuple[int, int]
    _packed: dict[int, tuple[Box, np.dtype[Any], bytes]] = field(default_factory=dict)

    def keep(self, index: int, plane: np.ndarray) -> None:
        """Remember a slice, shape (H, W), unless it is remembered already."""
        if index not in self._packed:
            self.put(index, plane)

    def put(self, index: int, plane: np.ndarray) -> None:
        """Remember this as the state of a slice, shape (H, W)."""
        box = find_box(plane != 0)
        self._packed[index] = box, plane.dtype, zlib.compress(plane[box].tobytes(), 1)

    def get(self, index: int) -> np.ndarray:
        """A remembered slice, shape (H, W), in the dtype that it had."""
        box, dtype, packed = self._packed[index]
        plane = np.zeros(self.slice_shape, dtype)
        plane[box] = np.frombuffer(zlib.decompress(packed), dtype).reshape(plane[box].shape)
        return plane

    @property
    def indices(self) -> tuple[int, ...]:
        """The remembered slices, ascending."""
        return tuple(sorted(self._packed))

    @property
    def nbytes(self) -> int:
        """Memory held by the compressed labels."""
        return sum(len(packed) for _, _, packed in self._packed.values())


@dataclass(slots=True)
class RunRecord:
    """One run, so that it can be reported and repeated.

    Attributes
    ----------
    prompts : PromptSet
        The seeds at its start.
    gaps : tuple of Gap
    config : PropagationConfig
        With the values that were chosen for settings left at None.
    write_range : tuple of int or None
    model : str
        Its name, or its file of weights.
    sha256 : str or None
        Of the file of weights.
    edits : SliceStates
        The slices that differed at its start from what the run before left (from empty slices
        for the first run): seeds, strokes, what was undone.
    digests : list of bytes
        Of all slices, as this run left them, see `slice_digest`; all of them are `CHANGED` where
        seeds were set during the run.
    known : frozenset of (label, index)
        What earlier runs had left in memory at its start.
    steps : int
        The propagator's steps that were done.
    finished : bool
    seconds : float
        Time spent computing.
    locked : frozenset of int
        Labels that were locked at its start.
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
    locked: frozenset[int] = frozenset()


def slice_digest(plane: np.ndarray) -> bytes:
    """A hash of the labels on a slice, shape (H, W), the same for every integer dtype."""
    if not plane.any():
        return b""
    content = np.ascontiguousarray(plane.astype(np.uint32)).tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()


def edits_since(
    read: Callable[[int], np.ndarray], n_slices: int, digests: Sequence[bytes] | None
) -> tuple[SliceStates, list[bytes]]:
    """The slices that changed, and the hashes of all slices as they are.

    Parameters
    ----------
    read : callable
        ``read(index)`` gives the labels of a slice, shape (H, W).
    n_slices : int
    digests : sequence of bytes or None
        Hashes of the slices to compare with. Default: empty slices.
    """
    before = [b""] * n_slices if digests is None else digests
    now: list[bytes] = []
    edits: SliceStates | None = None
    for index in range(n_slices):
        plane = read(index)
        edits = edits or SliceStates((plane.shape[0], plane.shape[1]))
        now.append(slice_digest(plane))
        if now[-1] != before[index]:
            edits.put(index, plane)
    assert edits is not None, "a volume has slices"
    return edits, now
