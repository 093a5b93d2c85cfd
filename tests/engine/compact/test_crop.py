"""Object crops: placement, reading and pasting, one by one and in batches."""

import numpy as np
import pytest
import torch
from scipy import ndimage as ndi

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.engine.compact.crop import ObjectCrops
from napari_slmsam2.engine.compact.features import (
    LOGITS_PER_PIXEL,
    SEED_AREA,
    KnownShapes,
    chosen_seeds,
    crop_for,
    in_crops,
    interpolated_priors,
    position_features,
    read_logits,
)
from napari_slmsam2.engine.compact.sweep import join, split
from napari_slmsam2.engine.features.contrast import Contrast
from napari_slmsam2.engine.features.interpolation import interpolated_logits, signed_distance

SPACING = (3.0, 1.0, 1.0)


def disc(shape, row, column, radius):
    rows, columns = np.indices(shape)
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def logits_of(mask, crops):
    return read_logits(torch.from_numpy(signed_distance(mask))[None], crops)


def read_by_scipy(image, row, column, side, size):
    """What `ObjectCrops.read` does for one crop, on the whole slice."""
    zoom = size / side
    image = ndi.gaussian_filter(image, max(0.0, 0.5 * (1 / zoom - 1)), mode="nearest")
    steps = (np.arange(size) - (size - 1) / 2) / zoom
    grid = np.meshgrid(row + steps, column + steps, indexing="ij")
    return ndi.map_coordinates(image, grid, order=1, mode="nearest")


PLACES = [(50.0, 60.5, 40.0), (3.25, 110.0, 60.0), (64.0, 64.0, 300.0), (10.0, 20.0, 97.3)]


def test_crops_of_any_size_are_read_together_as_scipy_reads_them_one_by_one():
    rng = np.random.default_rng(0)
    slices = rng.random((2, 120, 130)).astype(np.float32)
    crops = join([ObjectCrops.at(*place, 48) for place in PLACES])
    which = torch.tensor([0, 1, 1, 0])
    found = crops.read([torch.from_numpy(slices)], which)
    for own, number, place in zip(found[:, 0], which.tolist(), PLACES, strict=True):
        expected = read_by_scipy(slices[number], *place, 48)
        np.testing.assert_allclose(own, expected, atol=2e-4)
    for one, number, together in zip(split(crops), which, found, strict=True):
        alone = one.read([torch.from_numpy(slices)], number[None])
        np.testing.assert_allclose(alone[0], together, atol=1e-5)


def test_a_crop_is_read_equally_beside_one_that_shrinks_the_slice():
    slices = [torch.rand(1, 200, 190, generator=torch.Generator().manual_seed(0))]
    row, column = torch.tensor([60.3, 90.0]), torch.tensor([71.7, 90.0])
    both = ObjectCrops(row, column, torch.tensor([57.5, 110.0]), 80)
    alone = ObjectCrops(row[:1], column[:1], both.side[:1], 80)
    torch.testing.assert_close(both.read(slices)[:1], alone.read(slices), rtol=0, atol=2e-7)


@pytest.mark.parametrize("radius", [2, 9, 40, 90])
@pytest.mark.parametrize("place", [(100, 120), (3, 250), (199, 0)])
def test_a_mask_read_in_its_crop_is_pasted_back_where_it_was(radius, place):
    mask = disc((200, 256), *place, radius)
    crops = ObjectCrops.around(mask, 80, 2.0)
    seen = logits_of(mask, crops)
    assert seen.shape == (1, 80, 80)
    assert seen.dtype == torch.float32
    back = np.full(mask.shape, -99.0, np.float32)
    ((box, block),) = crops.paste(seen, mask.shape)
    back[box] = block
    found = back > 0
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.985
    assert radius == 90 or (back == -99.0).any()


def test_pasting_a_batch_equals_pasting_one_by_one():
    crops = join([ObjectCrops.at(*place, 48) for place in PLACES])
    values = torch.from_numpy(np.random.default_rng(0).random((4, 48, 48)).astype(np.float32))
    for own, value, (box, block) in zip(
        split(crops), values, crops.paste(values, (120, 130)), strict=True
    ):
        ((box_alone, alone),) = own.paste(value[None], (120, 130))
        assert box == box_alone
        np.testing.assert_allclose(block, alone, atol=1e-5)


def test_the_object_has_the_same_size_in_every_crop():
    small, large = (disc((300, 300), 150, 150, r) for r in (20, 120))
    areas = [
        int((crop_for(m, CompactConfig()).read([torch.from_numpy(m).float()[None]]) > 0.5).sum())
        for m in (small, large)
    ]
    assert areas[0] == pytest.approx(areas[1], rel=0.08)


def test_a_crop_of_the_whole_slice_shows_all_of_it():
    mask = disc((60, 90), 10, 80, 4)
    assert crop_for(mask, CompactConfig(follow="slice")).side == 90
    assert crop_for(np.zeros((60, 90), bool), CompactConfig()) is None


