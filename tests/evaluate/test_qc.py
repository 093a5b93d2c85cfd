"""The contact sheet: which slices it shows, how it turns them, what is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_slmsam2.core.errors import ConfigError, GridMismatchError
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.quality import SliceQuality
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.evaluate._sheet import Tile, outline, render_tile
from napari_slmsam2.evaluate.qc import (
    View,
    choose_slices,
    contact_sheet,
    flagged_slices,
    label_colours,
)

VOLUMES = Path(__file__).parents[3] / "shared" / "volumes"
WINDOW = IntensityWindow.from_limits(0, 1)
WHITE, RED = (255, 255, 255), (255, 80, 80)


def grey_volume(shape=(40, 30, 20), spacing=(1.0, 1.0, 2.0), axis=2, **more):
    return Volume(np.full(shape, 0.5, np.float32), axis, spacing, "um", **more)


def ball(shape=(40, 30, 20), label=3):
    z, y, x = np.indices(shape)
    inside = (z - 15) ** 2 + (y - 14) ** 2 + (x - 10) ** 2 < 6**2
    return np.where(inside, label, 0).astype(np.uint8)


def quality_of(index, confidence, area=50):
    return {index: SliceQuality(confidence, 1.0, 1.0, None, area, (5.0, 5.0))}


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def drawn(picture, colour):
    """Pixels of exactly that colour."""
    return int((picture == np.array(colour)).all(axis=2).sum())


def areas(*extents, n=100, size=10):
    found = {}
    for label, (first, last) in enumerate(extents, start=1):
        found[label] = np.zeros(n, np.int64)
        found[label][first : last + 1] = size
    return found


def test_a_short_object_is_shown_whole_with_a_slice_beyond_each_end():
    assert choose_slices(areas((5, 9)), 100, {1: [7]}, [], 24) == (4, 5, 6, 7, 8, 9, 10)
    assert choose_slices(areas((0, 2), n=3), 3, {}, [], 24) == (0, 1, 2)


def test_seeds_flags_and_ends_are_all_shown_and_the_rest_is_spread():
    chosen = choose_slices(areas((10, 80)), 100, {1: [30, 31]}, [70, 55], 12)
    assert len(chosen) == 12
    assert {30, 31, 70, 55, 10, 80} <= set(chosen)
    assert max(np.diff(chosen)) <= 12


def test_many_seeds_leave_half_of_the_sheet():
    seeds = {1: range(10, 80)}
    chosen = choose_slices(areas((5, 90)), 100, seeds, [85], 10)
    assert len(chosen) == 10
    assert {10, 79, 85, 5, 90} <= set(chosen)


def test_a_seed_outside_the_object_is_shown():
    assert 60 in choose_slices(areas((10, 20)), 100, {1: [15, 60]}, [], 8)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 30), n_slices=st.integers(1, 60))
def test_choice_is_sorted_unique_and_bounded(data, n, n_slices):
    index = st.integers(0, n_slices - 1)
    extents = data.draw(st.lists(st.tuples(index, index).map(sorted), max_size=4))
    seeds = {1: data.draw(st.lists(index, max_size=8))}
    flags = data.draw(st.lists(index, max_size=n // 4, unique=True))
    chosen = choose_slices(areas(*extents, n=n_slices), n_slices, seeds, flags, n)
    assert 1 <= len(chosen) <= n
    assert list(chosen) == sorted(set(chosen))
    assert 0 <= chosen[0] <= chosen[-1] < n_slices


def test_only_doubtful_slices_are_flagged():
    quality = {1: {**quality_of(3, 1.0), **quality_of(13, 0.2), **quality_of(25, 0.1)}}
    flags = flagged_slices(quality, {1: [40]}, 5)
    assert list(flags) == [25, 13]
    assert flags[25].reason == "low confidence"
    assert list(flagged_slices(quality, {1: [40]}, 1)) == [25]


def test_the_view_is_radiological():
    """A marker at the patient's right, anterior, superior corner, in three ways to store it."""
    for codes in ("RAS", "LPS", "PIR"):
        world = [("LR", "PA", "IS")[a] for a in range(3)]
        affine, marker = np.zeros((4, 4)), []
        affine[3, 3] = 1
        for column, code in enumerate(codes):
            row = next(a for a in range(3) if code in world[a])
            affine[row, column] = 1 if code in "RAS" else -1
            marker.append(4 if code in "RAS" else 0)
        data = np.zeros((5, 5, 5), np.float32)
        data[tuple(marker)] = 1
        for axis in range(3):
            volume = Volume(data, axis, unit="mm", affine=affine)
            shown = View.of(volume)
            across = codes[axis]
            expected = {"R": ("S", "A"), "L": ("S", "A")}.get(across)
            expected = expected or {"A": ("S", "R"), "P": ("S", "R")}.get(across, ("A", "R"))
            assert (shown.up, shown.left) == expected
            assert shown.turn(volume.take(marker[axis]))[0, 0] == 1


def test_volumes_outside_a_patient_are_shown_as_stored():
    image = np.arange(12.0).reshape(3, 4)
    for volume in (
        grey_volume(affine=np.eye(4)),
        Volume(np.zeros((2, 3, 4)), unit="mm"),
    ):
        np.testing.assert_array_equal(View.of(volume).turn(image), image)


