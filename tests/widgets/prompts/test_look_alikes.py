"""Many objects at once: look-alikes of the seeds on a slice become seeds of new labels."""

from __future__ import annotations

import numpy as np
import pytest
from tests.engine.features.test_look_alikes import CENTRES, discs
from tests.widgets.prompts.test_prompting import Clicker

INDEX = 2


@pytest.fixture
def nuclei(viewer, qtbot, segmenter):
    """A stack of discs, one of which is a seed, and their label map."""
    image, truth = discs()
    viewer.add_image(np.stack([image] * 5).astype(np.float32), name="nuclei")
    bench = Clicker(viewer, qtbot, segmenter)
    bench.show(INDEX)
    bench.layer.data[INDEX][truth == 1] = 1
    bench.panel.tracker.scan_all()
    return bench, truth


def find(bench):
    button = bench.panel.look_alikes
    button.click()
    bench.qtbot.waitUntil(button.isEnabled, timeout=20_000)


def test_look_alikes_are_one_undo_step_and_wrong_ones_go_with_a_click(nuclei):
    bench, truth = nuclei
    before = bench.layer.data.copy()
    find(bench)
    labels = list(range(2, len(CENTRES) + 1))
    assert bench.seeds == {(INDEX, label) for label in (1, *labels)}
    assert "7 look-alikes" in bench.panel.prompt_bar.hint
    np.testing.assert_array_equal(bench.layer.data[INDEX] == 1, truth == 1)
    assert not np.delete(bench.layer.data, INDEX, 0).any()

    wrong = int(bench.layer.data[INDEX][CENTRES[1]])
    bench.panel.prompt_bar.remove.click()
    assert bench.panel.prompting.mode == "remove"
    bench.click(*CENTRES[1])
    assert not (bench.layer.data == wrong).any()
    assert (INDEX, wrong) not in bench.seeds
    bench.click(0, 0)
    assert bench.panel.prompt_bar.hint == "There is no label."
    assert bench.panel.undo_button.text() == "Undo removal"
    bench.panel.undo()
    assert (bench.layer.data[INDEX] == wrong).any()
    assert bench.panel.undo_button.text() == "Undo look-alikes"
    bench.panel.undo()
    np.testing.assert_array_equal(bench.layer.data, before)
    assert bench.seeds == {(INDEX, 1)}


def test_one_run_then_fills_all_objects(nuclei):
    bench, _ = nuclei
    find(bench)
    bench.run()
    assert set(np.unique(bench.layer.data[4])) == set(range(len(CENTRES) + 1))


def test_labels_that_are_used_elsewhere_are_not_given_again(nuclei):
    bench, _ = nuclei
    bench.layer.data[4, 90:, :5] = 40
    find(bench)
    assert min(label for index, label in bench.seeds if index == INDEX and label > 1) == 41


def test_without_a_seed_on_the_slice_it_is_refused(nuclei, monkeypatch):
    bench, _ = nuclei
    told = []
    monkeypatch.setattr("napari_slmsam2.widgets.prompts.look_alikes.show_warning", told.append)
    bench.show(0)
    find(bench)
    assert "no example on this slice" in told[0]


def test_nothing_is_added_where_other_labels_are_shown_meanwhile(nuclei, monkeypatch):
    bench, _ = nuclei
    told = []
    monkeypatch.setattr("napari_slmsam2.widgets.prompts.look_alikes.show_warning", told.append)
    first, annotation = bench.layer, bench.panel.workspace.annotation
    before = first.data.copy()
    bench.panel.look_alikes.click()
    second = bench.panel.workspace.add_labels()
    bench.qtbot.waitUntil(bench.panel.look_alikes.isEnabled, timeout=20_000)
    assert "Nothing was added" in told[0]
    bench.panel.workspace.set_labels(first)
    assert bench.seeds == {(INDEX, 1)}
    assert len(annotation.prompts) == 1
    np.testing.assert_array_equal(first.data, before)
    assert not second.data.any()
