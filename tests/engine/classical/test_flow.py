"""The flow model: follows what moves, grows and ends; safe on odd slices and seeds."""

import itertools

import numpy as np
import pytest
from scipy import ndimage as ndi

from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.segmenter import SweepContext
from napari_slmsam2.engine.classical.flow import FlowSegmenter
from napari_slmsam2.engine.features.taper import find_taper

from ...fakes import whole_slice


def ellipse(shape, row, column, radius, ratio=1.3):
    rows, columns = np.indices(shape)
    return ((rows - row) / radius) ** 2 + ((columns - column) / (radius * ratio)) ** 2 <= 1


def render(masks, rng, *, inside=0.7, outside=0.35, noise=0.02):
    """A textured volume in which the masks are brighter than their surround."""
    texture = ndi.gaussian_filter(rng.standard_normal(masks.shape), (2, 2, 2))
    image = np.where(masks, inside, outside) + 0.05 * texture / texture.std()
    image = ndi.gaussian_filter(image, (0, 0.7, 0.7)) + noise * rng.standard_normal(masks.shape)
    return image.astype(np.float32)


def sweep(images, seeds, source, stop, *, direction=1, spacing=(1.0, 1.0, 1.0), extent=None):
    """Segment the slices from the one after ``source`` up to ``stop``."""
    segmenter = FlowSegmenter()
    context = SweepContext(
        len(images),
        images[0].shape,
        spacing,
        extents={} if extent is None else {1: extent},
    )
    bank = MemoryBank(1)
    for index, mask in seeds.items():
        embedding = segmenter.encode_image(images[index])
        seed = segmenter.encode_seed(embedding, SlicePrompt.from_mask(1, index, mask), mask.shape)
        np.testing.assert_array_equal(seed.patch.mask(mask.shape), mask)
        bank.add(MemoryEntry(index, True, seed.content))
    found = {}
    for index in range(source + direction, stop + direction, direction):
        embedding = segmenter.encode_image(images[index])
        (result,) = segmenter.segment(embedding, index, direction, [bank], context)
        logits = whole_slice(result.patch, images[index].shape)
        assert logits.dtype == np.float32
        assert np.isfinite(logits).all()
        for score in (result.presence, result.predicted_iou, result.stability):
            assert 0.0 <= score <= 1.0
        if result.presence < 0.5:
            assert (logits < 0).all()
        bank.add(MemoryEntry(index, False, result.content))
        bank.retain(index + direction, direction, segmenter.reach)
        found[index] = result
    return found


def dice(result, truth):
    mask = result.patch.mask(truth.shape)
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_follows_an_object_that_moves_and_grows(rng):
    truth = np.stack([ellipse((90, 100), 35 + 1.5 * i, 40 + i, 12 + 0.6 * i) for i in range(9)])
    images = render(truth, rng)
    forward = sweep(images, {0: truth[0]}, 0, 8)
    assert min(dice(forward[i], truth[i]) for i in forward) > 0.93
    backward = sweep(images, {8: truth[8]}, 8, 0, direction=-1)
    assert min(dice(backward[i], truth[i]) for i in backward) > 0.9


def test_is_better_than_leaving_the_mask_where_it_was(rng):
    truth = np.stack([ellipse((80, 80), 30 + 2 * i, 36, 9) for i in range(8)])
    found = sweep(render(truth, rng), {0: truth[0]}, 0, 7)
    for i, result in found.items():
        assert dice(result, truth[i]) > 2 * (truth[0] & truth[i]).sum() / (2 * truth[0].sum())


def test_keeps_off_a_neighbour_that_looks_the_same(rng):
    shape = (90, 110)
    truth = np.stack([ellipse(shape, 45, 38 + 0.5 * i, 12, 1.0) for i in range(8)])
    neighbour = np.stack([ellipse(shape, 45, 78 - 0.5 * i, 12, 1.0) for i in range(8)])
    images = render(truth | neighbour, rng)
    found = sweep(images, {0: truth[0]}, 0, 7)
    for i, result in found.items():
        assert dice(result, truth[i]) > 0.93
        assert not (result.patch.mask(shape) & neighbour[i]).any()


