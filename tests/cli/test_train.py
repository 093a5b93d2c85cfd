"""``train``: from nothing to weights that the other commands take."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.training.compact import dagger
from napari_slmsam2.training.compact.trainer import Trainer
from napari_slmsam2.training.data import processes, shards

SMALL = ("--synthetic-clips", "2", "--batch", "2", "--device", "cpu")
"""One scenario per iteration: a clip from the true mask and one from a rollout state."""


@pytest.fixture(autouse=True)
def _small_and_fast(monkeypatch):
    monkeypatch.setattr(shards, "ROLLOUT_CLIPS", 1)
    make = lambda config, plan, *rest, **more: Trainer(  # noqa: E731
        config, plan.replace(warm_up=1), *rest, **more
    )
    monkeypatch.setattr(dagger, "Trainer", make)
    monkeypatch.setattr(processes, "count_cores", lambda: 1)


def test_train_leaves_weights_that_propagate_takes(cli, scene, monkeypatch):
    out = scene.folder / "training"
    options = (*SMALL, "--rounds", "1", "--objects", "1", "--learning-rate", "0.001")
    with monkeypatch.context() as two_processes:
        two_processes.setattr(processes, "count_cores", lambda: 2)
        first = cli("train", "-o", out, *options, "--steps", "2")
    assert first.code == 0, first.err
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert (out / "training.png").stat().st_size > 1000
    again = cli("train", "-o", out, *options, "--steps", "3")
    assert again.code == 0, again.err
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == 3
    with safe_open(out / "model.safetensors", "pt") as weights:
        assert '"learning_rate": 0.001' in str(weights.metadata())
    result = scene.folder / "found.nii.gz"
    done = cli(
        "propagate", scene.image, scene.seeds, "-o", result, "--model", out / "model.safetensors"
    )
    assert done.code == 0, done.err
    assert result.exists()
    assert "model.safetensors" in done.out


def test_a_folder_without_volumes_is_refused(cli, tmp_path):
    result = cli("train", "-o", tmp_path / "out", "--volumes", tmp_path, "--synthetic-clips", "0")
    assert result.code != 0
    assert "no labelled volumes" in result.err


def test_clips_of_an_iteration_start_from_rollout_states_of_the_network(cli, scene):
    """Three iterations without a stop, and with one after the first, give the same weights.

    With this seed the clips of the second and the third round start elsewhere than those of the
    same number would that the network of one round before sweeps.
    """
    start = ("--from", "compact", "--feedback", "0.5", "--seed", "6")
    options = (*SMALL, *start, "--rounds", "3", "--objects", "0")
    folders = [scene.folder / name for name in ("whole", "parts")]
    runs = [(folders[0], "6"), (folders[1], "6", "--minutes", "0"), (folders[1], "6")]
    for out, steps, *more in runs:
        done = cli("train", "-o", out, *options, "--steps", steps, *more)
        assert done.code == 0, done.err
    clips = sorted(p.name for p in (folders[0] / "clips").glob("train-*"))
    assert clips == [f"train-synthetic-{n}000.npz" for n in ("0", "1", "2")]
    for name in ("round-1.safetensors", "round-2.safetensors", "model.safetensors"):
        whole, parts = (load_file(folder / name) for folder in folders)
        assert all(torch.equal(whole[key], parts[key]) for key in whole)
    first, second = (load_file(folders[0] / f"round-{n}.safetensors") for n in (1, 2))
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_weights_of_another_network_are_no_start(cli, scene, tmp_path):
    other = CompactConfig(window_size=48)
    save_weights(
        tmp_path / "other.safetensors",
        CompactNetwork(other).state_dict(),
        {"config": other.to_dict()},
    )
    options = ("--synthetic-clips", "8", "--device", "cpu")
    done = cli("train", "-o", tmp_path / "out", *options, "--from", tmp_path / "other.safetensors")
    assert done.code != 0
    assert "other.safetensors: is of another network" in " ".join(done.err.split())
