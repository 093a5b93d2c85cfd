"""Sweeps over labelled stacks, and the states in which they arrive on every slice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch

from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.segmenter import SegmentedSlice, SweepContext
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.segmenter import CompactSegmenter, TrackedObject
from napari_slmsam2.training.data.clip import RolloutState, Scenario
from napari_slmsam2.training.synthetic.stack import LabelledStack

BEYOND = 2
"""Slices beyond the end of the object on which a clip may still start."""


def never_absent(network: CompactNetwork) -> CompactSegmenter:
    """A segmenter that shows a mask on every slice, whatever its presence."""
    device = next(network.parameters()).device
    return CompactSegmenter(network, name="", device=device, dtype=torch.float32, threshold=0.0)


def sweep(
    segmenter: CompactSegmenter,
    stack: LabelledStack,
    seeds: Iterable[int],
    slices: range,
    extent: tuple[int, int] | None = None,
) -> Iterator[tuple[int, SegmentedSlice]]:
    """Propagate the true mask of a seed over neighbouring slices, as inference does.

    Parameters
    ----------
    segmenter : CompactSegmenter
    stack : LabelledStack
    seeds : iterable of int
        Annotated slices.
    slices : range
        To be visited, in steps of 1 or -1; the first lies next to a seed.
    extent : tuple of int, optional
        First and last slice, if marked.
    """
    for _, index, found in sweep_together(segmenter, stack, [(tuple(seeds), slices)], extent):
        yield index, found


def sweep_together(
    segmenter: CompactSegmenter,
    stack: LabelledStack,
    sweeps: Sequence[tuple[Sequence[int], range]],
    extent: tuple[int, int] | None = None,
) -> Iterator[tuple[int, int, SegmentedSlice]]:
    """Propagate an object from several choices of annotated slices, as one batch.

    Parameters
    ----------
    segmenter : CompactSegmenter
    stack : LabelledStack
    sweeps : sequence of (sequence of int, range)
        Annotated slices, and slices to be visited, see `sweep`; all in the same direction.
    extent : tuple of int, optional
        First and last slice, if marked.

    Yields
    ------
    number : int
        Of the sweep.
    index : int
        Of the slice.
    found : SegmentedSlice
    """
    image = stack.image
    shape = (image.shape[1], image.shape[2])
    extents = {} if extent is None else {stack.label: extent}
    encode = lru_cache(maxsize=4)(lambda i: segmenter.encode_image(image[i]))
    context = SweepContext(len(image), shape, stack.spacing, extents, encode)
    seeds = {}
    for seed in {seed for chosen, _ in sweeps for seed in chosen}:
        prompt = SlicePrompt.from_mask(stack.label, seed, stack.mask[seed])
        content = segmenter.encode_seed(encode(seed), prompt, shape).content
        seeds[seed] = MemoryEntry(seed, True, content)
    banks = [MemoryBank(stack.label) for _ in sweeps]
    for bank, (chosen, _) in zip(banks, sweeps, strict=True):
        for seed in chosen:
            bank.add(seeds[seed])
    (step,) = {slices.step for _, slices in sweeps}
    for index in sorted({i for _, slices in sweeps for i in slices}, reverse=step < 0):
        running = [number for number, (_, slices) in enumerate(sweeps) if index in slices]
        results = segmenter.segment(
            encode(index), index, step, [banks[n] for n in running], context
        )
        for number, found in zip(running, results, strict=True):
            banks[number].add(MemoryEntry(index, False, found.content))
            banks[number].retain(index + step, step, segmenter.reach)
            yield number, index, found


def rollout_states(
    segmenter: CompactSegmenter, stack: LabelledStack, scenario: Scenario
) -> dict[int, RolloutState]:
    """Propagate the last seed before the start of a scenario.

    Parameters
    ----------
    segmenter : CompactSegmenter
        See `never_absent`. With an untrained network it is the optical flow.
    stack : LabelledStack
    scenario : Scenario

    Returns
    -------
    dict of slice index to RolloutState
        For the slices between that seed and the next one, the marked end, or `BEYOND` slices
        behind the true end.
    """
    source = max(i for i in scenario.seeds if i <= scenario.start)
    last = int(np.flatnonzero(stack.mask.any((1, 2)))[-1])
    stops = [i - 1 for i in scenario.seeds if i > scenario.start]
    stops.append(last - 1 if scenario.extent is not None else last + BEYOND)
    slices = range(source + 1, min(*stops, len(stack.image) - 2) + 1)
    states: dict[int, RolloutState] = {}
    for index, found in sweep(segmenter, stack, scenario.seeds, slices, scenario.extent):
        assert isinstance(found.content, TrackedObject)
        state = found.content.state
        states[index] = RolloutState(state.crops, state.propagated[0].cpu().numpy())
    return states