def test_presence_falls_below_one_half_after_the_object_has_ended(rng):
    radii = 16 * np.sqrt(np.clip(1 - (np.arange(26) / 13) ** 2, 0, None))
    truth = np.stack([ellipse((96, 96), 48, 48, max(r, 1e-9), 1.0) & (r > 0) for r in radii])
    found = sweep(render(truth, rng), {0: truth[0]}, 0, 25)
    assert all(found[i].presence >= 0.5 for i in range(1, 9))
    absent = [i for i in found if found[i].presence < 0.5 or not (found[i].patch.logits > 0).any()]
    assert absent
    assert min(absent) >= 10
    assert min(absent) <= 18
    assert found[3].predicted_iou > found[18].predicted_iou


def test_expected_overlap_falls_with_the_true_one(rng):
    truth = np.stack([ellipse((80, 80), 40, 40, 14) for _ in range(6)])
    images = render(truth, rng)
    images[3:] = rng.random(images[3:].shape)
    found = sweep(images, {0: truth[0]}, 0, 5)
    assert found[2].predicted_iou > 0.6
    assert found[4].predicted_iou < found[2].predicted_iou - 0.2


def test_inside_a_marked_extent_the_object_is_present_and_tapers_to_the_end(rng):
    images = np.full((14, 60, 60), 0.5, np.float32)
    seed = ellipse((60, 60), 30, 30, 12, 1.0)
    found = sweep(images, {0: seed}, 0, 12, extent=(0, 10))
    areas = [int((found[i].patch.logits > 0).sum()) for i in range(1, 11)]
    assert all(found[i].presence >= 0.5 for i in range(1, 11))
    assert all(a >= b for a, b in itertools.pairwise(areas))
    assert 1 <= areas[-1] < 0.7 * seed.sum()


def test_an_absent_slice_ahead_is_an_end_and_a_present_one_is_not(rng):
    images = np.full((9, 60, 60), 0.5, np.float32)
    seed = ellipse((60, 60), 30, 30, 12, 1.0)
    towards_end = sweep(images, {0: seed, 8: np.zeros_like(seed)}, 0, 7)
    towards_seed = sweep(images, {0: seed, 8: seed}, 0, 7)
    assert (towards_end[7].patch.logits > 0).sum() < 0.7 * seed.sum()
    assert dice(towards_seed[7], seed) > 0.98
    assert all(r.presence >= 0.5 for r in towards_seed.values())


