"""The window "Adapt" in a real viewer: from labels to a model that the other panel offers."""

from __future__ import annotations

import gc
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QComboBox,
    QFileDialog,
    QInputDialog,
    QLineEdit,
    QMessageBox,
)
from tests.labelled_files import SHAPE, make_image, make_labels, write_base, write_pair
from tests.random_weights import tiny_file

from napari_slmsam2.training import recipes
from napari_slmsam2.training.adapt import base_models
from napari_slmsam2.widgets import AdaptWidget, AnnotateWidget
from napari_slmsam2.widgets.adapt.curve import scale
from napari_slmsam2.widgets.adapt.preview import part_of


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of models with one small base model in it."""
    path = tmp_path / "models"
    path.mkdir()
    write_base(path / "base.safetensors")
    monkeypatch.setenv("NAPARI_SLMSAM2_MODELS", str(path))
    return path


@pytest.fixture
def small(monkeypatch) -> None:
    """Recipes of a few steps, that learn fast."""
    for name, recipe in recipes.RECIPES.items():
        changed = recipe.replace(
            minutes=20.0, clips=16, steps=8, fewest_steps=1, evaluations=2, learning_rate=6e-3,
            batch_size=4,
        )  # fmt: skip
        monkeypatch.setitem(recipes.RECIPES, name, changed)


@pytest.fixture
def messages(monkeypatch) -> list[str]:
    """The messages in napari's notifications."""
    shown: list[str] = []
    for module in ("panel", "models"):
        for name in ("show_error", "show_warning", "show_info"):
            path = f"napari_slmsam2.widgets.adapt.{module}.{name}"
            monkeypatch.setattr(path, shown.append, raising=False)
    return shown


@pytest.fixture
def adapt(viewer, qtbot, folder, small, messages):
    """The window beside a labelled scan, about to start from the small base model."""
    return open_window(viewer, qtbot)


def open_window(viewer, qtbot, labels: np.ndarray | None = None) -> AdaptWidget:
    truth = make_labels(0)
    viewer.add_image(make_image(truth, 0), name="knee scan", scale=(1, 1, 2))
    viewer.add_labels(truth if labels is None else labels, name="knee", scale=(1, 1, 2))
    viewer.dims.order = (2, 0, 1)
    window = AdaptWidget(viewer)
    viewer.window.add_dock_widget(window, name="Adapt")
    window.base.setCurrentIndex(window.base.findData("base"))
    window.device.setCurrentText("cpu")
    return window


def finish(window, qtbot) -> None:
    qtbot.waitUntil(lambda: not window.runner.running, timeout=240_000)


def models(combo: QComboBox) -> list[str]:
    return [combo.itemData(i) for i in range(combo.count())]


def test_a_labelled_scan_becomes_a_model_that_annotate_offers(adapt, viewer, qtbot, folder):
    annotate = AnnotateWidget(viewer)
    viewer.window.add_dock_widget(annotate, name="Annotate")
    assert adapt.pairs.item(0, 0).text() == "knee scan"
    assert "16 slices along axis 2" in adapt.pairs.item(0, 0).toolTip()
    assert adapt.name.text() == "knee-scan-quick"
    empty = adapt.bar, adapt.estimate, adapt.curve, adapt.preview
    assert all(part.isHidden() for part in empty)
    adapt.go_button.click()
    assert not adapt.bar.isHidden()
    assert adapt.cancel_button.isEnabled()
    assert not adapt.go_button.isEnabled()
    finish(adapt, qtbot)
    assert [part.isHidden() for part in empty] == [True, False, False, False]
    assert "for 8 steps" in adapt.estimate.text()
    assert "one end of every object" in adapt.estimate.text()
    assert [step for step, _ in adapt.curve.losses] == list(range(1, 9))
    assert [step for step, _ in adapt.curve.dice] == [0, 4, 8]
    before, after = adapt.preview.shown
    assert before.truth.any()
    assert (after.truth == before.truth).all()
    assert (folder / "knee-scan-quick.safetensors").is_file()
    assert "Better: held-out Dice" in adapt.result.text()
    assert adapt.scores.rowCount() == 3
    assert adapt.scores.item(0, 0).text() == "mean"
    assert f"{adapt.curve.dice[0][1]:.3f}"[1:] in adapt.scores.item(0, 1).text()
    assert "knee-scan-quick" in models(annotate.model._models)
    assert "knee-scan-quick" in models(adapt.base)
    assert adapt.name.text() == "knee-scan-quick-2"
    assert not [f for f in folder.iterdir() if f.name.startswith(".")]
    annotate.model.choose("knee-scan-quick")
    assert "all steps are done" in adapt.status.text()
    assert "Adapted from base to 1 volume" in annotate.model._about.text()


