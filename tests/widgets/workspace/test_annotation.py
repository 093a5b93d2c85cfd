from __future__ import annotations

import numpy as np
import pytest
from tests.fakes import SLICE, WINDOW, bright_volume, rectangle

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.session.session import SegmentationSession
from napari_slmsam2.widgets.workspace.annotation import Annotation


@pytest.fixture(params=[0, 1, 2])
def annotation(request):
    return Annotation(bright_volume(10, axis=request.param))


def plane(**labels):
    """label_1=rectangle(...) and so on."""
    made = np.zeros(SLICE, np.uint8)
    for name, mask in labels.items():
        made[mask] = int(name[1:])
    return made


def mark_end(annotation, label, index, *, first):
    annotation.set_prompts(label, annotation.extent_with(label, index, first=first), {})


def mark_absent(annotation, label, index):
    extent = annotation.prompts.extents.get(label)
    annotation.set_prompts(label, extent, {index: SlicePrompt.absent_at(label, index)})


def edit(annotation, index, now):
    annotation.take_edit(index, now)
    return {(p.index, p.label, p.kind.value) for p in annotation.prompts}


def test_what_changed_becomes_seeds(annotation):
    assert edit(annotation, 3, plane(l1=rectangle(1, 1))) == {(3, 1, "mask")}
    now = plane(l1=rectangle(1, 1), l2=rectangle(8, 8))
    assert edit(annotation, 3, now) == {(3, 1, "mask"), (3, 2, "mask")}
    np.testing.assert_array_equal(annotation.prompts.get(2, 3).mask, rectangle(8, 8))


def test_nothing_changed_is_no_seed(annotation):
    annotation.note_written(3, plane(l1=rectangle(1, 1)))
    assert annotation.take_edit(3, plane(l1=rectangle(1, 1))) == ()
    assert len(annotation.prompts) == 0


def test_painting_over_a_label_makes_a_seed_of_both(annotation):
    annotation.note_written(3, plane(l1=rectangle(1, 1)))
    seeds = edit(annotation, 3, plane(l1=rectangle(1, 1), l2=rectangle(3, 3)))
    assert seeds == {(3, 1, "mask"), (3, 2, "mask")}
    assert not (annotation.prompts.get(1, 3).mask & rectangle(3, 3)).any()
    assert annotation.labels_to_run() == (2,)


def test_a_label_erased_to_nothing_is_absent(annotation):
    annotation.note_written(3, plane(l1=rectangle(1, 1)))
    assert edit(annotation, 3, plane()) == {(3, 1, "absent")}


def test_undo_of_the_stroke_that_made_a_seed_takes_it_back(annotation):
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    edit(annotation, 3, plane(l1=rectangle(1, 1, 8, 8)))
    assert edit(annotation, 3, plane(l1=rectangle(1, 1))) == {(3, 1, "mask")}
    assert edit(annotation, 3, plane()) == set()


def test_undo_of_erasing_takes_the_absent_seed_back(annotation):
    annotation.note_written(3, plane(l1=rectangle(1, 1)))
    edit(annotation, 3, plane())
    assert edit(annotation, 3, plane(l1=rectangle(1, 1))) == set()


def test_after_a_run_an_erased_seed_is_absent(annotation):
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    annotation.forget_undo()
    assert edit(annotation, 3, plane()) == {(3, 1, "absent")}


def test_changed_slices_are_found(annotation):
    labels = np.zeros(annotation.volume.shape, np.uint16)
    labels[annotation.volume.slicer(2)][0, 0] = 300
    labels[annotation.volume.slicer(9)][5, 5] = 1
    assert annotation.changed_slices(labels) == (2, 9)


def test_adopted_labels_make_no_seeds_but_seeds_take_over_their_pixels(annotation):
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    labels = np.zeros(annotation.volume.shape, np.uint16)
    labels[annotation.volume.slicer(3)][rectangle(5, 5)] = 1
    labels[annotation.volume.slicer(7)][rectangle(5, 5)] = 900
    annotation.adopt(labels)
    assert len(annotation.prompts) == 1
    np.testing.assert_array_equal(annotation.prompts.get(1, 3).mask, rectangle(5, 5))
    assert annotation.changed_slices(labels) == ()


