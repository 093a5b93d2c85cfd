"""Runs along gaps, with a model whose answers are known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import DeviceMemoryError, PromptError
from napari_slmsam2.core.events import (
    VISIT_UNITS,
    FellBack,
    Finished,
    FinishReason,
    Progressed,
    SliceSegmented,
    SweepEnded,
)
from napari_slmsam2.core.plan import BACKWARD, FORWARD, find_gaps, gaps_beside
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.engine.classical.flow import FlowSegmenter
from napari_slmsam2.engine.compact.segmenter import CompactSegmenter
from napari_slmsam2.engine.propagation import schedule
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache

from ...fakes import (
    SLICE,
    Drive,
    FakeSegmenter,
    PairSegmenter,
    annotations,
    bright_volume,
    prompts_of,
    rectangle,
    run,
    stop_after,
)

MASK = rectangle(4, 9)
BOTH = (FORWARD, BACKWARD)


def seed(index: int, label: int = 1, mask: np.ndarray = MASK) -> SlicePrompt:
    return SlicePrompt.from_mask(label, index, mask)


def on_slice(drive: Drive, index: int, label: int = 1) -> np.ndarray:
    return drive.labels[drive.volume.slicer(index)] == label


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_seed_fills_the_volume(axis):
    drive = run(FakeSegmenter(), bright_volume(9, axis=axis), prompts_of(seed(4)))
    for index in range(9):
        np.testing.assert_array_equal(
            on_slice(drive, index), np.roll(MASK, abs(index - 4) * (1 if index > 4 else -1), 1)
        )
    assert drive.events[-1] == Finished(FinishReason.COMPLETED)
    assert sorted(e.index for e in drive.of(SliceSegmented)) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert all(e.final for e in drive.of(SliceSegmented))
    assert drive.segmenter.encoded == 9
    assert drive.propagator.done == 9


def progress(drive: Drive) -> list[SliceSegmented | Progressed]:
    return [e for e in drive.events if isinstance(e, SliceSegmented | Progressed)]


def test_progress_counts_up_to_the_total():
    drive = run(FakeSegmenter(), bright_volume(9), prompts_of(seed(2), seed(6)))
    done = [e.done for e in progress(drive)]
    assert done == sorted(done)
    # Two seeds, two slices before, three between in both directions, two behind; four checks.
    visits = 2 + 3 + 3 + 2
    assert {e.total for e in progress(drive)} == {2 + visits * VISIT_UNITS + 4}
    assert done[-1] == progress(drive)[-1].total
    assert drive.propagator.done == 12


def test_many_labels_on_a_slice_count_as_many_and_are_reported_batch_by_batch():
    prompts = prompts_of(*(seed(2, k, rectangle(3 * k, 2, 2, 2)) for k in (1, 2, 3, 4)))
    config = PropagationConfig(batch_size=1)
    drive = run(FakeSegmenter(), bright_volume(8), prompts, config=config)
    done = [e.done for e in progress(drive)]
    assert done[:8] == [1, 2, 3, 4, *(4 + n * VISIT_UNITS for n in (1, 2, 3, 4))]
    assert done[-1] == 4 + 4 * 7 * VISIT_UNITS + 7


@pytest.mark.parametrize("model", [FakeSegmenter, PairSegmenter])
def test_labels_of_a_slice_that_were_segmented_before_a_stop_are_not_counted_again(model):
    volume = bright_volume(9)
    prompts = prompts_of(seed(4), seed(4, 2, rectangle(1, 1)), seed(4, 3, rectangle(10, 12)))
    drive = Drive(model(), volume, prompts, config=PropagationConfig(batch_size=1)).plan()
    drive.go(stop_after(4))
    state = drive.propagator.state
    assert state.visit is not None
    assert len(state.visit[1]) == 1
    drive.plan()
    drive.propagator.restore(state)
    drive.events.clear()
    drive.go()
    last = progress(drive)[-1]
    assert last.done == last.total


def test_what_is_left_of_an_ended_sweep_is_taken_off_the_total():
    drive = run(FakeSegmenter(), bright_volume(100, dark=range(10, 100)), prompts_of(seed(4)))
    last = progress(drive)[-1]
    assert last.done == last.total < 20 * VISIT_UNITS + 100


def test_the_time_left_follows_the_speed_of_the_slices_not_of_the_seeds(monkeypatch):
    """Many seeds are read in no time; the slices of many labels are slow."""
    now = 0.0

    class Slow(FakeSegmenter):
        def segment(self, embedding, index, direction, banks, context):
            nonlocal now
            now += 0.004 * len(banks)
            return super().segment(embedding, index, direction, banks, context)

    prompts = prompts_of(
        *(seed(i, k, rectangle(3 * k, 2, 2, 2)) for k in (1, 2, 3, 4) for i in range(0, 21, 2))
    )
    drive = Drive(Slow(), bright_volume(21), prompts, config=PropagationConfig(batch_size=2)).plan()
    monkeypatch.setattr(schedule, "time", SimpleNamespace(perf_counter=lambda: now))
    seen = []
    for event in drive.propagator.propagate():
        if isinstance(event, SliceSegmented | Progressed):
            seen.append((now, event))
    whole = now
    judged = [(t, e) for t, e in seen if e.done / e.total >= 0.2 and whole - t > 0.1]
    known = [(t, e.seconds_left) for t, e in judged if e.seconds_left is not None]
    assert len(known) > len(judged) / 2
    for t, left in known:
        assert (whole - t) / 2 < left < 2 * (whole - t)


def test_a_stop_is_answered_between_the_batches_of_a_slice():
    prompts = prompts_of(*(seed(2, k, rectangle(3 * k, 2, 2, 2)) for k in (1, 2, 3, 4)))
    config = PropagationConfig(batch_size=1)
    whole = run(FakeSegmenter(), bright_volume(8), prompts, config=config)
    drive = Drive(FakeSegmenter(), bright_volume(8), prompts, config=config).plan()
    drive.go(stop_after(4 + 2))
    assert len(drive.segmenter.visits) == 2
    # Nothing of the unfinished slice is kept.
    assert not any(i == 3 for _, i in drive.result.known())
    assert drive.propagator.done == 4
    drive.go()
    np.testing.assert_array_equal(drive.labels, whole.labels)
    assert drive.segmenter.visits == whole.segmenter.visits


def test_an_event_holds_the_smallest_changed_box():
    drive = run(FakeSegmenter(), bright_volume(3), prompts_of(seed(1)))
    [event] = [e for e in drive.of(SliceSegmented) if e.index == 2]
    assert event.bbox == (slice(4, 9), slice(10, 16))
    assert event.labels.shape == (5, 6)
    assert (event.labels == 1).all()
    again = Drive(FakeSegmenter(), drive.volume, drive.prompts, labels=drive.labels).plan()
    again.go()
    assert {e.labels.size for e in again.of(SliceSegmented)} == {0}


def test_sweeps_end_after_absent_slices_and_write_nothing_there():
    volume = bright_volume(20, dark=range(12, 20))
    drive = run(
        FakeSegmenter(), volume, prompts_of(seed(8)), config=PropagationConfig(stop_after_absent=3)
    )
    assert drive.of(SweepEnded) == [SweepEnded(1, 14, FORWARD)]
    assert [i for i in range(20) if on_slice(drive, i).any()] == list(range(12))
    assert max(i for _, i, _ in drive.segmenter.visits) == 14
    assert all(drive.result.quality[1][i].area == 0 for i in (12, 13, 14))
    assert 15 not in drive.result.quality[1]


def test_a_short_absence_does_not_end_a_sweep():
    volume = bright_volume(20, dark=(10, 11, 14, 15))
    drive = run(FakeSegmenter(), volume, prompts_of(seed(8)))
    assert not drive.of(SweepEnded)
    absent = [i for i in range(20) if not on_slice(drive, i).any()]
    assert absent == [10, 11, 14, 15]


def test_between_two_seeds_no_sweep_ends():
    volume = bright_volume(20, dark=range(8, 14))
    drive = run(FakeSegmenter(), volume, prompts_of(seed(5), seed(17)))
    assert not drive.of(SweepEnded)
    assert on_slice(drive, 14).any()
    assert on_slice(drive, 7).any()
    assert not on_slice(drive, 10).any()


def test_labels_of_an_earlier_longer_run_are_cleared_beyond_the_new_end():
    drive = run(FakeSegmenter(), bright_volume(16), prompts_of(seed(4)))
    drive.labels[drive.volume.slicer(13)][0, 0] = 2
    assert on_slice(drive, 15).any()
    drive.volume = bright_volume(16, dark=range(7, 16))
    drive.store.clear()
    drive.events.clear()
    drive.plan().go()
    assert [i for i in range(16) if on_slice(drive, i).any()] == list(range(7))
    assert on_slice(drive, 13, 2).sum() == 1
    assert set(drive.result.quality[1]) == set(range(10)) - {4}
    assert drive.result.soft.get(1, 12) is None


def test_outside_the_range_nothing_is_cleared_or_forgotten():
    drive = run(FakeSegmenter(), bright_volume(16), prompts_of(seed(4)))
    before, known = drive.labels.copy(), drive.result.known()
    drive.volume = bright_volume(16, dark=range(5, 16))
    drive.store.clear()
    drive.plan(write_range=(10, 12)).go()
    np.testing.assert_array_equal(drive.labels[:10], before[:10])
    np.testing.assert_array_equal(drive.labels[13:], before[13:])
    assert not drive.labels[10:13].any()
    assert drive.result.known() == known - {(1, 10), (1, 11), (1, 12)}


def test_absent_seeds_end_sweeps():
    prompts = prompts_of(seed(6), SlicePrompt.absent_at(1, 2), SlicePrompt.absent_at(1, 10))
    drive = run(FakeSegmenter(), bright_volume(14), prompts)
    assert [i for i in range(14) if on_slice(drive, i).any()] == list(range(3, 10))
    assert {i for _, i, _ in drive.segmenter.visits} == {3, 4, 5, 7, 8, 9}


def test_extents_end_sweeps():
    prompts = prompts_of(seed(6)).with_extent(1, 4, 9)
    drive = run(FakeSegmenter(), bright_volume(14), prompts)
    assert [i for i in range(14) if on_slice(drive, i).any()] == list(range(4, 10))
    assert {i for _, i, _ in drive.segmenter.visits} == {4, 5, 7, 8, 9}


def test_the_model_is_told_the_extents_and_the_spacing():
    volume = replace(bright_volume(6), spacing=(4.0, 1.0, 2.0))
    drive = run(FakeSegmenter(), volume, prompts_of(seed(3)).with_extent(1, 2, 5))
    context = drive.segmenter.contexts[0]
    assert context.extents == {1: (2, 5)}
    assert context.spacing == (4.0, 1.0, 2.0)
    assert (context.n_slices, context.shape) == (6, SLICE)


def test_one_direction():
    volume = bright_volume(10)
    gaps = find_gaps(prompts_of(seed(3), seed(7)), 10, directions=(FORWARD,))
    drive = Drive(FakeSegmenter(), volume, prompts_of(seed(3), seed(7))).plan(gaps)
    drive.go()
    assert {d for _, _, d in drive.segmenter.visits} == {FORWARD}
    assert not drive.labels[:3].any()
    assert on_slice(drive, 9).any()
    assert all(e.final for e in drive.of(SliceSegmented))


def test_two_sweeps_meet_both_seeds_and_agree_where_they_should():
    first, second = rectangle(4, 9), rectangle(4, 9 + 8)
    drive = run(FakeSegmenter(), bright_volume(20), prompts_of(seed(5), seed(13, mask=second)))
    quality = drive.result.quality[1]
    for index in range(6, 13):
        np.testing.assert_array_equal(on_slice(drive, index), np.roll(first, index - 5, 1))
        assert quality[index].agreement == 1
    assert quality[4].agreement is None
    finals = [(e.index, e.final) for e in drive.of(SliceSegmented) if 5 < e.index < 13]
    assert finals == [(i, False) for i in range(6, 13)] + [(i, True) for i in range(12, 5, -1)]


def test_two_sweeps_that_disagree_follow_the_nearer_seed():
    first, second = rectangle(1, 9), rectangle(10, 9)
    drive = run(
        FakeSegmenter(), bright_volume(20), prompts_of(seed(5, mask=first), seed(13, mask=second))
    )
    np.testing.assert_array_equal(on_slice(drive, 6), np.roll(first, 1, 1))
    np.testing.assert_array_equal(on_slice(drive, 12), np.roll(second, -1, 1))
    assert drive.result.quality[1][9].agreement == 0
    assert drive.result.quality[1][9].confidence == 0


def test_interpolation_as_a_third_voice():
    small, large = rectangle(6, 9, 2, 2), rectangle(1, 4, 12, 14)
    prompts = prompts_of(seed(5, mask=small), seed(11, mask=large))
    areas = {}
    for merge in ("sweeps", "interpolation", "auto"):
        drive = run(
            FakeSegmenter(default_merge="interpolation"),
            bright_volume(16),
            prompts,
            config=PropagationConfig(merge=merge),
        )
        areas[merge] = [int(on_slice(drive, i).sum()) for i in range(16)]
    assert areas["auto"] == areas["interpolation"] != areas["sweeps"]
    assert areas["sweeps"][:5] == areas["interpolation"][:5]
    assert small.sum() < areas["interpolation"][8] < large.sum()


def test_a_model_without_directions_sweeps_a_gap_once():
    segmenter = FakeSegmenter(bidirectional=False)
    drive = run(segmenter, bright_volume(12), prompts_of(seed(3), seed(8)))
    between = [(i, d) for _, i, d in segmenter.visits if 3 < i < 8]
    assert between == [(i, FORWARD) for i in range(4, 8)]
    assert drive.result.quality[1][5].agreement is None
    assert on_slice(drive, 0).any()


def test_several_labels_seeded_on_different_slices():
    other = rectangle(11, 2, 4, 4)
    together = run(FakeSegmenter(), bright_volume(12), prompts_of(seed(3), seed(8, 2, other)))
    alone = [
        run(FakeSegmenter(), bright_volume(12), prompts_of(p)).labels
        for p in (seed(3), seed(8, 2, other))
    ]
    np.testing.assert_array_equal(together.labels, alone[0] + alone[1])
    assert together.segmenter.encoded == together.store.encoded == 12


def test_one_batch_per_slice_and_direction():
    prompts = prompts_of(*(seed(2, label, rectangle(3 * label, 2, 2, 2)) for label in (1, 2, 3, 4)))
    segmenter = FakeSegmenter()
    drive = run(segmenter, bright_volume(8), prompts)
    assert segmenter.batches == [4] * 7
    chunked = FakeSegmenter()
    config = PropagationConfig(batch_size=3)
    np.testing.assert_array_equal(
        run(chunked, bright_volume(8), prompts, config=config).labels, drive.labels
    )
    assert chunked.batches == [3, 1] * 7


def test_a_gap_run_alone_gives_what_a_full_run_gives():
    volume = bright_volume(24, dark=(20,))
    prompts = prompts_of(seed(4), seed(16), seed(6, 2, rectangle(10, 3)))
    drive = run(FakeSegmenter(), volume, prompts)
    before, encoded = drive.labels.copy(), drive.store.encoded
    correction = seed(10, mask=rectangle(2, 14, 9, 4))
    drive.prompts = prompts.with_prompt(correction)
    drive.labels[10][drive.labels[10] == 1] = 0
    drive.labels[10][correction.mask] = 1
    drive.segmenter.visits.clear()
    drive.events.clear()
    gaps = gaps_beside(find_gaps(drive.prompts, 24), {(1, 10)})
    drive.plan(gaps).go()
    assert {(label, i) for label, i, _ in drive.segmenter.visits} == {
        (1, i) for i in (*range(5, 10), *range(11, 16))
    }
    assert {e.index for e in drive.of(SliceSegmented)} == {*range(5, 10), *range(11, 16)}
    np.testing.assert_array_equal(drive.labels[:5], before[:5])
    np.testing.assert_array_equal(drive.labels[16:], before[16:])
    assert drive.store.encoded == encoded
    whole = run(FakeSegmenter(), volume, drive.prompts)
    np.testing.assert_array_equal(drive.labels, whole.labels)
    assert drive.result.quality == whole.result.quality


@pytest.mark.parametrize("stops", [[0], [1], [5], [3, 4, 2], [1] * 10])
def test_stopped_and_resumed_is_unbroken(stops):
    volume = bright_volume(18, dark=(15, 16, 17))
    prompts = prompts_of(seed(4), seed(10), seed(7, 2, rectangle(6, 7)))
    whole = run(FakeSegmenter(), volume, prompts)
    drive = Drive(FakeSegmenter(), volume, prompts).plan()
    for steps in stops:
        kept = drive.labels.copy()
        drive.go(stop_after(steps))
        assert drive.events[-1] == Finished(FinishReason.STOPPED)
        for event in drive.of(SliceSegmented):
            kept[event.index] = drive.labels[event.index]
        np.testing.assert_array_equal(kept, drive.labels)
    drive.go()
    assert drive.events[-1] == Finished(FinishReason.COMPLETED)
    np.testing.assert_array_equal(drive.labels, whole.labels)
    assert drive.segmenter.visits == whole.segmenter.visits
    assert drive.result.quality == whole.result.quality


def test_leaving_the_iterator_at_any_event_loses_nothing():
    """Whoever breaks out of the loop can go on later, also between the events of one step."""
    volume = bright_volume(16, dark=range(7, 16))
    prompts = prompts_of(seed(4))
    old = np.zeros((16, *SLICE), np.uint16)
    old[:, 3:6, 3:6] = 1
    whole = Drive(FakeSegmenter(), volume, prompts, labels=old.copy()).plan()
    whole.go()
    drive = Drive(FakeSegmenter(), volume, prompts, labels=old.copy()).plan()
    while not drive.events or not isinstance(drive.events[-1], Finished):
        event = next(drive.propagator.propagate())
        drive.events.append(event)
        if isinstance(event, SliceSegmented):
            drive.labels[event.index][event.bbox] = event.labels
    np.testing.assert_array_equal(drive.labels, whole.labels)
    assert len(drive.events) == len(whole.events)
    assert drive.segmenter.visits == whole.segmenter.visits


def test_a_long_run_keeps_a_short_bank():
    segmenter = FakeSegmenter(reach=2)
    drive = run(segmenter, bright_volume(100), prompts_of(seed(50)))
    assert on_slice(drive, 99).any()
    assert segmenter.longest_bank == 2
    held = sum(len(s.bank.visited) for s in drive.propagator._states.values())
    assert held == 0


def test_embeddings_stay_within_their_budget():
    volume = bright_volume(30)
    size = volume.take(0).nbytes
    store = EmbeddingCache(4 * size)
    drive = run(FakeSegmenter(), volume, prompts_of(seed(3), seed(20)), store=store)
    assert store.nbytes <= 4 * size
    assert len(store) == 4
    plentiful = run(FakeSegmenter(), volume, prompts_of(seed(3), seed(20)))
    np.testing.assert_array_equal(drive.labels, plentiful.labels)
    assert plentiful.store.encoded == 30 < store.encoded


def test_two_sweeps_side_by_side_read_each_slice_once_each():
    """Of large slices: of one sweep at a time, three fit into what is stored."""
    read = Counter()

    class LargeSlice(np.ndarray):
        nbytes = FlowSegmenter.most_stored // 3

    class NeighboursToo(PairSegmenter):
        most_stored = CompactSegmenter.most_stored

        def encode_image(self, image):
            read[image.tobytes()] += 1
            return image.view(LargeSlice)

        def segment(self, embedding, index, direction, banks, context):
            for neighbour in (index - direction, index + direction):
                context.embedding_of(neighbour)
            return super().segment(embedding, index, direction, banks, context)

    run(NeighboursToo(), bright_volume(16), prompts_of(seed(0), seed(15)))
    assert len(read) == 16
    assert max(read.values()) == 2


@pytest.mark.parametrize(("most", "reserved"), [(None, 2**31), (2**26, 2**26)])
def test_memory_is_reserved_for_what_is_stored_of_slices_only(most, reserved):
    asked = []

    class Measured(FakeSegmenter):
        most_stored = most

        def labels_at_once(self, shape, *, seeds, reserved):
            asked.append((shape, seeds, reserved))
            return 1

    store = EmbeddingCache(2**31)
    run(Measured(), bright_volume(5), prompts_of(seed(0), seed(4)), store=store)
    assert asked == [(SLICE, 2, reserved)]


def test_without_a_budget_every_visit_encodes():
    store = EmbeddingCache(0)
    run(FakeSegmenter(), bright_volume(10), prompts_of(seed(3)), store=store)
    assert (len(store), store.nbytes, store.encoded) == (0, 0, 10)


FOUR = prompts_of(*(seed(2, label, rectangle(3 * label, 2, 2, 2)) for label in (1, 2, 3, 4)))


def test_a_batch_too_large_becomes_smaller():
    expected = run(FakeSegmenter(), bright_volume(8), FOUR).labels
    drive = run(FakeSegmenter(fits=1), bright_volume(8), FOUR)
    np.testing.assert_array_equal(drive.labels, expected)
    assert set(drive.segmenter.batches) == {1}
    messages = [e.message for e in drive.of(FellBack)]
    assert messages == [
        "memory is short: 2 labels at a time now",
        "memory is short: 1 label at a time now",
    ]


def test_then_memory_is_relieved():
    expected = run(FakeSegmenter(), bright_volume(8), FOUR).labels
    drive = run(FakeSegmenter(fits=0, reliefs=["on the CPU now"]), bright_volume(8), FOUR)
    np.testing.assert_array_equal(drive.labels, expected)
    assert drive.of(FellBack)[-1].message == "on the CPU now"
    assert len(drive.store) < 8


def test_then_it_is_an_error_and_finished_slices_stay():
    segmenter = FakeSegmenter(fail_at={(5, FORWARD)})
    drive = Drive(segmenter, bright_volume(8), FOUR).plan()
    with pytest.raises(DeviceMemoryError, match="device fake: ran out of memory"):
        drive.go()
    expected = run(FakeSegmenter(), bright_volume(8), FOUR).labels
    np.testing.assert_array_equal(drive.labels[2:5], expected[2:5])
    assert not drive.labels[5:].any()
    assert not drive.labels[:2].any()
    assert not any(i == 5 for _, i in drive.result.known())
    segmenter.fail_at.clear()
    drive.go()
    np.testing.assert_array_equal(drive.labels, expected)


def test_a_model_refuses_what_it_cannot_read_before_anything_is_written():
    segmenter = FakeSegmenter(prompt_kinds=frozenset({PromptKind.MASK, PromptKind.ABSENT}))
    prompts = prompts_of(seed(2), SlicePrompt.from_points(1, 5, [(3, 3)]))
    with pytest.raises(PromptError, match=r"label 1 on slice 5: the model 'fake' cannot read poin"):
        Drive(segmenter, bright_volume(8), prompts).plan()
    assert segmenter.encoded == 0


def test_points_are_answered_on_their_slice_and_protected():
    prompts = prompts_of(
        SlicePrompt.from_points(1, 4, [(3, 4)]), seed(2, 2, rectangle(0, 0, 12, 20))
    )
    drive = run(FakeSegmenter(), bright_volume(8), prompts)
    answer = np.zeros(SLICE, bool)
    answer[2:6, 3:8] = True
    np.testing.assert_array_equal(on_slice(drive, 4), answer)
    assert on_slice(drive, 4, 2).any()


def test_points_with_no_gap_beside_them_are_answered_too():
    points = SlicePrompt.from_points(1, 4, [(3, 4)])
    drive = run(FakeSegmenter(), bright_volume(9), prompts_of(points).with_extent(1, 4, 4))
    assert on_slice(drive, 4).any()
    assert drive.segmenter.visits == []
    drive.segmenter.encoded = 0
    drive.plan().go()
    assert drive.segmenter.encoded == 0


def test_runs_of_other_labels_leave_unread_points_to_models_that_can_read_them():
    segmenter = FakeSegmenter(prompt_kinds=frozenset({PromptKind.MASK}))
    prompts = prompts_of(seed(2), SlicePrompt.from_points(2, 5, [(3, 3)]))
    drive = Drive(segmenter, bright_volume(8), prompts)
    drive.plan(find_gaps(prompts, 8, labels=[1])).go()
    assert on_slice(drive, 7).any()


@settings(max_examples=40)
@given(
    prompts=annotations(),
    overlap=st.sampled_from(["highest", "keep", "overwrite"]),
    merge=st.sampled_from(["sweeps", "interpolation"]),
    dark=st.sets(st.integers(0, 11), max_size=5),
)
def test_seeds_are_exact_after_every_run(prompts, overlap, merge, dark):
    config = PropagationConfig(overlap=overlap, merge=merge)
    drive = run(FakeSegmenter(), bright_volume(12, dark=sorted(dark)), prompts, config=config)
    for prompt in prompts:
        np.testing.assert_array_equal(on_slice(drive, prompt.index, prompt.label), prompt.mask)


@settings(max_examples=30)
@given(
    prompts=annotations(),
    batch_size=st.sampled_from([1, 2, 3, 8]),
    dark=st.sets(st.integers(0, 11), max_size=4),
    stops=st.lists(st.integers(0, 8), max_size=3),
)
def test_both_sweeps_side_by_side_give_what_they_give_one_after_the_other(
    prompts, batch_size, dark, stops
):
    volume = bright_volume(12, dark=tuple(dark))
    config = PropagationConfig(batch_size=batch_size)
    apart = run(FakeSegmenter(), volume, prompts, config=config)
    together = Drive(PairSegmenter(), volume, prompts, config=config).plan()
    for n in stops:
        together.go(stop_after(n))
        state, result = together.propagator.state, together.result
        together.plan()
        together.propagator.restore(state)
        assert together.result is result
    together.go()
    np.testing.assert_array_equal(together.labels, apart.labels)
    assert together.result.quality == apart.result.quality
    for index in range(12):
        one, other = (drive.result.patches(index) for drive in (together, apart))
        assert one.keys() == other.keys()
        for label, patch in one.items():
            assert patch.box == other[label].box
            np.testing.assert_array_equal(patch.logits, other[label].logits)
    assert sorted(together.segmenter.visits) == sorted(apart.segmenter.visits)


def test_a_forward_and_a_backward_step_are_one_batch():
    segmenter = PairSegmenter()
    run(segmenter, bright_volume(12), prompts_of(seed(3), seed(9)))
    assert segmenter.together[:3] == [((4, 1), (8, -1)), ((5, 1), (7, -1)), ((6, 1),)]
    assert segmenter.together[3:5] == [((6, -1), (7, 1)), ((5, -1), (8, 1))]
    assert segmenter.batches == [1] * 15
    assert max(map(len, segmenter.together)) == 2


def test_a_batch_that_does_not_fit_is_halved_across_both_steps():
    prompts = prompts_of(*(seed(5, k, rectangle(3 * k, 2, 2, 2)) for k in (1, 2, 3, 4)))
    segmenter = PairSegmenter(fits=3)
    drive = run(segmenter, bright_volume(11), prompts)
    whole = run(FakeSegmenter(), bright_volume(11), prompts)
    np.testing.assert_array_equal(drive.labels, whole.labels)
    assert len(drive.of(FellBack)) >= 1
