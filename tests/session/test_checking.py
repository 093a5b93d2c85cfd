"""Accepted slices are seeds, are counted, and are undone."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fakes import FakeSegmenter, bright_volume, rectangle

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.checking import Checked, accept_slice, count_checked
from napari_slmsam2.session.file import load_session, save_session
from napari_slmsam2.session.label_edits import lock_labels
from napari_slmsam2.session.session import SegmentationSession


@pytest.fixture
def session():
    """A label that was propagated from slice 2 to slices 0 to 4; the rest is dark."""
    made = SegmentationSession(bright_volume(8, dark=(5, 6, 7)))
    made.use_model(ReadyModel(FakeSegmenter(), "fake", None))
    made.add_prompt(SlicePrompt.from_mask(1, 2, rectangle(4, 6)))
    list(made.propagate())
    return made


def accept(session, index, labels=(1,)):
    return accept_slice(session.annotation, index, labels, session.annotation.plane(index))


def test_an_accepted_slice_is_a_seed_and_counts(session):
    assert count_checked(session.annotation, 1) == Checked(1, 5)
    before = session.labels.copy()
    assert accept(session, 3) == (1,)
    np.testing.assert_array_equal(session.prompts.get(1, 3).mask, before[3] == 1)
    assert count_checked(session.annotation, 1) == Checked(2, 5)
    assert accept(session, 3) == (), "it is checked already"
    session.undo()
    assert session.prompts.get(1, 3) is None
    assert count_checked(session.annotation, 1) == Checked(1, 5)
    np.testing.assert_array_equal(session.labels, before)
    session.redo()
    assert count_checked(session.annotation, 1) == Checked(2, 5)


def test_accepted_slices_are_never_suggested_nor_changed(session):
    accept(session, 3)
    kept = session.labels[3].copy()
    assert (1, 3) not in {(s.label, s.index) for s in session.suggestions()}
    session.add_prompt(SlicePrompt.from_mask(1, 4, rectangle(0, 0)))
    list(session.propagate(gaps_only=True))
    np.testing.assert_array_equal(session.labels[3], kept)


def test_the_last_accepted_slice_makes_the_label_done_and_undo_takes_that_back(session, tmp_path):
    for index in (0, 1, 3):
        accept(session, index)
    assert session.annotation.table.done == frozenset()
    accept(session, 4)
    assert session.annotation.table.done == {1}
    path = save_session(session, tmp_path / "a.slmsam2")
    again = load_session(path, image=session.volume).annotation
    assert again.table.done == {1}
    assert count_checked(again, 1) == Checked(5, 5)
    session.undo()
    assert session.annotation.table.done == frozenset()


def test_an_empty_slice_is_accepted_as_absent(session):
    accept(session, 6)
    assert session.prompts.get(1, 6).mask is None
    assert count_checked(session.annotation, 1) == Checked(1, 5)


def test_a_locked_label_is_refused(session):
    lock_labels(session.annotation, [1])
    with pytest.raises(PromptError, match="is locked"):
        accept(session, 3)
