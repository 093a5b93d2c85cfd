"""Which slice to correct next, and which labels the strip shows."""

from __future__ import annotations

import itertools

import pytest
from tests.fakes import WINDOW, FakeSegmenter, bright_volume, rectangle

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.quality import FLAG_SCORE
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.session import SegmentationSession
from napari_slmsam2.widgets.runs.quality import Scores


@pytest.fixture
def annotation():
    """Two labels whose sweeps disagree, and one without doubtful slices."""
    annotation = Annotation(bright_volume(24))
    for label, row in ((1, 0), (2, 6)):
        annotation.add_prompt(SlicePrompt.from_mask(label, 2, rectangle(row, 1)))
        annotation.add_prompt(SlicePrompt.from_mask(label, 20, rectangle(row, 3 + label)))
    session = SegmentationSession(annotation.volume, window=WINDOW, annotation=annotation)
    session.use_model(ReadyModel(FakeSegmenter(), "fake", None))
    list(session.propagate())
    return annotation


def test_labels_with_doubtful_slices_take_turns(annotation, qtbot):
    scores = Scores()
    flagged = [s for s in annotation.suggestions() if s.score >= FLAG_SCORE]
    assert {s.label for s in flagged} == {1, 2}
    found = [scores.next_to_fix(annotation) for _ in range(8)]
    assert found[0] == flagged[0], "the most urgent one comes first"
    assert all(one.label != other.label for one, other in itertools.pairwise(found))
    for label in (1, 2):
        own = [s for s in flagged if s.label == label]
        assert [s for s in found if s.label == label] == own[: len(found) // 2]


def test_every_slice_is_offered_once_before_any_comes_again(annotation, qtbot):
    scores = Scores()
    n = len(annotation.suggestions())
    found = [scores.next_to_fix(annotation) for _ in range(n + 1)]
    assert len({(s.label, s.index) for s in found[:n]}) == n
    assert found[n] == found[0]


def test_the_strip_shows_all_labels_or_the_selected_one(bench):
    panel = bench.panel
    bench.paint(2)
    bench.paint(9, label=2, at=(3, 18), size=3)
    bench.run()
    shown, every = [], panel.scores.lowest(panel.workspace.annotation)
    panel.strip.set_seeds = lambda seeds: shown.append(seeds)
    panel.one_label.click()
    assert shown[-1] == {2: {9}}
    of_two = panel.scores.lowest(panel.workspace.annotation)
    bench.layer.selected_label = 1
    assert shown[-1] == {1: {2}}
    of_one = panel.scores.lowest(panel.workspace.annotation)
    assert 9 in of_one
    assert 9 not in of_two
    for index, confidence in every.items():
        assert confidence == min(of_one.get(index, 1.0), of_two.get(index, 1.0))
    panel.one_label.click()
    assert shown[-1] == {1: {2}, 2: {9}}
    assert panel.scores.lowest(panel.workspace.annotation) == every
