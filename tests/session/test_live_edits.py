"""A person edits while a run writes: two threads, one annotation."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fakes import SLICE, WINDOW, FakeSegmenter, bright_volume, rectangle

from napari_slmsam2.core.events import SliceSegmented
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.file import load_session, replay, save_session
from napari_slmsam2.session.label_array import SharedLabels
from napari_slmsam2.session.session import SegmentationSession

MINE = rectangle(1, 14, 3, 3)


def make_session(annotation):
    session = SegmentationSession(annotation.volume, window=WINDOW, annotation=annotation)
    session.use_model(ReadyModel(FakeSegmenter(), "fake", None))
    return session


class Screen:
    """A Labels layer without napari: a copy of the labels, shown slice by slice."""

    def __init__(self, axis=0, n_slices=12):
        volume = bright_volume(n_slices, axis=axis)
        self.annotation = Annotation(volume, deferred=True)
        self.session = make_session(self.annotation)
        self.data = np.zeros(volume.shape, np.uint8)

    def plane(self, index):
        return self.data[self.annotation.volume.slicer(index)]

    def paint(self, index, label, mask):
        self.plane(index)[mask] = label
        return self.annotation.take_edit(index, self.plane(index).copy())

    def show(self, index):
        self.annotation.take_edit(index, self.plane(index).copy())
        self.plane(index)[...] = self.annotation.slices.commit(index)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("label", [1, 2])
def test_a_stroke_on_a_slice_that_is_written_but_not_shown_becomes_the_seed_alone(axis, label):
    screen = Screen(axis)
    screen.paint(2, 1, rectangle(6, 9))
    for event in screen.session.propagate():
        if isinstance(event, SliceSegmented) and event.index == 4:
            assert (screen.annotation.slices.read(4) == 1).any(), "the run has written it"
            assert not screen.annotation.plane(4).any(), "and nothing is shown yet"
            assert screen.paint(4, label, MINE) == (label,)
        if isinstance(event, SliceSegmented):
            screen.show(event.index)
    assert set(screen.session.prompts.prompts) == {(1, 2), (label, 4)}
    np.testing.assert_array_equal(screen.session.prompts.get(label, 4).mask, MINE)
    np.testing.assert_array_equal(screen.plane(4) == label, MINE)
    assert ((screen.plane(4) == 1) & ~MINE).any() == (label != 1), "label 1 was only propagated"
    np.testing.assert_array_equal(screen.data, screen.session.labels)
    assert (label, 4) in screen.session.dirty


def test_erasing_on_screen_is_no_veto_of_what_was_written_elsewhere_on_the_slice():
    screen = Screen()
    screen.paint(2, 1, rectangle(6, 9))
    screen.paint(4, 3, MINE)
    for event in screen.session.propagate(labels=[1]):
        if isinstance(event, SliceSegmented) and event.index == 4:
            screen.plane(4)[...] = 0  # the person erases label 3
        if isinstance(event, SliceSegmented):
            screen.show(event.index)
    assert set(screen.session.prompts.prompts) == {(1, 2)}, "erased before it was run: no seed"
    assert (screen.plane(4) == 1).any()
    assert not (screen.data == 3).any()


def test_slices_along_another_axis_are_not_compared_with_what_is_not_shown_yet():
    volume = bright_volume(12)
    shared = SharedLabels(np.zeros(volume.shape, np.uint8))
    along = Annotation(volume, shared, deferred=True)
    across = Annotation(volume.with_axis(1), shared, deferred=True)
    along.take_edit(2, np.where(rectangle(6, 9), 1, 0).astype(np.uint8))
    for event in make_session(along).propagate():
        if isinstance(event, SliceSegmented) and event.index == 5:
            break
    shown = across.slices.read(8)
    shown[9, 20] = 2
    assert across.take_edit(8, shown) == (2,)
    assert set(across.prompts.prompts) == {(2, 8)}
    for index in (3, 4, 5):
        along.slices.commit(index)
    assert along.plane(5).any()
    np.testing.assert_array_equal(across.plane(8)[9] == 2, np.arange(SLICE[1]) == 20)
    assert not across.plane(8)[3:6].any(), "a seed across the slices keeps all its pixels"


def test_a_mark_set_during_a_run_holds_for_slices_that_are_not_shown_yet():
    screen = Screen()
    screen.paint(2, 1, rectangle(6, 9))
    written = []
    for event in screen.session.propagate():
        if isinstance(event, SliceSegmented):
            written.append(event.index)
        if len(written) == 6:
            for index in screen.annotation.history.edit(1, extent=(0, 4)):
                screen.show(index)
            written.append(-1)
    for index in range(12):
        screen.show(index)
    assert np.flatnonzero((screen.data == 1).any((1, 2))).tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(screen.data, screen.session.labels)


def test_runs_with_edits_in_between_are_repeated_bit_for_bit(tmp_path):
    """Seeds set during a run are not among those that a repeated run starts from."""
    volume = bright_volume(16)
    session = SegmentationSession(volume, model="flow", window=WINDOW)
    session.add_prompt(SlicePrompt.from_mask(1, 3, rectangle(4, 9)))
    session.add_prompt(SlicePrompt.from_mask(1, 14, rectangle(6, 9)))
    for count, _ in enumerate(session.propagate()):
        if count == 5:
            session.add_prompt(SlicePrompt.from_mask(2, 9, rectangle(4, 8)))
            session.set_extent(1, 1, 15)
    list(session.propagate(gaps_only=True))
    save_session(session, tmp_path / "a.slmsam2")
    again = load_session(tmp_path / "a.slmsam2", image=volume)
    again.labels[...] = session.labels
    list(replay(again))
    np.testing.assert_array_equal(again.labels, session.labels)
    assert again.dirty == session.dirty
    assert again.quality == session.quality
