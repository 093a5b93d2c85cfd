"""The window that follows the object: what is read through it can be written back."""

import numpy as np
import pytest

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.engine.compact.crop import ObjectCrop
from napari_slmsam2.engine.compact.features import (
    AREA_CUE,
    LOGITS_PER_PIXEL,
    Contrast,
    chosen_seeds,
    interpolated_prior,
    known_masks,
    position_features,
    read_logits,
    window_for,
)
from napari_slmsam2.engine.features.interpolation import interpolated_logits, signed_distance

SPACING = (3.0, 1.0, 1.0)


def disc(shape, row, column, radius):
    rows, columns = np.indices(shape)
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


@pytest.mark.parametrize("radius", [2, 9, 40, 90])
@pytest.mark.parametrize("place", [(100, 120), (3, 250), (199, 0)])
def test_a_mask_comes_back_through_the_window(radius, place):
    mask = disc((200, 256), *place, radius)
    window = ObjectCrop.around(mask, 80, 2.0)
    seen = read_logits(signed_distance(mask), window)
    assert seen.shape == (80, 80)
    assert seen.dtype == np.float32
    back = np.full(mask.shape, -99.0, np.float32)
    window.write(seen, back)
    found = back > 0
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.985
    assert radius == 90 or (back == -99.0).any()


def test_the_object_has_the_same_size_in_every_window():
    small, large = (disc((300, 300), 150, 150, r) for r in (20, 120))
    areas = [
        (window_for(m, CompactConfig()).read(m.astype(np.float32)) > 0.5).sum()
        for m in (small, large)
    ]
    assert areas[0] == pytest.approx(areas[1], rel=0.08)


def test_a_window_of_the_whole_slice_shows_all_of_it():
    mask = disc((60, 90), 10, 80, 4)
    window = window_for(mask, CompactConfig(follow="slice"))
    assert window.side == 90
    assert window_for(np.zeros((60, 90), bool), CompactConfig()) is None


def test_the_prior_is_the_interpolation_between_annotated_slices():
    masks = {2: disc((80, 80), 30, 30, 10), 8: disc((80, 80), 40, 36, 14)}
    window = ObjectCrop.around(masks[2], 80, 2.5)
    prior = interpolated_prior(masks, 5, window)
    whole = read_logits(interpolated_logits(masks, 5) / 4.0, window)
    near = np.abs(whole) < 6
    np.testing.assert_allclose(prior[near], whole[near], atol=0.35)
    assert not interpolated_prior(masks, 9, window).any()
    ends = known_masks({5: masks[2]}, (3, 9))
    assert sorted(ends) == [2, 5, 10]
    assert (interpolated_prior(ends, 9, window) > 0).sum() < (prior > 0).sum()


def test_contrast_is_that_of_the_object_and_its_surround():
    mask = disc((100, 100), 50, 50, 10)
    image = np.where(mask, 0.8, 0.3).astype(np.float32)
    image[:5] = 40.0
    contrast = Contrast.measure(image, signed_distance(mask))
    scaled = contrast.apply(image)
    assert scaled[50, 50] == pytest.approx(1.0)
    assert scaled[50, 30] == pytest.approx(0.0, abs=1e-6)
    assert scaled.max() == 2.0


def test_seeds_are_chosen_on_both_sides_first():
    areas = {2: 50, 10: 300, 14: 80, 30: 0}
    assert chosen_seeds(areas, 12, 1, 2) == [10, 14]
    assert chosen_seeds(areas, 12, -1, 2) == [14, 10]
    assert chosen_seeds(areas, 16, 1, 2) == [14, 10]
    assert chosen_seeds(areas, 16, 1, 9) == [14, 10, 2]


def test_cues_tell_marked_ends_and_seeds_ahead():
    window = ObjectCrop(50, 50, 40, 80)
    areas = {10: 314}
    open_end = position_features(areas, 14, 1, None, SPACING, window)
    assert open_end[2] == open_end[4] == 0
    assert open_end[0] == pytest.approx(4 / (10 / 3), rel=0.01)
    marked = position_features(areas, 14, 1, (5, 17), SPACING, window)
    assert marked[0] == 0
    assert marked[2] == 1
    assert marked[3] == pytest.approx(4 / 8)
    between = position_features({10: 314, 20: 100}, 14, 1, None, SPACING, window)
    assert between[4] == 1
    assert between[6] == pytest.approx(0.4)
    assert between[AREA_CUE] == pytest.approx(np.log(314 * 4 + 1))
    finer = position_features(areas, 14, 1, None, (1.5, 0.5, 0.5), window)
    np.testing.assert_allclose(finer, open_end)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="multiple of 8"):
        CompactConfig(window_size=81)
    with pytest.raises(ConfigError, match="multiples of 8"):
        CompactConfig(widths=(16, 20, 64, 96))


def test_logits_have_the_slope_of_the_window():
    mask = disc((100, 100), 50, 50, 20)
    window = ObjectCrop.around(mask, 80, 2.0)
    seen = read_logits(signed_distance(mask), window)
    middle = seen[40]
    slope = np.abs(np.diff(middle))[5:15]
    np.testing.assert_allclose(slope, LOGITS_PER_PIXEL, rtol=0.05)
