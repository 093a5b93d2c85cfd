"""Fine-tuning of SAM 2.1 and SLM-SAM 2 with a tiny network of random weights on the CPU."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from tests.labelled_files import as_improved, write_pair
from tests.random_weights import TINY, randomise, without_dropout

from napari_slmsam2.core.errors import ConfigError, DeviceMemoryError, VolumeError
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.loading import load_network, make_segmenter
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.engine.sam2.tensors import SliceOutput
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.session.session import SegmentationSession
from napari_slmsam2.training.adapt import backends
from napari_slmsam2.training.adapt.adaptation import Adaptation
from napari_slmsam2.training.adapt.measurement import clips_at_once
from napari_slmsam2.training.data.labelled_scan import LabelledScan, read_pair
from napari_slmsam2.training.data.split import TrainingObject, split_data
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.recipes import PaperRecipe, get_recipe
from napari_slmsam2.training.sam2 import rollout
from napari_slmsam2.training.sam2.clips import ClipSampler, DrawnAhead
from napari_slmsam2.training.sam2.prompts import correction, draw_kind, first_clicks
from napari_slmsam2.training.sam2.rollout import Answer, answer_loss, clip_loss, roll_out
from napari_slmsam2.training.sam2.trainer import Sam2Trainer, groups_of

CPU = torch.device("cpu")
PAPER = get_recipe("paper")
assert isinstance(PAPER, PaperRecipe)
SHORT = PAPER.replace(
    minutes=30.0, steps=4, fewest_steps=1, evaluations=2, clip_slices=4, corrections=1,
    learning_rate=2e-3, encoder_rate=1e-3, checkpointing="off",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    network = SliceNetwork(TINY)
    randomise(network, 1)
    path = tmp_path_factory.mktemp("base") / "tiny.safetensors"
    facts = {"config": TINY.to_dict(), "licence": "CC0-1.0"}
    save_weights(path, network.state_dict(), facts)
    return load_network(path)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return [read_pair(*write_pair(folder, seed)) for seed in range(2)]


@pytest.fixture(scope="module")
def drawer(scans):
    return ClipSampler(split_data(scans, 0).training_objects, SHORT, 64, CPU)


class OneClip:
    """Always the same clip."""

    def __init__(self, clip):
        self.clip = clip

    def draw(self, seed):
        return self.clip


def trainer_of(base, drawer, recipe=SHORT, **options):
    network = SliceNetwork(TINY)
    network.load_state_dict(base.network.state_dict())
    given = {"steps": 20, "batch_size": 1, "distributed": DistributedContext(), **options}
    return Sam2Trainer(network, recipe, drawer, **given)


def test_the_loss_of_one_clip_falls(base, drawer):
    recipe = SHORT.replace(clip_norm=1.0, corrections=0)
    trainer = trainer_of(base, OneClip(drawer.draw((0,))), recipe, steps=40)
    losses = [trainer.advance()["loss"] for _ in range(40)]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


def test_resuming_and_saving_memory_do_not_change_the_result(base, drawer, monkeypatch):
    whole = trainer_of(base, drawer)
    for _ in range(3):
        whole.advance()
    first = trainer_of(base, drawer)
    first.advance()
    state = first.state()
    second = trainer_of(base, drawer)
    second.load_state(state)
    second.advance()
    second.advance()
    # Where memory is saved slices are encoded one by one; the gradients are compared below.
    encode = rollout._encode
    monkeypatch.setattr(rollout, "_encode", lambda *a, together: encode(*a, together=False))
    plain, saving = (trainer_of(base, drawer, save_memory=save) for save in (False, True))
    for _ in range(3):
        plain.advance()
        saving.advance()
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(value, saving.network.state_dict()[name])
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(value, second.network.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize("trained", ["all", "memory+heads", "heads"])
def test_only_what_is_chosen_changes(base, drawer, trained):
    trainer = trainer_of(base, drawer, SHORT.replace(trained=trained))
    before = {n: p.detach().clone() for n, p in trainer.network.named_parameters()}
    for _ in range(3):
        trainer.advance()
    changed = {n for n, p in trainer.network.named_parameters() if not torch.equal(p, before[n])}
    kinds = {name.split(".")[0] for name in changed}
    assert "sam_mask_decoder" in kinds
    assert ("image_encoder" in kinds) == (trained == "all")
    assert ("recent_memory_attention" in kinds) == (trained != "heads")
    assert all(trainer.recipe.trains(name) for name in changed)
    assert "sam_mask_decoder.conv_s0.weight" in changed  # computed with the image features


def test_every_parameter_has_its_learning_rate(base):
    groups = groups_of(base.network, PAPER)
    rate = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    of = {name: rate[id(p)] for name, p in base.network.named_parameters()}
    assert of["memory_attention.layers.0.linear1.weight"] == (5e-6, 0.1)
    assert of["memory_attention.layers.0.linear1.bias"] == (5e-6, 0.0)
    assert of["image_encoder.neck.convs.0.conv.weight"] == (3e-6, 0.1)
    last = of["image_encoder.trunk.blocks.4.attn.qkv.weight"][0]
    first = of["image_encoder.trunk.patch_embed.proj.weight"][0]
    assert last == pytest.approx(3e-6 * 0.9)
    assert first == pytest.approx(3e-6 * 0.9**6)


def test_from_scans_to_a_file_that_propagates(base, scans, tmp_path):
    job = Adaptation(scans, base, SHORT, device="cpu")
    estimate = job.prepare()
    assert estimate.steps == 4
    report = job.run()
    assert report.steps == 4
    assert len(report.curve) == 2
    report = as_improved(report)
    path = job.save(tmp_path / "mine.safetensors", report)
    loaded = load_network(path)
    assert loaded.network.config == TINY
    ready = make_segmenter(path, device="cpu")
    volume = scans[0].volume
    session = SegmentationSession(volume, model=path, device="cpu")
    session.use_model(ready)
    session.add_prompt(SlicePrompt.from_mask(1, 7, scans[0].mask(1, 7)))
    events = list(session.propagate())
    assert len(events) > 2
    np.testing.assert_array_equal(session.labels[..., 7] == 1, scans[0].mask(1, 7))


@pytest.mark.parametrize("checkpointing", ["off", "auto"])
def test_an_adaptation_resumes_from_a_checkpoint(base, scans, tmp_path, monkeypatch, checkpointing):
    """Also where its activations are recomputed because memory was short at the start."""
    if checkpointing == "auto":
        monkeypatch.setattr(backends, "free_memory", lambda device: 64**2 * 1900 * 3)
    recipe = SHORT.replace(checkpointing=checkpointing)
    unbroken = Adaptation(scans[:1], base, recipe, device="cpu")
    unbroken.prepare()
    whole = unbroken.run()
    checkpoint = tmp_path / "checkpoint.pt"
    first = Adaptation(scans[:1], base, recipe, device="cpu", checkpoint=checkpoint)
    first.prepare()
    seen = []
    first.run(seen.append, lambda: any(p.step >= 3 for p in seen))
    second = Adaptation(scans[:1], base, recipe, device="cpu", checkpoint=checkpoint)
    second.prepare()
    assert second.run().curve == whole.curve
    assert second._run.trainer.save_memory == (checkpointing == "auto")


def test_networks_and_recipes_must_fit(base, scans):
    with pytest.raises(ConfigError, match="cannot be adapted with the recipe quick"):
        Adaptation(scans, base, get_recipe("quick"), device="cpu")


def test_a_computer_with_too_little_memory_is_refused_before_it_is_tried(base, scans, monkeypatch):
    free = 64**2 * 1900 * 3
    monkeypatch.setattr(backends, "free_memory", lambda device: free)
    job = Adaptation(scans, base, SHORT.replace(checkpointing="auto"), device="cpu")
    job._backend._predict_memory()
    assert job._backend._save_memory
    free //= 3
    with pytest.raises(DeviceMemoryError, match="too little memory to train on 4 slices of 64"):
        job.prepare()


def test_clips_are_consecutive_slices_that_begin_with_a_label(drawer, scans):
    shapes = set()
    for seed in range(12):
        clip = drawer.draw((seed,))
        again = drawer.draw((seed,))
        torch.testing.assert_close(clip.images, again.images, rtol=0, atol=0)
        assert clip.images.shape == (len(clip.masks), 3, 64, 64)
        assert clip.masks[0].flatten(1).any(1).all()
        assert set(clip.masks.unique().tolist()) <= {0.0, 1.0}
        shapes.add(tuple(clip.masks.shape[:2]))
        inside = clip.images[:, 0][clip.masks[:, 0] > 0].mean()
        outside = clip.images[:, 0][clip.masks.amax(1) == 0].mean()
        assert inside > outside + 0.5
    assert {n for n, _ in shapes} == {4}
    assert {n for _, n in shapes} == {1, 2}


def test_labels_that_vanish_at_the_resolution_of_the_network_are_left_out():
    labels = np.zeros((6, 512, 512), np.uint8)
    labels[:, 100:300, 100:300] = 1
    labels[:, 400:402, 400:402] = 2  # a quarter of a pixel at 64
    image = np.random.default_rng(0).random(labels.shape, np.float32)
    scan = LabelledScan.of(Volume(image, axis=0), labels)
    objects = [TrainingObject(scan, label, 0, 5) for label in (1, 2)]
    for seed in range(12):
        clip = ClipSampler(objects, SHORT, 64, CPU).draw((seed,))
        assert clip.masks.shape[1] == 1
        assert clip.masks[0].flatten(1).any(1).all()
    with pytest.raises(VolumeError, match="no run of slices that starts with a label"):
        ClipSampler(objects[1:], SHORT, 64, CPU).draw((0,))


def test_held_out_slices_are_in_no_clip(scans):
    data_split = split_data(scans[:1], 0)
    drawer = ClipSampler(data_split.training_objects, SHORT, 64, CPU)
    held = {x.label: set(range(x.first, x.last + 1)) for x in data_split.training_objects}
    rng = np.random.default_rng(0)
    asked = []
    for training_object in data_split.training_objects:
        original = type(training_object.scan).mask

        def note(self, label, index, original=original):
            asked.append((label, index))
            return original(self, label, index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(training_object.scan), "mask", note)
            for _ in range(20):
                drawer._cut(training_object, rng)
    assert len(asked) > 100
    assert all(index in held[label] for label, index in asked)


def test_prompts_lie_where_they_should():
    generator = torch.Generator().manual_seed(0)
    kinds = [draw_kind(generator) for _ in range(400)]
    assert 0.4 < kinds.count("mask") / 400 < 0.6
    assert 0.15 < kinds.count("box") / 400 < 0.35
    truth = torch.zeros(2, 64, 64, dtype=torch.bool)
    truth[0, 10:20, 30:50] = True
    truth[1, 40:60, 5:15] = True
    point = first_clicks("point", truth, [generator] * 2)
    for label in range(2):
        x, y = point.coordinates[label, 0].int().tolist()
        assert truth[label, y, x]
    box = first_clicks("box", truth, [generator] * 2)
    assert box.labels.tolist() == [[2, 3], [2, 3]]
    assert (box.coordinates[0, 0] - torch.tensor([30.0, 10.0])).abs().max() < 8
    found = truth.clone()
    found[0, 10:20, 30:50] = False
    found[1, 0:5, 0:5] = True
    for _ in range(10):
        click = correction(truth, found, [generator] * 2)
        assert click.labels[0, 0] == 1
        x, y = click.coordinates[1, 0].int().tolist()
        assert bool(truth[1, y, x]) == bool(click.labels[1, 0])
    assert correction(truth, truth, [generator] * 2).labels.tolist() == [[1], [1]]


def test_an_absent_object_has_a_presence_loss_only():
    logits = torch.full((1, 3, 16, 16), 4.0)
    output = SliceOutput(logits[:, :1], torch.full((1, 1), 3.0), torch.zeros(1, 8), torch.ones(1))
    answer = Answer(logits, torch.ones(1, 3), output)
    weights = torch.ones(1)
    gone = answer_loss(answer, torch.zeros(1, 16, 16, dtype=torch.bool), weights)
    assert float(gone["mask"]) == float(gone["dice_loss"]) == float(gone["iou"]) == 0
    assert float(gone["presence"]) > 3
    there = answer_loss(answer, torch.ones(1, 16, 16, dtype=torch.bool), weights)
    assert float(there["presence"]) < 0.1
    flipped = dataclasses.replace(answer, logits=-logits)
    worse = answer_loss(flipped, torch.ones(1, 16, 16) > 0, weights)
    assert float(worse["mask"]) > 10 * float(there["mask"])
    assert float(worse["iou"]) == pytest.approx(1.0)


def test_the_sweep_is_that_of_inference(base, drawer):
    """Without dropout the logits of a sweep are those that the propagator's segmenter gives."""
    clip = drawer.draw((3,))
    segmenter = NetworkSegmenter(base.network, name="", device=CPU, memory_dtype=torch.float32)
    base.network.eval()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        if draw_kind(torch.Generator().manual_seed(seed)) == "mask":
            break
    with torch.no_grad():
        answers = list(roll_out(segmenter, [clip], [generator], corrections=1, save_memory=False))
    assert len(answers) == len(clip.images) - 1
    bank = MemoryBank(1)
    truth = clip.masks[0, 0].numpy() > 0.5
    with torch.inference_mode():
        first = base.network.encode_image(clip.images[:1])
    seed = segmenter.encode_seed(first, SlicePrompt.from_mask(1, 0, truth), truth.shape)
    bank.add(MemoryEntry(0, True, seed.content))
    for index in range(1, len(clip.images)):
        with torch.inference_mode():
            embedding = base.network.encode_image(clip.images[index : index + 1])
            [(_, memory)] = segmenter.read([bank], index, 1, len(clip.images), embedding)
            output = base.network.track(embedding, *memory)
            [content] = segmenter.remember(embedding, output, prompted=False)
        bank.add(MemoryEntry(index, False, content))
        found = answers[index - 1].answer.output.low_res_logits[:1]
        torch.testing.assert_close(found, output.low_res_logits, rtol=1e-3, atol=1e-3)


