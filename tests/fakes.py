"""A model whose answers are known by heart, and volumes to run it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import DeviceMemoryError
from napari_slmsam2.core.events import PropagationEvent, SliceSegmented
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.plan import find_gaps
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt
from napari_slmsam2.core.segmenter import (
    SegmentedSlice,
    SliceSegmenter,
    SliceVisit,
    SweepContext,
)
from napari_slmsam2.core.soft_masks import LogitPatch
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.propagation.propagator import Propagator
from napari_slmsam2.engine.propagation.result import PropagationInput, PropagationResult

SLICE = (16, 24)
WINDOW = IntensityWindow(0.0, 1.0)


def whole_slice(patch: LogitPatch, shape: tuple[int, int]) -> np.ndarray:
    """The logits of a patch on a slice of shape (H, W), -8 outside of it."""
    return patch.within((slice(0, shape[0]), slice(0, shape[1])))


@dataclass(slots=True)
class FakeSegmenter:
    """Moves the mask of the slice before by one column per slice; nothing is in the dark.

    The logit inside the mask falls with the distance from the seed, so that overlaps and merges
    have something to decide.

    Attributes
    ----------
    fits : int
        Largest batch that does not run out of memory.
    reliefs : list of str
        What `free_memory` has left to do.
    fail_at : set of (index, direction)
        Where memory runs out, whatever the batch, until it is relieved.
    """

    name: str = "fake"
    reach: int = 1
    bidirectional: bool = True
    default_merge: str = "sweeps"
    prompt_kinds: frozenset[PromptKind] = frozenset(PromptKind)
    neighbours: int = 0
    fits: int = 10**6
    reliefs: list[str] = field(default_factory=list)
    fail_at: set[tuple[int, int]] = field(default_factory=set)
    visits: list[tuple[int, int, int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    encoded: int = 0
    longest_bank: int = 0
    contexts: list[SweepContext] = field(default_factory=list)

    def encode_image(self, image: np.ndarray) -> np.ndarray:
        self.encoded += 1
        return image

    def encode_seed(
        self, embedding: np.ndarray, prompt: SlicePrompt, shape: tuple[int, int]
    ) -> SegmentedSlice:
        mask = np.zeros(shape, bool) if prompt.mask is None else np.array(prompt.mask)
        if prompt.kind is PromptKind.POINTS:
            mask[2:6, 3:8] = True
        return self._answer(mask, 8.0, float(mask.any()))

    def segment(
        self,
        embedding: np.ndarray,
        index: int,
        direction: int,
        banks: Sequence[MemoryBank],
        context: SweepContext,
    ) -> list[SegmentedSlice]:
        self.contexts.append(context)
        if len(banks) > self.fits or (index, direction) in self.fail_at:
            raise DeviceMemoryError("device fake", "ran out of memory")
        self.batches.append(len(banks))
        self.visits += [(bank.label, index, direction) for bank in banks]
        self.longest_bank = max(self.longest_bank, *(len(bank.visited) for bank in banks))
        return [self._track(embedding, index, direction, bank) for bank in banks]

    def free_memory(self) -> str | None:
        if not self.reliefs:
            return None
        self.fail_at.clear()
        self.fits = 10**6
        return self.reliefs.pop(0)

    def _track(
        self, image: np.ndarray, index: int, direction: int, bank: MemoryBank
    ) -> SegmentedSlice:
        previous = bank.get(index - direction)
        assert previous is not None, "the slice before is no longer in the bank"
        mask, strength = previous.content
        return self._answer(np.roll(mask, direction, 1), 0.95 * strength, float(image.mean() > 0.1))

    @staticmethod
    def _answer(mask: np.ndarray, strength: float, presence: float) -> SegmentedSlice:
        logits = np.where(mask, np.float32(strength), np.float32(-4.5))
        if presence < 0.5:
            logits = np.full(mask.shape, -8, np.float32)
        return SegmentedSlice(LogitPatch.cut(logits), presence, 0.9, 0.9, (mask, strength))


@dataclass(slots=True)
class PairSegmenter(FakeSegmenter):
    """The same model, which segments a forward and a backward step as one batch.

    Attributes
    ----------
    together : list of tuple of (index, direction)
        The steps of every batch.
    """

    together: list[tuple[tuple[int, int], ...]] = field(default_factory=list)

    def segment_visits(
        self, visits: Sequence[SliceVisit], context: SweepContext
    ) -> list[SegmentedSlice]:
        found = [
            one
            for visit in visits
            for one in self.segment(
                visit.embedding, visit.index, visit.direction, visit.banks, context
            )
        ]
        self.together.append(tuple((visit.index, visit.direction) for visit in visits))
        return found


def bright_volume(n_slices: int, *, dark: Sequence[int] = (), axis: int = 0) -> Volume:
    """Bright slices with a little texture, and dark ones, stacked along an axis."""
    rng = np.random.default_rng(0)
    data = np.clip(0.6 + 0.05 * rng.normal(size=(n_slices, *SLICE)), 0, 1).astype(np.float32)
    data[list(dark)] = 0
    return Volume(np.moveaxis(data, 0, axis), axis)


def rectangle(top: int, left: int, height: int = 5, width: int = 6) -> np.ndarray:
    """A mask of the size of a slice."""
    mask = np.zeros(SLICE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


@dataclass(slots=True)
class Drive:
    """Runs a `Propagator` by hand and writes what it says into an array."""

    segmenter: SliceSegmenter
    volume: Volume
    prompts: PromptSet
    config: PropagationConfig = field(default_factory=PropagationConfig)
    labels: np.ndarray | None = None
    result: PropagationResult = field(default_factory=PropagationResult)
    store: EmbeddingCache = field(default_factory=lambda: EmbeddingCache(2**30))
    events: list[PropagationEvent] = field(default_factory=list)
    propagator: Propagator | None = None

    def __post_init__(self) -> None:
        if self.labels is None:
            self.labels = np.zeros(self.volume.shape, np.uint16)
        for prompt in self.prompts:
            if prompt.mask is not None:
                self.labels[self.volume.slicer(prompt.index)][prompt.mask] = prompt.label

    def plan(self, gaps=None, *, write_range=None) -> Drive:
        task = PropagationInput(
            self.volume,
            WINDOW,
            self.prompts,
            find_gaps(self.prompts, self.volume.n_slices) if gaps is None else gaps,
            lambda i: self.labels[self.volume.slicer(i)],
            write_range,
        )
        self.propagator = Propagator(
            self.segmenter, task, self.config, result=self.result, embeddings=self.store
        )
        return self

    def go(self, should_stop=None) -> np.ndarray:
        """The labels after the run."""
        for event in self.propagator.propagate(should_stop):
            self.events.append(event)
            if isinstance(event, SliceSegmented):
                self.labels[self.volume.slicer(event.index)][event.bbox] = event.labels
        return self.labels

    def of(self, kind: type) -> list:
        """All events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def run(segmenter, volume, prompts, **options) -> Drive:
    """A whole run from empty labels."""
    drive = Drive(segmenter, volume, prompts, **options).plan()
    drive.go()
    return drive


def prompts_of(*prompts: SlicePrompt) -> PromptSet:
    whole = PromptSet()
    for prompt in prompts:
        whole = whole.with_prompt(prompt)
    return whole


@st.composite
def annotations(
    draw: st.DrawFn,
    *,
    fewest: int = 1,
    rows: tuple[int, int] = (0, 10),
    columns: tuple[int, int] = (0, 16),
) -> PromptSet:
    """Seeds of up to three labels on twelve slices; the closer the corners, the more they meet."""
    prompts = PromptSet()
    for label in range(1, draw(st.integers(fewest, 3)) + 1):
        for index in draw(st.sets(st.integers(0, 11), min_size=1, max_size=3)):
            mask = rectangle(draw(st.integers(*rows)), draw(st.integers(*columns)))
            for other in prompts.on_slice(index):
                mask &= ~other.mask
            if mask.any():
                prompts = prompts.with_prompt(SlicePrompt.from_mask(label, index, mask))
    return prompts


def stop_after(n: int):
    """A ``should_stop`` that says yes after n steps."""
    asked = iter(range(10**9))
    return lambda: next(asked) >= n
