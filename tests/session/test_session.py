"""The whole from seeds to labels, with a model whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import (
    ConfigError,
    DeviceMemoryError,
    GridMismatchError,
    PromptError,
    SlmSam2Warning,
)
from napari_slmsam2.core.events import Finished, FinishReason, SliceSegmented
from napari_slmsam2.core.plan import FORWARD
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.session import SegmentationSession

from ..fakes import SLICE, WINDOW, FakeSegmenter, bright_volume, rectangle, stop_after

MASK = rectangle(4, 9)
OTHER = rectangle(6, 9)


def make_session(
    n_slices: int = 20, *, segmenter: FakeSegmenter | None = None, dark=(), axis=0, **options
) -> SegmentationSession:
    volume = bright_volume(n_slices, dark=dark, axis=axis)
    session = SegmentationSession(volume, window=WINDOW, **options)
    session.use_model(ReadyModel(segmenter or FakeSegmenter(), "fake", None))
    return session


def fake_of(session: SegmentationSession) -> FakeSegmenter:
    return session.load_model().segmenter


def paint(session: SegmentationSession, label: int, index: int, mask=MASK) -> None:
    session.add_prompt(SlicePrompt.from_mask(label, index, mask))


def run(session: SegmentationSession, **options) -> list:
    return list(session.propagate(**options))


def present(session: SegmentationSession, label: int = 1) -> list[int]:
    volume = session.volume
    return [i for i in range(volume.n_slices) if (session.labels[volume.slicer(i)] == label).any()]


def whole(*prompts: SlicePrompt, **options) -> SegmentationSession:
    session = make_session(**options)
    for prompt in prompts:
        session.add_prompt(prompt)
    run(session)
    return session


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_painted_slice_is_in_the_labels_at_once(axis):
    session = make_session(8, axis=axis)
    paint(session, 3, 5)
    np.testing.assert_array_equal(session.labels[session.volume.slicer(5)] == 3, MASK)
    assert present(session, 3) == [5]
    paint(session, 3, 5, OTHER)
    np.testing.assert_array_equal(session.labels[session.volume.slicer(5)] == 3, OTHER)
    run(session)
    np.testing.assert_array_equal(session.labels[session.volume.slicer(5)] == 3, OTHER)
    assert present(session, 3) == list(range(8))


def test_the_events_say_all_that_changes():
    session = make_session(12)
    paint(session, 1, 3)
    paint(session, 2, 8, OTHER)
    shown = session.labels.copy()
    for event in session.propagate():
        if isinstance(event, SliceSegmented):
            shown[event.index][event.bbox] = event.labels
            np.testing.assert_array_equal(shown, session.labels)
    np.testing.assert_array_equal(shown, session.labels)
    assert event == Finished(FinishReason.COMPLETED)


def test_labels_given_are_written_in_place():
    labels = np.zeros((8, *SLICE), np.int32)
    labels[0, 0, 0] = 9
    session = make_session(8, labels=labels)
    paint(session, 1, 4)
    run(session)
    assert session.labels is labels
    assert set(np.unique(labels)) == {0, 1, 9}


@pytest.mark.parametrize(
    ("start", "label", "expected"),
    [(np.uint8, 255, np.uint8), (np.uint8, 300, np.uint16), (np.int16, 70_000, np.uint32)],
)
def test_labels_are_widened_for_a_high_label(start, label, expected):
    labels = np.zeros((8, *SLICE), start)
    labels[7, 0, 0] = 100
    session = make_session(8, labels=labels)
    paint(session, 1, 4, OTHER)
    run(session)
    paint(session, label, 3)
    assert session.labels.dtype == expected
    run(session)
    assert present(session, label) == list(range(8))
    assert session.labels[7, 0, 0] == 100
    after = session.labels.copy()
    session.undo()
    assert present(session, label) == [3]
    assert present(session, 1)[-1] == 7
    session.undo()
    assert present(session, 1) == [4]
    session.redo()
    session.redo()
    np.testing.assert_array_equal(session.labels, after)


def test_a_label_in_points_widens_too():
    session = make_session(6)
    session.add_prompt(SlicePrompt.from_points(300, 2, [(3, 4)]))
    assert not session.labels.any()
    run(session)
    assert present(session, 300) == list(range(6))


def test_a_correction_runs_only_the_gaps_beside_it():
    session = whole(*(SlicePrompt.from_mask(1, i, MASK) for i in (4, 16)))
    paint(session, 2, 6, rectangle(10, 3))
    run(session)
    before, fake = session.labels.copy(), fake_of(session)
    fake.visits.clear()
    fake.encoded = 0
    paint(session, 1, 10, OTHER)
    assert session.dirty == {(1, 10)}
    run(session, gaps_only=True)
    visited = {i for _, i, _ in fake.visits}
    assert visited == {*range(5, 10), *range(11, 16)}
    assert fake.encoded == 0
    outside = [i for i in range(20) if i not in visited | {10}]
    np.testing.assert_array_equal(session.labels[outside], before[outside])
    assert session.dirty == frozenset()
    assert run(session, gaps_only=True) == [Finished(FinishReason.COMPLETED)]
    again = make_session()
    for prompt in session.prompts:
        again.add_prompt(prompt)
    run(again)
    np.testing.assert_array_equal(session.labels, again.labels)
    assert session.quality == again.quality


def test_a_removed_seed_is_filled_like_any_other_slice():
    seeds = [SlicePrompt.from_mask(1, i, m) for i, m in ((4, MASK), (10, OTHER), (16, MASK))]
    session = whole(*seeds)
    session.remove_prompt(1, 10)
    run(session, gaps_only=True)
    np.testing.assert_array_equal(session.labels, whole(seeds[0], seeds[2]).labels)


def test_a_label_added_later():
    session = whole(SlicePrompt.from_mask(1, 4, MASK))
    before, fake = session.labels.copy(), fake_of(session)
    fake.visits.clear()
    fake.encoded = 0
    paint(session, 2, 12, rectangle(10, 3))
    run(session, labels=[2])
    assert {label for label, _, _ in fake.visits} == {2}
    assert fake.encoded == 0
    np.testing.assert_array_equal(session.labels[session.labels != 2], before[session.labels != 2])
    assert present(session, 2) == list(range(20))


def test_a_range():
    session = make_session()
    paint(session, 1, 4)
    run(session, write_range=(8, 11))
    assert present(session) == [4, 8, 9, 10, 11]
    assert session.dirty == {(1, 4)}
    assert {i for _, i, _ in fake_of(session).visits} == set(range(5, 12))
    run(session, gaps_only=True)
    assert present(session) == list(range(20))
    assert session.dirty == frozenset()


@pytest.mark.parametrize("bad", [(-1, 3), (5, 4), (0, 20)])
def test_a_range_outside_the_volume(bad):
    session = make_session()
    paint(session, 1, 4)
    with pytest.raises(ConfigError, match="range: is not in the volume; expected 0 to 19"):
        session.propagate(write_range=bad)
    assert session.undo() == ()


@pytest.mark.parametrize(
    ("direction", "expected"), [("forward", range(4, 20)), ("backward", range(5))]
)
def test_one_direction(direction, expected):
    session = make_session(config=PropagationConfig(direction=direction))
    paint(session, 1, 4)
    run(session)
    assert present(session) == list(expected)


def test_an_extent_removes_what_lies_outside_and_stays():
    session = whole(SlicePrompt.from_mask(1, 8, MASK))
    session.set_extent(1, 5, 12)
    assert present(session) == list(range(5, 13))
    assert max(session.quality[1]) == 12
    run(session)
    assert present(session) == list(range(5, 13))
    session.undo()
    assert present(session) == list(range(5, 13))
    session.undo()
    assert present(session) == [8]
    session.redo()
    assert present(session) == list(range(5, 13))
    assert set(session.quality[1]) <= set(range(5, 13))
    session.clear_extent(1)
    run(session, gaps_only=True)
    assert present(session) == list(range(20))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, (3, 17), [3, *range(15, 18)]),
        ((3, 17), (2, 17), [2, 3]),
        ((3, 17), (3, 16), [15, 16]),
        ((3, 17), (4, 14), []),
        ((3, 17), None, [*range(4), *range(15, 20)]),
    ],
)
def test_another_extent_runs_only_the_open_gaps_beside_it(before, after, expected):
    """The slices between two seeds that nobody has changed do not depend on it."""
    session = make_session()
    for index, mask in ((4, MASK), (9, OTHER), (14, MASK)):
        paint(session, 1, index, mask)
    if before is not None:
        session.set_extent(1, *before)
    run(session)
    session.labels[6, 0, 0] = 7
    closed = session.labels[4:15].copy()
    fake_of(session).visits.clear()
    if after is None:
        session.clear_extent(1)
    else:
        session.set_extent(1, *after)
    run(session, gaps_only=True)
    assert sorted({i for _, i, _ in fake_of(session).visits}) == expected
    np.testing.assert_array_equal(session.labels[4:15], closed)
    first, last = after or (0, 19)
    assert present(session) == list(range(first, last + 1))
    assert session.dirty == frozenset()


def test_undo_does_not_bring_back_what_an_extent_removed():
    session = whole(SlicePrompt.from_mask(1, 8, MASK))
    run(session)
    session.set_extent(1, 5, 12)
    session.labels[10] = 0
    session.undo()
    assert present(session) == list(range(5, 13))
    assert set(session.quality[1]) <= set(range(5, 13))


def test_extents_and_seeds_must_agree():
    session = make_session()
    paint(session, 1, 8)
    with pytest.raises(PromptError, match="leaves out slices that hold a seed"):
        session.set_extent(1, 9, 12)
    with pytest.raises(PromptError, match="ends outside the volume"):
        session.set_extent(1, 5, 20)
    session.set_extent(1, 5, 12)
    with pytest.raises(PromptError, match="outside the marked extent"):
        paint(session, 1, 3)
    with pytest.raises(PromptError, match="another size"):
        session.add_prompt(SlicePrompt.from_mask(2, 3, np.ones((3, 3), bool)))
    assert session.prompts.labels == (1,)
    assert present(session) == [8]


@pytest.mark.parametrize("stops", [[0], [7], [2, 5, 3]])
def test_resume_gives_what_an_unbroken_run_gives(stops):
    seeds = [SlicePrompt.from_mask(1, 4, MASK), SlicePrompt.from_mask(2, 12, OTHER)]
    unbroken = whole(*seeds, dark=(17, 18, 19))
    session = make_session(dark=(17, 18, 19))
    for prompt in seeds:
        session.add_prompt(prompt)
    first, *more = stops
    events = run(session, should_stop=stop_after(first))
    for steps in more:
        events += session.resume(stop_after(steps))
    assert events[-1] == Finished(FinishReason.STOPPED)
    assert not session.runs[-1].finished
    assert session.dirty
    finished = [e.index for e in events if isinstance(e, SliceSegmented) and e.labels.size]
    assert set(finished) <= {*present(session, 1), *present(session, 2)}
    events += session.resume()
    np.testing.assert_array_equal(session.labels, unbroken.labels)
    assert session.quality == unbroken.quality
    assert session.runs[-1].finished
    assert len(session.runs) == 1
    assert session.dirty == frozenset()
    session.undo()
    assert present(session, 1) == [4]


def test_breaking_out_of_the_loop_and_resuming():
    seed = SlicePrompt.from_mask(1, 10, MASK)
    unbroken = whole(seed)
    session = make_session()
    session.add_prompt(seed)
    for event in session.propagate():
        if isinstance(event, SliceSegmented) and event.index == 14:
            break
    for _ in session.resume():
        pass
    np.testing.assert_array_equal(session.labels, unbroken.labels)


def test_nothing_to_resume():
    session = make_session()
    paint(session, 1, 4)
    with pytest.raises(PromptError, match="no stopped run"):
        session.resume()
    run(session)
    with pytest.raises(PromptError, match="no stopped run"):
        session.resume()
    run(session, should_stop=stop_after(3))
    paint(session, 1, 6)
    with pytest.raises(PromptError, match="seeds have changed"):
        session.resume()
    run(session, should_stop=stop_after(3))
    session.undo()
    with pytest.raises(PromptError, match="no stopped run"):
        session.resume()


@pytest.mark.parametrize("when", range(1, 30, 3))
def test_a_seed_painted_while_the_run_goes_on_stays(when):
    """Also between the two sweeps of its own gap, and it is still to be run."""
    session = make_session()
    paint(session, 1, 4)
    paint(session, 1, 16)
    for count, _ in enumerate(session.propagate()):
        if count == when:
            paint(session, 1, 10, OTHER)
            paint(session, 2, 12, rectangle(10, 3))
    np.testing.assert_array_equal(session.labels[10] == 1, OTHER)
    np.testing.assert_array_equal(session.labels[12] == 2, rectangle(10, 3))
    assert session.dirty == {(1, 10), (2, 12)}
    assert 10 not in session.quality[1]
    run(session, gaps_only=True)
    again = make_session()
    for prompt in session.prompts:
        again.add_prompt(prompt)
    run(again)
    np.testing.assert_array_equal(session.labels, again.labels)
    assert session.dirty == frozenset()


@pytest.mark.parametrize("when", range(1, 30, 5))
def test_a_seed_painted_and_taken_back_while_the_run_goes_on(when):
    session = make_session()
    paint(session, 1, 4)
    paint(session, 1, 16)
    for count, _ in enumerate(session.propagate()):
        if count == when:
            paint(session, 1, 10, OTHER)
            session.remove_prompt(1, 10)
            session.remove_prompt(1, 4)
    assert (1, 4) in session.dirty
    run(session, gaps_only=True)
    np.testing.assert_array_equal(session.labels, whole(SlicePrompt.from_mask(1, 16, MASK)).labels)


@pytest.mark.parametrize("when", [1, 6, 12])
def test_an_extent_set_while_the_run_goes_on_holds(when):
    session = make_session()
    paint(session, 1, 10)
    for count, _ in enumerate(session.propagate()):
        if count == when:
            session.set_extent(1, 7, 13)
    assert set(present(session)) <= set(range(7, 14))
    assert set(session.quality[1]) <= set(range(7, 14))
    run(session, gaps_only=True)
    assert present(session) == list(range(7, 14))


def test_undo_and_redo_of_several_runs_bit_for_bit():
    session = make_session()
    paint(session, 1, 4)
    states = [session.labels.copy()]
    run(session)
    states.append(session.labels.copy())
    paint(session, 2, 9, rectangle(5, 12))
    run(session)
    states.append(session.labels.copy())
    for _ in range(2):
        changed = session.undo()
        assert changed
        np.testing.assert_array_equal(session.labels[9] == 2, rectangle(5, 12))
        others = [i for i in range(20) if i != 9]
        np.testing.assert_array_equal(session.labels[others], states[1][others])
        assert len(session.runs) == 1
        assert 2 not in session.quality
        session.undo()
        np.testing.assert_array_equal(session.labels[others], states[0][others])
        assert session.undo() == ()
        assert not session.quality
        session.redo()
        session.redo()
        np.testing.assert_array_equal(session.labels, states[2])
        assert session.redo() == ()
        assert set(session.quality) == {1, 2}
    session.undo()
    run(session, labels=[2])
    np.testing.assert_array_equal(session.labels, states[2])
    assert session.redo() == ()


def test_what_was_undone_is_to_be_run_again():
    seeds = [SlicePrompt.from_mask(1, i, MASK) for i in (4, 16)]
    session = whole(*seeds)
    paint(session, 1, 10, OTHER)
    run(session, gaps_only=True)
    corrected = session.labels.copy()
    session.undo()
    assert session.dirty == {(1, 10)}
    run(session, gaps_only=True)
    np.testing.assert_array_equal(session.labels, corrected)
    session.undo()
    session.redo()
    assert session.dirty == frozenset()
    np.testing.assert_array_equal(session.labels, corrected)
    session.undo()
    paint(session, 1, 10, MASK)
    session.redo()
    assert session.dirty == {(1, 10)}
    np.testing.assert_array_equal(session.labels[10] == 1, MASK)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_highest_does_not_depend_on_the_order_of_runs(order):
    session = make_session()
    paint(session, 1, 4)
    paint(session, 2, 14, OTHER)
    for label in order:
        run(session, labels=[label])
    together = whole(*session.prompts)
    np.testing.assert_array_equal(session.labels, together.labels)
    assert {1, 2} <= set(np.unique(session.labels[9]))


@settings(max_examples=25)
@given(
    places=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 10), st.integers(0, 17)),
        min_size=3,
        max_size=3,
    ),
    order=st.permutations([1, 2, 3]),
)
def test_any_labels_in_any_order(places, order):
    sessions = [make_session(10) for _ in range(2)]
    for session in sessions:
        for label, (index, top, left) in enumerate(places, 1):
            paint(session, label, index, rectangle(top, left))
    run(sessions[0])
    for label in order:
        run(sessions[1], labels=[label])
    np.testing.assert_array_equal(sessions[0].labels, sessions[1].labels)


def test_keep_leaves_other_labels_alone():
    session = make_session(config=PropagationConfig(overlap="keep"))
    session.labels[:, 5, :] = 7
    before = session.labels == 7
    paint(session, 2, 15, rectangle(2, 6))
    run(session)
    paint(session, 1, 10, rectangle(8, 9))
    second = session.labels == 2
    run(session, labels=[1])
    unseeded = [i for i in range(20) if i not in (10, 15)]
    np.testing.assert_array_equal((session.labels == 7)[unseeded], before[unseeded])
    np.testing.assert_array_equal((session.labels == 2)[unseeded], second[unseeded])


def test_overlapping_seeds_keep_what_was_drawn_last():
    session = make_session(8)
    paint(session, 1, 4, MASK)
    paint(session, 2, 4, OTHER)
    paint(session, 1, 4, MASK)
    paint(session, 3, 2, rectangle(0, 0, 16, 24))
    drawn = session.labels[4].copy()
    run(session)
    np.testing.assert_array_equal(session.labels[4] * (session.labels[4] != 3), drawn)
    session.undo()
    np.testing.assert_array_equal(session.labels[4], drawn)


def test_another_model_reads_its_own_images():
    """Interpolation keeps empty embeddings, which flow must not find."""
    session = SegmentationSession(bright_volume(6), window=WINDOW, model="interpolation")
    paint(session, 1, 1)
    paint(session, 1, 4)
    run(session)
    session.use_model("flow")
    run(session)
    assert {1, 2, 3, 4} <= set(present(session))


def test_points_on_a_slice_between_seeds_are_answered():
    session = whole(*(SlicePrompt.from_mask(1, i, MASK) for i in (3, 4, 5)), n_slices=9)
    session.add_prompt(SlicePrompt.from_points(1, 4, [(3, 4)]))
    run(session, gaps_only=True)
    answer = np.zeros(SLICE, bool)
    answer[2:6, 3:8] = True
    np.testing.assert_array_equal(session.labels[4] == 1, answer)


def test_memory_that_runs_out_leaves_no_half_written_label():
    segmenter = FakeSegmenter(fail_at={(9, FORWARD)})
    session = make_session(segmenter=segmenter)
    paint(session, 1, 4)
    paint(session, 2, 6, OTHER)
    with pytest.raises(DeviceMemoryError):
        run(session)
    assert present(session, 1) == [4, 5, 6, 7, 8]
    assert present(session, 2) == [6, 7, 8]
    segmenter.fail_at.clear()
    for _ in session.resume():
        pass
    np.testing.assert_array_equal(session.labels, whole(*session.prompts).labels)
    session.undo()
    assert present(session, 1) == [4]


def test_seeds_from_a_volume():
    session = make_session(10)
    seeds = np.zeros(session.volume.shape, np.uint16)
    seeds[2][MASK] = 5
    seeds[7][OTHER] = 5
    seeds[7, 0, 0] = 300
    session.add_seed_volume(seeds)
    assert session.prompts.seeds(5) == (2, 7)
    assert session.prompts.seeds(300) == (7,)
    np.testing.assert_array_equal(session.labels, seeds)
    with pytest.raises(PromptError, match="hold no label"):
        session.add_seed_volume(np.zeros_like(seeds))
    with pytest.raises(GridMismatchError, match="seeds: differ in shape"):
        session.add_seed_volume(seeds[1:])


def test_seeds_drawn_on_another_plane_are_reported():
    seeds = np.zeros((20, 20, 20), np.uint8)
    seeds[4:16, 10, 3:14] = 1
    session = SegmentationSession(Volume(np.zeros(seeds.shape)), model="flow")
    with pytest.warns(SlmSam2Warning, match=r"drawn on 1 plane of axis 1.*Choose axis 1"):
        session.add_seed_volume(seeds)


def test_nothing_to_propagate():
    session = make_session()
    with pytest.raises(PromptError, match="seeds: there is none"):
        session.propagate()
    session.add_prompt(SlicePrompt.absent_at(1, 3))
    with pytest.raises(PromptError, match="1 absent seeds"):
        session.propagate()
    paint(session, 1, 5)
    with pytest.raises(PromptError, match="label 2: has no slice"):
        session.propagate(labels=[2])


def test_labels_of_another_shape():
    with pytest.raises(GridMismatchError, match="labels: differ in shape from the image"):
        make_session(8, labels=np.zeros((7, *SLICE), np.uint8))


def test_suggestions_name_doubtful_slices_and_no_seed():
    session = make_session(dark=(12,))
    paint(session, 1, 4)
    paint(session, 1, 17, rectangle(9, 9))
    run(session)
    suggested = session.suggestions()
    assert {s.index for s in suggested} == set(range(20)) - {4, 17}
    assert 4 < suggested[0].index < 17


def test_memory_does_not_grow_with_slices():
    """Beyond labels and compressed masks a run holds no slice."""
    segmenter = FakeSegmenter(reach=3)
    session = make_session(100, segmenter=segmenter)
    paint(session, 1, 0)
    run(session)
    assert segmenter.longest_bank == 3
    assert session.volume.n_slices == len(present(session))


def test_the_image_is_read_slice_by_slice():
    class Watched:
        shape, dtype = (9, *SLICE), np.dtype(np.float32)

        def __init__(self):
            self.read = []

        def __getitem__(self, key):
            self.read.append(key[0])
            return np.full(SLICE, 0.6, np.float32)

    data = Watched()
    session = make_session(9)
    session.volume = replace(session.volume, data=data)
    assert isinstance(session.volume, Volume)
    paint(session, 1, 4)
    run(session)
    run(session)
    assert sorted(data.read) == list(range(9))


def test_inside_a_marked_extent_a_sweep_goes_on_over_slices_without_the_object():
    dark = (6, 7, 8, 9)
    unknown = make_session(16, dark=dark)
    paint(unknown, 1, 3)
    run(unknown)
    assert max(present(unknown)) == 5
    known = make_session(16, dark=dark)
    paint(known, 1, 3)
    known.set_extent(1, 0, 13)
    visited = {e.index for e in run(known) if isinstance(e, SliceSegmented)}
    assert visited == set(range(14)) - {3}


def test_another_window_encodes_the_images_again():
    session = make_session(8)
    paint(session, 1, 3)
    run(session)
    encoded = session.encoded_slices
    run(session)
    assert session.encoded_slices == encoded
    session.window = replace(WINDOW, high=WINDOW.high * 2)
    run(session)
    assert session.encoded_slices == 2 * encoded


def test_settings_that_are_built_into_a_model_load_it_anew():
    session = SegmentationSession(bright_volume(6), window=WINDOW, model="interpolation")
    first = session.load_model()
    session.config = session.config.replace(overlap="keep")
    assert session.load_model() is first
    session.config = session.config.replace(precision="float32")
    second = session.load_model()
    assert second is not first
    session.config = session.config.replace(memory="confident")
    assert session.load_model() is not second
    given = make_session(6)
    handed_over = given.load_model()
    given.config = given.config.replace(precision="float32")
    assert given.load_model() is handed_over


def test_touched_is_an_earlier_name_of_dirty():
    session = make_session()
    paint(session, 1, 4)
    assert session.touched == session.dirty == {(1, 4)}
