"""Which slices a confident memory keeps, and which it reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_slmsam2.core.config import ModelConfig, PropagationConfig
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.plan import find_gaps
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt
from napari_slmsam2.engine.sam2.memory import ConfidentMemory, LongTermMemory
from napari_slmsam2.engine.sam2.segmenter import SliceMemory

PLACES = ModelConfig().memory_slices - 1


def entry(index: int, confidence: float, angle: float, *, is_seed: bool = False) -> MemoryEntry:
    """A slice whose image feature points in a direction of the plane, in degrees."""
    radian = np.deg2rad(angle)
    feature = torch.tensor([np.cos(radian), np.sin(radian)], dtype=torch.float32)
    nothing = torch.zeros(1)
    return MemoryEntry(index, is_seed, SliceMemory(nothing, nothing, feature), confidence)


def direction(angle: float) -> torch.Tensor:
    return entry(0, 1.0, angle).content.descriptor


def walk(memory: ConfidentMemory, slices, seed: int = 0) -> MemoryBank:
    """Visit slices 1, 2, ... with the given (confidence, angle)."""
    bank = MemoryBank(1)
    bank.add(entry(seed, 1.0, 0.0, is_seed=True))
    for index, (confidence, angle) in enumerate(slices, seed + 1):
        bank.add(entry(index, confidence, angle))
        bank.retain(index + 1, 1, memory.reach)
        memory.admit(bank, index)
    return bank


visits = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 360)), max_size=60)


@given(visits, st.integers(1, 6))
def test_the_bank_stays_small_and_keeps_the_sure_ones(slices, capacity):
    memory = ConfidentMemory(ModelConfig(), capacity=capacity)
    bank = walk(memory, slices)
    assert len(bank.confident) <= capacity
    assert len(bank.visited) <= memory.reach
    assert set(bank.seeds) == {0}
    assert all(kept.confidence >= memory.threshold for kept in bank.confident.values())
    sure = [i for i, (confidence, _) in enumerate(slices, 1) if confidence >= memory.threshold]
    assert len(bank.confident) == min(capacity, len(sure))


@given(visits, st.tuples(st.floats(0, 1), st.floats(0, 360)))
def test_a_slice_is_replaced_only_by_a_surer_one_that_is_like_it(slices, new):
    memory = ConfidentMemory(ModelConfig(), capacity=3)
    bank = walk(memory, slices)
    before = dict(bank.confident)
    newcomer = entry(len(slices) + 1, *new)
    bank.add(newcomer)
    memory.admit(bank, newcomer.index)
    gone = before.keys() - bank.confident.keys()
    if not gone:
        return
    [index] = gone
    assert bank.confident[newcomer.index] is newcomer
    assert newcomer.confidence > before[index].confidence
    likeness = {
        i: float(torch.dot(old.content.descriptor, newcomer.content.descriptor))
        for i, old in before.items()
    }
    assert likeness[index] == max(likeness.values())


@given(visits)
def test_seeds_and_the_last_slice_are_always_read(slices):
    memory = ConfidentMemory(ModelConfig())
    bank = walk(memory, slices)
    index = len(slices) + 1
    selection = memory.select_similar(bank, index, 1, 100, direction(0))
    read = [e.index for e, _ in selection.maps]
    assert read[0] == 0
    assert len(read) == len(set(read)) <= 1 + PLACES
    if slices:
        assert index - 1 in read
    rows = [row for e, row in selection.maps if not e.is_seed]
    assert all(0 <= row < PLACES for row in rows)
    assert all(distance <= memory.reach for e, distance in selection.pointers if not e.is_seed)


def test_the_most_similar_of_equally_sure_slices_are_read():
    memory = ConfidentMemory(ModelConfig())
    bank = walk(memory, [(0.9, 10.0 * i) for i in range(1, 13)])
    selection = memory.select_similar(bank, 13, 1, 100, direction(21.0))
    assert [e.index for e, _ in selection.maps] == [0, 1, 2, 3, 4, 5, 12]


def test_confidence_counts_beside_similarity():
    memory = ConfidentMemory(ModelConfig(memory_slices=3))
    bank = walk(memory, [(0.95, 30.0), (0.55, 0.0), (0.6, 180.0)])
    selection = memory.select_similar(bank, 4, 1, 100, direction(0.0))
    assert [e.index for e, _ in selection.maps] == [0, 1, 3]


def test_an_empty_bank_reads_the_seed_alone():
    memory = ConfidentMemory(ModelConfig())
    bank = walk(memory, [])
    selection = memory.select_similar(bank, 1, 1, 10, direction(0))
    assert [e.index for e, _ in selection.maps] == [0]
    assert [(e.index, d) for e, d in selection.pointers] == [(0, 1)]


def test_near_the_seed_it_reads_what_the_standard_memory_reads():
    """Six confident slices fill the places of the last six."""
    memory = ConfidentMemory(ModelConfig())
    bank = walk(memory, [(0.9, 0.0)] * 6)
    found = memory.select_similar(bank, 7, 1, 100, direction(0.0))
    expected = LongTermMemory(ModelConfig()).select(bank, 7, 1, 100)
    assert found == expected


@pytest.mark.parametrize("labels", [1, 2])
def test_a_whole_sweep_with_confident_memory(make_segmenter, textured, labels):
    from napari_slmsam2.core.intensity import IntensityWindow
    from napari_slmsam2.engine.propagation.propagator import Propagator
    from napari_slmsam2.engine.propagation.result import PropagationInput

    def masks(memory: str) -> list[np.ndarray]:
        prompts = PromptSet()
        for label in range(1, labels + 1):
            mask = np.zeros(textured.slice_shape, bool)
            mask[10 * label : 10 * label + 12, 8:20] = True
            prompts = prompts.with_prompt(SlicePrompt.from_mask(label, 20, mask))
        task = PropagationInput(
            textured,
            IntensityWindow(0.0, 1.0),
            prompts,
            find_gaps(prompts, textured.n_slices),
            lambda index: np.zeros(textured.slice_shape, np.uint8),
        )
        segmenter = make_segmenter(memory=memory)
        propagator = Propagator(segmenter, task, PropagationConfig(stop_after_absent=50))
        for _ in propagator.propagate():
            pass
        soft = propagator.result.soft
        return [soft.get(label, 45) for label in range(1, labels + 1)]

    for standard, confident in zip(masks("standard"), masks("confident"), strict=True):
        assert standard.shape == confident.shape == textured.slice_shape
        assert np.isfinite(confident).all()
        assert not np.array_equal(standard, confident)
