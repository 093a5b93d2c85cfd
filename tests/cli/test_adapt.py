"""``adapt`` and what ``models`` does with its result, on real files with a small network."""

import json
import signal
import threading

import numpy as np
import pytest
import torch
from tests.labelled_files import (
    SHAPE,
    keep_slices,
    make_image,
    make_labels,
    write,
    write_base,
    write_pair,
)
from tests.random_weights import tiny_file

from napari_slmsam2.cli import adapt as command
from napari_slmsam2.engine.weights.checkpoints import load_state
from napari_slmsam2.training import recipes


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base.safetensors")


@pytest.fixture
def pair(tmp_path):
    return write_pair(tmp_path, 0)


@pytest.fixture
def small(monkeypatch):
    """Recipes of a few steps, that learn fast."""
    for name, recipe in recipes.RECIPES.items():
        changed = recipe.replace(
            minutes=20.0, clips=16, steps=8, fewest_steps=1, evaluations=2, learning_rate=6e-3
        )
        monkeypatch.setitem(recipes.RECIPES, name, changed)


def test_from_pairs_to_a_model_that_propagates(cli, small, base, pair, tmp_path):
    image, truth = pair
    folder = tmp_path / "models"
    report = tmp_path / "report.json"
    options = ("--models-folder", folder, "--device", "cpu")
    done = cli(
        "adapt", "--pair", image, truth, "--from", base, "-o", "balls", "--report", report, *options
    )
    assert done.code == 0, done.err
    assert "label 1 on" in done.out
    assert "one end of every object" in done.out
    assert "8 steps and 2 evaluations" in done.out
    assert "base.safetensors before training: held-out Dice" in done.err
    assert "step 8: loss" in done.err
    assert "Better: held-out Dice" in done.out
    facts = json.loads(report.read_text())
    assert facts["after"]["dice"] > facts["before"]["dice"]
    assert [f.name for f in folder.iterdir()] == ["balls.safetensors"]
    again = cli("adapt", "--pair", image, truth, "--from", base, "-o", "balls", *options)
    assert again.code == 2
    assert "is taken" in again.flat_err

    listed = cli("models", "list", "--models-folder", folder)
    (line,) = (line for line in listed.out.splitlines() if line.split()[:1] == ["balls"])
    assert line.split() == ["balls", "0", "MB", "CC0-1.0", "yes", "yes"]
    info = " ".join(cli("models", "info", "balls", "--models-folder", folder).out.split())
    assert "Adapted from base.safetensors to 1 volume with the recipe quick" in info
    assert facts["adapted"]["data"][0]["image_sha256"] in info.replace(" ", "")

    seeds = write(tmp_path / "seeds.nii.gz", keep_slices(make_labels(0), {1: (7,), 2: (7,)}))
    out = tmp_path / "out.nii.gz"
    ran = cli("propagate", image, seeds, "-o", out, "--model", "balls", *options)
    assert ran.code == 0, ran.err
    assert "Model    balls" in ran.out
    assert cli("models", "rename", "balls", "spheres", "--models-folder", folder).code == 0
    copy = tmp_path / "copy.safetensors"
    assert cli("models", "export", "spheres", copy, "--models-folder", folder).code == 0
    assert copy.read_bytes() == (folder / "spheres.safetensors").read_bytes()
    assert cli("models", "export", "spheres", copy, "--models-folder", folder).code == 1
    assert cli("models", "delete", "spheres", "--models-folder", folder).code == 1
    assert (folder / "spheres.safetensors").exists()
    assert cli("models", "delete", "spheres", "--yes", "--models-folder", folder).code == 0
    assert not list(folder.iterdir())


