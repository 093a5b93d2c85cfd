"""Adapters: they start at the base model, change it by low rank, and leave an ordinary network."""

from __future__ import annotations

import copy

import pytest
import torch

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.loading import load_network
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.session.session import SegmentationSession
from napari_slmsam2.training.adapt.adaptation import Adaptation
from napari_slmsam2.training.data.labelled_scan import read_pair
from napari_slmsam2.training.data.split import split_data
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.lora import add_adapters, decay_towards, merged
from napari_slmsam2.training.recipes import get_recipe
from napari_slmsam2.training.sam2 import rollout
from napari_slmsam2.training.sam2.clips import ClipSampler
from napari_slmsam2.training.sam2.trainer import Sam2Trainer
from tests.labelled_files import as_improved, run_once, write_base, write_pair
from tests.random_weights import TINY, randomise

RANK = 2
SHORT = {"minutes": 30.0, "fewest_steps": 1, "trained": "adapters", "rank": RANK}
RECIPES = {
    "window": get_recipe("quick").replace(
        **SHORT, clips=8, batch_size=4, steps=6, evaluations=3, learning_rate=5e-3, l2_sp=0.01
    ),
    "sam2": get_recipe("paper").replace(
        **SHORT, clip_slices=3, corrections=0, checkpointing="off", steps=4, evaluations=2,
        learning_rate=5e-3, encoder_rate=5e-3, clip_norm=1.0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    network = SliceNetwork(TINY)
    randomise(network, 1)
    facts = {"config": TINY.to_dict(), "licence": "CC0-1.0"}
    save_weights(folder / "sam2.safetensors", network.state_dict(), facts)
    paths = {"window": write_base(folder / "base.safetensors"), "sam2": folder / "sam2.safetensors"}
    return {name: load_network(path) for name, path in paths.items()}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return [read_pair(*write_pair(folder, seed)) for seed in range(2)]


def prepared(scans, bases, kind, **options):
    job = Adaptation(scans[:1], bases[kind], RECIPES[kind], device="cpu", **options)
    job.prepare()
    return job


@pytest.fixture(scope="module")
def finished(scans, bases):
    return run_once(lambda kind: prepared(scans, bases, kind))


def kept(job):
    """The weights of the job as they would be kept, and those of its base model."""
    ordinary = job._backend.candidate(job._run.trainer.averaged)
    return ordinary.state_dict(), job._backend.network.state_dict()


@pytest.mark.parametrize("kind", ["window", "sam2"])
def test_they_start_at_the_base_model_and_their_updates_shrink_towards_it(bases, kind):
    base = bases[kind].network
    network = copy.deepcopy(base)
    add_adapters(network, RANK, 0)
    names = {name for name, _ in network.named_parameters()}
    assert sum(name.endswith(".lora_b") for name in names) > 20
    for name, value in merged(network, base).state_dict().items():
        torch.testing.assert_close(value, base.state_dict()[name], rtol=0, atol=0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(RECIPES[kind].trains(name))
            if name.endswith(".lora_b"):
                parameter.normal_()
    moved = merged(network, base).state_dict()
    decay_towards(network, base, 0.25)
    back = merged(network, base).state_dict()
    for name, start in base.state_dict().items():
        torch.testing.assert_close(back[name] - start, 0.75 * (moved[name] - start))
    decay_towards(network, base, 1.0)
    for name, value in merged(network, base).state_dict().items():
        torch.testing.assert_close(value, base.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["window", "sam2"])
def test_they_change_the_weights_by_low_rank_and_nothing_else(finished, kind):
    job, report = finished(kind)
    assert report.steps == RECIPES[kind].steps
    base = job._backend.network
    before, after = base.state_dict(), merged(job._run.trainer.averaged, base).state_dict()
    moved = set()
    for name, start in before.items():
        update = after[name].double() - start.double()
        if not update.any():
            continue
        moved.add(name)
        if name == "structures":  # tells labels apart; the base model has none
            continue
        assert update.ndim in (2, 4), name
        sizes = torch.linalg.svdvals(update.flatten(1))
        assert bool((sizes[RANK:] < 1e-3 * sizes[0]).all()), name
    assert len(moved) > 20
    every = {"window": ("down1.", "seed_encoder."), "sam2": ("image_encoder.", "memory_attention.")}
    for part in every[kind]:
        assert any(name.startswith(part) for name in moved)


@pytest.mark.parametrize("kind", ["window", "sam2"])
def test_the_file_is_that_of_an_ordinary_network_and_propagates(scans, finished, kind, tmp_path):
    job, report = finished(kind)
    after, before = kept(job)
    job._run.best_state = after  # also where so few steps made nothing better
    report = as_improved(report)
    path = job.save(tmp_path / "mine.safetensors", report)
    loaded = load_network(path)
    assert loaded.network.state_dict().keys() == before.keys()
    for name, value in after.items():
        torch.testing.assert_close(
            loaded.network.state_dict()[name], value, rtol=2e-3, atol=1e-5, check_dtype=False
        )
    assert job.metadata(report)["adapted"]["recipe"]["trained"] == "adapters"
    session = SegmentationSession(scans[0].volume, model=path, device="cpu")
    session.add_prompt(SlicePrompt.from_mask(1, 7, scans[0].mask(1, 7)))
    assert len(list(session.propagate())) > 2


def test_the_loss_of_one_clip_falls(scans, bases):
    recipe = RECIPES["sam2"]
    drawer = ClipSampler(split_data(scans, 0).training_objects, recipe, 64, torch.device("cpu"))
    clip = drawer.draw((0,))
    drawer.draw = lambda seed: clip
    network = copy.deepcopy(bases["sam2"].network)
    trainer = Sam2Trainer(
        network, recipe, drawer, steps=24, batch_size=1, distributed=DistributedContext()
    )
    losses = [trainer.advance()["loss"] for _ in range(24)]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])


def test_a_resumed_adaptation_gives_the_same_weights(scans, bases, finished, tmp_path):
    whole, unbroken = finished("window")
    checkpoint = tmp_path / "checkpoint.pt"
    first, seen = prepared(scans, bases, "window", checkpoint=checkpoint), []
    stopped = first.run(seen.append, lambda: any(p.step >= 3 for p in seen))
    assert stopped.steps == 3
    second = prepared(scans, bases, "window", checkpoint=checkpoint)
    assert second.run().curve == unbroken.curve
    expected, found = kept(whole)[0], kept(second)[0]
    for name, value in expected.items():
        torch.testing.assert_close(value, found[name], rtol=0, atol=0)


def test_a_large_network_resumes_exactly_and_alike_with_less_memory(scans, bases, monkeypatch):
    recipe, base = RECIPES["sam2"], bases["sam2"].network
    drawer = ClipSampler(split_data(scans, 0).training_objects, recipe, 64, torch.device("cpu"))

    def trainer(**options):
        given = {"steps": 20, "batch_size": 1, "distributed": DistributedContext(), **options}
        return Sam2Trainer(copy.deepcopy(base), recipe, drawer, **given)

    def trained(made, steps):
        for _ in range(steps):
            made.advance()
        return made

    whole = trained(trainer(), 3)
    first, second = trained(trainer(), 1), trainer()
    second.load_state(copy.deepcopy(first.state()))
    trained(second, 2)
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(value, second.network.state_dict()[name], rtol=0, atol=0)
    # Where memory is saved slices are encoded one by one.
    encode = rollout._encode
    monkeypatch.setattr(rollout, "_encode", lambda *a, together: encode(*a, together=False))
    plain, saving = (trained(trainer(save_memory=save), 3) for save in (False, True))
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(value, saving.network.state_dict()[name])