@pytest.mark.parametrize("shape", [(20, 20), (3, 40), (1, 7), (300, 260)])
@pytest.mark.parametrize("fill", ["constant", "noise", "nan"])
def test_odd_slices_and_shapes(shape, fill, rng):
    images = np.full((4, *shape), 0.3, np.float32)
    if fill == "noise":
        images[:] = rng.random(images.shape)
    elif fill == "nan":
        images[:, ::2] = np.nan
        images[1:] = np.inf
    seed = np.zeros(shape, bool)
    seed[: max(1, shape[0] // 3), : shape[1] // 2] = True
    sweep(images, {0: seed}, 0, 3)


def test_constant_slices_leave_the_mask_in_place():
    images = np.full((4, 40, 40), 0.2, np.float32)
    seed = ellipse((40, 40), 20, 20, 8)
    found = sweep(images, {0: seed, 3: seed}, 0, 2)
    np.testing.assert_array_equal(found[2].patch.mask(seed.shape), seed)


@pytest.mark.parametrize("where", [(0, 0), (19, 29), (10, 15)])
def test_seed_of_one_pixel(where, rng):
    images = rng.random((4, 20, 30)).astype(np.float32)
    seed = np.zeros((20, 30), bool)
    seed[where] = True
    sweep(images, {0: seed}, 0, 3)


def test_seed_that_fills_the_slice(rng):
    images = rng.random((4, 24, 24)).astype(np.float32)
    found = sweep(images, {0: np.ones((24, 24), bool), 3: np.ones((24, 24), bool)}, 0, 2)
    assert found[1].patch.mask((24, 24)).mean() > 0.9


def test_object_at_the_border_stays_there(rng):
    truth = np.stack([ellipse((60, 60), 30, 2 - 0.5 * i, 14, 1.0) for i in range(6)])
    found = sweep(render(truth, rng), {0: truth[0]}, 0, 5)
    assert min(dice(found[i], truth[i]) for i in found) > 0.9


def test_result_does_not_depend_on_intensity_scale_or_on_other_labels(rng):
    truth = np.stack([ellipse((70, 70), 30 + i, 35, 11) for i in range(4)])
    images = render(truth, rng)
    reference = sweep(images, {0: truth[0]}, 0, 3)
    scaled = sweep(0.25 * images + 0.5, {0: truth[0]}, 0, 3)
    for i in reference:
        assert dice(scaled[i], reference[i].patch.mask((70, 70))) > 0.99
    segmenter = FlowSegmenter()
    context = SweepContext(4, (70, 70), (1.0, 1.0, 1.0))
    banks = []
    for label, mask in ((1, truth[0]), (2, ellipse((70, 70), 15, 15, 6))):
        embedding = segmenter.encode_image(images[0])
        seed = segmenter.encode_seed(embedding, SlicePrompt.from_mask(label, 0, mask), mask.shape)
        banks.append(MemoryBank(label, {0: MemoryEntry(0, True, seed.content)}))
    both = segmenter.segment(segmenter.encode_image(images[1]), 1, 1, banks, context)
    assert both[0].patch.box == reference[1].patch.box
    np.testing.assert_array_equal(both[0].patch.logits, reference[1].patch.logits)


def test_remembers_no_more_than_the_window_around_the_object():
    seed = ellipse((400, 400), 200, 200, 10)
    segmenter = FlowSegmenter()
    image = segmenter.encode_image(np.zeros((400, 400), np.float32))
    content = segmenter.encode_seed(image, SlicePrompt.from_mask(1, 0, seed), seed.shape).content
    assert content.image.base is None
    assert content.image.nbytes + content.distance.nbytes < 0.1 * image.nbytes


def test_taper_reads_the_end_off_extent_absent_seed_or_two_seeds():
    spacing = (2.0, 1.0, 1.0)
    marked = find_taper({5: 100}, 6, 1, (0, 9), spacing)
    assert (marked.apex, marked.end, marked.half_length) == (5, 10, 5.0)
    absent = find_taper({5: 100, 8: 0}, 6, 1, (0, 9), spacing)
    assert absent.end == 8
    sphere = find_taper({5: 314}, 4, -1, None, spacing)
    assert sphere.end is None
    assert sphere.half_length == pytest.approx(5.0, abs=0.01)
    two = find_taper({5: 314, 8: 157}, 9, 1, None, spacing)
    assert (two.apex, two.half_length) == (8, pytest.approx(3 / np.sqrt(0.5) - 3))
    assert find_taper({5: 100, 9: 10}, 6, 1, None, spacing).between


def test_an_open_end_is_expected_nearer_the_more_of_the_object_is_annotated():
    spacing, areas = (1.0, 1.0, 1.0), {20: 314}
    alone = find_taper(areas, 21, 1, None, spacing).half_length
    near, far, long, longest = (
        find_taper({**areas, seed: 313}, seed + 1, 1, None, spacing).half_length
        for seed in (21, 26, 38, 50)
    )
    assert alone == pytest.approx(10, abs=0.01)
    # What is left of the sphere; of a long object no sphere is left, its length counts.
    assert near == pytest.approx(alone - 1)
    assert far == pytest.approx(alone - 6)
    assert long == pytest.approx(6)
    assert longest == pytest.approx(alone, rel=0.01)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("area", [4, 36, 75, 100])
def test_before_a_marked_end_the_ellipsoid_passes_through_the_nearer_seed(area, direction):
    """An object that is nearly as wide there as on its largest seed is not nearly at its end."""
    extent, index = (0, 40), 20 + 9 * direction
    areas = {20: 100, 20 + 8 * direction: area}
    taper = find_taper(areas, index, direction, extent, (1.0, 1.0, 1.0))
    seed = 20 + 8 * direction
    assert taper.area * (1 - taper.travel(seed) ** 2) == pytest.approx(area, rel=0.02)
    assert taper.travel(20 + 21 * direction) == pytest.approx(1)
    assert taper.travel(seed) < taper.travel(index) < 1
