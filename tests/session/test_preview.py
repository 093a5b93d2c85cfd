"""The short sweep of one seed, headless: it changes nothing until it is taken."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fakes import SLICE, WINDOW, FakeSegmenter, bright_volume, rectangle

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.label_edits import lock_labels
from napari_slmsam2.session.preview import preview_sweep, take_preview

MASK = rectangle(4, 8)


def annotated(n_slices=12, index=5):
    annotation = Annotation(bright_volume(n_slices))
    seed = SlicePrompt.from_mask(1, index, MASK)
    annotation.history.edit(1, seeds={index: seed}, word="click")
    return annotation, seed


def sweep(annotation, seed, reach=3, **options):
    found = preview_sweep(
        annotation, seed, FakeSegmenter(), WINDOW, PropagationConfig(), reach, **options
    )
    return {one.index: one for one in found}


def test_it_reaches_the_stated_number_of_slices_to_both_sides_and_changes_nothing():
    annotation, seed = annotated()
    before = annotation.labels.copy()
    found = sweep(annotation, seed)
    assert sorted(found) == [2, 3, 4, 6, 7, 8]
    np.testing.assert_array_equal(found[7].mask, np.roll(MASK, 2, 1))
    np.testing.assert_array_equal(annotation.labels, before)
    assert annotation.quality == {}
    assert annotation.history.to_undo == "click"


def test_it_ends_at_seeds_ends_and_the_volume():
    annotation, seed = annotated(index=1)
    annotation.add_prompt(SlicePrompt.from_mask(1, 4, MASK))
    assert sorted(sweep(annotation, seed)) == [0, 2, 3]
    annotation.set_extent(1, 1, 4)
    assert sorted(sweep(annotation, seed)) == [2, 3]


def test_a_seed_beyond_its_reach_costs_nothing():
    annotation, seed = annotated(40, 5)
    annotation.add_prompt(SlicePrompt.from_mask(1, 39, MASK))
    fake = FakeSegmenter()
    found = list(preview_sweep(annotation, seed, fake, WINDOW, PropagationConfig(), 2))
    assert [one.index for one in found] == [6, 7, 4, 3]
    assert len(fake.visits) == 4


def test_it_can_be_stopped_between_slices():
    annotation, seed = annotated()
    asked = iter([False, False, True])
    assert len(sweep(annotation, seed, should_stop=lambda: next(asked))) == 1


def test_taken_slices_are_results_and_one_undo_step_takes_them_back():
    annotation, seed = annotated()
    found = sweep(annotation, seed)
    assert set(take_preview(annotation, found)) == set(found)
    np.testing.assert_array_equal(annotation.plane(8) == 1, np.roll(MASK, 3, 1))
    assert [p.index for p in annotation.prompts] == [5]
    assert sorted(annotation.quality[1]) == sorted(found)
    assert annotation.history.to_undo == "3D result"
    annotation.history.undo()
    assert not annotation.labels[[2, 3, 4, 6, 7, 8]].any()
    assert not annotation.quality.get(1)
    np.testing.assert_array_equal(annotation.plane(5) == 1, MASK)
    annotation.history.redo()
    assert sorted(annotation.quality[1]) == sorted(found)
    assert annotation.plane(8).any()


def test_scores_of_an_earlier_run_return_with_undo():
    annotation, seed = annotated()
    found = sweep(annotation, seed, 1)
    take_preview(annotation, found)
    earlier = annotation.quality[1][6]
    later = sweep(annotation, seed, 2)
    take_preview(annotation, {6: later[7], 7: later[7]})
    assert annotation.quality[1][6] is later[7].quality
    annotation.history.undo()
    assert annotation.quality[1][6] is earlier
    assert sorted(annotation.quality[1]) == [4, 6]


def test_pixels_of_other_labels_and_later_seeds_stay():
    annotation, seed = annotated()
    annotation.add_prompt(SlicePrompt.from_mask(2, 6, rectangle(4, 10, 2, 2)))
    found = sweep(annotation, seed)
    assert not (found[6].mask & rectangle(4, 10, 2, 2)).any()
    annotation.add_prompt(SlicePrompt.absent_at(1, 8))
    other = np.zeros(SLICE, np.uint8)
    other[5, 11] = 3
    annotation.slices.write(7, other)
    take_preview(annotation, found)
    assert (annotation.plane(6) == 2).sum() == 4
    assert annotation.plane(7)[5, 11] == 3
    assert not annotation.plane(8).any()


def test_a_locked_label_is_refused():
    annotation, seed = annotated()
    found = sweep(annotation, seed)
    lock_labels(annotation, [1])
    with pytest.raises(PromptError, match="is locked"):
        take_preview(annotation, found)
    lock_labels(annotation, [1], False)
    annotation.add_prompt(SlicePrompt.from_mask(1, 6, MASK))
    with pytest.raises(PromptError, match="not annotated"):
        take_preview(annotation, {6: found[6]})


def test_a_later_run_replaces_the_taken_slices():
    from tests.widgets.conftest import FakeModels

    from napari_slmsam2.session.session import SegmentationSession

    annotation, seed = annotated()
    take_preview(annotation, sweep(annotation, seed))
    session = SegmentationSession(annotation.volume, annotation=annotation, window=WINDOW)
    session.use_model(FakeModels(FakeSegmenter()).ready)
    list(session.propagate())
    assert sorted(annotation.quality[1]) == [i for i in range(12) if i != 5]
    annotation.history.undo()
    assert sorted(annotation.quality[1]) == [2, 3, 4, 6, 7, 8]
