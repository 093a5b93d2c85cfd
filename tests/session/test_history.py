"""Undo and redo of runs and edits in mixed order, without any window."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fakes import WINDOW, FakeSegmenter, bright_volume, rectangle

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.label_table import LabelEntry
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.session import SegmentationSession


@pytest.fixture(params=[0, 2])
def session(request):
    volume = bright_volume(12, axis=request.param)
    session = SegmentationSession(volume, window=WINDOW)
    session.use_model(ReadyModel(FakeSegmenter(), "fake", None))
    session.add_prompt(SlicePrompt.from_mask(1, 5, rectangle(4, 9)))
    session.add_prompt(SlicePrompt.from_mask(2, 8, rectangle(9, 2)))
    return session


def run(session, **options):
    list(session.propagate(**options))


def state(session):
    return session.labels.copy(), set(session.prompts.prompts), dict(session.prompts.extents)


def assert_state(session, expected):
    labels, seeds, extents = expected
    np.testing.assert_array_equal(session.labels, labels)
    assert set(session.prompts.prompts) == seeds
    assert dict(session.prompts.extents) == extents


def end(session):
    extent = session.annotation.extent_with(1, 9, first=False)
    session.annotation.history.edit(1, extent=extent)


def set_seed(session, prompt, word="mark"):
    session.annotation.history.edit(prompt.label, seeds={prompt.index: prompt}, word=word)


CLICK = SlicePrompt.from_points(1, 7, [(3, 3)]).answered(rectangle(2, 2))
STEPS = {
    "run": run,
    "end": end,
    "gaps": lambda session: run(session, gaps_only=True),
    "absent": lambda session: set_seed(session, SlicePrompt.absent_at(2, 3)),
    "remove": lambda session: session.annotation.history.edit(2, seeds={8: None}),
    "click": lambda session: set_seed(session, CLICK, word="click"),
    "again": lambda session: run(session, labels=[1]),
}


@pytest.mark.parametrize(
    "order",
    [
        ("run", "end", "gaps", "absent", "again", "click", "gaps"),
        ("end", "run", "click", "remove", "again", "absent"),
        ("click", "end", "absent", "run"),
    ],
)
def test_runs_and_edits_are_undone_and_redone_in_turn(session, order):
    states, words = [state(session)], []
    for name in order:
        STEPS[name](session)
        states.append(state(session))
        words.append(session.annotation.history.to_undo)
    for expected, word in zip(states[-2::-1], reversed(words), strict=True):
        assert session.annotation.history.to_undo == word
        session.undo()
        assert_state(session, expected)
    assert session.undo() == ()
    for expected in states[1:]:
        session.redo()
        assert_state(session, expected)
    assert session.redo() == ()


def test_an_edit_after_an_undo_leaves_nothing_to_redo(session):
    run(session)
    session.undo()
    STEPS["absent"](session)
    assert session.annotation.history.to_redo is None
    assert session.redo() == ()


def test_while_a_run_goes_on_only_edits_are_undone(session):
    history = session.annotation.history
    events = session.propagate()
    next(events)
    assert history.undo(edits_only=True) is None
    STEPS["end"](session)
    assert history.undo(edits_only=True).word == "mark"
    assert history.redo(edits_only=True).word == "mark"
    list(events)
    assert history.to_undo == "mark"
    assert not (session.labels[session.volume.slicer(10)] == 1).any()
    session.undo()
    session.undo()
    assert set(np.unique(session.labels)) == {0, 1, 2}
    assert history.to_undo is None


def test_a_stopped_run_cannot_be_resumed_once_it_was_undone(session):
    asked = iter(range(100))
    run(session, should_stop=lambda: next(asked) >= 6)
    assert session.resumable
    session.undo()
    assert not session.resumable
    session.redo()
    assert not session.resumable, "seeds may have changed in between: propagate again"


def test_an_undone_edit_is_to_be_run_again(session):
    run(session)
    assert not session.dirty
    STEPS["click"](session)
    session.undo()
    assert session.dirty == {(1, 7)}
    run(session, gaps_only=True)
    assert not session.dirty


def test_an_edit_that_is_refused_leaves_the_label_table(session):
    annotation = session.annotation
    annotation.set_extent(1, 4, 6)
    outside = {(1, 8): SlicePrompt.from_mask(1, 8, rectangle(4, 9))}
    with pytest.raises(PromptError, match="lies outside the marked extent"):
        annotation.history.edit_labels(
            "accept", [1], seeds=outside, entries={1: LabelEntry(done=True)}
        )
    assert not annotation.table.done
    assert annotation.history.to_undo is None
