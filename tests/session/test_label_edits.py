"""Whole labels: locked, renamed, merged and deleted, each taken back by the one undo."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fakes import WINDOW, FakeSegmenter, bright_volume, rectangle

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.label_table import LabelEntry, LabelTable
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.file import load_session, replay, save_session
from napari_slmsam2.session.label_edits import (
    delete_labels,
    lock_labels,
    mark_done,
    merge_labels,
    recolour_label,
    rename_label,
    take_names,
)
from napari_slmsam2.session.session import SegmentationSession

RED = (1.0, 0.0, 0.0, 1.0)


@pytest.fixture(params=[0, 2])
def session(request):
    session = SegmentationSession(bright_volume(12, axis=request.param), window=WINDOW)
    session.use_model(ReadyModel(FakeSegmenter(), "fake", None))
    session.add_prompt(SlicePrompt.from_mask(1, 5, rectangle(4, 9)))
    session.add_prompt(SlicePrompt.from_mask(2, 5, rectangle(10, 2)))
    return session


def run(session, **options):
    list(session.propagate(**options))


def planes(session):
    return np.moveaxis(session.labels, session.volume.axis, 0)


def state(session):
    return session.labels.copy(), dict(session.prompts.prompts), dict(session.prompts.extents)


def assert_state(session, expected):
    np.testing.assert_array_equal(session.labels, expected[0])
    assert dict(session.prompts.prompts).keys() == expected[1].keys()
    for key, seed in expected[1].items():
        np.testing.assert_array_equal(session.prompts.get(*key).mask, seed.mask)
    assert dict(session.prompts.extents) == expected[2]


@pytest.mark.parametrize("overlap", ["highest", "keep", "overwrite"])
@pytest.mark.parametrize("was_run", [False, True])
def test_a_run_neither_takes_nor_gives_a_voxel_of_a_locked_label(session, overlap, was_run):
    session.config = PropagationConfig(overlap=overlap)
    if was_run:
        run(session)  # its logits are in memory, and contend
    planes(session)[7:, 2:14, 8:14] = 2  # in the way of label 1
    before = session.labels == 2
    lock_labels(session.annotation, [2])
    session.add_prompt(SlicePrompt.from_mask(1, 3, rectangle(3, 8)))
    run(session)
    np.testing.assert_array_equal(session.labels == 2, before)
    assert (planes(session)[7] == 1).any(), "the other label was run"
    assert {gap.label for gap in session.runs[-1].gaps} == {1}


def test_a_seed_over_a_locked_label_leaves_its_voxels(session):
    lock_labels(session.annotation, [2])
    before = session.labels == 2
    session.add_prompt(SlicePrompt.from_mask(1, 5, np.ones((16, 24), bool)))
    run(session)
    np.testing.assert_array_equal(session.labels == 2, before)


def test_edits_of_a_locked_label_are_refused(session):
    annotation = session.annotation
    rename_label(annotation, 2, "aorta")
    lock_labels(annotation, [2])
    before, steps = state(session), annotation.history.to_undo
    for edit in (
        lambda: annotation.history.edit(2, extent=(4, 6)),
        lambda: annotation.history.edit(2, seeds={5: None}),
        lambda: session.add_prompt(SlicePrompt.absent_at(2, 8)),
        lambda: session.set_extent(2, 4, 6),
        lambda: delete_labels(annotation, [1, 2]),
        lambda: merge_labels(annotation, [1], 2),
        lambda: merge_labels(annotation, [2], 1),
    ):
        with pytest.raises(PromptError, match=r"label 2 \(aorta\).*is locked"):
            edit()
    assert_state(session, before)
    assert annotation.history.to_undo == steps


def test_a_run_of_locked_labels_alone_is_refused(session):
    lock_labels(session.annotation, [1, 2])
    with pytest.raises(PromptError, match="are locked"):
        session.annotation.labels_to_run()


def test_undo_unlocks_before_it_takes_back_an_earlier_run(session):
    empty = state(session)
    run(session)
    full = state(session)
    lock_labels(session.annotation, [1])
    assert session.annotation.history.to_undo == "lock"
    session.undo()
    assert not session.annotation.table.locked
    session.undo()
    assert_state(session, empty)
    session.redo()
    assert_state(session, full)
    session.redo()
    assert session.annotation.table.locked == {1}


def test_names_colours_and_states_are_undone_one_by_one(session):
    annotation = session.annotation
    tables = [annotation.table]
    for edit in (
        lambda: rename_label(annotation, 1, " liver "),
        lambda: recolour_label(annotation, 1, RED),
        lambda: mark_done(annotation, [1, 2]),
        lambda: lock_labels(annotation, [2]),
        lambda: take_names(annotation, LabelTable({2: "spleen", 9: "not drawn"})),
    ):
        edit()
        tables.append(annotation.table)
    assert annotation.table.entry(1) == LabelEntry("liver", RED, False, True)
    assert annotation.table.entry(2) == LabelEntry("spleen", None, True, True)
    rename_label(annotation, 1, "liver")  # changes nothing, and is no step
    for expected in tables[-2::-1]:
        assert session.undo() == ()
        assert annotation.table == expected
    for expected in tables[1:]:
        session.redo()
        assert annotation.table == expected


def test_a_deleted_label_leaves_nothing_and_comes_back_whole(session):
    annotation = session.annotation
    annotation.set_extent(1, 2, 9)
    rename_label(annotation, 1, "liver")
    run(session)
    before = state(session)
    slices = delete_labels(annotation, [1])
    assert slices == tuple(range(2, 10))
    assert not (session.labels == 1).any()
    assert set(session.prompts.prompts) == {(2, 5)}
    assert not session.prompts.extents
    assert 1 not in annotation.table.names
    assert not session.quality.get(1)
    assert {one.label for one in session.suggestions()} == {2}
    run(session)
    assert not (session.labels == 1).any(), "no run restores it"
    session.undo()
    session.undo()
    assert_state(session, before)
    assert annotation.table.names == {1: "liver"}


def test_merged_labels_have_the_voxels_and_seeds_of_both(session):
    annotation = session.annotation
    session.add_prompt(SlicePrompt.from_mask(2, 8, rectangle(9, 2)))
    session.add_prompt(SlicePrompt.absent_at(1, 10))
    annotation.set_extent(1, 2, 10)
    annotation.set_extent(2, 4, 11)
    run(session)
    before, foreground = state(session), session.labels > 0
    merge_labels(annotation, [1, 2], 1)
    np.testing.assert_array_equal(session.labels == 1, foreground)
    assert not (session.labels == 2).any()
    assert set(session.prompts.prompts) == {(1, 5), (1, 8), (1, 10)}
    np.testing.assert_array_equal(
        session.prompts.get(1, 5).mask, rectangle(4, 9) | rectangle(10, 2)
    )
    np.testing.assert_array_equal(
        session.prompts.get(1, 10).mask, foreground_on(before, 10, annotation)
    )
    assert session.prompts.extents == {1: (2, 11)}
    session.undo()
    assert_state(session, before)
    session.redo()
    assert_state(session, state(session))
    np.testing.assert_array_equal(session.labels == 1, foreground)
    run(session, gaps_only=True)
    np.testing.assert_array_equal(planes(session)[5] == 1, rectangle(4, 9) | rectangle(10, 2))


def foreground_on(state, index, annotation):
    return np.moveaxis(state[0], annotation.volume.axis, 0)[index] > 0


def test_the_ends_of_merged_labels_are_unknown_where_one_of_them_is(session):
    session.annotation.set_extent(1, 2, 9)
    merge_labels(session.annotation, [2], 1)
    assert not session.prompts.extents


def test_open_clicks_follow_their_label_into_the_merged_one(session):
    session.add_prompt(SlicePrompt.from_points(2, 7, [(4, 4)]))
    merge_labels(session.annotation, [2], 1)
    moved = session.prompts.get(1, 7)
    assert moved is not None
    assert moved.kind is PromptKind.POINTS
    assert moved.label == 1


def test_table_and_locks_are_in_the_session_file_and_a_locked_run_is_repeated(session, tmp_path):
    annotation = session.annotation
    run(session)
    rename_label(annotation, 2, "Größe")
    recolour_label(annotation, 1, RED)
    lock_labels(annotation, [2])
    mark_done(annotation, [2])
    session.add_prompt(SlicePrompt.from_mask(1, 8, rectangle(8, 4, 6, 12)))
    run(session)
    lock_labels(annotation, [2], False)
    save_session(session, tmp_path / "one.slmsam2")
    loaded = load_session(tmp_path / "one.slmsam2", image=session.volume)
    assert loaded.annotation.table == annotation.table
    assert [record.locked for record in loaded.runs] == [frozenset(), {2}]
    loaded.use_model(ReadyModel(FakeSegmenter(), "fake", None))
    for record in loaded.runs:
        record.model = "fake"
    list(replay(loaded))
    np.testing.assert_array_equal(loaded.labels, session.labels)
    assert loaded.annotation.table == annotation.table
    assert all(
        one.digests == other.digests for one, other in zip(loaded.runs, session.runs, strict=True)
    )