def test_an_estimate_is_made_first_and_used(adapt, qtbot, folder):
    adapt.estimate_button.click()
    finish(adapt, qtbot)
    assert "for 8 steps" in adapt.estimate.text()
    assert "Press Adapt" in adapt.status.text()
    assert [f.name for f in folder.iterdir()] == ["base.safetensors"]
    assert not adapt.curve.dice
    job = adapt.runner._prepared[1].job
    adapt.name.setText("other")
    adapt.go_button.click()
    stages = set()
    adapt.runner.progressed.connect(lambda progress: stages.add(getattr(progress, "stage", "")))
    finish(adapt, qtbot)
    assert stages == {"clips", "evaluation", "training"}
    assert job._run.trainer.step == 8
    assert (folder / "other.safetensors").is_file()


def test_adapt_pressed_during_the_estimate_follows_it(adapt, qtbot, folder):
    adapt.estimate_button.click()
    assert adapt.go_button.isEnabled()
    adapt.go_button.click()
    assert not adapt.go_button.isEnabled()
    assert "adapting follows" in adapt.status.text()
    qtbot.waitUntil(lambda: "all steps" in adapt.status.text(), timeout=240_000)
    assert (folder / "knee-scan-quick.safetensors").is_file()


def test_evaluations_show_their_progress(adapt, qtbot):
    shown = []
    adapt.runner.progressed.connect(lambda _: shown.append(adapt.status.text()))
    adapt.go_button.click()
    finish(adapt, qtbot)
    for model in ("base model", "model after 4 steps", "model after 8 steps"):
        shares = {text for text in shown if text.startswith(f"Evaluating the {model}: ")}
        assert len(shares) > 2


def test_labels_painted_after_the_estimate_are_trained_on(adapt, viewer, qtbot):
    adapt.estimate_button.click()
    finish(adapt, qtbot)
    viewer.layers["knee"].data[12, 12, 8] = 2
    stages = set()
    adapt.runner.progressed.connect(lambda progress: stages.add(getattr(progress, "stage", "")))
    adapt.go_button.click()
    qtbot.waitUntil(lambda: "measuring" in stages, timeout=60_000)
    adapt.cancel_button.click()
    finish(adapt, qtbot)


def test_cancel_keeps_the_best_so_far(adapt, qtbot, folder, monkeypatch):
    changed = recipes.RECIPES["quick"].replace(steps=2000, evaluations=500, patience=500)
    monkeypatch.setitem(recipes.RECIPES, "quick", changed)
    adapt.go_button.click()
    best = lambda: max([d for _, d in adapt.curve.dice], default=0)  # noqa: E731
    qtbot.waitUntil(
        lambda: len(adapt.curve.dice) > 1 and best() > adapt.curve.dice[0][1] + 0.001,
        timeout=60_000,
    )
    adapt.cancel_button.click()
    finish(adapt, qtbot)
    assert "it was cancelled" in adapt.status.text()
    assert (folder / "knee-scan-quick.safetensors").is_file()


def test_cancelled_while_it_prepares_there_is_nothing_to_keep(adapt, qtbot, folder):
    adapt.go_button.click()
    adapt.cancel_button.click()
    finish(adapt, qtbot)
    assert "before there was a result" in adapt.status.text()
    assert [f.name for f in folder.iterdir()] == ["base.safetensors"]