def test_no_better_than_before_is_a_result(cli, small, base, tmp_path, monkeypatch):
    still = recipes.RECIPES["this-volume"].replace(learning_rate=1e-7, steps=2)
    monkeypatch.setitem(recipes.RECIPES, "this-volume", still)
    image = write(tmp_path / "scan.nii.gz", make_image(make_labels(0), 0))
    seeds = write(tmp_path / "seeds.nii.gz", keep_slices(make_labels(0), {1: (4, 7, 10), 2: (7,)}))
    folder = tmp_path / "models"
    done = cli(
        "adapt", "--recipe", "this-volume", "--pair", image, seeds, "--from", base, "-o", "mine",
        "--models-folder", folder, "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "one annotated slice of every label" in done.out
    assert "No better than before: held-out Dice" in done.out
    assert "no file was written; continue to use base.safetensors" in done.out
    assert not list(folder.iterdir())


def test_ctrl_c_keeps_the_best_so_far(cli, small, base, pair, tmp_path, monkeypatch):
    folder, image = tmp_path / "models", pair[0]
    long = recipes.RECIPES["quick"].replace(steps=2000, evaluations=500)
    monkeypatch.setitem(recipes.RECIPES, "quick", long)

    class Interrupting(command._ProgressLines):
        def __call__(self, progress):
            super().__call__(progress)
            if progress.stage == "training" and progress.evaluation and progress.done >= 8:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(command, "_ProgressLines", Interrupting)
    assert threading.current_thread() is threading.main_thread()
    done = cli(
        "adapt", "--pair", image, pair[1], "--from", base, "-o", "balls",
        "--models-folder", folder, "--device", "cpu",
    )  # fmt: skip
    assert done.code == 1
    assert "it was cancelled; the best model so far is written" in done.flat_err
    assert [f.name for f in folder.iterdir()] == ["balls.safetensors"]


def test_the_estimate_alone(cli, small, base, pair, tmp_path):
    given = ("adapt", "--pair", *pair, "--from", base, "-o", "x", "--device", "cpu")
    folder = ("--models-folder", tmp_path / "models")
    done = cli(*given, *folder, "--estimate", "--labels", "2")
    assert done.code == 0, done.err
    assert "label 1" not in done.out
    assert "MiB of memory" in done.out
    refused = cli(*given, *folder, "--minutes", "0.05", "--batch", "512")
    assert refused.code == 2
    assert "does not fit into 0.05 min" in refused.flat_err
    assert not list((tmp_path / "models").iterdir())


def test_a_slice_adapter_is_trained_in_a_sam_2_network(cli, pair, tmp_path, monkeypatch):
    short = {"steps": 2, "fewest_steps": 1, "clip_slices": 3, "corrections": 0}
    monkeypatch.setitem(recipes.RECIPES, "paper", recipes.RECIPES["paper"].replace(**short))
    checkpoint = tmp_path / "run.pt"
    done = cli(
        "adapt", "--recipe", "paper", "--train", "temporal-slices", "--pair", *pair,
        "--from", tiny_file(tmp_path / "tiny.safetensors"), "-o", "x", "--device", "cpu",
        "--models-folder", tmp_path / "models", "--checkpoint", checkpoint,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "2 steps" in done.out
    state = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
    kept = tmp_path / "models" / "x.safetensors"
    weights = state["trainer"]["network"] if state else load_state(kept)
    assert weights["image_encoder.trunk.blocks.0.adapter.conv.weight"].shape[2:] == (3, 1, 1)


def test_bad_input_is_refused_before_anything_is_written(cli, base, pair, tmp_path):
    image, truth = pair
    folder = tmp_path / "models"
    empty = write(tmp_path / "empty.nii.gz", np.zeros(SHAPE, np.uint8))
    other = write(tmp_path / "other.nii.gz", np.ones((4, 5, 6), np.uint8))

    def refused(code, words, *arguments, name="x", start=base):
        given = ("--from", start, "-o", name, "--models-folder", folder, "--device", "cpu")
        done = cli("adapt", *given, *arguments)
        assert (done.code, words in done.flat_err) == (code, True), done.err

    refused(2, "expected IMAGE LABELS", "--pair", image)
    refused(2, "expected IMAGE LABELS", "--pair", image, "--device")
    refused(1, "hold no label", "--pair", image, empty)
    refused(1, "the shapes differ", "--pair", image, other)
    refused(1, "single slices only", "--pair", image, sparse(tmp_path))
    refused(2, "label 9", "--pair", image, truth, "--labels", "9")
    refused(2, "is not known", "--pair", image, truth, "--recipe", "slow")
    refused(2, "expected all or memory+heads", "--pair", image, truth, "--train", "nothing")
    refused(2, "use the recipe paper", "--pair", image, truth, "--train", "temporal")
    refused(2, "is not a network", "--pair", image, truth, start="flow")
    refused(2, "cannot be the name", "--pair", image, truth, name="a/b")
    refused(2, "is taken", "--pair", image, truth, name="flow")
    assert not list(folder.iterdir())


def sparse(folder):
    seeds = keep_slices(make_labels(0), {1: (4, 7, 10)})
    return write(folder / "sparse.nii.gz", seeds)
