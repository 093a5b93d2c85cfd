"""Clips: what is cut from a labelled volume is what a sweep would see."""

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.segmenter import SweepContext
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.segmenter import CompactSegmenter
from napari_slmsam2.engine.features.optical_flow import optical_flow, warp
from napari_slmsam2.training.data.clip import Scenario, cut_clip, draw_scenario
from napari_slmsam2.training.data.sweep import never_absent, rollout_states
from napari_slmsam2.training.synthetic.stack import LabelledStack

CONFIG = CompactConfig(window_size=48, widths=(8, 8, 16, 16), memory_dim=16)
SPACING = (2.0, 1.0, 1.0)


def moving_ball(n=20, first=4, last=14):
    z, y, x = np.indices((n, 70, 80))
    middle, half = (first + last) / 2, (last - first) / 2 + 0.6
    radius = 14 * np.sqrt(np.clip(1 - ((z - middle) / half) ** 2, 0, None))
    mask = (y - 25 - z) ** 2 + (x - 40) ** 2 < radius**2
    rng = np.random.default_rng(0)
    texture = np.repeat(rng.random((1, 35, 40)), 2, 1).repeat(2, 2)
    image = 0.3 + 0.4 * mask + 0.1 * np.stack([np.roll(texture[0], i, 0) for i in range(n)])
    return image.astype(np.float32), mask


def arrivals_of(image, mask, scenario, network=None):
    segmenter = never_absent(network or CompactNetwork(CONFIG))
    return rollout_states(segmenter, LabelledStack(image, mask, SPACING, "ball"), scenario)


def truths(clip):
    return clip.distances > 0


def dice(a, b):
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


def test_the_flow_on_a_clip_warps_its_masks():
    image, mask = moving_ball()
    clip = cut_clip(image, mask, SPACING, Scenario((8,), None, 8), CONFIG)
    assert clip.images.shape == (6, 72, 72)
    assert clip.distances.shape == (5, 72, 72)
    masks = truths(clip)
    images = torch.from_numpy(clip.images.astype(np.float32) / 85 - 1)
    for step in range(3):
        flow = optical_flow(images[step + 1 : step + 2], images[step : step + 1])
        field = warp(torch.from_numpy(clip.distances[step]).float()[None, None], flow)[0, 0]
        moved = dice((field > 0).numpy(), masks[step + 1])
        assert moved > 0.9
        assert moved > dice(masks[step], masks[step + 1])


def test_steps_beyond_the_object_are_absent_and_count():
    image, mask = moving_ball()
    clip = cut_clip(image, mask, SPACING, Scenario((9,), None, 13), CONFIG)
    assert clip.present.tolist() == [True, False, False, False]
    assert clip.weights.tolist() == [1, 1, 1, 1]
    assert truths(clip).any((1, 2)).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("scenario", "weights"),
    [
        (Scenario((9,), (4, 14), 12), [1, 1, 0, 0]),
        (Scenario((6, 10), None, 7), [1, 1, 0, 0]),
        (Scenario((9,), None, 17), [1, 1, 0, 0]),
    ],
    ids=["marked end", "next seed", "end of the volume"],
)
def test_steps_that_no_sweep_makes_do_not_count(scenario, weights):
    image, mask = moving_ball()
    clip = cut_clip(image, mask, SPACING, scenario, CONFIG)
    assert clip.weights.tolist() == weights
    assert not clip.positions[clip.weights == 0].any()


def test_priors_exist_only_between_known_slices():
    image, mask = moving_ball()
    between = cut_clip(image, mask, SPACING, Scenario((5, 13), None, 6), CONFIG)
    assert all(between.priors.any((1, 2)))
    assert dice(between.priors[1] > 0, truths(between)[2]) > 0.6
    one = cut_clip(image, mask, SPACING, Scenario((9,), None, 9), CONFIG)
    assert not one.priors.any()
    ends = cut_clip(image, mask, SPACING, Scenario((9,), (4, 14), 9), CONFIG)
    assert all(ends.priors.any((1, 2)))


