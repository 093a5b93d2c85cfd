"""The compact network in the propagator: real sweeps with an untrained network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import CompactConfig, PropagationConfig
from napari_slmsam2.core.errors import CheckpointError, ConfigError
from napari_slmsam2.core.events import SliceSegmented
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.segmenter import SliceVisit, SweepContext
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.compact import segmenter as segmenter_module
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.segmenter import CompactSegmenter
from napari_slmsam2.engine.loading import ReadyModel, make_segmenter
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.session.session import SegmentationSession

from ...fakes import whole_slice

SMALL = {"window_size": 48, "widths": (8, 8, 16, 16), "memory_dim": 16}


def untrained(present=2.0, **changes):
    """A network that carries the mask along the flow and believes that the object is there."""
    torch.manual_seed(0)
    network = CompactNetwork(CompactConfig(**{**SMALL, **changes}))
    torch.nn.init.zeros_(network.heads[2].weight)
    network.heads[2].bias.data = torch.tensor([present, 0.0])
    return network


def new_session(volume, network, **config):
    segmenter = CompactSegmenter(
        network, name="window", device=torch.device("cpu"), dtype=torch.float32
    )
    session = SegmentationSession(Volume(volume, axis=0), config=PropagationConfig(**config))
    session.use_model(ReadyModel(segmenter, "window", None))
    return session


def ball(shape=(14, 60, 64), centre=(6, 30, 30), radii=(5.5, 12, 14), drift=1.0):
    z, y, x = np.indices(shape)
    row = centre[1] + drift * (z - centre[0])
    return (
        ((z - centre[0]) / radii[0]) ** 2
        + ((y - row) / radii[1]) ** 2
        + ((x - centre[2]) / radii[2]) ** 2
    ) <= 1


def scan(mask, rng=None):
    rng = rng or np.random.default_rng(0)
    return (np.where(mask, 0.8, 0.3) + 0.03 * rng.standard_normal(mask.shape)).astype(np.float32)


def propagate(network, mask, seeds, extent=None, **config):
    session = new_session(scan(mask), network, **config)
    for index in seeds:
        session.add_prompt(SlicePrompt.from_mask(1, index, mask[index]))
    if extent is not None:
        session.set_extent(1, *extent)
    list(session.propagate())
    return session.labels == 1


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("memory", ["both", "short"])
def test_an_untrained_network_follows_the_flow(memory):
    mask = ball()
    found = propagate(untrained(memory=memory), mask, [6], extent=(2, 10))
    assert dice(found, mask) > 0.75
    assert not found[:2].any()
    assert not found[11:].any()
    np.testing.assert_array_equal(found[6], mask[6])


def test_long_memory_alone_starts_as_the_interpolation():
    mask = ball(drift=0.0)
    found = propagate(untrained(memory="long"), mask, [2, 6, 10])
    assert dice(found[2:11], mask[2:11]) > 0.9


def test_the_next_slice_is_looked_at():
    """Only the last slice differs: the one before it changes, the others do not."""
    mask = ball()
    network = untrained()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    image = scan(mask)
    other = image.copy()
    other[9] = other[9][::-1]
    results = []
    for volume in (image, other):
        session = new_session(volume, network)
        session.add_prompt(SlicePrompt.from_mask(1, 4, mask[4]))
        list(session.propagate())
        results.append({i: session.logits_on_slice(i)[1] for i in (5, 6, 7, 8)})
    first, second = results
    np.testing.assert_array_equal(first[7], second[7])
    assert not np.array_equal(first[8], second[8])


@pytest.mark.parametrize(
    ("contrast", "dots", "grows"), [(0.5, 0.5, True), (0.0, 0.5, False), (0.0, 0.015, True)]
)
def test_corrections_are_carried_on_unless_the_slice_is_full_of_look_alikes(contrast, dots, grows):
    """A network that always adds to the mask: pixel for pixel it grows, or stays one step ahead."""
    mask = np.repeat(ball()[6:7], 12, axis=0)
    rng = np.random.default_rng(0)
    structure = rng.random(mask[0].shape) < dots
    image = 0.3 + contrast * mask + 0.1 * np.repeat(structure[None], 12, axis=0)
    network = untrained(present=9.0, feedback=0.5)
    network.out[1].bias.data.fill_(2.0)
    session = new_session(image.astype(np.float32), network)
    session.add_prompt(SlicePrompt.from_mask(1, 0, mask[0]))
    list(session.propagate())
    areas = (session.labels == 1).sum((1, 2))
    assert areas[1] > mask[0].sum()
    assert (areas[9] > 1.3 * areas[1]) == grows


def test_an_object_that_is_not_there_leaves_the_slices_empty():
    mask = ball()
    found = propagate(untrained(present=-40.0), mask, [6])
    assert found.any((1, 2)).tolist() == [i == 6 for i in range(14)]


def test_a_marked_extent_outvotes_the_presence_head():
    mask = ball()
    found = propagate(untrained(present=-2.0), mask, [6], extent=(3, 9))
    assert found.any((1, 2)).tolist() == [3 <= i <= 9 for i in range(14)]


@pytest.mark.parametrize(("drift", "overlaps"), [(0.0, True), (3.5, False)])
def test_the_shape_between_seeds_is_trusted_as_far_as_their_masks_overlap(drift, overlaps):
    network, seen = untrained(), []
    network.register_forward_pre_hook(
        lambda _, given: seen.append(float(given[0].positions[:, 6].max()))
    )
    mask = ball(shape=(14, 60, 64), centre=(6, 30, 30), radii=(8, 8, 8), drift=drift)
    propagate(network, mask, [2, 10])
    assert max(seen) == (pytest.approx(7 / 8) if overlaps else 0)


def test_labels_in_one_batch_do_not_see_each_other():
    mask = ball()
    other = ball(centre=(6, 20, 48), radii=(5, 8, 8), drift=0.0) & ~mask
    volume = scan(mask) + np.float32(0.1) * other
    network = untrained()

    def run(labels, batch_size):
        session = new_session(volume, network, batch_size=batch_size)
        for label, m in labels.items():
            session.add_prompt(SlicePrompt.from_mask(label, 6, m[6]))
        list(session.propagate())
        return session

    together, alone = run({1: mask, 2: other}, 8), run({2: other}, 1)
    for index in (3, 5, 7, 10):
        both, one = (s.logits_on_slice(index)[2] for s in (together, alone))
        np.testing.assert_array_equal(both, one)


def swept(segmenter, image, seeds, order, together):
    """Logits of every label on slices 7 to 9, swept from slice 6 in one batch or one by one."""
    slices = [segmenter.encode_image(one) for one in image]
    context = SweepContext(
        len(image), image[0].shape, (2.0, 1.0, 1.0), {2: (3, 11)}, lambda i: slices[i]
    )
    banks = {}
    for label in order:
        banks[label] = MemoryBank(label)
        prompt = SlicePrompt.from_mask(label, 6, seeds[label])
        content = segmenter.encode_seed(slices[6], prompt, image[0].shape).content
        banks[label].add(MemoryEntry(6, True, content))
    found = {label: [] for label in order}
    for index in (7, 8, 9):
        groups = [list(order)] if together else [[label] for label in order]
        for group in groups:
            results = segmenter.segment(
                slices[index], index, 1, [banks[label] for label in group], context
            )
            for label, result in zip(group, results, strict=True):
                banks[label].add(MemoryEntry(index, False, result.content))
                logits = whole_slice(result.patch, context.shape)
                found[label].append((logits, result.presence, result.predicted_iou))
    return found


def test_a_batch_gives_what_its_objects_give_alone_in_any_order():
    network = untrained(present=0.5, feedback=0.5)
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    segmenter = CompactSegmenter(
        network, name="compact", device=torch.device("cpu"), dtype=torch.float32
    )
    balls = {1: ball(), 2: ball(centre=(6, 15, 50), radii=(5, 7, 5)), 3: ball(radii=(9, 55, 60))}
    image = scan(balls[1] | balls[2])
    seeds = {label: mask[6] for label, mask in balls.items()}
    alone = swept(segmenter, image, seeds, (1, 2, 3), together=False)
    for order in ((1, 2, 3), (3, 1, 2)):
        batch = swept(segmenter, image, seeds, order, together=True)
        for label in seeds:
            for one, other in zip(alone[label], batch[label], strict=True):
                np.testing.assert_array_equal(one[0], other[0])
                assert one[1:] == other[1:]


class OneSweepAtATime:
    """A segmenter whose forward and backward sweeps are propagated one after the other."""

    def __init__(self, segmenter):
        self._segmenter = segmenter

    def __getattr__(self, name):
        if name == "segment_visits":
            raise AttributeError(name)
        return getattr(self._segmenter, name)


def test_both_sweeps_in_one_batch_give_what_they_give_apart():
    """The same masks and logits."""
    balls = {1: ball(), 2: ball(centre=(6, 15, 50), radii=(5, 7, 5)), 3: ball(radii=(6, 5, 5))}
    balls[3] &= ~balls[2]
    balls[1] &= ~balls[3]
    network, volume = untrained(present=0.5), scan(balls[1] | balls[2])

    def run(labels, apart):
        session = new_session(volume, network)
        if apart:
            ready = session.load_model()
            session.use_model(replace(ready, segmenter=OneSweepAtATime(ready.segmenter)))
        for label in labels:
            for index in (4, 8):
                session.add_prompt(SlicePrompt.from_mask(label, index, balls[label][index]))
        steps = [event.index for event in session.propagate() if isinstance(event, SliceSegmented)]
        return session, steps

    for labels in ((1,), (1, 2, 3)):
        (together, order), (apart, other) = (run(labels, apart) for apart in (False, True))
        assert order != other
        assert (together.labels > 0).any((1, 2)).sum() > 8
        np.testing.assert_array_equal(together.labels, apart.labels)
        for index in (5, 6, 7, 10):
            one, two = (s.logits_on_slice(index) for s in (together, apart))
            assert one.keys() == two.keys()
            for label, logits in one.items():
                np.testing.assert_array_equal(logits, two[label])


def test_a_slice_is_read_once_for_all_objects_that_arrive_on_it():
    """The three slices of a visit come from the context, whatever the number of objects."""
    balls = {label: ball(centre=(6, 15 * label, 30), radii=(5, 6, 6)) for label in (1, 2, 3)}
    image = scan(balls[1] | balls[2] | balls[3])
    segmenter = CompactSegmenter(
        untrained(), name="compact", device=torch.device("cpu"), dtype=torch.float32
    )
    slices, asked = [segmenter.encode_image(one) for one in image], []

    def embedding_of(index):
        asked.append(index)
        return slices[index]

    context = SweepContext(len(image), image[0].shape, (1.0, 1.0, 1.0), {}, embedding_of)
    banks = []
    for label, mask in balls.items():
        prompt = SlicePrompt.from_mask(label, 6, mask[6])
        content = segmenter.encode_seed(slices[6], prompt, image[0].shape).content
        banks.append(MemoryBank(label))
        banks[-1].add(MemoryEntry(6, True, content))
    visits = [SliceVisit(slices[7], 7, 1, banks), SliceVisit(slices[5], 5, -1, banks)]
    found = segmenter.segment_visits(visits, context)
    assert asked == [6, 8, 6, 4]
    apart = [*segmenter.segment(slices[7], 7, 1, banks, context)]
    apart += segmenter.segment(slices[5], 5, -1, banks, context)
    for one, other in zip(found, apart, strict=True):
        logits, expected = (whole_slice(x.patch, context.shape) for x in (one, other))
        np.testing.assert_allclose(logits, expected, atol=1e-3)
        assert one.presence == pytest.approx(other.presence, abs=1e-4)


@pytest.mark.parametrize("shape", [(5, 3, 64), (3, 200, 9), (2, 8, 8)])
def test_odd_slices_do_not_break_it(shape):
    mask = np.zeros(shape, bool)
    mask[1, 1:3, 2:6] = True
    image = np.full(shape, np.nan, np.float32)
    session = new_session(image, untrained())
    session.add_prompt(SlicePrompt.from_mask(1, 1, mask[1]))
    list(session.propagate())
    assert session.labels.shape == shape


def test_a_click_is_answered_and_carried_on():
    mask = ball()
    session = new_session(scan(mask), untrained())
    session.add_prompt(SlicePrompt.from_points(1, 6, [(30, 30)], [True]))
    session.set_extent(1, 2, 10)
    list(session.propagate())
    found = session.labels == 1
    assert dice(found[6], mask[6]) > 0.9
    assert dice(found, mask) > 0.75


def test_a_file_of_weights_tells_its_network(tmp_path):
    network = untrained(fusion="sum")
    path = tmp_path / "mine.safetensors"
    save_weights(path, network.state_dict(), {"config": network.config.to_dict()})
    ready = make_segmenter(path, device="cpu")
    assert isinstance(ready.segmenter, CompactSegmenter)
    assert ready.segmenter.reach == 1
    save_weights(path, network.state_dict(), {"config": CompactConfig(**SMALL).to_dict()})
    with pytest.raises(CheckpointError, match="gate"):
        make_segmenter(path, device="cpu")


def two_labels(network):
    """Both propagated from slice 6 with unknown ends: where each was found."""
    masks = {1: ball(centre=(6, 30, 16), radii=(5.5, 12, 10)), 2: ball(centre=(6, 30, 46))}
    session = new_session(scan(masks[1] | masks[2]), network)
    for label, mask in masks.items():
        session.add_prompt(SlicePrompt.from_mask(label, 6, mask[6]))
    list(session.propagate())
    return {label: np.flatnonzero((session.labels == label).any((1, 2))) for label in masks}


def test_structures_that_it_was_adapted_to_end_by_themselves():
    network = untrained(present=6.0)
    plain = two_labels(network)
    told = network.with_structures([2, 7])
    for label, slices in two_labels(told).items():
        np.testing.assert_array_equal(slices, plain[label])
    told.shift_presence(-40.0, structure=2)
    found = two_labels(told)
    np.testing.assert_array_equal(found[1], plain[1])
    assert len(plain[2]) > 3
    np.testing.assert_array_equal(found[2], [6])


def test_more_structures_keep_what_is_known_of_the_first():
    network = untrained().with_structures([2])
    network.shift_presence(-40.0, structure=2)
    more = network.with_structures([1, 2])
    assert more.config.structures == (2, 1)
    np.testing.assert_array_equal(two_labels(more)[2], [6])


def test_a_structure_twice_is_refused():
    with pytest.raises(ConfigError, match="structures"):
        CompactConfig(structures=(1, 2, 1))


def test_a_device_is_read_as_often_for_many_objects_as_for_a_few(monkeypatch):
    """The host waits for a device at every read; it reads per batch, not per object."""
    monkeypatch.setattr(
        segmenter_module, "compute_in_parts", lambda compute, items, _: compute(items)
    )
    reads = []
    for name in ("tolist", "item", "cpu", "nonzero", "__bool__", "__float__", "__int__"):
        original = getattr(torch.Tensor, name)

        def counted(tensor, *args, _original=original, **options):
            reads.append(1)
            return _original(tensor, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, counted)
    image = scan(ball())
    counts = []
    for n in (2, 9):
        segmenter = CompactSegmenter(
            untrained(), name="compact", device=torch.device("cpu"), dtype=torch.float32
        )
        slices = [segmenter.encode_image(one) for one in image]
        context = SweepContext(len(image), image[0].shape, (1.0, 1.0, 1.0), {}, slices.__getitem__)
        banks = [MemoryBank(label) for label in range(1, n + 1)]
        for bank in banks:
            prompt = SlicePrompt.from_mask(bank.label, 6, ball()[6])
            content = segmenter.encode_seed(slices[6], prompt, image[0].shape).content
            bank.add(MemoryEntry(6, True, content))
        for index in (7, 8):
            reads.clear()
            found = segmenter.segment(slices[index], index, 1, banks, context)
            for bank, result in zip(banks, found, strict=True):
                bank.add(MemoryEntry(index, False, result.content))
        counts.append(len(reads))
    assert counts[0] == counts[1] <= 8


def test_how_many_labels_fit_follows_the_free_memory_and_the_size_of_the_slices(monkeypatch):
    segmenter = CompactSegmenter(
        untrained(), name="compact", device=torch.device("cpu"), dtype=torch.float32
    )
    monkeypatch.setattr(segmenter_module, "free_memory", lambda device: 2**34)
    assert segmenter.labels_at_once((256, 256), seeds=1, reserved=0) == 64
    large = segmenter.labels_at_once((4096, 4096), seeds=1, reserved=0)
    assert 1 < large < 64
    assert segmenter.labels_at_once((4096, 4096), seeds=1, reserved=2**33) == large // 2
    monkeypatch.setattr(segmenter_module, "free_memory", lambda device: 0)
    assert segmenter.labels_at_once((256, 256), seeds=1, reserved=0) == 1
    segmenter.device = torch.device("cuda")
    monkeypatch.setattr(segmenter_module, "free_memory", lambda device: 2**34)
    assert segmenter.labels_at_once((256, 256), seeds=1, reserved=0) > 64