def test_outline_lies_inside_the_label():
    labels = np.zeros((9, 9), np.uint8)
    labels[2:7, 2:7] = 4
    edge = outline(labels, 1)
    expected = labels > 0
    expected[3:6, 3:6] = False
    np.testing.assert_array_equal(edge, expected)
    np.testing.assert_array_equal(outline(labels, 2).sum(), 24)


def test_outline_parts_touching_labels_but_not_the_border_of_the_slice():
    labels = np.repeat([[5, 5, 5, 9, 9, 9]], 4, axis=0)
    np.testing.assert_array_equal(outline(labels, 1)[0], [0, 0, 1, 1, 0, 0])


def test_tile_keeps_grey_values_and_draws_labels_in_their_colour():
    labels = np.zeros((10, 10), np.int32)
    labels[2:8, 2:8] = 70000
    tile = Tile(np.full((10, 10), 0.4, np.float32), labels, "", "", "")
    rgb = render_tile(tile, (100, 50), {70000: (255, 0, 0)})
    assert rgb.shape == (100, 50, 3)
    np.testing.assert_array_equal(rgb[50, 25], [102, 102, 102])
    np.testing.assert_array_equal(rgb[20, 25], [255, 0, 0])
    np.testing.assert_array_equal(rgb[19, 25], [102, 102, 102])


def test_colours_differ():
    colours = list(label_colours(range(1, 13)).values())
    apart = [np.abs(np.subtract(a, b)).sum() for a in colours for b in colours if a != b]
    assert len(set(colours)) == 12
    assert min(apart) > 60


def test_sheet_shows_outlines_seeds_and_flags(tmp_path):
    volume, labels = grey_volume(), ball()
    path = tmp_path / "sheet.png"
    contact_sheet(volume, labels, WINDOW, path)
    plain = pixels(path)
    assert plain.shape[1] == 1600
    assert 300 < plain.shape[0] < 2500
    colour = label_colours([3])[3]
    assert drawn(plain, colour) > 1000
    assert (drawn(plain, WHITE), drawn(plain, RED)) == (0, 0)

    contact_sheet(volume, labels, WINDOW, path, seeds={3: [10]}, quality={3: quality_of(14, 0.1)})
    marked = pixels(path)
    assert drawn(marked, WHITE) > 1000
    assert drawn(marked, RED) > 1000


@pytest.mark.parametrize(("spacing", "ratio"), [((1.0, 1.0, 1.0), 1.0), ((3.0, 1.0, 1.0), 3.0)])
def test_pixels_have_their_physical_aspect(tmp_path, spacing, ratio):
    labels = np.zeros((20, 20, 1), np.uint8)
    labels[8:12, 8:12] = 1
    contact_sheet(grey_volume((20, 20, 1), spacing), labels, WINDOW, tmp_path / "one.png")
    picture = pixels(tmp_path / "one.png")[60:]  # below the legend
    rows, columns = np.nonzero((picture == np.array(label_colours([1])[1])).all(axis=2))
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(ratio, rel=0.03)


def test_sheet_of_every_axis_and_of_no_label(tmp_path):
    for axis in range(3):
        contact_sheet(grey_volume(axis=axis), ball(), WINDOW, tmp_path / "axis.png", n=6)
        assert drawn(pixels(tmp_path / "axis.png"), label_colours([3])[3]) > 500
    contact_sheet(grey_volume(), np.zeros((40, 30, 20), bool), WINDOW, tmp_path / "none.png")
    assert pixels(tmp_path / "none.png").shape[1] == 1600


def test_sheet_of_many_labels(tmp_path):
    labels = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30, 1)
    contact_sheet(grey_volume((40, 30, 1)), labels, WINDOW, tmp_path / "many.png")
    assert pixels(tmp_path / "many.png").shape[1] == 1600


def test_bad_requests(tmp_path):
    volume = grey_volume()
    with pytest.raises(GridMismatchError, match=r"found \(4, 4, 4\)"):
        contact_sheet(volume, np.zeros((4, 4, 4), np.uint8), WINDOW, tmp_path / "a.png")
    with pytest.raises(ConfigError, match="1 or more; found 0"):
        contact_sheet(volume, ball(), WINDOW, tmp_path / "a.png", n=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mr_hippocampus_msd001", "pet_sarcoma_sts018"])
def test_sheet_of_a_real_volume(tmp_path, name):
    nibabel = pytest.importorskip("nibabel")
    folder = VOLUMES / name
    if not folder.is_dir():
        pytest.skip("the development volumes are not here")
    image, labels = (nibabel.load(folder / f"{part}.nii.gz") for part in ("image", "labels"))
    axis = json.loads((folder / "meta.json").read_text())["slice_axis"]
    spacing = tuple(float(s) for s in image.header.get_zooms())
    volume = Volume(np.asarray(image.dataobj), axis, spacing, "mm", image.affine, name)
    contact_sheet(
        volume,
        np.asarray(labels.dataobj),
        IntensityWindow.from_percentiles(volume),
        tmp_path / "sheet.png",
    )
    picture = pixels(tmp_path / "sheet.png")
    assert picture.shape[1] == 1600
    assert picture.shape[0] < 1600
