"""Training of slice adapters in a tiny SLM-SAM 2 network of random weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.labelled_files import as_improved, make_image, make_labels, run_once, write_pair
from tests.random_weights import tiny_file

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.loading import load_network
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.propagation.slice_encoding import encode_slice
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.engine.weights.registry import get_model
from napari_slmsam2.session.session import SegmentationSession
from napari_slmsam2.training.adapt.adaptation import Adaptation
from napari_slmsam2.training.data.labelled_scan import LabelledScan, read_pair
from napari_slmsam2.training.data.split import TrainingObject, split_data
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.recipes import HEADS, SLICE_ADAPTERS, PaperRecipe, get_recipe
from napari_slmsam2.training.sam2 import clips, rollout
from napari_slmsam2.training.sam2.clips import ClipSampler
from napari_slmsam2.training.sam2.rollout import _encode, _once
from napari_slmsam2.training.sam2.slice_adapter import with_slice_adapter
from napari_slmsam2.training.sam2.trainer import Sam2Trainer, groups_of

CPU = torch.device("cpu")
PAPER = get_recipe("paper")
assert isinstance(PAPER, PaperRecipe)
SHORT = PAPER.replace(
    minutes=30.0, steps=2, fewest_steps=1, evaluations=2, clip_slices=3, corrections=0,
    learning_rate=2e-3, adapter_rate=1e-2, checkpointing="off",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_network(tiny_file(tmp_path_factory.mktemp("base") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return read_pair(*write_pair(tmp_path_factory.mktemp("pair"), 0))


def trained_weights(job: Adaptation) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in job._run.trainer.network.state_dict().items()}


def prepared(scan, base, form, **options) -> Adaptation:
    job = Adaptation([scan], base, SHORT.replace(trained=form), device="cpu", **options)
    job.prepare()
    return job


@pytest.fixture(scope="module")
def finished(scan, base):
    return run_once(lambda form: prepared(scan, base, form))


@pytest.mark.parametrize("form", SLICE_ADAPTERS)
def test_from_a_scan_to_a_model_of_the_registry_that_propagates(
    scan, base, finished, tmp_path, form
):
    job, report = finished(form)
    job._run.best_state = trained_weights(job)  # also if so few steps made nothing better
    path = job.save(tmp_path / "mine.safetensors", as_improved(report))
    assert get_model("mine", tmp_path).path == path
    loaded = load_network("mine", folder=tmp_path)
    assert loaded.network.config == base.network.config.replace(adapter=form)
    for name, value in trained_weights(job).items():
        assert torch.equal(loaded.network.state_dict()[name], value), name
    session = SegmentationSession(scan.volume, model=path, device="cpu")
    session.add_prompt(SlicePrompt.from_mask(1, 7, scan.mask(1, 7)))
    assert len(list(session.propagate())) > 2
    assert job.metadata(report)["adapted"]["recipe"]["trained"] == form


@pytest.mark.parametrize("form", SLICE_ADAPTERS)
def test_adapters_and_heads_change_and_nothing_else(base, finished, form):
    job, _ = finished(form)
    before, after = base.network.state_dict(), trained_weights(job)
    changed = {n for n, v in after.items() if n not in before or not torch.equal(v, before[n])}
    assert all(".adapter." in n or n.startswith(HEADS["sam2"]) for n in changed)
    last = "linear_up.weight" if form.startswith("temporal") else "up.weight"
    ends = [n for n in after if n.endswith(f".adapter.{last}")]
    assert len(ends) == sum(base.network.config.stages)
    assert all(after[name].any() for name in ends)
    assert any(name.startswith("sam_mask_decoder.") for name in changed)


@pytest.mark.parametrize("form", ["temporal", "dilated"])
def test_a_resumed_adaptation_gives_the_same_weights(scan, base, finished, tmp_path, form):
    whole, unbroken = finished(form)
    checkpoint = tmp_path / "checkpoint.pt"
    seen = []
    first = prepared(scan, base, form, checkpoint=checkpoint)
    stopped = first.run(seen.append, lambda: any(p.step >= 1 for p in seen))
    assert stopped.steps == 1
    second = prepared(scan, base, form, checkpoint=checkpoint)
    assert second.run().curve == unbroken.curve
    expected, found = trained_weights(whole), trained_weights(second)
    for name, value in expected.items():
        torch.testing.assert_close(value, found[name], rtol=0, atol=0)


def long_scan(distance: float) -> LabelledScan:
    """Twelve different slices, all with the label, that far apart."""
    labels = np.zeros((12, 40, 36), np.uint8)
    labels[:] = make_labels(0)[..., 7] == 1
    image = make_image(labels, 0).astype(np.float32)
    image += 8 * np.arange(12, dtype=np.float32)[:, None, None]
    volume = Volume(image, axis=0, spacing=(distance, 1.0, 1.0))
    return LabelledScan.of(volume, labels)


@pytest.mark.parametrize("distance", [1.0, 20.0])
@pytest.mark.parametrize("form", ["temporal", "dilated"])
def test_training_encodes_a_slice_exactly_as_a_run_does(base, monkeypatch, form, distance):
    """Order and edges of the volume, thick slices, and slices beside the training object."""
    for name in ("BRIGHTNESS", "CONTRAST", "SLICE_BRIGHTNESS", "SLICE_CONTRAST"):
        monkeypatch.setattr(clips, name, 0.0)
    monkeypatch.setattr(clips, "_turned", lambda stack, place, mode: stack)
    network = with_slice_adapter(base.network, form, 0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".adapter." in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    segmenter = NetworkSegmenter(network, name="run", device=CPU)
    scan = long_scan(distance)
    cache = EmbeddingCache(2**30)
    run = [
        encode_slice(segmenter, scan.volume, scan.window, i, cache).feature
        for i in range(scan.volume.n_slices)
    ]
    sampler = ClipSampler(
        [TrainingObject(scan, 1, 0, 8)], SHORT, 64, CPU, network.config.encoded_slices // 2
    )
    visited, directions = set(), set()
    for seed in range(30):
        clip = sampler.draw((seed,))
        with torch.no_grad():
            owner = torch.zeros(clip.masks.shape[1], dtype=torch.int64)
            encoded = _encode(network, [clip], owner, _once, together=seed % 2 == 0)
            found = [embedding.feature for embedding in encoded]
        distances = [[float((f - r).abs().max()) for r in run] for f in found]
        slices = [int(np.argmin(row)) for row in distances]
        assert max(min(row) for row in distances) < 1e-4
        assert all(sorted(row)[1] > 1e-2 for row in distances)
        steps = set(np.diff(slices).tolist())
        assert len(steps) == 1
        directions |= steps
        visited |= set(slices)
    assert directions == {-1, 1}
    assert visited == set(range(9))


def test_masks_beside_the_training_object_are_not_read():
    scan = long_scan(1.0)
    labels = scan.labels.copy()
    labels[9:] = 7
    changed = replace(scan, labels=labels)
    one, other = (
        ClipSampler([TrainingObject(s, 1, 0, 8)], SHORT, 64, CPU, 1) for s in (scan, changed)
    )
    for seed in range(12):
        found, expected = one.draw((seed,)), other.draw((seed,))
        assert torch.equal(found.masks, expected.masks)
        assert torch.equal(found.images, expected.images)


@pytest.mark.parametrize("form", SLICE_ADAPTERS)
@torch.no_grad()
def test_a_new_adapter_leaves_the_output_and_is_the_same_every_time(base, form):
    one, other = (with_slice_adapter(base.network, form, 4) for _ in range(2))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images = images.expand(one.config.encoded_slices, -1, -1, -1)
    found = one.encode_image(images).feature
    torch.testing.assert_close(found, base.network.encode_image(images[:1]).feature)


def test_an_adapter_continues_and_another_form_is_refused(scan, base):
    network = with_slice_adapter(base.network, "temporal", 0)
    assert with_slice_adapter(network, "temporal", 1) is network
    grown = replace(base, network=network)
    with pytest.raises(ConfigError, match=r"another form; expected none or dilated"):
        Adaptation([scan], grown, SHORT.replace(trained="dilated"), device="cpu")


@pytest.mark.parametrize("form", SLICE_ADAPTERS)
def test_a_compact_network_has_no_slice_adapters(form):
    with pytest.raises(ConfigError, match="does not apply to a compact network"):
        get_recipe("quick").replace(trained=form)


def test_new_adapters_have_a_learning_rate_of_their_own(base):
    network = with_slice_adapter(base.network, "temporal", 0)
    name = "image_encoder.trunk.blocks.0.adapter.conv.weight"
    for trained, expected in (("temporal", 1e-4), ("all", 3e-6 * 0.9**5)):
        recipe = PAPER.replace(trained=trained)
        rates = {id(p): g["lr"] for g in groups_of(network, recipe) for p in g["params"]}
        assert rates[id(dict(network.named_parameters())[name])] == pytest.approx(expected)


def test_less_memory_gives_the_same_weights(scan, base, monkeypatch):
    # Where memory is saved slices are encoded one by one, which rounds differently.
    encode = rollout._encode
    monkeypatch.setattr(rollout, "_encode", lambda *a, together: encode(*a, together=False))
    network = with_slice_adapter(base.network, "temporal", 0)
    recipe = SHORT.replace(trained="temporal")
    sampler = ClipSampler(split_data([scan], 0).training_objects, recipe, 64, CPU, 1)
    states = []
    for save_memory in (False, True):
        trainer = Sam2Trainer(
            copy.deepcopy(network), recipe, sampler, steps=2, batch_size=1,
            distributed=DistributedContext(), save_memory=save_memory,
        )  # fmt: skip
        trainer.advance()
        trainer.advance()
        states.append(trainer.network.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name])


def test_every_form_is_one_of_the_configuration():
    choices = next(f for f in ModelConfig.fields() if f.name == "adapter").metadata["choices"]
    assert ("none", *SLICE_ADAPTERS) == choices