def test_seeds_and_marks_are_put_into_what_is_written(annotation):
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    mark_absent(annotation, 2, 3)
    mark_end(annotation, 4, 5, first=True)
    written = plane(l1=rectangle(9, 9), l2=rectangle(4, 15), l4=rectangle(1, 12))
    annotation.protect(3, written)
    np.testing.assert_array_equal(written == 1, rectangle(1, 1))
    assert set(np.unique(written)) == {0, 1}


def test_marks_set_an_extent_and_take_it_back(annotation):
    mark_end(annotation, 1, 3, first=True)
    mark_end(annotation, 1, 7, first=False)
    assert annotation.prompts.extents == {1: (3, 7)}
    mark_end(annotation, 1, 3, first=True)
    assert annotation.prompts.extents == {1: (0, 7)}
    mark_end(annotation, 1, 7, first=False)
    assert annotation.prompts.extents == {}


def test_painting_beyond_a_mark_moves_the_mark(annotation):
    mark_end(annotation, 1, 5, first=False)
    edit(annotation, 8, plane(l1=rectangle(1, 1)))
    assert annotation.prompts.extents == {1: (0, 8)}


def test_an_end_that_leaves_out_a_seed_is_refused_but_an_undone_one_gives_way(annotation):
    edit(annotation, 8, plane(l1=rectangle(1, 1)))
    with pytest.raises(PromptError, match="leaves out slices"):
        annotation.extent_with(1, 5, first=False)
    annotation.set_prompts(1, (2, 5), {})
    assert annotation.prompts.extents == {1: (2, 8)}


def test_touched_seeds_are_those_that_a_session_has_not_seen(annotation):
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    assert annotation.touched == {(1, 3)}
    annotation.session = SegmentationSession(annotation.volume, window=WINDOW)
    annotation.session.restore(annotation.prompts, ())
    assert annotation.touched == set()
    edit(annotation, 5, plane(l2=rectangle(1, 1)))
    assert annotation.touched == {(2, 5)}
    mark_end(annotation, 1, 7, first=False)
    assert annotation.touched == {(1, 3), (2, 5)}
    annotation.remove(1, 3)
    assert annotation.touched == {(1, 3), (2, 5)}


def test_nothing_drawn_says_what_to_do(annotation):
    with pytest.raises(PromptError, match="Paint the object"):
        annotation.labels_to_run()
    mark_absent(annotation, 1, 4)
    with pytest.raises(PromptError, match="Paint the object"):
        annotation.labels_to_run()


def test_a_session_is_brought_in_line(annotation):
    volume = annotation.volume
    session = SegmentationSession(volume, window=WINDOW)
    session.add_prompt(SlicePrompt.from_mask(5, 1, rectangle(2, 2)))
    session.set_extent(5, 0, 4)
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    edit(annotation, 8, plane(l1=rectangle(1, 1)))
    mark_end(annotation, 1, 8, first=False)
    annotation.bring_in_line(session, annotation.prompts)
    assert {(p.label, p.index) for p in session.prompts} == {(1, 3), (1, 8)}
    assert session.prompts.extents == {1: (0, 8)}
    np.testing.assert_array_equal(session.labels, annotation.known)
    first = session.prompts
    annotation.bring_in_line(session, annotation.prompts)
    assert session.prompts is first, "nothing changed: a stopped run can be resumed"


def test_points_without_a_mask_need_no_pixels(annotation):
    annotation.set_prompts(1, None, {4: SlicePrompt.from_points(1, 4, [(3, 3)])})
    written = plane(l1=rectangle(1, 1))
    annotation.protect(4, written)
    assert (written == 1).any()
    assert annotation.labels_to_run() == (1,)
    assert annotation.prompts.get(1, 4).kind is PromptKind.POINTS


def test_the_mask_found_for_points_is_kept_like_a_painted_one(annotation):
    seed = SlicePrompt.from_points(1, 4, [(3, 3)]).answered(rectangle(1, 1))
    annotation.set_prompts(1, None, {4: seed})
    written = plane(l1=rectangle(6, 9))
    annotation.protect(4, written)
    np.testing.assert_array_equal(written == 1, rectangle(1, 1))