def test_a_loss_that_is_no_number_leaves_the_weights(base, drawer):
    clip = drawer.draw((0,))
    broken = dataclasses.replace(clip, images=clip.images * float("nan"))
    trainer = trainer_of(base, OneClip(broken))
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    with pytest.raises(FloatingPointError):
        trainer.advance()
    for name, value in trainer.network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_the_next_clip_is_drawn_while_a_step_is_computed(base, drawer):
    drawn = []

    class Watched:
        def draw(self, seed):
            drawn.append((seed, threading.current_thread() is threading.main_thread()))
            return drawer.draw(seed)

    ahead, plain = trainer_of(base, Watched(), steps=3), trainer_of(base, drawer, steps=3)
    plain._drawn.begin = lambda seeds: None
    for _ in range(3):
        assert ahead.advance() == plain.advance()
    assert [seed[1] for seed, _ in drawn] == [0, 1, 2]  # each once, none after the last step
    assert [is_main for _, is_main in drawn] == [True, False, False]


def test_an_error_of_a_clip_that_was_drawn_ahead_is_raised_when_it_is_taken():
    def draw(seed):
        raise VolumeError("labels", "have no run of slices")

    ahead = DrawnAhead(draw)
    ahead.begin([(0, 1)])
    with pytest.raises(VolumeError, match="no run of slices"):
        ahead.take((0, 1))


