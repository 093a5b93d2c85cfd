"""Slices whose labels are segmented batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.plan import Step
from napari_slmsam2.core.segmenter import SliceVisit
from napari_slmsam2.engine.propagation.compositor import SweptMask
from napari_slmsam2.engine.propagation.sweep import Sweep


@dataclass(slots=True)
class Visit:
    """A slice, or one of each direction.

    Attributes
    ----------
    steps : tuple of Step
    sweeps : list of Sweep
        Those of the first step, then those of the second.
    embeddings : list of object
        Of the slices of the steps; None where no sweep arrives.
    masks : list of SweptMask
        Of the first sweeps, which are segmented already.
    """

    steps: tuple[Step, ...]
    sweeps: list[Sweep]
    embeddings: list[object]
    masks: list[SweptMask] = field(default_factory=list)

    def step_of(self, sweep: Sweep) -> Step:
        """The step to which one of the sweeps belongs."""
        return next(step for step in self.steps if step.direction == sweep.direction)

    def found_on(self, step: Step) -> list[tuple[Sweep, SweptMask]]:
        """The sweeps of one of the steps, with their masks."""
        found = zip(self.sweeps, self.masks, strict=True)
        return [(sweep, mask) for sweep, mask in found if sweep.direction == step.direction]

    def slices_of(
        self, sweeps: Iterable[Sweep], bank_of: Callable[[Sweep], MemoryBank]
    ) -> list[SliceVisit]:
        """The slices on which some of the sweeps arrive, with the banks of these."""
        banks: dict[int, list[MemoryBank]] = {}
        for sweep in sweeps:
            banks.setdefault(sweep.direction, []).append(bank_of(sweep))
        return [
            SliceVisit(embedding, step.index, step.direction, banks[step.direction])
            for step, embedding in zip(self.steps, self.embeddings, strict=True)
            if step.direction in banks
        ]


def next_steps(steps: Sequence[Step], first: int, *, pairs: bool) -> tuple[Step, ...]:
    """The step of a number, and the one behind it where both can be segmented together.

    Parameters
    ----------
    steps : sequence of Step
    first : int
    pairs : bool
        Whether the model segments a forward and a backward step as one batch. Two steps on one
        slice never are: the second is merged with what the first has stored.
    """
    upcoming = tuple(steps[first : first + 2])
    together = (
        pairs
        and len(upcoming) == 2
        and upcoming[0].direction != upcoming[1].direction
        and upcoming[0].index != upcoming[1].index
    )
    return upcoming if together else upcoming[:1]
