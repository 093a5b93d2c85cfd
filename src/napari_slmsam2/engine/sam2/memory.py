"""Short-term and long-term memory: two read-only views of one bank.

Which slices each reads, with which row of the time table and at which distance, follows the
published SLM-SAM 2 (Chen et al., arXiv:2505.01854); the long-term part is SAM 2's own rule
(Ravi et al., arXiv:2408.00714).
"""

from __future__ import annotations

from dataclasses import dataclass

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
        seed_row = self.config.memory_slices - 1
        maps = [(entry, seed_row) for entry in bank.seeds.values()]
        for distance in range(self.config.memory_slices - 1, 0, -1):
            entry = bank.visited.get(index - direction * distance)
            if entry is not None:
                maps.append((entry, distance - 1))
        pointers = [
            (entry, (index - i) * direction)
            for i, entry in bank.seeds.items()
            if (index - i) * direction >= 0
        ]
        for distance in range(1, min(n_slices, self.config.max_pointers)):
            entry = bank.visited.get(index - direction * distance)
            if entry is not None:
                pointers.append((entry, distance))
        return MemorySelection(tuple(maps), tuple(pointers))


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