def test_clip_loss_adds_up(base, drawer):
    trainer = trainer_of(base, drawer)
    trainer.network.train()
    answers = roll_out(
        trainer._segmenter, [drawer.draw((1,))], [torch.Generator().manual_seed(1)],
        corrections=1, save_memory=False,
    )  # fmt: skip
    loss, parts = clip_loss(answers)
    assert float(loss.detach()) == pytest.approx(sum(map(float, parts.values())), rel=1e-4)
    assert set(parts) == {"mask", "dice_loss", "iou", "presence"}


def test_a_batch_of_clips_has_the_loss_and_the_gradients_of_single_clips(base, drawer):
    """Clips with other numbers of labels, and all kinds of prompts; also when memory is saved."""
    clips, seeds, kinds = [], [], set()
    for seed in range(60):
        kind = draw_kind(torch.Generator().manual_seed(seed))
        clip = drawer.draw((seed,))
        if len(clip.masks) == SHORT.clip_slices and (kind not in kinds or len(clips) < 4):
            clips.append(clip)
            seeds.append(seed)
            kinds.add(kind)
        if len(kinds) == 3 and len(clips) >= 4:
            break
    assert kinds == {"mask", "box", "point"}
    clips[0] = dataclasses.replace(clips[0], masks=clips[0].masks[:, :1])
    assert [clip.masks.shape[1] for clip in clips[:2]] == [1, 2]
    trainer = trainer_of(base, drawer)
    network = trainer.network.train()
    without_dropout(network)

    def learned(groups, *, save_memory=False):
        network.zero_grad(set_to_none=True)
        totals = {}
        for group in groups:
            generators = [torch.Generator().manual_seed(seeds[k]) for k in group]
            answers = roll_out(
                trainer._segmenter, [clips[k] for k in group], generators,
                corrections=2, save_memory=save_memory,
            )  # fmt: skip
            loss, parts = clip_loss(answers)
            (loss / len(clips)).backward()
            for name, value in {**parts, "loss": loss.detach()}.items():
                totals[name] = totals.get(name, 0.0) + float(value) / len(clips)
        grads = {k: p.grad.clone() for k, p in network.named_parameters() if p.grad is not None}
        return totals, grads

    alone, alone_grads = learned([[k] for k in range(len(clips))])
    norm = torch.stack([g.norm() for g in alone_grads.values()]).norm()
    for save_memory in (False, True):
        batch, batch_grads = learned([range(len(clips))], save_memory=save_memory)
        assert batch == pytest.approx(alone, rel=1e-4)
        assert batch_grads.keys() == alone_grads.keys()
        for name, gradient in alone_grads.items():
            difference = (batch_grads[name] - gradient).norm()
            assert difference < 1e-3 * gradient.norm() + 1e-5 * norm, name


