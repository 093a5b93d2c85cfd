"""Objects in each other's way: the nearer seed wins, and who has gone over to another one ends."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.events import SliceSegmented
from napari_slmsam2.core.plan import find_gaps, gaps_beside
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.quality import rank_slices
from napari_slmsam2.core.soft_masks import LogitPatch
from napari_slmsam2.engine.propagation.competition import SeedDistances

from ...fakes import (
    SLICE,
    Drive,
    FakeSegmenter,
    annotations,
    bright_volume,
    prompts_of,
    rectangle,
    run,
)

MASK = rectangle(4, 2)
FIRST = SlicePrompt.from_mask(1, 2, MASK)
SECOND = SlicePrompt.from_mask(2, 10, np.roll(MASK, 8, 1))
"""Where the sweep of the first label arrives."""


def slices_of(drive: Drive, label: int) -> list[int]:
    return np.flatnonzero((drive.labels == label).any((1, 2))).tolist()


def test_the_nearer_seed_wins_and_nothing_comes_back_behind_it():
    prompts = prompts_of(FIRST, SECOND).with_extent(2, 4, 12)
    drive = run(FakeSegmenter(), bright_volume(18), prompts)
    # The marked ends of the second label stay; halfway both are as near.
    assert slices_of(drive, 1) == [0, 1, 2, 3, 4, 5, 6]
    assert slices_of(drive, 2) == [7, 8, 9, 10, 11, 12]
    assert set(drive.result.quality[1]) == {0, 1, 3, 4, 5, 6, 7}
    alone = run(FakeSegmenter(), bright_volume(18), prompts_of(FIRST))
    assert slices_of(alone, 1) == list(range(18))


def test_the_slice_where_a_sweep_gave_way_is_worth_a_look():
    drive = run(FakeSegmenter(), bright_volume(18), prompts_of(FIRST, SECOND))
    quality = drive.result.quality
    # The model saw the object there; nothing is shown.
    assert set(quality[1]) == {0, 1, 3, 4, 5, 6, 7}
    assert quality[1][7].area == 0
    assert quality[1][7].confidence < 0.5 < quality[1][6].confidence
    told = [e for e in drive.of(SliceSegmented) if e.index == 7][-1]
    assert told.quality[1] == quality[1][7]
    first = next(s for s in rank_slices(quality, {1: [2], 2: [10]}) if s.label == 1)
    assert first.index == 7


def test_without_the_rival_the_next_run_brings_it_back():
    drive = run(FakeSegmenter(), bright_volume(18), prompts_of(FIRST, SECOND))
    assert slices_of(drive, 1) == list(range(7))
    drive.prompts = prompts_of(FIRST)
    drive.labels[drive.labels == 2] = 0
    for index in range(18):
        drive.result.forget(2, index)
    drive.plan().go()
    assert slices_of(drive, 1) == list(range(18))
    assert set(drive.result.quality[1]) == set(range(18)) - {2}


def test_a_label_of_the_run_takes_over_one_of_an_earlier_run():
    drive = run(FakeSegmenter(), bright_volume(18), prompts_of(FIRST))
    drive.prompts = prompts_of(FIRST, SECOND).with_extent(2, 4, 12)
    drive.labels[10][SECOND.mask] = 2
    drive.events.clear()
    drive.plan(find_gaps(drive.prompts, 18, labels=[2])).go()
    assert slices_of(drive, 1) == list(range(7))
    emptied = {e.index: set(e.quality) for e in drive.of(SliceSegmented) if 2 not in e.quality}
    # Where it gave way is scored, what lies behind is not.
    assert emptied == {7: {1}} | {index: set() for index in range(8, 18)}
    # And gives it back, with the scores that it had.
    drive.prompts = prompts_of(FIRST, SECOND).with_extent(2, 9, 12)
    for index in range(4, 9):
        drive.result.forget(2, index)
    drive.plan(find_gaps(drive.prompts, 18, labels=[2])).go()
    assert slices_of(drive, 1) == list(range(9))
    assert set(drive.result.quality[1]) == set(range(10)) - {2}
    assert drive.result.quality[1][7].area


@pytest.mark.parametrize("rule", ["keep", "overwrite"])
def test_other_rules_end_only_sweeps_of_the_run(rule):
    drive = run(FakeSegmenter(), bright_volume(18), prompts_of(FIRST))
    drive.config = PropagationConfig(overlap=rule)
    drive.prompts = prompts_of(FIRST, SECOND).with_extent(2, 4, 12)
    drive.labels[10] = 2 * SECOND.mask
    drive.plan(find_gaps(drive.prompts, 18, labels=[2])).go()
    assert set(range(13, 18)) <= set(slices_of(drive, 1))


def test_a_label_that_was_there_before_ends_a_sweep_too():
    labels = np.zeros((18, *SLICE), np.uint16)
    labels[8:11] = 7
    drive = Drive(FakeSegmenter(), bright_volume(18), prompts_of(FIRST), labels=labels).plan()
    drive.go()
    assert slices_of(drive, 1) == list(range(8))
    assert slices_of(drive, 7) == [8, 9, 10]


def test_outside_the_range_of_a_run_nothing_ends():
    prompts = prompts_of(FIRST, SECOND).with_extent(2, 4, 12)
    drive = Drive(FakeSegmenter(), bright_volume(18), prompts)
    drive.plan(find_gaps(prompts_of(FIRST), 18)).go()
    before = drive.labels.copy()
    drive.plan(write_range=(0, 9)).go()
    np.testing.assert_array_equal(drive.labels[10:], before[10:])
    assert slices_of(drive, 2)[0] == 7


def test_signs_stay_and_logits_far_from_their_seed_weigh_little():
    everywhere = slice(0, SLICE[0]), slice(0, SLICE[1])
    label_logits = {
        label: LogitPatch(everywhere, np.full(SLICE, value, np.float32))
        for label, value in ((1, 8.0), (2, 2.0), (3, -8.0), (4, 8.0))
    }
    prompts = prompts_of(FIRST, SlicePrompt.from_mask(2, 7, MASK), SlicePrompt.absent_at(1, 6))
    weighted = SeedDistances(prompts).weight(label_logits, 6)
    assert weighted[2].logits.max() > weighted[1].logits.max() > 0 > weighted[3].logits.min()
    assert weighted[4].logits.max() > 0


@given(prompts=annotations(), index=st.integers(0, 11))
def test_the_nearest_seed_decides_the_weight(prompts, index):
    one = LogitPatch((slice(0, 1), slice(0, 1)), np.ones((1, 1), np.float32))
    weighted = SeedDistances(prompts).weight(dict.fromkeys(prompts.labels, one), index)
    for label in prompts.labels:
        nearest = min(abs(index - seed) for seed in prompts.seeds(label))
        assert weighted[label].logits.item() == np.float32((1.0 + nearest) ** -2)


@settings(max_examples=20)
@given(prompts=annotations(fewest=3, rows=(2, 8), columns=(2, 12)), data=st.data())
def test_gaps_run_again_alone_change_nothing(prompts, data):
    drive = run(FakeSegmenter(), bright_volume(12), prompts)
    labels, suppressed = drive.labels.copy(), set(drive.result.suppressed)
    quality = {label: dict(found) for label, found in drive.result.quality.items()}
    again = data.draw(st.sampled_from(sorted(prompts.prompts)))
    drive.plan(gaps_beside(find_gaps(prompts, 12), {again})).go()
    np.testing.assert_array_equal(drive.labels, labels)
    assert drive.result.suppressed == suppressed
    assert drive.result.quality == quality
