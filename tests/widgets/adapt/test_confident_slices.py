"""Propagated slices that nothing speaks against are learned from, where a person wants that."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from safetensors import safe_open
from tests.labelled_files import as_improved, write_base

from napari_slmsam2.training import recipes
from napari_slmsam2.widgets import AdaptWidget

LABEL = 1


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr("napari_slmsam2.widgets.adapt.panel.show_warning", messages.append)
    return messages


@pytest.fixture
def adapt(bench, tmp_path, monkeypatch):
    """The window beside the panel in which slice 3 was painted and propagated."""
    monkeypatch.setenv("NAPARI_SLMSAM2_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    write_base(tmp_path / "models" / "base.safetensors")
    bench.paint(3)
    bench.run()
    window = AdaptWidget(bench.viewer)
    bench.viewer.window.add_dock_widget(window, name="Adapt")
    window.recipe.setCurrentIndex(window.recipe.findData("this-volume"))
    window.base.setCurrentIndex(window.base.findData("base"))
    window.device.setCurrentText("cpu")
    return window


def learned(window) -> tuple[set[int], set[int]]:
    """Slices with a label, and those of them that nobody painted."""
    (pair,) = window.request().pairs
    there = set(np.flatnonzero((pair.labels == LABEL).any((1, 2))).tolist())
    return there, set(pair.confident.get(LABEL, ()))


def test_it_is_a_choice_of_this_volume(adapt, bench):
    assert not adapt.confident.isHidden()
    assert learned(adapt) == ({3}, set())
    adapt.confident.setChecked(True)
    there, confident = learned(adapt)
    assert confident == there - {3} == set(range(12)) - {3}
    (pair,) = adapt.request().pairs
    np.testing.assert_array_equal(pair.labels, bench.layer.data)
    adapt.recipe.setCurrentIndex(adapt.recipe.findData("quick"))
    assert adapt.confident.isHidden()
    assert learned(adapt)[1] == set()


def test_slices_on_which_sweeps_disagree_are_left_out(adapt, bench):
    bench.paint(10)
    bench.run()
    adapt.confident.setChecked(True)
    there, confident = learned(adapt)
    assert {0, 1, 2, 11} <= confident
    assert not confident & {3, 6, 7, 10}
    assert there == confident | {3, 10}


def test_slices_beside_a_changed_seed_are_left_out_until_the_next_run(adapt, bench):
    adapt.confident.setChecked(True)
    bench.paint(6, at=(4, 18))
    assert learned(adapt) == ({0, 1, 2, 3, 6}, {0, 1, 2})
    bench.run()
    assert learned(adapt)[0] > {0, 1, 2, 3, 6}
    before = learned(adapt)[1]
    changed = bench.layer.data.copy()
    changed[1, 8] = 0
    bench.layer.data = changed
    assert learned(adapt)[1] == before - {1}


def test_a_label_painted_over_another_one_makes_it_a_seed(adapt, bench):
    adapt.confident.setChecked(True)
    bench.paint(8, label=2, at=(8, 15), size=3)
    there, confident = learned(adapt)
    assert (8 in there, 8 in confident) == (True, False)
    (pair,) = adapt.request().pairs
    np.testing.assert_array_equal(pair.labels[8], bench.layer.data[8])
    assert 2 not in pair.confident


def test_slices_of_an_undone_run_are_left_out(adapt, bench):
    adapt.confident.setChecked(True)
    bench.panel.undo()
    assert learned(adapt) == ({3}, set())
    bench.panel.redo()
    assert len(learned(adapt)[1]) == 11


def test_during_a_run_confident_slices_are_refused(adapt, bench, messages):
    adapt.confident.setChecked(True)
    bench.segmenter.gate = threading.Event()
    bench.panel.propagate("all")
    adapt.go_button.click()
    assert "not known during a run" in messages[0]
    assert not adapt.runner.running
    adapt.confident.setChecked(False)
    assert learned(adapt) == ({3}, set())
    bench.segmenter.gate.set()
    bench.finish()


def test_their_number_is_shown_and_kept_in_the_file(adapt, bench, qtbot, tmp_path, monkeypatch):
    changed = recipes.RECIPES["this-volume"].replace(
        minutes=20.0, clips=8, steps=4, fewest_steps=1, evaluations=1, learning_rate=6e-3,
        batch_size=4,
    )  # fmt: skip
    monkeypatch.setitem(recipes.RECIPES, "this-volume", changed)
    adapt.confident.setChecked(True)
    adapt.estimate_button.click()
    qtbot.waitUntil(lambda: not adapt.runner.running, timeout=60_000)
    assert "Confident slices that are trained on: 11." in adapt.estimate.text()
    job = adapt.runner._prepared[1].job
    runs = {(x.first, x.last) for x in job._data_split.training_objects}
    assert runs == {(3, 3), (0, 11)}
    report = job.run()
    path = job.save(tmp_path / "mine.safetensors", as_improved(report))
    with safe_open(path, framework="np") as file:
        noted = str(file.metadata()).replace(" ", "")
    assert '"confident":{"1":[0,1,2,4,5,6,7,8,9,10,11]}' in noted.replace("\\", "")


def test_without_a_run_the_panel_reports_that_there_are_none(adapt, bench, qtbot):
    bench.panel.undo()
    adapt.confident.setChecked(True)
    adapt.estimate_button.click()
    adapt.cancel_button.click()
    qtbot.waitUntil(lambda: not adapt.runner.running, timeout=60_000)
    assert adapt._about_confident() == [
        "No confident slices are known: propagate in the panel Annotate first."
    ]
