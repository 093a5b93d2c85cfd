"""Long-term, short-term and confident memory: views of one bank.

Which slices each reads, with which row of the time table and at which distance, follows the
published SLM-SAM 2 (Chen et al., arXiv:2505.01854); the long-term part is SAM 2's own rule
(Ravi et al., arXiv:2408.00714). Confident memory follows SAMed-2 (Yan et al., arXiv:2507.03698).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry


@dataclass(frozen=True, slots=True)
class MemorySelection:
    """What a memory attention reads of one bank.

    Attributes
    ----------
    maps : tuple of (MemoryEntry, int)
        Memory maps with their row of the time table.
    pointers : tuple of (MemoryEntry, int)
        Object pointers with their distance in slices; negative for seeds in the future of the
        walk, which SAM 2 leaves out at inference.
    """

    maps: tuple[tuple[MemoryEntry, int], ...]
    pointers: tuple[tuple[MemoryEntry, int], ...]

    @property
    def structure(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows and distances: labels of equal structure can share a batch."""
        return tuple(row for _, row in self.maps), tuple(d for _, d in self.pointers)


@dataclass(frozen=True, slots=True)
class LongTermMemory:
    """SAM 2's memory: every seed, before and after, and the last slices of the walk.

    Attributes
    ----------
    config : ModelConfig
    """

    config: ModelConfig

    @property
    def reach(self) -> int:
        """How many slices back the walk is read."""
        return max(self.config.memory_slices, self.config.max_pointers) - 1

    def select(
        self, bank: MemoryBank, index: int, direction: int, n_slices: int
    ) -> MemorySelection:
        """What is read on slice ``index`` when walking in ``direction``."""
        maps, pointers = self._of_seeds(bank, index, direction)
        for distance in range(self.config.memory_slices - 1, 0, -1):
            entry = bank.visited.get(index - direction * distance)
            if entry is not None:
                maps.append((entry, distance - 1))
        for distance in range(1, min(n_slices, self.config.max_pointers)):
            entry = bank.visited.get(index - direction * distance)
            if entry is not None:
                pointers.append((entry, distance))
        return MemorySelection(tuple(maps), tuple(pointers))

    def _of_seeds(
        self, bank: MemoryBank, index: int, direction: int
    ) -> tuple[list[tuple[MemoryEntry, int]], list[tuple[MemoryEntry, int]]]:
        """Maps of all seeds with the row for seeds, and pointers of those that lie behind."""
        maps = [(entry, self.config.memory_slices - 1) for entry in bank.seeds.values()]
        pointers = [
            (entry, (index - i) * direction)
            for i, entry in bank.seeds.items()
            if (index - i) * direction >= 0
        ]
        return maps, pointers


@dataclass(frozen=True, slots=True)
class ConfidentMemory(LongTermMemory):
    """The long-term memory with slices chosen by similarity and confidence instead of recency.

    Every seed is read, as is the last slice. The other places of the last slices go to the
    confident slices of the sweep whose image features are most like those of the slice that is
    segmented (Yan et al., arXiv:2507.03698, eq. 3-7). Different from the paper: the bank belongs
    to one label and one sweep, seeds are never evicted, features are pooled and taken before they
    are conditioned on memory (the public code stores conditioned ones, in another order than it
    reads them), and confidence is not passed through a second sigmoid.

    Attributes
    ----------
    config : ModelConfig
    capacity : int
        Confident slices that a bank holds at most.
    threshold : float
        Confidence below which a slice is not admitted.
    weight : float
        Of the confidence against the cosine similarity.
    """

    capacity: int = 16
    threshold: float = 0.5
    weight: float = 1.0

    def admit(self, bank: MemoryBank, index: int) -> None:
        """Take the visited slice ``index`` into the confident ones, if it deserves a place.

        In a full bank it replaces the most similar slice, and only if it is surer.
        """
        entry = bank.visited.get(index)
        if entry is None or index in bank.confident or entry.confidence < self.threshold:
            return
        if len(bank.confident) >= self.capacity:
            similar = max(bank.confident.values(), key=lambda old: _similarity(old, entry))
            if similar.confidence >= entry.confidence:
                return
            del bank.confident[similar.index]
        bank.confident[index] = entry

    def select_similar(
        self, bank: MemoryBank, index: int, direction: int, n_slices: int, descriptor: Tensor
    ) -> MemorySelection:
        """What is read on slice ``index`` when walking in ``direction``.

        Parameters
        ----------
        bank : MemoryBank
        index : int
        direction : {+1, -1}
        n_slices : int
        descriptor : Tensor, shape (C,)
            Pooled image feature of the slice, of unit length.
        """
        places = self.config.memory_slices - 1
        last = bank.visited.get(index - direction)
        others = [entry for i, entry in bank.confident.items() if i != index - direction]
        others.sort(key=lambda e: (self._score(e, descriptor), -abs(e.index - index)), reverse=True)
        chosen = ([] if last is None else [last]) + others
        chosen = sorted(chosen[:places], key=lambda entry: -abs(entry.index - index))
        distances = [abs(entry.index - index) for entry in chosen]
        maps, pointers = self._of_seeds(bank, index, direction)
        maps += [
            (entry, min(distance, places) - 1)
            for entry, distance in zip(chosen, distances, strict=True)
        ]
        longest = max(1, min(n_slices, self.config.max_pointers) - 1)
        pointers += [
            (entry, min(distance, longest))
            for entry, distance in zip(reversed(chosen), reversed(distances), strict=True)
        ]
        return MemorySelection(tuple(maps), tuple(pointers))

    def _score(self, entry: MemoryEntry, descriptor: Tensor) -> float:
        similarity = max(0.0, float(torch.dot(entry.content.descriptor, descriptor)))
        return similarity + self.weight * entry.confidence


def _similarity(first: MemoryEntry, second: MemoryEntry) -> float:
    return float(torch.dot(first.content.descriptor, second.content.descriptor))


@dataclass(frozen=True, slots=True)
class ShortTermMemory:
    """SLM-SAM 2's memory of the last slices, annotated or not.

    Attributes
    ----------
    config : ModelConfig
    """

    config: ModelConfig

    @property
    def reach(self) -> int:
        """How many slices back the walk is read."""
        return self.config.short_memory_slices

    def select(
        self, bank: MemoryBank, index: int, direction: int, n_slices: int
    ) -> MemorySelection:
        """What is read on slice ``index`` when walking in ``direction``."""
        near = [
            (entry, distance)
            for distance in range(1, self.config.short_memory_slices + 1)
            if (entry := bank.get(index - direction * distance)) is not None
        ]
        return MemorySelection(
            tuple((entry, distance - 1) for entry, distance in reversed(near)), tuple(near)
        )
