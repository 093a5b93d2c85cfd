from __future__ import annotations

import numpy as np
import pytest
from tests.fakes import SLICE, WINDOW, FakeSegmenter, bright_volume, rectangle

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.session import SegmentationSession


@pytest.fixture(params=[0, 1, 2])
def annotation(request):
    return Annotation(bright_volume(10, axis=request.param))


def plane(**labels):
    """label_1=rectangle(...) and so on."""
    made = np.zeros(SLICE, np.uint8)
    for name, mask in labels.items():
        made[mask] = int(name[1:])
    return made


def run(annotation, **options):
    """A whole run."""
    session = SegmentationSession(annotation.volume, window=WINDOW, annotation=annotation)
    session.use_model(ReadyModel(FakeSegmenter(), "fake", None))
    return list(session.propagate(**options))


def mark_end(annotation, label, index, *, first):
    extent = annotation.extent_with(label, index, first=first)
    annotation.history.edit(label, extent=extent)


def mark_absent(annotation, label, index):
    annotation.history.edit(label, seeds={index: SlicePrompt.absent_at(label, index)})


def edit(annotation, index, now):
    annotation.take_edit(index, now)
    return {(p.index, p.label, p.kind.value) for p in annotation.prompts}


def test_what_changed_becomes_seeds(annotation):
    assert edit(annotation, 3, plane(l1=rectangle(1, 1))) == {(3, 1, "mask")}
    now = plane(l1=rectangle(1, 1), l2=rectangle(8, 8))
    assert edit(annotation, 3, now) == {(3, 1, "mask"), (3, 2, "mask")}
    np.testing.assert_array_equal(annotation.prompts.get(2, 3).mask, rectangle(8, 8))


def test_nothing_changed_is_no_seed(annotation):
    annotation.slices.write(3, plane(l1=rectangle(1, 1)))
    assert annotation.take_edit(3, plane(l1=rectangle(1, 1))) == ()
    assert len(annotation.prompts) == 0


def test_painting_over_a_label_makes_a_seed_of_both(annotation):
    annotation.slices.write(3, plane(l1=rectangle(1, 1)))
    seeds = edit(annotation, 3, plane(l1=rectangle(1, 1), l2=rectangle(3, 3)))
    assert seeds == {(3, 1, "mask"), (3, 2, "mask")}
    assert not (annotation.prompts.get(1, 3).mask & rectangle(3, 3)).any()
    assert annotation.labels_to_run() == (2,)


def test_a_label_erased_to_nothing_is_absent(annotation):
    annotation.slices.write(3, plane(l1=rectangle(1, 1)))
    assert edit(annotation, 3, plane()) == {(3, 1, "absent")}


def test_undo_of_the_stroke_that_made_a_seed_takes_it_back(annotation):
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    edit(annotation, 3, plane(l1=rectangle(1, 1, 8, 8)))
    assert edit(annotation, 3, plane(l1=rectangle(1, 1))) == {(3, 1, "mask")}
    assert edit(annotation, 3, plane()) == set()


def test_undo_of_erasing_takes_the_absent_seed_back(annotation):
    annotation.slices.write(3, plane(l1=rectangle(1, 1)))
    edit(annotation, 3, plane())
    assert edit(annotation, 3, plane(l1=rectangle(1, 1))) == set()


def test_after_a_run_an_erased_seed_is_absent(annotation):
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    run(annotation)
    now = annotation.slices.read(3)
    now[now == 1] = 0
    assert edit(annotation, 3, now) == {(3, 1, "absent")}


def test_changed_slices_are_found(annotation):
    labels = np.zeros(annotation.volume.shape, np.uint16)
    labels[annotation.volume.slicer(2)][0, 0] = 300
    labels[annotation.volume.slicer(9)][5, 5] = 1
    assert annotation.slices.changed_slices(labels) == (2, 9)


def test_adopted_labels_make_no_seeds_but_seeds_take_over_their_pixels(annotation):
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    labels = np.zeros(annotation.volume.shape, np.uint16)
    labels[annotation.volume.slicer(3)][rectangle(5, 5)] = 1
    labels[annotation.volume.slicer(7)][rectangle(5, 5)] = 900
    annotation.adopt(labels)
    assert len(annotation.prompts) == 1
    np.testing.assert_array_equal(annotation.prompts.get(1, 3).mask, rectangle(5, 5))
    assert annotation.slices.changed_slices(labels) == ()


def test_seeds_and_marks_are_put_into_what_is_written(annotation):
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    mark_absent(annotation, 2, 3)
    mark_end(annotation, 4, 5, first=True)
    written = plane(l1=rectangle(9, 9), l2=rectangle(4, 15), l4=rectangle(1, 12))
    annotation.slices.write(3, written)
    written = annotation.plane(3)
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
    annotation.history.edit(1, extent=(2, 5))
    assert annotation.prompts.extents == {1: (2, 8)}


def test_dirty_seeds_are_those_that_no_run_has_read(annotation):
    edit(annotation, 3, plane(l1=rectangle(1, 1)))
    assert annotation.dirty == {(1, 3)}
    run(annotation)
    assert annotation.dirty == set()
    now = annotation.slices.read(5)
    now[rectangle(8, 8)] = 2
    edit(annotation, 5, now)
    assert (2, 5) in annotation.dirty
    assert (1, 3) not in annotation.dirty
    run(annotation)
    annotation.remove_prompt(1, 3)
    assert annotation.dirty == {(1, 3)}


def test_nothing_drawn_says_what_to_do(annotation):
    with pytest.raises(PromptError, match="Paint the object"):
        annotation.labels_to_run()
    mark_absent(annotation, 1, 4)
    with pytest.raises(PromptError, match="Paint the object"):
        annotation.labels_to_run()


def test_points_without_a_mask_need_no_pixels(annotation):
    annotation.add_prompt(SlicePrompt.from_points(1, 4, [(3, 3)]))
    annotation.slices.write(4, plane(l1=rectangle(1, 1)))
    assert (annotation.plane(4) == 1).any()
    assert annotation.labels_to_run() == (1,)
    assert annotation.prompts.get(1, 4).kind is PromptKind.POINTS


def test_the_mask_found_for_points_is_kept_like_a_painted_one(annotation):
    seed = SlicePrompt.from_points(1, 4, [(3, 3)]).answered(rectangle(1, 1))
    annotation.add_prompt(seed)
    annotation.slices.write(4, plane(l1=rectangle(6, 9)))
    np.testing.assert_array_equal(annotation.plane(4) == 1, rectangle(1, 1))