def test_got_worse_the_old_model_stays(adapt, qtbot, folder, monkeypatch):
    changed = recipes.RECIPES["quick"].replace(l2_sp=1.0, learning_rate=1e-7, steps=2)
    monkeypatch.setitem(recipes.RECIPES, "quick", changed)
    adapt.go_button.click()
    finish(adapt, qtbot)
    assert "the base model is kept" in adapt.result.text()
    assert adapt.scores.rowCount() == 3
    assert [f.name for f in folder.iterdir()] == ["base.safetensors"]


def test_what_does_not_fit_into_the_time_is_refused_with_a_reason(
    adapt, qtbot, messages, monkeypatch
):
    changed = recipes.RECIPES["quick"].replace(steps=10**6, fewest_steps=10**6)
    monkeypatch.setitem(recipes.RECIPES, "quick", changed)
    adapt.form.editors["minutes"].value = 0.2
    adapt.go_button.click()
    finish(adapt, qtbot)
    assert "does not fit into 0.2 min" in adapt.status.text()
    assert "does not fit into 0.2 min" in messages[0]
    assert adapt.go_button.isEnabled()
    assert not adapt.more_time.isHidden()


def test_one_press_allows_the_time_that_the_whole_recipe_needs(adapt, qtbot, monkeypatch):
    changed = recipes.RECIPES["quick"].replace(minutes=0.05, steps=60, clips=16)
    monkeypatch.setitem(recipes.RECIPES, "quick", changed)
    adapt.show_recipe()
    assert adapt.more_time.isHidden()
    adapt.estimate_button.click()
    finish(adapt, qtbot)
    assert "of 60 steps" in adapt.estimate.text()
    offered = re.fullmatch(r"Allow ([\d.]+) min for all of it", adapt.more_time.text())
    adapt.more_time.click()
    assert adapt.form.record.minutes == float(offered[1]) > 0.05
    assert adapt.runner.estimating
    assert adapt.more_time.isHidden()
    finish(adapt, qtbot)
    assert "for 60 steps" in adapt.estimate.text()
    assert adapt.more_time.isHidden()


def test_pairs_of_files_and_of_layers(adapt, viewer, qtbot, tmp_path, folder, monkeypatch):
    image, labels = write_pair(tmp_path, 1)
    answers = iter([(str(image), ""), (str(labels), "")])
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: next(answers))
    adapt.add_files.click()
    adapt.add_layers.click()
    assert len(adapt.pairs.pairs) == 2
    assert adapt.pairs.item(1, 1).toolTip() == str(labels)
    viewer.layers["knee"].name = "patella"
    assert adapt.pairs.item(0, 1).text() == "patella"
    adapt.chosen.setText("2")
    adapt.name.setText("two")
    adapt.go_button.click()
    finish(adapt, qtbot)
    assert adapt.scores.rowCount() == 3
    assert adapt.scores.item(1, 0).text() == "1: 2"
    adapt.pairs.selectRow(1)
    adapt.remove.click()
    viewer.layers.remove("knee scan")
    assert not adapt.pairs.pairs
    assert not adapt.go_button.isEnabled()


def test_this_volume_trains_on_the_painted_slices_only(viewer, qtbot, folder, small, messages):
    truth = make_labels(0)
    window = open_window(viewer, qtbot, np.zeros(SHAPE, np.uint8))
    annotate = AnnotateWidget(viewer)
    viewer.window.add_dock_widget(annotate, name="Annotate")
    layer = viewer.layers["knee"]
    annotate.workspace.set_labels(layer)
    viewer.dims.order = (2, 0, 1)
    annotate.workspace.go_to(7)
    layer.data_setitem((*np.nonzero(truth[..., 7] == 1), np.full((truth[..., 7] == 1).sum(), 7)), 1)
    annotate.tracker.flush()
    propagated = truth.copy()
    propagated[truth == 2] = 0
    layer.data[...] = propagated
    window.recipe.setCurrentIndex(window.recipe.findData("this-volume"))
    window.add_layers.click()
    (pair,) = window.request().pairs
    assert np.flatnonzero(pair.labels.any((0, 1))).tolist() == [7]
    window.go_button.click()
    finish(window, qtbot)
    assert "pseudo-stacks" in window.estimate.text()
    assert window.scores.rowCount() > 1


