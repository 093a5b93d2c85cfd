"""The trainer: it learns, stops and goes on exactly, and its clips come from real files."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.errors import CheckpointError, InputError
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.compact.features import LOGITS_PER_PIXEL, position_features
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.seed_crop import SeedCrop
from napari_slmsam2.engine.compact.segmenter import CompactSegmenter
from napari_slmsam2.engine.compact.sweep import SweepSeed, SweepState
from napari_slmsam2.engine.features.interpolation import interpolated_logits
from napari_slmsam2.engine.features.optical_flow import optical_flow, warp
from napari_slmsam2.engine.features.taper import find_taper
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.session.session import SegmentationSession
from napari_slmsam2.training.compact import trainer as trainer_module
from napari_slmsam2.training.compact.config import LossWeights, TrainingConfig
from napari_slmsam2.training.compact.rollout import roll_out, step_loss
from napari_slmsam2.training.compact.trainer import Trainer, train
from napari_slmsam2.training.compact.validation import validate
from napari_slmsam2.training.data.batch import RIM, Batch, ClipStore, make_batch, sampling_weights
from napari_slmsam2.training.data.shards import read_shards, write_shards
from napari_slmsam2.training.data.volumes import (
    Sampling,
    draw_stack,
    find_volumes,
    is_held_out,
    read_sampling,
)

CONFIG = CompactConfig(window_size=48, widths=(8, 8, 16, 16), memory_dim=16)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_shards(folder, None, CONFIG, split="train", numbers=[0], shard_clips=32)
    return read_shards(folder, "train")


def plan(**changes):
    return TrainingConfig(**{"steps": 30, "batch_size": 8, "warm_up": 2, **changes})


def test_the_same_shard_is_made_twice_alike(clips, tmp_path):
    """And a shorter one is the beginning of a longer one."""
    write_shards(tmp_path, None, CONFIG, split="train", numbers=[0], shard_clips=6)
    again = read_shards(tmp_path, "train")
    for name, values in clips.items():
        np.testing.assert_array_equal(values[:6], again[name])
    before = (tmp_path / "train-synthetic-0000.npz").stat().st_mtime_ns
    write_shards(tmp_path, None, CONFIG, split="train", numbers=[0], shard_clips=6)
    assert (tmp_path / "train-synthetic-0000.npz").stat().st_mtime_ns == before


def test_a_batch_without_augmentation_is_the_middle_of_the_clip(clips):
    batch = make_batch(ClipStore.from_arrays(clips, CPU), np.arange(4), CONFIG, generator=None)
    middle = slice(12 - RIM, 60 + RIM)
    np.testing.assert_allclose(
        batch.distances, clips["distances"][:4, :, middle, middle] / 8, atol=1e-4
    )
    np.testing.assert_allclose(
        batch.state.propagated, clips["start"][:4, 12:60, 12:60] / 15, atol=1e-4
    )
    np.testing.assert_allclose(
        batch.seed_images[0], clips["seed_images"][0, :, 12:60, 12:60] / 85 - 1, atol=1e-4
    )
    assert batch.state.crops.side.tolist() == [48] * 4


def test_the_flow_warps_rotated_masks_as_well(clips):
    """The images of a rotated and scaled clip match its masks as well as before."""

    def fit(generator):
        batch = make_batch(
            ClipStore.from_arrays(clips, CPU), np.arange(32), CONFIG, generator=generator
        )
        flow = optical_flow(batch.images[:, 1], batch.images[:, 0])
        moved = warp(batch.distances[:, :1], flow)[:, 0] > 0
        truth = batch.distances[:, 1] > 0
        sizes = moved.sum((1, 2)) + truth.sum((1, 2))
        overlap = 2 * (moved & truth).sum((1, 2)) / sizes.clamp(min=1)
        return float(overlap[batch.present[:, 0]].mean())

    assert fit(torch.Generator().manual_seed(3)) == pytest.approx(fit(None), abs=0.05)


def test_an_untrained_network_is_the_flow(clips):
    torch.manual_seed(0)
    network = CompactNetwork(CONFIG).eval()
    batch = make_batch(ClipStore.from_arrays(clips, CPU), np.arange(8), CONFIG, generator=None)
    batch = batch._replace(seed=batch.seed._replace(ridge_strength=torch.zeros(8)))
    with torch.no_grad():
        first = next(roll_out(network, batch))
    before, here = batch.images[:, :2, RIM:-RIM, RIM:-RIM].unbind(1)
    moved = warp(batch.state.propagated[:, None], optical_flow(here, before))[:, 0]
    near = moved.abs() < 6
    error = (first.output.logits - moved)[near].abs()
    assert error.mean() < 1e-3


def confident(growth=1.5):
    """A network that calls everything present and larger by a constant logit."""
    torch.manual_seed(0)
    network = CompactNetwork(CONFIG.replace(feedback=0.5)).eval()
    torch.nn.init.zeros_(network.heads[2].weight)
    network.heads[2].bias.data = torch.tensor([3.0, 0.0])
    last = [m for m in network.out.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    torch.nn.init.zeros_(last.weight)
    last.bias.data.fill_(growth)
    return network


def test_corrections_are_propagated_by_the_share_of_the_feedback(clips):
    network = confident()
    batch = make_batch(
        ClipStore.from_arrays(clips, CPU), np.arange(8), network.config, generator=None
    )
    needed = torch.tensor([0.5, 0.0] * 4)

    def rolled(feedback, steps=None):
        seed = batch.seed._replace(feedback=feedback, ridge_strength=torch.zeros(8))
        return list(roll_out(network, batch._replace(seed=seed), steps, threshold=0.0))

    with torch.no_grad():
        steps, third, alone = rolled(needed), rolled(needed, [2]), rolled(torch.zeros(8))
    assert len(third) == 1
    torch.testing.assert_close(third[0].output.logits, steps[2].output.logits)
    torch.testing.assert_close(steps[0].output.logits, alone[0].output.logits)
    torch.testing.assert_close(steps[2].output.logits[1::2], alone[2].output.logits[1::2])
    areas = [(x[2].output.logits > 0).sum((1, 2))[::2].float().mean() for x in (steps, alone)]
    assert areas[0] > 1.05 * areas[1]


def test_a_roll_out_gives_the_masks_of_a_propagation():
    """Both call the same step: the roll-out gets whole slices in place of a clip."""
    image, mask = moving_ball()
    network = confident(growth=0.3)
    torch.nn.init.normal_(network.out[1].weight, std=0.05)
    segmenter = CompactSegmenter(network, name="compact", device=CPU, dtype=torch.float32)
    session = SegmentationSession(
        Volume(image, axis=0, spacing=(2.0, 1.0, 1.0)), window=IntensityWindow(0.0, 1.0)
    )
    session.use_model(ReadyModel(segmenter, "compact", None))
    session.add_prompt(SlicePrompt.from_mask(3, 6, mask[6]))
    session.set_extent(3, 4, 16)
    list(session.propagate())

    steps, area = range(7, 17), {6: int(mask[6].sum())}
    crop = SeedCrop.measure(image[6], mask[6], network.config)
    known = {3: np.zeros_like(mask[6]), 6: mask[6], 17: np.zeros_like(mask[6])}
    taper = find_taper(area, 7, 1, (4, 16), (2.0, 1.0, 1.0))
    priors = [torch.from_numpy(interpolated_logits(known, i)) / 4 * LOGITS_PER_PIXEL for i in steps]
    positions = [position_features(area, i, 1, (4, 16), (2.0, 1.0, 1.0)) for i in steps]
    n = network.config.seed_slices - 1
    batch = Batch(
        images=torch.from_numpy(image[6:18])[None],
        distances=torch.zeros(1, len(steps) + 1, 80, 80),
        priors=torch.stack(priors)[None],
        positions=torch.from_numpy(np.stack(positions))[None],
        travel=torch.tensor([[taper.travel(i) for i in steps]]),
        seed_images=pad(crop.contrast.apply(crop.pixels[:, None]), (0, 0, 0, 0, 0, n)),
        seed_logits=pad(crop.logits[:, None], (0, 0, 0, 0, 0, n)),
        seeds_known=torch.tensor([[True] + n * [False]]),
        seed=SweepSeed.measured(crop, area[6], 3, network.config),
        state=SweepState.start(crop.crop, crop.logits),
        present=torch.ones(1, len(steps), dtype=torch.bool),
        weights=torch.ones(1, len(steps)),
    )
    with torch.no_grad():
        results = list(roll_out(network, batch))
    for index, result in zip(steps, results, strict=True):
        shown = np.zeros(mask[0].shape, bool)
        if result.step.present:
            ((box, block),) = result.step.crops.paste(result.step.logits, shown.shape)
            shown[box] = block > 0
        np.testing.assert_array_equal(shown, session.labels[index] == 3)


def moving_ball():
    """A ball that drifts through 20 slices of 80 x 80."""
    z, y, x = np.indices((20, 80, 80))
    radius = 14 * np.sqrt(np.clip(1 - ((z - 10) / 8) ** 2, 0, None))
    mask = (y - 30 - z) ** 2 + (x - 40) ** 2 < radius**2
    noise = 0.02 * np.random.default_rng(0).standard_normal(mask.shape)
    return (0.3 + 0.4 * mask + noise).astype(np.float32), mask


def test_the_loss_falls(clips):
    trainer = Trainer(CONFIG, plan(steps=60, learning_rate=3e-3), clips, CPU)
    before = validate(trainer.network, clips, CPU)
    losses = [float(trainer.advance()["loss"]) for _ in range(60)]
    after = validate(trainer.network, clips, CPU)
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    balanced = [s["recall_absent"] + s["recall_present"] for s in (before, after)]
    assert balanced[1] > balanced[0] + 0.1


def test_slices_beyond_the_clip_have_no_loss(clips):
    whole = clips["present"].all(1)
    assert whole.any()
    scores = validate(CompactNetwork(CONFIG), {k: v[whole] for k, v in clips.items()}, CPU)
    assert np.isnan(scores["recall_absent"])
    assert np.isfinite(scores["dice"])


def test_a_resumed_training_gives_the_same_weights(clips, tmp_path):
    whole = Trainer(CONFIG, plan(), clips, CPU)
    for _ in range(6):
        whole.advance()
    first = Trainer(CONFIG, plan(), clips, CPU)
    for _ in range(3):
        first.advance()
    first.save(tmp_path / "checkpoint.pt")
    second = Trainer(CONFIG, plan(), clips, CPU)
    second.restore(tmp_path / "checkpoint.pt")
    assert second.step == 3
    for _ in range(3):
        second.advance()
    for kind in ("network", "averaged"):
        for a, b in zip(
            getattr(whole, kind).parameters(), getattr(second, kind).parameters(), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    other = Trainer(CONFIG.replace(fusion="sum"), plan(), clips, CPU)
    with pytest.raises(CheckpointError, match="another network"):
        other.restore(tmp_path / "checkpoint.pt")


def test_a_run_leaves_a_log_and_a_checkpoint_and_can_be_called_again(clips, tmp_path):
    lines = []
    for steps in (2, 4):
        trainer = Trainer(CONFIG, plan(steps=steps, batch_size=2), clips, CPU)
        train(trainer, tmp_path, clips, validate_every=2, report=lines.append)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4]
    assert {"loss", "dice", "recall_absent", "recall_present", "overrun"} <= log[0].keys()
    assert [json.loads(line) for line in lines] == log


def test_a_loss_that_is_not_finite_ends_the_run_before_the_checkpoint(clips, tmp_path):
    trainer = Trainer(CONFIG, plan(steps=4, batch_size=2), clips, CPU)
    trainer.network.out[1].bias.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 2"):
        train(trainer, tmp_path, clips, validate_every=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_steps_are_equal_whatever_the_number_of_threads(clips, threads, precision):
    """Parts of a batch are computed side by side, and their gradients are summed in order."""
    found = []
    for n in (1, 2):
        threads(n)
        trainer = Trainer(CONFIG, plan(precision=precision), clips, CPU)
        losses = [float(trainer.advance()["loss"]) for _ in range(3)]
        found.append((losses, [p.detach() for p in trainer.network.parameters()]))
    assert found[0][0] == found[1][0]
    for one, two in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_no_operation_of_a_step_is_shared_by_threads(clips, cores):
    """On cores that other programs use, they wait for each other."""
    trainer = Trainer(CONFIG, plan(), clips, CPU)
    used = cores(trainer_module, "make_batch", "step_loss")
    clipping = cores(trainer_module.nn.utils, "clip_grad_norm_")
    trainer.advance()
    assert used + clipping == [1] * 6


def test_a_batch_in_parts_gives_the_loss_and_the_gradient_of_the_whole(clips, monkeypatch):
    found = []
    for compute in (
        trainer_module.compute_in_parts,
        lambda compute, items, _, **__: compute(items),
    ):
        monkeypatch.setattr(trainer_module, "compute_in_parts", compute)
        trainer = Trainer(CONFIG, plan(precision="float32", clip_norm=1e9), clips, CPU)
        losses = trainer.advance()
        found.append((losses, [p.grad for p in trainer.network.parameters()]))
    for name, loss in found[0][0].items():
        torch.testing.assert_close(loss, found[1][0][name])
    assert any(gradient is not None for gradient in found[0][1])
    for parts, whole in zip(found[0][1], found[1][1], strict=True):
        assert (parts is None) == (whole is None)
        if parts is not None:
            torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5)


def test_no_part_of_a_loss_is_read_by_the_host_in_a_step(clips):
    """What a step returns is on the device, and so are the clips that it draws from."""
    trainer = Trainer(CONFIG, plan(), clips, CPU)
    parts = trainer.advance()
    assert {"loss", "mask", "presence"} <= parts.keys()
    assert all(isinstance(v, torch.Tensor) and not v.requires_grad for v in parts.values())
    store = ClipStore.from_arrays(clips, CPU)
    assert store.fields["images"].data_ptr() == clips["images"].ctypes.data
    assert "set_names" not in store.fields


def test_empty_slices_count_in_the_loss_as_asked(clips):
    torch.manual_seed(0)
    network = CompactNetwork(CONFIG)
    gone = np.flatnonzero(~clips["present"][:, 0] & (clips["weights"][:, 0] > 0))[:4]
    batch = make_batch(ClipStore.from_arrays(clips, CPU), gone, CONFIG, generator=None)
    result = next(roll_out(network, batch))
    _, parts = step_loss(result, LossWeights())
    assert parts["empty"] > 0
    assert parts["mask"] == parts["dice_loss"] == 0
    assert step_loss(result, LossWeights(empty=0.0))[1]["empty"] == 0


@pytest.mark.parametrize(
    "changes",
    [{"memory": "long"}, {"memory": "short"}, {"fusion": "sum"}],
)
def test_every_variant_trains(clips, changes):
    trainer = Trainer(CONFIG.replace(**changes), plan(), clips, CPU)
    assert torch.isfinite(trainer.advance()["loss"])


def test_sets_are_drawn_in_proportion_to_their_weights():
    names = np.array(["synthetic"] * 90 + ["mr_ball"] * 10)
    assert sampling_weights(names, {})[:90].sum() == pytest.approx(1 / 2)
    weights = {"synthetic": 6.0, "mr_ball": 3.0}
    assert sampling_weights(names, weights)[:90].sum() == pytest.approx(2 / 3)


def test_a_file_beside_the_volumes_gives_weights_and_limits_labels(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("mr_ball_001", "ct_ball_001"):
        make_volume(tmp_path, name, rng)
        path = tmp_path / name / "meta.json"
        about = {str(label): {"mean_parts_per_slice": parts} for label, parts in LABELS.items()}
        meta = json.loads(path.read_text()) | {"labels": about}
        path.write_text(json.dumps(meta | {"suggested_eval_labels": list(LABELS)}))
    assert read_sampling(None) == read_sampling(tmp_path) == Sampling()
    limits = {"mr_ball": {"largest": 3, "most_parts_per_slice": 1.6}}
    file = tmp_path / "sampling.json"
    file.write_text(json.dumps({"weights": {"mr_ball": 3}, "labels": limits}))
    assert read_sampling(tmp_path).weights == {"mr_ball": 3.0}
    labels = {v.set_name: v.labels for v in find_volumes(tmp_path)}
    assert labels == {"ct_ball": (1, 2, 500), "mr_ball": (1,)}
    drawn = [draw_stack(sets(tmp_path), {"mr_ball": 0.0}, rng)[0] for _ in range(8)]
    assert set(drawn) == {"ct_ball"}


def sets(folder):
    return {v.set_name: [replace(v, labels=(1,))] for v in find_volumes(folder)}


LABELS = {1: 1.0, 2: 2.5, 500: 1.0}
"""Mean number of parts per slice of every label."""


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"weights": 3}', '{"weights": {"a": "b"}}', '{"weights": {"a": -1}}',
     '{"weights": {}, "labels": {"a": {"unknown": 1}}}'],
)  # fmt: skip
def test_a_broken_file_of_sampling_weights_is_refused(tmp_path, text):
    (tmp_path / "sampling.json").write_text(text)
    with pytest.raises(InputError, match=r"sampling\.json"):
        read_sampling(tmp_path)


def make_volume(folder, name, rng):
    folder = folder / name
    folder.mkdir()
    z, y, x = np.indices((30, 34, 16))
    labels = ((z - 15) ** 2 / 60 + (y - 15) ** 2 / 50 + (x - 8) ** 2 / 36 < 1).astype(np.uint8)
    image = 100 + 80 * labels + 10 * rng.standard_normal(labels.shape)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine), folder / "image.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    meta = {"name": name, "slice_axis": 2, "suggested_eval_labels": [1]}
    (folder / "meta.json").write_text(json.dumps(meta))


def test_clips_are_cut_from_files(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"mr_ball_{i:03d}" for i in range(30)]
    kept = [n for n in names if is_held_out("ball" + n[-3:])]
    used = [n for n in names if n not in kept]
    assert kept
    for name in (*kept[:1], *used[:2]):
        make_volume(tmp_path, name, rng)
    assert [v.folder.name for v in find_volumes(tmp_path)] == sorted((*kept[:1], *used[:2]))
    out = tmp_path / "clips"
    for split in ("train", "held-out"):
        write_shards(out, tmp_path, CONFIG, split=split, numbers=[0], shard_clips=8)
        clips = read_shards(out, split)
        assert set(clips["set_names"]) == {"mr_ball"}
        assert len(clips["images"]) == 8
    with pytest.raises(InputError, match="holds no clips"):
        read_shards(tmp_path, "train")
    with pytest.raises(InputError, match="no labelled volumes"):
        find_volumes(out)
