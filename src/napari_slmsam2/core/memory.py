"""The memory bank of one label in one sweep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class MemoryEntry:
    """What is remembered of one label on one slice.

    Attributes
    ----------
    index : int
    is_seed : bool
        The slice was annotated (SAM 2: a conditioning frame).
    content : object
        The model's own record: memory map and pointer of a network, mask of a classical model.
        None where only the visit itself is recorded.
    confidence : float
    """

    index: int
    is_seed: bool
    content: Any
    confidence: float = 1.0


@dataclass(slots=True)
class MemoryBank:
    """All that is remembered of one label in one sweep.

    Seeds stay; visited slices are dropped by `retain` when no later slice can read them.

    Attributes
    ----------
    label : int
    seeds : dict of slice index to MemoryEntry
    visited : dict of slice index to MemoryEntry
    confident : dict of slice index to MemoryEntry
        Visited slices that a model keeps beyond its reach because it is sure of them; the model
        bounds their number (see `napari_slmsam2.engine.sam2.memory.ConfidentMemory`).
    """

    label: int
    seeds: dict[int, MemoryEntry] = field(default_factory=dict)
    visited: dict[int, MemoryEntry] = field(default_factory=dict)
    confident: dict[int, MemoryEntry] = field(default_factory=dict)

    def add(self, entry: MemoryEntry) -> None:
        """Store an entry; a seed replaces a visit of the same slice."""
        if entry.is_seed:
            self.seeds[entry.index] = entry
            self.visited.pop(entry.index, None)
        else:
            self.visited[entry.index] = entry

    def get(self, index: int) -> MemoryEntry | None:
        """The entry of a slice: the visit if there is one, else the seed."""
        return self.visited.get(index) or self.seeds.get(index)

    def retain(self, frontier: int, direction: int, reach: int) -> None:
        """Forget the visited slices that lie more than ``reach`` behind the frontier.

        Parameters
        ----------
        frontier : int
            The slice that is segmented next.
        direction : {+1, -1}
        reach : int
            Longest distance that the model looks back.
        """
        for index in [i for i in self.visited if (frontier - i) * direction > reach]:
            del self.visited[index]

    def clear_visited(self) -> None:
        """Forget everything but the seeds."""
        self.visited.clear()
        self.confident.clear()

    def __len__(self) -> int:
        return len(self.seeds) + len(self.visited.keys() | self.confident.keys())
