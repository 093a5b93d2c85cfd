"""Presence over a sweep: what is learned and set on whole sweeps makes whole sweeps better."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.presence_gru import N_MASK_FEATURES, N_PRESENCE_FEATURES
from napari_slmsam2.engine.compact.segmenter import CompactSegmenter
from napari_slmsam2.training.compact.config import PresenceTrainingConfig
from napari_slmsam2.training.compact.presence import (
    SHIFTS,
    calibrate_presence,
    dice_of_sweeps,
    train_presence,
)
from napari_slmsam2.training.compact.presence_shards import draw_seeds, train_presence_on_sweeps
from napari_slmsam2.training.compact.presence_sweeps import (
    BEYOND,
    WholeSweep,
    sweep_outward,
    until_stopped,
)
from napari_slmsam2.training.data.sweep import sweep
from napari_slmsam2.training.synthetic.stack import LabelledStack

CONFIG = CompactConfig(window_size=48, widths=(8, 8, 16, 16), memory_dim=16)


def stack(n_slices, n_empty):
    """A cylinder with empty slices on both sides."""
    mask = np.zeros((n_slices + 2 * n_empty, 40, 40), bool)
    rows, columns = np.indices((40, 40))
    mask[n_empty : n_empty + n_slices] = (rows - 20) ** 2 + (columns - 20) ** 2 < 80
    noise = np.random.default_rng(0).random(mask.shape)
    image = (0.3 + 0.4 * mask + 0.1 * noise).astype(np.float32)
    return LabelledStack(image, mask, (1.0, 1.0, 1.0), "test")


def network(bias):
    torch.manual_seed(0)
    net = CompactNetwork(CONFIG).eval()
    torch.nn.init.zeros_(net.heads[2].weight)
    net.heads[2].bias.data = torch.tensor([bias, 0.0])
    return net


def swept(net, one):
    (sweeps,) = sweep_outward(net, one, [[int(one.mask.sum((1, 2)).argmax())]])
    return sweeps


@pytest.mark.parametrize(("bias", "sizes", "present"), [(-6.0, (4, 0), True), (4.0, (1, 3), False)])
def test_a_blind_head_is_moved_to_what_most_slices_are(bias, sizes, present):
    net = network(bias)
    added = calibrate_presence(net, [swept(net, stack(*sizes))] * 2)
    assert net.ends.out.bias.item() == pytest.approx(added)
    assert (added > 0) == present
    assert SHIFTS.min() <= added <= SHIFTS.max()


def test_every_structure_gets_its_own():
    net = network(0.0).with_structures([1, 2])
    objects = [replace(stack(4, 0), label=1), replace(stack(1, 3), label=2)]
    calibrate_presence(net, [swept(net, one) for one in objects])
    shown = {}
    for one in objects:
        segmenter = CompactSegmenter(net, name="", device=torch.device("cpu"), dtype=torch.float32)
        seed = int(one.mask.sum((1, 2)).argmax())
        slices = range(seed + 1, len(one.mask))
        shown[one.label] = [
            found.presence > 0.5 for _, found in sweep(segmenter, one, [seed], slices)
        ]
    assert all(shown[1])
    assert not any(shown[2])


def test_without_objects_nothing_is_moved():
    net = network(0.3)
    empty = LabelledStack(
        np.zeros((5, 20, 20), np.float32), np.zeros((5, 20, 20), bool), (1.0, 1.0, 1.0), "test"
    )
    assert sweep_outward(net, empty, [[2]]) == [[]]
    assert calibrate_presence(net, [[]]) == 0.0
    assert net.ends.out.bias.item() == 0.0


def test_sweeps_go_from_the_outermost_seeds_beyond_both_ends():
    one = stack(6, 14)
    (sweeps,) = sweep_outward(network(0.0), one, [[15, 18]])
    assert [len(found.found) for found in sweeps] == [1 + BEYOND, 1 + BEYOND]
    for found in sweeps:
        assert found.true[0] > 0
        assert not found.true[1:].any()
        assert (found.common <= np.minimum(found.found, found.true)).all()


def test_sweeps_of_one_batch_are_those_of_single_objects():
    """From the middle, from above it and from both; the first one runs from and to other slices."""
    one, net = stack(6, 6), network(1.0)
    torch.nn.init.normal_(net.out[1].weight, std=0.1)
    seedings = [[8], [10], [7, 9]]
    together = sweep_outward(net, one, seedings)
    alone = [sweep_outward(net, one, [seeds])[0] for seeds in seedings]
    for batch, single in zip(together, alone, strict=True):
        for a, b in zip(batch, single, strict=True):
            np.testing.assert_allclose(a.clues, b.clues, atol=1e-4)
            np.testing.assert_array_equal(a.true, b.true)
            np.testing.assert_allclose(a.found, b.found, atol=1)


@pytest.mark.parametrize(
    ("present", "shown"),
    [("1101", "1101"), ("10011", "10011"), ("1000111", "1000000"), ("000", "000"), ("0", "0")],
)
def test_three_absent_slices_end_a_sweep(present, shown):
    found = until_stopped(np.array([c == "1" for c in present]))
    assert "".join("01"[int(c)] for c in found) == shown


def object_that_ends(rng):
    """Only the rise of a clue over its usual value, which differs, tells the end."""
    n_slices, end = 12, int(rng.integers(3, 10))
    there = np.arange(n_slices) < end
    clues = 0.2 * rng.standard_normal((n_slices, N_PRESENCE_FEATURES)).astype(np.float32)
    clues[:, 0] = 1.0  # it is believed in everywhere
    clues[:, 5] += rng.uniform(-3, 3) + 1.5 * ~there
    pixels = np.full(n_slices, 100)
    return [WholeSweep(1, clues, pixels, pixels * there, pixels * there)]


def test_presence_training_uses_the_sweep_so_far():
    rng, net = np.random.default_rng(1), network(0.0)
    learned, others = ([object_that_ends(rng) for _ in range(n)] for n in (512, 64))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert dice_of_sweeps(net, others) < 0.75
    plan = PresenceTrainingConfig(passes=40, learning_rate=1e-2)
    train_presence(net, learned, ["ball"] * len(learned), plan)
    assert dice_of_sweeps(net, others) > 0.85
    changed = {n for n, value in net.state_dict().items() if not torch.equal(value, before[n])}
    assert changed
    assert all(name.startswith("ends.") for name in changed)


def test_sweeps_are_made_once_and_training_is_reproducible(tmp_path):
    first, again = network(2.0), network(2.0)
    plan, progress = PresenceTrainingConfig(objects=1), []
    scores = train_presence_on_sweeps(
        tmp_path, None, first, plan, progress=lambda *now: progress.append(now)
    )
    assert progress[-1] == (2, 2)
    assert set(scores) == {"before", "after"}
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert train_presence_on_sweeps(tmp_path, None, again, plan) == scores
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == made
    for name, value in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    # Another network makes its own sweeps.
    train_presence_on_sweeps(tmp_path, None, network(-2.0), plan)
    assert len(list(tmp_path.rglob("*.npz"))) == 2 * len(made)
    # However many processes make them.
    third = network(2.0)
    assert train_presence_on_sweeps(tmp_path / "two", None, third, plan, workers=2) == scores


def test_weights_without_the_features_of_the_masks_give_the_same_presence():
    """As those of files that were written before these features existed."""
    torch.manual_seed(0)
    new = CompactNetwork(CONFIG).eval()
    torch.nn.init.normal_(new.ends.out.weight)
    older = {
        name: value[..., : N_PRESENCE_FEATURES - N_MASK_FEATURES]
        if name in ("ends.centre", "ends.scale", "ends.inside.weight")
        else value
        for name, value in new.state_dict().items()
    }
    read = CompactNetwork(CONFIG).eval()
    read.load_state_dict(older)
    features = torch.randn(3, N_PRESENCE_FEATURES)
    known = features.clone()
    known[:, -N_MASK_FEATURES:] = 0.0
    state, labels = torch.zeros(3, 32), torch.ones(3, dtype=torch.int64)
    with torch.no_grad():
        ours, ours_blind = (read.judge_presence(x, state, labels)[0] for x in (features, known))
        theirs = new.judge_presence(known, state, labels)[0]
    torch.testing.assert_close(ours, ours_blind)
    torch.testing.assert_close(ours, theirs)


def test_seeds_are_those_that_somebody_would_annotate():
    areas = np.array([0, 1, 30, 80, 100, 60, 25, 3, 0])
    rng = np.random.default_rng(0)
    drawn = {tuple(draw_seeds(areas, rng)) for _ in range(200)}
    alone, with_largest = {(2,), (3,), (4,), (5,), (6,)}, {(2, 4), (3, 4), (4, 5), (4, 6)}
    assert drawn == alone | with_largest | {(2, 4, 6)}