def test_clips_of_other_lengths_are_computed_apart_and_drawn_ahead_together(base, drawer):
    drawn, rolled = [], []

    class Cut:
        def draw(self, seed):
            drawn.append((seed[1:], threading.current_thread() is threading.main_thread()))
            clip = drawer.draw(seed)
            if seed[2] == 1:
                return dataclasses.replace(clip, masks=clip.masks[:2], groups=clip.groups[:2])
            return clip

    trainer = trainer_of(base, Cut(), steps=2, batch_size=5, at_once=3)
    learn = trainer._learn
    trainer._learn = lambda clips: rolled.append([s[2] for s, _ in clips]) or learn(clips)
    for _ in range(2):
        assert np.isfinite(trainer.advance()["loss"])
    assert rolled == [[0, 2], [1], [3, 4]] * 2
    assert sorted(seed for seed, _ in drawn) == [(step, n) for step in (0, 1) for n in range(5)]
    assert [is_main for _, is_main in drawn] == [True] * 3 + [False] * 7
    resumed = trainer_of(base, drawer, batch_size=5)
    resumed.load_state(trainer.state())
    assert resumed.at_once == 3


@pytest.mark.parametrize(
    ("free", "per_clip", "batch", "clips"),
    [(100, 10, 16, 8), (100, 10, 4, 4), (5, 10, 4, 1), (0, 10, 4, 1)],
)
def test_clips_at_once_follow_from_the_free_memory(free, per_clip, batch, clips):
    assert clips_at_once(free, per_clip, batch) == clips


