"""One gap in one direction, and the state of the segmenter in it."""

from __future__ import annotations

from dataclasses import dataclass

from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.plan import BACKWARD, Gap


@dataclass(frozen=True, slots=True)
class Sweep:
    """One pass through a gap.

    Attributes
    ----------
    gap : Gap
    direction : {+1, -1}
    """

    gap: Gap
    direction: int

    @property
    def label(self) -> int:
        """The label that is propagated."""
        return self.gap.label

    @property
    def last_index(self) -> int:
        """The slice that the sweep reaches last."""
        return self.gap.indices(self.direction)[-1]

    def rest(self, index: int) -> range:
        """The slices of the gap beyond ``index``, in ascending order."""
        gap = self.gap
        return (
            range(gap.start, index)
            if self.direction == BACKWARD
            else range(index + 1, gap.stop + 1)
        )


@dataclass(slots=True)
class SweepState:
    """What a sweep remembers.

    Attributes
    ----------
    bank : MemoryBank
    absent_in_a_row : int
        Slices without the object since it was last found.
    ended : bool
        Whether the sweep ended before the end of its gap.
    """

    bank: MemoryBank
    absent_in_a_row: int = 0
    ended: bool = False