def test_the_seeds_of_a_clip_are_the_annotated_slices():
    image, mask = moving_ball()
    clip = cut_clip(image, mask, SPACING, Scenario((6, 12), None, 8), CONFIG)
    assert clip.seeds_known.tolist() == [True, True]
    alone = cut_clip(image, mask, SPACING, Scenario((6,), None, 8), CONFIG)
    assert alone.seeds_known.tolist() == [True, False]
    np.testing.assert_array_equal(alone.seed_images[0], clip.seed_images[0])
    assert (clip.seed_distances[0] > 0).any()


def test_a_clip_can_start_where_the_flow_arrives():
    image, mask = moving_ball()
    scenario = Scenario((7,), None, 9)
    states = arrivals_of(image, mask, scenario)
    assert sorted(states) == list(range(8, 17))
    ahead = arrivals_of(image, mask, Scenario((7, 11), (4, 14), 9))
    assert sorted(ahead) == [8, 9, 10]
    clip = cut_clip(image, mask, SPACING, scenario, CONFIG, state=states[9])
    plain = cut_clip(image, mask, SPACING, scenario, CONFIG)
    assert clip.drifted
    assert clip.feedback == pytest.approx(1.0)
    assert not plain.drifted
    assert 0.85 < dice(clip.start > 0, clip.distances[0] > 0) < 1
    assert dice(plain.start > 0, plain.distances[0] > 0) > 0.99
    assert not (clip.start[:12] > 0).any()


@pytest.mark.parametrize("feedback", [0.0, 0.5])
def test_a_sweep_arrives_where_inference_does(feedback):
    """The sweep of the training is the propagated mask of the segmenter, slice by slice."""
    image, mask = moving_ball()
    torch.manual_seed(0)
    network = CompactNetwork(CONFIG.replace(feedback=feedback))
    last = [m for m in network.out.modules() if isinstance(m, torch.nn.Conv2d)][-1]
    last.bias.data.fill_(0.5)
    segmenter = CompactSegmenter(
        network, name="window", device=torch.device("cpu"), dtype=torch.float32, threshold=0.0
    )
    slices = [segmenter.encode_image(one) for one in image]
    context = SweepContext(len(image), mask.shape[1:], SPACING, {}, lambda i: slices[i])
    bank = MemoryBank(1)
    prompt = SlicePrompt.from_mask(1, 7, mask[7])
    bank.add(MemoryEntry(7, True, segmenter.encode_seed(slices[7], prompt, mask[7].shape).content))
    states = arrivals_of(image, mask, Scenario((7,), None, 9), network)
    by_flow = arrivals_of(image, mask, Scenario((7,), None, 9))
    for index in range(8, 15):
        (found,) = segmenter.segment(slices[index], index, 1, [bank], context)
        bank.add(MemoryEntry(index, False, found.content))
        reached = found.content.state
        assert reached.crops == states[index].crop
        np.testing.assert_array_equal(reached.propagated[0], states[index].propagated)
    areas = [(x[14].propagated > 0).sum() / float(x[14].crop.zoom) ** 2 for x in (states, by_flow)]
    assert (areas[0] / areas[1] > 1.1) == (feedback > 0)


def test_scenarios_cover_what_people_do():
    _, mask = moving_ball()
    areas = mask.sum((1, 2))
    rng = np.random.default_rng(0)
    drawn = [s for s in (draw_scenario(areas, 4, rng) for _ in range(400)) if s is not None]
    assert len(drawn) > 350
    assert all(areas[i] > 0 for s in drawn for i in s.seeds)
    assert all(min(s.seeds) <= s.start <= 14 for s in drawn)
    unknown = [s for s in drawn if s.extent is None]
    assert 0.5 < len(unknown) / len(drawn) < 0.8
    assert {len(s.seeds) for s in drawn} >= {1, 2, 3}
    ahead = [sum(i > 14 for i in range(s.start + 1, s.start + 5)) for s in unknown]
    assert np.sum(ahead) / (4 * len(unknown)) > 0.25
    assert draw_scenario(np.array([0, 5, 5, 0]), 4, rng) is None
