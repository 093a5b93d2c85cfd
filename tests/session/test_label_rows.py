"""Counts of labels: exact, kept up to date slice by slice, and as rows of a table."""

from __future__ import annotations

import csv
import threading

import numpy as np
import pytest
from tests.fakes import WINDOW, FakeSegmenter, bright_volume, rectangle

from napari_slmsam2.core.errors import OutputError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.label_array import SharedLabels
from napari_slmsam2.session.label_counts import LabelCount, LabelCounts, count_labels
from napari_slmsam2.session.label_rows import describe_volume, label_rows, write_csv
from napari_slmsam2.session.session import SegmentationSession


def by_hand(annotation):
    stack = np.moveaxis(annotation.labels, annotation.volume.axis, 0)
    found = {}
    for label in np.unique(stack[stack > 0]).tolist():
        areas = (stack == label).sum(axis=(1, 2))
        held = np.flatnonzero(areas)
        found[label] = LabelCount(
            int(areas.sum()), len(held), int(held[0]), int(held[-1]), int(areas.argmax())
        )
    return found


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_counts_follow_every_kind_of_change(axis):
    session = SegmentationSession(bright_volume(12, axis=axis), window=WINDOW)
    session.use_model(ReadyModel(FakeSegmenter(), "fake", None))
    annotation, counts = session.annotation, LabelCounts(session.annotation)

    def check(changed):
        assert set(changed) <= annotation.slices.uncounted <= {5, *changed}
        counts.update()
        assert counts.is_current
        assert counts.totals() == by_hand(annotation)

    check(range(12))
    session.add_prompt(SlicePrompt.from_mask(3, 5, rectangle(4, 9)))
    check([5])
    painted = annotation.plane(2).astype(np.uint16)
    painted[3:5, 1:4] = 300
    annotation.take_edit(2, painted)
    check([2])
    list(session.propagate(write_range=(4, 7)))
    check([4, 6, 7])
    session.undo()
    check([4, 6, 7])
    annotation.adopt(np.zeros(annotation.volume.shape, np.uint16))
    check(range(12))


def test_a_change_along_another_axis_is_counted():
    shared = SharedLabels(np.zeros((12, 16, 24), np.uint8))
    one, other = (Annotation(bright_volume(12).with_axis(axis), shared) for axis in (0, 2))
    counts = LabelCounts(one)
    counts.update()
    other.add_prompt(SlicePrompt.from_mask(1, 3, np.ones((12, 16), bool)))
    counts.update()
    assert counts.totals() == {1: LabelCount(12 * 16, 12, 0, 11, 0)}


def test_an_update_can_be_interrupted_and_continued():
    annotation = Annotation(bright_volume(12), np.ones((12, 16, 24), np.uint8))
    counts, asked = LabelCounts(annotation), iter(range(99))
    counts.update(lambda: next(asked) >= 5)
    assert counts.totals()[1].slices == 5
    assert not counts.is_current
    counts.update()
    assert counts.totals()[1].slices == 12


def test_counting_while_slices_are_written_ends_with_the_exact_counts():
    annotation = Annotation(bright_volume(60))
    counts, stop = LabelCounts(annotation), threading.Event()

    def count():
        while not stop.is_set():
            counts.update()

    thread = threading.Thread(target=count)
    thread.start()
    rng = np.random.default_rng(0)
    for index in rng.integers(0, 60, 2000).tolist():
        annotation.slices.write(index, rng.integers(0, 300, (16, 24)))
    stop.set()
    thread.join()
    counts.update()
    assert counts.totals() == by_hand(annotation)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_large_and_negative_labels_are_counted_too(dtype):
    plane = np.array([[0, 1, 1], [7, 7, 1]], dtype)
    if dtype is np.int64:
        plane[0, 0], plane[1, :2] = -1, 2**40
    labels, voxels = count_labels(plane)
    assert dict(zip(labels.tolist(), voxels.tolist(), strict=True)) == {1: 3, int(plane[1, 0]): 2}


def rows(**options):
    prompts = PromptSet()
    for index in (4, 2):
        prompts = prompts.with_prompt(SlicePrompt.from_mask(5, index, rectangle(2, 2)))
    table = LabelTable({1: 'the "liver", left', 9: "not drawn"}, locked=frozenset({1}))
    counts = {1: LabelCount(1500, 3, 2, 4, 3), 70000: LabelCount(1, 1, 8, 8, 8)}
    return label_rows(counts, prompts, table, {1: 0.5}, **options)


def test_every_label_that_is_known_has_a_row():
    first, seeded, named, large = rows(voxel_volume=0.5)
    assert [first.label, seeded.label, named.label, large.label] == [1, 5, 9, 70000]
    assert (first.voxels, first.slices, first.volume, first.first, first.largest) == (
        1500, 3, 750.0, 2, 3,
    )  # fmt: skip
    assert (first.quality, first.locked, first.done) == (0.5, True, False)
    assert (seeded.voxels, seeded.seeds, seeded.first, seeded.largest) == (0, 2, 2, 2)
    assert (named.name, named.first) == ("not drawn", -1)
    assert rows(voxel_volume=None)[0].volume is None


@pytest.mark.parametrize(
    ("volume", "text"),
    [(0, "0 mm³"), (1234567, "1235 ml"), (1500, "1.5 ml"), (750, "750 mm³"), (2e-6, "2000 µm³")],
)
def test_volumes_have_a_fitting_unit(volume, text):
    assert describe_volume(volume) == text


def test_rows_are_written_to_csv(tmp_path):
    path = write_csv(tmp_path / "labels.csv", rows(voxel_volume=0.1))
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert [row["label"] for row in read] == ["1", "5", "9", "70000"]
    assert read[0]["label_name"] == 'the "liver", left'
    assert float(read[0]["volume_mm3"]) == 150.0
    assert read[1]["mean_quality"] == ""
    with pytest.raises(OutputError, match="exists"):
        write_csv(path, [])
