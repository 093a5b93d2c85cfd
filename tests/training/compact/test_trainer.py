"""The trainer: it learns, stops and goes on exactly, and its clips come from real files."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.errors import CheckpointError, InputError
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.features.optical_flow import warp as warp_image
from napari_slmsam2.training.compact.rollout import LossWeights, roll_out, step_loss
from napari_slmsam2.training.compact.trainer import Trainer, TrainingConfig, train
from napari_slmsam2.training.compact.validation import validate
from napari_slmsam2.training.data.batch import make_batch, sampling_weights, warp
from napari_slmsam2.training.data.shards import read_shards, write_shards
from napari_slmsam2.training.data.volumes import find_volumes, is_held_out

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
    batch = make_batch(clips, np.arange(4), 48, device=CPU, generator=None)
    np.testing.assert_allclose(
        batch.distances, clips["distances"][:4, :, 12:60, 12:60] / 8, atol=1e-4
    )
    np.testing.assert_allclose(
        batch.flows[:, :, 0], clips["flows"][:4, :, 1, 12:60, 12:60] / 8, atol=1e-4
    )
    moved = warp(batch.distances[:, :1], batch.flows[:, 0])[0, 0].numpy()
    by_scipy = warp_image(batch.distances[0, 0].numpy(), batch.flows[0, 0].flip(0).numpy())
    np.testing.assert_allclose(moved[5:-5, 5:-5], by_scipy[5:-5, 5:-5], atol=1e-3)


def test_turned_flows_still_carry_the_turned_masks(clips):
    """The flow of a turned and scaled clip fits its masks as well as before."""

    def fit(generator):
        batch = make_batch(clips, np.arange(32), 48, device=CPU, generator=generator)
        moved = warp(batch.distances[:, :1], batch.flows[:, 0])[:, 0] > 0
        truth = batch.distances[:, 1] > 0
        chosen = batch.present[:, 0] & (batch.flows[:, 0].abs().amax((1, 2, 3)) > 0)
        sizes = moved.sum((1, 2)) + truth.sum((1, 2))
        overlap = 2 * (moved & truth).sum((1, 2)) / sizes.clamp(min=1)
        return float(overlap[chosen].mean())

    assert fit(torch.Generator().manual_seed(3)) == pytest.approx(fit(None), abs=0.04)


def test_an_untrained_network_is_the_flow(clips):
    torch.manual_seed(0)
    network = CompactNetwork(CONFIG).eval()
    batch = make_batch(clips, np.arange(8), 48, device=CPU, generator=None)
    with torch.no_grad():
        first = next(roll_out(network, batch))
    moved = warp(batch.start[:, None], batch.flows[:, 0])[:, 0]
    np.testing.assert_allclose(first.output.logits, moved, atol=1e-5)


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


def test_corrections_are_carried_on_by_the_share_of_the_feedback(clips):
    network = confident()
    batch = make_batch(clips, np.arange(8), 48, device=CPU, generator=None)
    needed = torch.tensor([1.0, 0.0] * 4)[:, None, None]
    batch = replace(batch, feedback=needed)
    with torch.no_grad():
        steps = list(roll_out(network, batch))
        third = list(roll_out(network, batch, [2]))
        network.config = network.config.replace(feedback=0.0)
        alone = list(roll_out(network, batch))
    assert len(third) == 1
    torch.testing.assert_close(third[0].output.logits, steps[2].output.logits)
    torch.testing.assert_close(steps[0].output.logits, alone[0].output.logits)
    torch.testing.assert_close(steps[2].output.logits[1::2], alone[2].output.logits[1::2])
    middle = (alone[2].output.logits - 1.5).abs() < 3
    grown = (steps[2].output.logits - alone[2].output.logits)[middle & (needed > 0)]
    assert grown.mean() == pytest.approx(2 * 0.5 * 1.5, abs=0.1)


def test_it_learns(clips):
    trainer = Trainer(CONFIG, plan(steps=60, learning_rate=3e-3), clips, CPU)
    before = validate(trainer.network, clips, CPU)
    losses = [trainer.advance()["loss"] for _ in range(60)]
    after = validate(trainer.network, clips, CPU)
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    balanced = [s["recall_absent"] + s["recall_present"] for s in (before, after)]
    assert balanced[1] > balanced[0] + 0.1


def test_what_no_clip_shows_is_not_judged(clips):
    whole = clips["present"].all(1)
    assert whole.any()
    scores = validate(CompactNetwork(CONFIG), {k: v[whole] for k, v in clips.items()}, CPU)
    assert np.isnan(scores["recall_absent"])
    assert np.isfinite(scores["dice"])


def test_it_goes_on_exactly_where_it_stopped(clips, tmp_path):
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


def test_empty_slices_count_in_the_loss_as_asked(clips):
    torch.manual_seed(0)
    network = CompactNetwork(CONFIG)
    gone = np.flatnonzero(~clips["present"][:, 0] & (clips["weights"][:, 0] > 0))[:4]
    batch = make_batch(clips, gone, 48, device=CPU, generator=None)
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
    assert np.isfinite(trainer.advance()["loss"])


def test_sets_are_drawn_as_often_as_they_weigh():
    names = np.array(["synthetic"] * 90 + ["mr_sarcoma"] * 10)
    chances = sampling_weights(names)
    assert chances[:90].sum() == pytest.approx(2 / 3)


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
