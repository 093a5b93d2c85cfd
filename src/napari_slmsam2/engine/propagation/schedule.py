"""What a run has to do, what is done, and how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from napari_slmsam2.core.events import VISIT_UNITS


class Work(Enum):
    """Kinds of work, each with a speed of its own."""

    SEED = "seed"
    """One seed is read."""
    VISIT = "visit"
    """One label is segmented on one slice."""
    CHECK = "check"
    """On one slice it is checked which sweeps follow the object of another label."""


_UNITS = {Work.SEED: 1, Work.VISIT: VISIT_UNITS, Work.CHECK: 1}


class Schedule:
    """Counts the work of a run and measures its speed.

    Parameters
    ----------
    planned : dict of Work to int
        How many of every kind.
    """

    def __init__(self, planned: dict[Work, int]) -> None:
        self._left = {work: planned.get(work, 0) for work in Work}
        self._done = dict.fromkeys(Work, 0)
        self._seconds = dict.fromkeys(Work, 0.0)

    @contextmanager
    def measure(self, work: Work) -> Iterator[None]:
        """Add the time in the context to a kind of work; not to be held across a ``yield``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[work] += time.perf_counter() - started

    def finish(self, work: Work, count: int = 1) -> None:
        """Count work as done."""
        self._done[work] += count
        self._left[work] -= count

    def drop(self, work: Work, count: int) -> None:
        """Take work off the plan that will not be done."""
        self._left[work] -= count

    def plan(self, work: Work, count: int) -> None:
        """Set how much of a kind is left."""
        self._left[work] = count

    @property
    def done(self) -> int:
        """Units done so far, see `SliceSegmented`."""
        return sum(_UNITS[work] * count for work, count in self._done.items())

    @property
    def total(self) -> int:
        """Units of the whole run, as far as they are known."""
        return self.done + sum(_UNITS[work] * count for work, count in self._left.items())

    @property
    def seconds_left(self) -> float | None:
        """Time for the rest, from the measured speed of each kind of work.

        None before any slice is segmented. The time of kinds that have not begun is left out:
        checks are fast beside visits.
        """
        if self._left[Work.VISIT] and not self._done[Work.VISIT]:
            return None
        return sum(
            left * self._seconds[work] / self._done[work]
            for work, left in self._left.items()
            if self._done[work]
        )