def test_a_crop_follows_its_object_and_stays_while_it_fits():
    crops = join([ObjectCrops.at(100, 100, 80, 80)] * 4)
    masks = np.stack(
        [
            disc((80, 80), 41, 40, 19.9),
            disc((80, 80), 55, 40, 19.9),
            disc((80, 80), 40, 40, 30),
            np.zeros((80, 80), bool),
        ]
    )
    found = crops.following(torch.from_numpy(masks), 2.0)
    assert found.row[0] == found.row[3] == found.column[0] == 100
    assert found.row[1] == pytest.approx(115.5)
    assert found.side.tolist() == [80, 78, 122, 80]


def test_the_prior_is_the_interpolation_between_annotated_slices():
    masks = {2: disc((80, 80), 30, 30, 10), 8: disc((80, 80), 40, 36, 14)}
    crops = ObjectCrops.around(masks[2], 80, 2.5)
    shapes = KnownShapes.collect(masks, None)
    prior = interpolated_priors([shapes], [5], crops)
    distance = torch.from_numpy(interpolated_logits(masks, 5) / 4.0)[None]
    whole = read_logits(distance, crops)
    near = whole.abs() < 6
    np.testing.assert_allclose(prior[near], whole[near], atol=0.35)
    assert interpolated_priors([shapes], [9], crops) is None
    ends = KnownShapes.collect({5: masks[2]}, (3, 9))
    assert sorted(ends.masks) == [2, 5, 10]
    both = interpolated_priors([shapes, ends], [9, 9], join([crops, crops]))
    assert not both[0].any()
    assert 0 < (both[1] > 0).sum() < (prior > 0).sum()


def test_overlap_is_that_of_the_annotated_masks_around_a_slice():
    first, second = np.zeros((2, 40, 40), bool)
    first[10:20, 10:20] = True
    second[10:20, 15:25] = True
    apart = np.zeros((40, 40), bool)
    apart[30:34, 30:34] = True
    shapes = KnownShapes.collect({2: first, 8: second, 12: apart}, (1, 15))
    assert shapes.overlap(5) == pytest.approx(0.5)
    assert shapes.overlap(10) == 0
    assert shapes.overlap(1) == shapes.overlap(14) == 1


def test_contrast_is_that_of_the_object_and_its_surround():
    mask = disc((100, 100), 50, 50, 10)
    image = np.where(mask, 0.8, 0.3).astype(np.float32)
    image[:5] = 40.0
    contrast = Contrast.measure(image, signed_distance(mask))
    scaled = contrast.apply(torch.from_numpy(image)[None, None])[0, 0]
    assert scaled[50, 50] == pytest.approx(1.0)
    assert scaled[50, 30] == pytest.approx(0.0, abs=1e-6)
    assert scaled.max() == 2.0


def test_seeds_are_chosen_on_both_sides_first():
    areas = {2: 50, 10: 300, 14: 80, 30: 0}
    assert chosen_seeds(areas, 12, 1, 2) == [10, 14]
    assert chosen_seeds(areas, 12, -1, 2) == [14, 10]
    assert chosen_seeds(areas, 16, 1, 2) == [14, 10]
    assert chosen_seeds(areas, 16, 1, 9) == [14, 10, 2]


def test_position_features_contain_marked_ends_and_seeds_ahead():
    crop = ObjectCrops.at(50, 50, 40, 80)

    def features(*arguments, crops=crop):
        return in_crops(torch.from_numpy(position_features(*arguments))[None], crops)[0].numpy()

    areas = {10: 314}
    open_end = features(areas, 14, 1, None, SPACING)
    assert open_end[2] == open_end[4] == 0
    assert open_end[0] == pytest.approx(4 / (10 / 3), rel=0.01)
    assert open_end[8] == pytest.approx(0.5)
    marked = features(areas, 14, 1, (5, 17), SPACING)
    assert marked[0] == 0
    assert marked[2] == 1
    assert marked[3] == pytest.approx(4 / 8)
    between = features({10: 314, 20: 100}, 14, 1, None, SPACING)
    assert between[4] == 1
    assert between[6] == pytest.approx(0.4)
    assert between[SEED_AREA] == pytest.approx(np.log(314 * 4 + 1))
    doubtful = features({10: 314, 20: 100}, 14, 1, None, SPACING, 0.15)
    assert doubtful[6] == pytest.approx(0.2)
    finer = features(areas, 14, 1, None, (1.5, 0.5, 0.5))
    np.testing.assert_allclose(finer, open_end, rtol=1e-6)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="multiple of 8"):
        CompactConfig(window_size=81)
    with pytest.raises(ConfigError, match="multiples of 8"):
        CompactConfig(widths=(16, 20, 64, 96))


def test_logits_have_the_same_slope_in_every_crop():
    mask = disc((100, 100), 50, 50, 20)
    middle = logits_of(mask, ObjectCrops.around(mask, 80, 2.0))[0, 40].numpy()
    slope = np.abs(np.diff(middle))[5:15]
    np.testing.assert_allclose(slope, LOGITS_PER_PIXEL, rtol=0.05)