@pytest.mark.parametrize("what", ["labels", "name", "grid", "empty"])
def test_bad_input_is_reported(adapt, viewer, qtbot, messages, what):
    if what == "labels":
        adapt.chosen.setText("1; 2")
    elif what == "name":
        adapt.name.setText("a/b")
    elif what == "grid":
        viewer.add_labels(np.zeros((3, 4, 5), np.uint8), name="elsewhere")
        adapt.labels.setCurrentText("elsewhere")
        adapt.add_layers.click()
    else:
        viewer.layers["knee"].data[...] = 0
    if what != "grid":
        adapt.go_button.click()
        finish(adapt, qtbot)
    expected = {
        "labels": "expected 1, 2, 5; found '1; 2'",
        "name": "cannot be the name of a model",
        "grid": "the shapes differ",
        "empty": "hold no label",
    }
    assert expected[what] in messages[0]
    assert adapt.go_button.isEnabled()


def test_a_model_that_cannot_be_written_is_not_lost(adapt, qtbot, folder, messages, monkeypatch):
    from napari_slmsam2.training.adapt import adaptation as training

    real = training.Adaptation.save
    monkeypatch.setattr(
        training.Adaptation,
        "save",
        lambda self, path, report: real(self, path.parent / "no.safetensors" / path.name, report),
    )
    (folder / "no.safetensors").write_bytes(b"")
    adapt.go_button.click()
    finish(adapt, qtbot)
    assert "not saved yet" in adapt.result.text()
    assert adapt.save_button.isVisibleTo(adapt)
    monkeypatch.setattr(training.Adaptation, "save", real)
    adapt.name.setText("kept")
    adapt.save_button.click()
    finish(adapt, qtbot)
    assert (folder / "kept.safetensors").is_file()
    assert not adapt.save_button.isVisibleTo(adapt)


def test_models_are_renamed_exported_and_deleted(
    adapt, viewer, qtbot, folder, tmp_path, monkeypatch
):
    shutil.copyfile(folder / "base.safetensors", folder / "mine.safetensors")
    annotate = AnnotateWidget(viewer)
    viewer.window.add_dock_widget(annotate, name="Annotate")
    annotate.model.choose("mine")
    manager = adapt.manager
    manager._fill("mine")
    monkeypatch.setattr(QInputDialog, "getText", lambda *a: ("ours", True))
    manager.rename_button.click()
    assert (folder / "ours.safetensors").is_file()
    assert annotate.model.model == "ours"
    assert manager.models.currentText() == "ours"
    target = tmp_path / "away.safetensors"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a: (str(target)[:-12], ""))
    manager.export_button.click()
    assert target.read_bytes() == (folder / "ours.safetensors").read_bytes()
    monkeypatch.setattr(QMessageBox, "question", lambda *a: QMessageBox.StandardButton.Yes)
    manager.delete_button.click()
    assert not (folder / "ours.safetensors").exists()
    assert "ours" not in models(annotate.model._models)
    assert "ours" not in models(adapt.base)


def test_closing_the_window_in_the_middle_gives_everything_back(adapt, viewer, qtbot):
    adapt.go_button.click()
    worker = adapt.runner._worker
    viewer.window.remove_dock_widget(adapt)
    qtbot.waitUntil(lambda: not worker.is_running, timeout=60_000)
    reference = weakref.ref(adapt)
    adapt.deleteLater()
    del adapt
    qtbot.wait(50)
    gc.collect()
    viewer.layers.remove("knee")
    assert reference() is None or reference()._closed


