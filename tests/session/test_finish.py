"""Islands, holes and outlines that jump; only what was asked for changes, as one step."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fakes import WINDOW, FakeSegmenter, bright_volume, rectangle

from napari_slmsam2.core.errors import ConfigError, PromptError
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.finish import (
    HOLES,
    ISLANDS,
    SMOOTH,
    FinishRequest,
    apply_changes,
    fill_holes,
    find_changes,
    remove_islands,
    smooth_between_slices,
)
from napari_slmsam2.session.label_edits import delete_labels, lock_labels
from napari_slmsam2.session.session import SegmentationSession


def request(tool=ISLANDS, **options):
    return FinishRequest(**{"tool": tool, "first": 0, "last": 11, **options})


def ball(shape, centre, radius):
    grid = np.indices(shape) - np.array(centre).reshape(3, 1, 1, 1)
    return (grid**2).sum(axis=0) <= radius**2


def test_the_largest_part_or_all_large_parts_are_kept():
    mask = np.zeros((9, 20, 20), bool)
    mask[1:6, 2:8, 2:8] = True  # 180 voxels
    mask[6, 8, 8] = True  # touches it at a corner
    mask[2:4, 12:15, 12:15] = True  # 18
    mask[8, 1, 18] = True
    largest = remove_islands(mask)
    assert largest.sum() == 181
    np.testing.assert_array_equal(
        remove_islands(mask, 18), mask & ~(np.indices(mask.shape)[2] == 18)
    )
    assert remove_islands(mask, 19).sum() == 181
    assert not remove_islands(mask, 1000).any()
    assert not remove_islands(np.zeros_like(mask)).any()


def test_holes_are_enclosed_in_3d_or_within_a_slice():
    mask = np.zeros((7, 20, 20), bool)
    mask[1:6, 2:18, 2:18] = True
    tunnel = np.zeros_like(mask)
    tunnel[:, 4:6, 4:6] = True
    cavity = np.zeros_like(mask)
    cavity[2:5, 10:12, 10:12] = True
    notch = np.zeros_like(mask)
    notch[3, 2:4, 14] = True
    holed = mask & ~tunnel & ~cavity & ~notch
    np.testing.assert_array_equal(fill_holes(holed), holed | cavity)
    np.testing.assert_array_equal(fill_holes(holed, 11), holed)
    np.testing.assert_array_equal(fill_holes(holed, 12), holed | cavity)
    np.testing.assert_array_equal(fill_holes(holed, per_slice=True), mask & ~notch)
    np.testing.assert_array_equal(fill_holes(holed, 3, per_slice=True), holed)
    edge = np.zeros((2, 4, 4), bool)
    edge[:, 1:, 1:] = True
    edge[:, 2:, 2:] = False  # open at the border of the array
    np.testing.assert_array_equal(fill_holes(edge, per_slice=True), edge)


def test_smoothing_removes_jumps_and_keeps_a_smooth_object():
    smooth = ball((25, 40, 40), (12, 20, 20), 11)
    np.testing.assert_array_less(0.96, dice(smooth_between_slices(smooth, 0.7), smooth))
    jumping = smooth.copy()
    for index in range(4, 21, 2):
        jumping[index] = np.roll(smooth[index], 3, axis=1)
    found = smooth_between_slices(jumping, 1.5)
    assert roughness(found) < 0.4 * roughness(jumping)
    np.testing.assert_array_equal(found.any(axis=(1, 2)), jumping.any(axis=(1, 2)))
    apart = smooth & (np.arange(25) != 12).reshape(-1, 1, 1)
    assert not smooth_between_slices(apart, 2.0)[12].any(), "empty slices stay empty"
    assert not smooth_between_slices(np.zeros_like(smooth)).any()


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def roughness(mask):
    inner = mask[5:20]
    return (inner[1:] != inner[:-1]).sum()


@pytest.fixture(params=[0, 1, 2])
def annotation(request):
    annotation = Annotation(bright_volume(12, axis=request.param))
    planes = np.moveaxis(annotation.labels, request.param, 0)
    for label, row in ((1, 1), (2, 9)):
        planes[1:11, row : row + 6, 2:12] = label
        planes[2:10, row + 2, 20] = label  # islands on slices 2 to 9
        planes[4:8, row + 2 : row + 4, 5:7] = 0  # a cavity on slices 4 to 7
    planes[5, 11, 5] = 7  # in the cavity of label 2
    annotation.adopt(annotation.labels)
    return annotation


def stack(annotation):
    return np.moveaxis(annotation.labels, annotation.volume.axis, 0)


def test_only_the_range_and_the_labels_of_the_request_change(annotation):
    before = stack(annotation).copy()
    changes = find_changes(annotation, request(labels=(1,), first=3, last=5))
    np.testing.assert_array_equal(stack(annotation), before)
    assert (changes.labels, changes.added, changes.removed) == ((1,), 0, 3)
    assert apply_changes(annotation, changes) == (3, 4, 5)
    expected = before.copy()
    expected[3:6, 3, 20] = 0
    np.testing.assert_array_equal(stack(annotation), expected)
    assert annotation.history.to_undo == ISLANDS
    annotation.history.undo()
    np.testing.assert_array_equal(stack(annotation), before)
    annotation.history.redo()
    np.testing.assert_array_equal(stack(annotation), expected)


def test_holes_are_filled_from_the_background_only(annotation):
    changes = find_changes(annotation, request(HOLES))
    assert (changes.labels, changes.added, changes.removed) == ((1, 2), 31, 0)
    apply_changes(annotation, changes)
    assert stack(annotation)[5, 11, 5] == 7
    assert (stack(annotation)[4:8, 3:5, 5:7] == 1).all()


def test_seeds_stay_unless_they_are_asked_for(annotation):
    seed = SlicePrompt.from_mask(1, 4, annotation.plane(4) == 1)
    annotation.add_prompt(seed)
    changes = find_changes(annotation, request(labels=(1,)))
    assert sorted(changes.slices) == [2, 3, 5, 6, 7, 8, 9]
    changes = find_changes(annotation, request(labels=(1,), with_seeds=True))
    assert sorted(changes.slices) == [2, 3, 4, 5, 6, 7, 8, 9]
    apply_changes(annotation, changes)
    now = annotation.prompts.get(1, 4)
    assert now is not None
    np.testing.assert_array_equal(now.mask, annotation.plane(4) == 1)
    assert not now.mask[3, 20]
    annotation.history.undo()
    assert annotation.prompts.get(1, 4) is seed


def test_locked_labels_are_refused_by_name_and_left_out_of_all(annotation):
    lock_labels(annotation, [1])
    before = stack(annotation) == 1
    with pytest.raises(PromptError, match="label 1: is locked"):
        find_changes(annotation, request(labels=(1,)))
    changes = find_changes(annotation, request())
    assert changes.labels == (2,)
    apply_changes(annotation, changes)
    np.testing.assert_array_equal(stack(annotation) == 1, before)
    annotation.history.undo()
    lock_labels(annotation, [2])
    with pytest.raises(PromptError, match="label 2: is locked"):
        apply_changes(annotation, changes)


def test_what_was_painted_since_the_preview_stays(annotation):
    changes = find_changes(annotation, request(labels=(1,)))
    painted = annotation.plane(6).copy()
    painted[3, 20] = 5
    painted[0, 0] = 5
    annotation.take_edit(6, painted)
    apply_changes(annotation, changes)
    np.testing.assert_array_equal(annotation.plane(6), painted)


def test_what_is_deleted_while_changes_are_searched_stays_deleted(annotation):
    calls = []

    def delete() -> bool:
        """A person deletes label 7 when a change of label 1 on its slice is found."""
        calls.append(1)
        if len(calls) == 2:
            delete_labels(annotation, [7])
        return False

    changes = find_changes(annotation, request(labels=(1, 2)), delete)
    assert changes.labels == (1, 2)
    apply_changes(annotation, changes)
    assert not (stack(annotation) == 7).any()
    assert not stack(annotation)[5, :, 20].any()


def test_smoothing_leaves_other_labels_and_works_on_all(annotation):
    planes = stack(annotation)
    planes[5] = np.roll(planes[5], 2, axis=1)
    annotation.adopt(annotation.labels)
    changes = find_changes(annotation, request(SMOOTH, sigma=1.5))
    others = planes == 7
    apply_changes(annotation, changes)
    np.testing.assert_array_equal(stack(annotation) == 7, others)
    assert 5 in changes.slices


def test_an_unknown_tool_is_refused():
    with pytest.raises(ConfigError, match=r"islands \| holes \| smooth"):
        request("polish")


def test_a_later_run_of_another_label_does_not_bring_islands_back():
    session = SegmentationSession(bright_volume(12), window=WINDOW)
    session.use_model(ReadyModel(FakeSegmenter(), "fake", None))
    split = rectangle(2, 8, 6, 6) | rectangle(12, 8, 2, 2)
    session.add_prompt(SlicePrompt.from_mask(1, 5, split))
    list(session.propagate())
    islands = (session.labels == 1)[:, 12:14].sum()
    apply_changes(session.annotation, find_changes(session.annotation, request()))
    assert (session.labels == 1)[:, 12:14].sum() == 4 < islands, "only those of the seed stay"
    assert set(session.quality[1]) == set(range(12)) - {5}, "the scores stand"
    session.add_prompt(SlicePrompt.from_mask(2, 5, rectangle(9, 1, 2, 2)))
    list(session.propagate(labels=[2]))
    assert (session.labels == 1)[:, 12:14].sum() == 4


def test_large_label_values_are_found(annotation):
    wide = annotation.labels.astype(np.int64)
    wide[wide == 1] = 2**33
    annotation = Annotation(annotation.volume, wide)
    assert find_changes(annotation, request()).labels == (2, 2**33)
