"""Visit order: which slices are segmented, from which seed, in which direction."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import PromptKind, PromptSet

FORWARD = 1
BACKWARD = -1


@dataclass(frozen=True, slots=True)
class Gap:
    """A run of slices of one label between two seeds, or between a seed and an end.

    Attributes
    ----------
    label : int
    start, stop : int
        First and last slice to fill, both included.
    before, after : int or None
        The neighbouring seeds; None at an open end.
    from_before, from_after : bool
        Whether a sweep starts from that seed: an absent seed carries no object to propagate.
    """

    label: int
    start: int
    stop: int
    before: int | None
    after: int | None
    from_before: bool
    from_after: bool

    @property
    def closed(self) -> bool:
        """True between two seeds (absent ones too)."""
        return self.before is not None and self.after is not None

    def swept(self, direction: int) -> bool:
        """Whether a sweep in this direction runs through the gap."""
        return self.from_before if direction == FORWARD else self.from_after

    def source(self, direction: int) -> int:
        """The seed from which the sweep in this direction starts."""
        index = self.before if direction == FORWARD else self.after
        assert index is not None
        return index

    def indices(self, direction: int) -> range:
        """The slices of the gap in visiting order."""
        if direction == FORWARD:
            return range(self.start, self.stop + 1)
        return range(self.stop, self.start - 1, -1)


@dataclass(frozen=True, slots=True)
class Step:
    """One slice visited in one direction for the labels whose gap covers it.

    Attributes
    ----------
    index : int
    direction : {+1, -1}
    gaps : tuple of Gap
    revisits : bool
        Whether an earlier step visits the slice in the other direction.
    """

    index: int
    direction: int
    gaps: tuple[Gap, ...]
    revisits: bool = False

    def completes(self, gap: Gap) -> bool:
        """Whether no later sweep of a gap reaches the slice, so that its masks can be merged."""
        return self.revisits or not (gap.from_before and gap.from_after)


def find_gaps(
    prompts: PromptSet,
    n_slices: int,
    *,
    labels: Collection[int] | None = None,
    directions: Collection[int] = (FORWARD, BACKWARD),
) -> tuple[Gap, ...]:
    """The slices of every label that are left to segment.

    Parameters
    ----------
    prompts : PromptSet
    n_slices : int
        Slices of the volume along the propagation axis.
    labels : collection of int, optional
        Only these labels. Default: every label with a seed.
    directions : collection of {+1, -1}
        Directions of the sweeps to run.

    Returns
    -------
    tuple of Gap
        Sorted by label and start. Slices outside a label's extent and slices between two absent
        seeds belong to no gap.

    Raises
    ------
    PromptError
        There is no seed, or a label has only absent seeds.
    """
    if not len(prompts):
        raise PromptError(
            "seeds", "there is none", hint="Annotate at least one slice of each label."
        )
    wanted = prompts.labels if labels is None else tuple(sorted(labels))
    gaps: list[Gap] = []
    for label in wanted:
        gaps.extend(_gaps_of_label(prompts, label, n_slices, directions))
    return tuple(gaps)


def _gaps_of_label(
    prompts: PromptSet, label: int, n_slices: int, directions: Collection[int]
) -> Iterable[Gap]:
    seeds = prompts.seeds(label)
    present = {
        i: (p := prompts.get(label, i)) is not None and p.kind is not PromptKind.ABSENT
        for i in seeds
    }
    if not any(present.values()):
        raise PromptError(
            f"label {label}",
            "has no slice on which the object is annotated",
            found=f"{len(seeds)} absent seeds" if seeds else "no seed",
            hint="Annotate at least one slice of the label.",
        )
    first, last = prompts.extents.get(label, (0, n_slices - 1))
    bounds: list[int | None] = [None, *seeds, None]
    for before, after in itertools.pairwise(bounds):
        start = max(first, 0 if before is None else before + 1)
        stop = min(last, n_slices - 1 if after is None else after - 1)
        from_before = FORWARD in directions and before is not None and present[before]
        from_after = BACKWARD in directions and after is not None and present[after]
        if start <= stop and (from_before or from_after):
            yield Gap(label, start, stop, before, after, from_before, from_after)


def gaps_beside(gaps: Iterable[Gap], touched: Iterable[tuple[int, int]]) -> tuple[Gap, ...]:
    """Only the gaps that border on a touched seed, or that a removed seed leaves behind.

    Parameters
    ----------
    gaps : iterable of Gap
    touched : iterable of (label, index)
        Seeds that were added, changed or removed since the last run.
    """
    changed = set(touched)
    return tuple(
        gap
        for gap in gaps
        if any(
            label == gap.label
            and (index in (gap.before, gap.after) or gap.start <= index <= gap.stop)
            for label, index in changed
        )
    )


def clip_gaps(gaps: Iterable[Gap], first: int, last: int) -> tuple[Gap, ...]:
    """Shorten gaps so that no sweep runs past the range of slices ``first`` to ``last``.

    The slices between a seed and the range stay in the gap: a sweep must walk through them.
    """
    clipped = []
    for gap in gaps:
        start, stop = gap.start, gap.stop
        if not gap.from_before or (gap.before is not None and gap.before >= first):
            start = max(start, first)
        if not gap.from_after or (gap.after is not None and gap.after <= last):
            stop = min(stop, last)
        overlaps = max(start, first) <= min(stop, last)
        if overlaps:
            clipped.append(
                Gap(gap.label, start, stop, gap.before, gap.after, gap.from_before, gap.from_after)
            )
    return tuple(clipped)


def independent_ranges(
    gaps: Iterable[Gap], n_slices: int, most: int
) -> tuple[tuple[int, int], ...]:
    """Divide the slices where no gap is cut, so that a run of each range gives its labels.

    Parameters
    ----------
    gaps : iterable of Gap
    n_slices : int
        Slices of the volume along the propagation axis.
    most : int
        Ranges at the most; they have similar numbers of slices to segment.

    Returns
    -------
    tuple of (first, last)
        Neighbouring ranges from slice 0 to the last one, each with a gap.
    """
    work, begins, ends = ([0] * (n_slices + 1) for _ in range(3))
    for gap in gaps:
        begins[gap.start] += 1
        ends[gap.stop] += 1
        for index in range(gap.start, gap.stop + 1):
            work[index] += gap.from_before + gap.from_after
    left, target = sum(work), sum(work) / most
    ranges, first, done, running = [], 0, 0, 0
    for index in range(n_slices - 1):
        running += begins[index] - ends[index]
        done += work[index]
        if running == 0 and done and done >= target and left > done:
            ranges.append((first, index))
            left -= done
            first, done = index + 1, 0
    return (*ranges, (first, n_slices - 1))


def make_steps(gaps: Iterable[Gap], *, alternate: bool = False) -> tuple[Step, ...]:
    """Visit order: every slice forward, then every slice backward, or both in alternation.

    All labels whose gap covers a slice are segmented together, so that its image is encoded once.

    Parameters
    ----------
    gaps : iterable of Gap
    alternate : bool
        Forward and backward steps take turns, for models that segment one of each together.
    """
    gaps = tuple(gaps)
    by_direction: list[list[Step]] = []
    for direction in (FORWARD, BACKWARD):
        by_index: dict[int, list[Gap]] = {}
        for gap in gaps:
            if gap.swept(direction):
                for index in gap.indices(direction):
                    by_index.setdefault(index, []).append(gap)
        by_direction.append(
            [
                Step(index, direction, tuple(by_index[index]))
                for index in sorted(by_index, reverse=direction == BACKWARD)
            ]
        )
    rounds = itertools.zip_longest(*by_direction) if alternate else by_direction
    steps = [step for one in rounds for step in one if step is not None]
    visited: set[int] = set()
    for number, step in enumerate(steps):
        steps[number] = replace(step, revisits=step.index in visited)
        visited.add(step.index)
    return tuple(steps)