def test_every_control_has_a_tooltip_and_fits_320_pixels(adapt):
    adapt.resize(320, 900)
    kinds = (QAbstractButton, QComboBox, QAbstractSpinBox, QAbstractItemView, QLineEdit)
    controls = [
        w
        for kind in kinds
        for w in adapt.findChildren(kind)
        if not w.objectName().startswith("qt_")
        and not isinstance(w.parent(), QComboBox | QAbstractItemView | QAbstractSpinBox)
        and not isinstance(w.parent().parent(), QComboBox)
    ]
    assert len(controls) > 18
    for control in controls:
        assert control.toolTip(), control
    assert adapt.minimumSizeHint().width() <= 320


def test_every_recipe_has_a_description():
    assert recipes.ABOUT.keys() == recipes.RECIPES.keys()


def test_the_kind_of_labels_can_be_chosen_where_it_matters(adapt):
    shown = {}
    for recipe in recipes.RECIPES:
        adapt.recipe.setCurrentIndex(adapt.recipe.findData(recipe))
        shown[recipe] = adapt.form.editors["labels_are"].enabled
    assert shown == {"quick": True, "this-volume": False, "paper": False}
    adapt.form.editors["labels_are"].value = "objects"
    assert adapt.read_recipe() == recipes.get_recipe("paper").replace(labels_are="objects")


def test_slice_adapters_are_trained_in_sam_2_networks_only(adapt, qtbot, folder, monkeypatch):
    combo = adapt.form.editors["trained"].native
    forms = recipes.SLICE_ADAPTERS

    def offered() -> dict[str, tuple[bool, str]]:
        items = [combo.model().item(combo.findText(recipes.TRAINED[form])) for form in forms]
        return dict(zip(forms, ((i.isEnabled(), i.toolTip()) for i in items), strict=True))

    assert all(not on and "choose the recipe paper" in why for on, why in offered().values())
    assert "Low-rank" in combo.itemText(list(recipes.TRAINED).index("adapters"))
    tiny_file(folder / "tiny.safetensors")
    short = {"steps": 2, "batch_size": 1, "clip_slices": 3, "corrections": 0}
    monkeypatch.setitem(recipes.RECIPES, "paper", recipes.RECIPES["paper"].replace(**short))
    adapt.recipe.setCurrentIndex(adapt.recipe.findData("paper"))
    assert offered() == dict.fromkeys(forms, (True, ""))
    adapt.base.setCurrentIndex(adapt.base.findData("tiny"))
    combo.setCurrentText(recipes.TRAINED["temporal"])
    adapt.estimate_button.click()
    finish(adapt, qtbot)
    assert "for 2 steps" in adapt.estimate.text()
    job = adapt.runner._prepared[1].job
    adapt.go_button.click()
    finish(adapt, qtbot)
    assert job._run.trainer.network.config.adapter == "temporal"
    assert adapt.scores.rowCount() == 3
    adapt.recipe.setCurrentIndex(adapt.recipe.findData("quick"))
    assert adapt.read_recipe().trained == "all"
    assert not any(on for on, _ in offered().values())


def test_only_what_a_recipe_can_adapt_is_offered(folder):
    (folder / "broken.safetensors").write_bytes(b"no")
    names = [card.name for card in base_models.list_bases(recipes.get_recipe("quick"))]
    assert names == ["compact", "base"]


def test_the_scale_holds_all_values():
    assert scale([], (0, 1)) == (0, 1)
    assert scale([0.5, 0.5], (0, 1)) == pytest.approx((0.5, 0.51))
    low, high = scale([0.423, 0.871], (0, 1))
    assert low <= 0.423 < 0.871 <= high <= 1


def test_the_preview_shows_the_same_part_of_both():
    image = np.zeros((200, 100), np.float32)
    truth, found = np.zeros((2, 200, 100), bool)
    truth[100:110, 40:50] = True
    found[90:100, 40:50] = True
    one = SimpleNamespace(image=image, truth=truth, found=found)
    other = SimpleNamespace(image=image, truth=truth, found=truth)
    assert part_of(one, other)[0].shape == part_of(other, one)[0].shape == (52, 42)


def test_torch_is_not_loaded_by_the_window():
    code = "import sys, napari_slmsam2.widgets.adapt.panel; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