class SecondOfTwo(DistributedContext):
    """The second of two processes; the first has room for one clip, with activations recomputed."""

    def total(self, value):
        pytest.fail("a trial step waits for the other process")

    def all_reduce_gradients(self, parameters):
        pytest.fail("a trial step waits for the other process")

    def smallest(self, value):
        return min(value, 1)

    def any(self, flag):
        return True


def test_trial_steps_of_several_processes_exchange_nothing(base, scans, monkeypatch):
    """Else one that runs out of memory, and tries again, would leave the others waiting."""
    tried, profile = [], backends.profile_steps
    monkeypatch.setattr(
        backends, "profile_steps", lambda *a, **k: tried.append(a[1]) or profile(*a, **k)
    )
    recipe = SHORT.replace(batch_size=3)
    job = Adaptation(scans, base, recipe, distributed=SecondOfTwo(1, 2))
    job._backend.profile_steps()
    assert tried == [2]  # of three clips the first process computes two
    trainer = job._backend.trainer(3)
    assert (trainer.at_once, trainer.save_memory) == (1, True)
    assert trainer._chunks()[0][0] == [(recipe.seed, 0, 1)]


def test_a_process_that_ends_waits_for_the_clips_that_are_drawn(tmp_path):
    """A thread that is stopped inside PyTorch can abort the process."""
    script = """
import sys, time, pathlib
from napari_slmsam2.training.sam2.clips import DrawnAhead

def draw(seed):
    time.sleep(1)
    pathlib.Path(sys.argv[1]).touch()

DrawnAhead(draw).begin([(0,)])
"""
    drawn = tmp_path / "drawn"
    subprocess.run([sys.executable, "-c", script, str(drawn)], check=True, timeout=120)
    assert drawn.exists()
