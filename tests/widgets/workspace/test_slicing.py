from __future__ import annotations

import warnings

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.widgets.workspace.grid import (
    is_tilted,
    make_volume,
    place_on_slice,
    show_slice,
    slice_on_screen,
    view_on_screen,
    world_affine,
)

SHAPE = (8, 9, 10)
DATA = np.random.default_rng(0).random(SHAPE).astype(np.float32)
SHEARED = np.array([[2, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 5], [0, 0, 0, 1]])
SHEARED_IN_THE_PICTURE = np.array([[2, 0, 0, 0], [0, 1, 0.4, 0], [0.5, 0, 1, 5], [0, 0, 0, 1]])

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")


def shown(image, data=DATA):
    """The slices of axis 0 that napari draws."""
    picture = np.asarray(image._slice.image.raw)
    return [i for i in range(len(data)) if np.array_equal(picture, data[i])]


@pytest.mark.parametrize(
    "place",
    [
        {"scale": (-2, 1, 1)},
        {"scale": (3, 0.5, 0.5), "translate": (7, 0, 0)},
        {"affine": np.diag([5, 0.5, 0.5, 1])},
        {"scale": (3, 1, 1), "rotate": (0, 0, 30)},
        {"scale": (2, 1, 1), "rotate": (20, 0, 0)},
        {"scale": (2, 1, 1), "rotate": (0, 35, 10)},
        {"shear": (0.4, 0.2, 0.1)},
        {"affine": SHEARED},
        {"affine": SHEARED_IN_THE_PICTURE, "scale": (2, 1, 1)},
    ],
)
def test_the_slice_asked_for_is_the_slice_that_napari_draws(place):
    viewer = ViewerModel()
    image = viewer.add_image(DATA, **place)
    for index in (2, 3, 5):
        show_slice(image, view_on_screen(image, viewer.dims), viewer.dims, index)
        assert shown(image) == [index]
        assert slice_on_screen(image, view_on_screen(image, viewer.dims), viewer.dims) == index


def test_slices_of_a_tilted_layer_that_the_slider_does_not_reach_are_not_claimed():
    viewer = ViewerModel()
    image = viewer.add_image(DATA, affine=SHEARED)
    view = view_on_screen(image, viewer.dims)
    show_slice(image, view, viewer.dims, 0)
    assert shown(image) == [slice_on_screen(image, view, viewer.dims)] == [1]


@pytest.mark.parametrize("units", [("um", "um", "um"), ("mm", "um", "um")])
def test_slices_of_a_layer_in_other_units_than_the_viewer(units):
    viewer = ViewerModel()
    image = viewer.add_image(DATA, scale=(3, 1, 1), units="mm")
    viewer.add_image(np.zeros(SHAPE), units=units)
    show_slice(image, view_on_screen(image, viewer.dims), viewer.dims, 5)
    assert shown(image) == [5]
    assert slice_on_screen(image, view_on_screen(image, viewer.dims), viewer.dims) == 5


def test_time_stays_when_the_slice_of_a_tilted_series_changes():
    data = np.random.default_rng(0).random((3, *SHAPE))
    viewer = ViewerModel()
    image = viewer.add_image(data, axis_labels=("t", "z", "y", "x"), rotate=np.eye(4))
    affine = np.eye(5)
    affine[1:4, 1:4] = SHEARED[:3, :3]
    image.affine = affine
    viewer.dims.set_point(0, 2)
    view = view_on_screen(image, viewer.dims)
    show_slice(image, view, viewer.dims, 6)
    assert view.held == ((0, 2),)
    assert shown(image, data[2]) == [6]


@pytest.mark.parametrize(
    ("place", "size"),
    [
        ({"scale": (-3, 0.5, 0.5)}, (3, 0.5, 0.5)),
        ({"affine": np.diag([5, 0.5, 0.25, 1])}, (5, 0.5, 0.25)),
        ({"affine": np.diag([5, 0.5, 0.25, 1]), "scale": (2, 1, 4)}, (10, 0.5, 1)),
        ({"scale": (4, 2, 1), "rotate": (20, 10, 5)}, (4, 2, 1)),
        ({"affine": SHEARED}, (2, 1, np.hypot(0.3, 1))),
    ],
)
def test_the_voxel_size_is_that_of_the_composed_transform(place, size):
    viewer = ViewerModel()
    image = viewer.add_image(DATA, **place)
    volume = make_volume(image, view_on_screen(image, viewer.dims))
    np.testing.assert_allclose(volume.spacing, size)


def test_axes_in_different_units_are_one_size_in_one_unit():
    viewer = ViewerModel()
    image = viewer.add_image(DATA, scale=(2, 300, 300), units=("um", "nm", "nm"))
    view = view_on_screen(image, viewer.dims)
    volume = make_volume(image, view)
    np.testing.assert_allclose(volume.spacing, (2, 0.3, 0.3))
    assert volume.unit == "um"
    np.testing.assert_allclose(world_affine(image, view) @ (1, 1, 1, 1), (0.3, 0.3, 2, 1))


@pytest.mark.parametrize(
    ("place", "tilted"),
    [
        ({"scale": (3, 1, -1), "rotate": (0, 0, 30)}, False),
        ({"rotate": (0, 0.1, 0)}, False),
        ({"rotate": (20, 0, 0)}, True),
        ({"affine": SHEARED}, True),
        ({"affine": SHEARED_IN_THE_PICTURE}, True),
    ],
)
def test_a_tilt_out_of_the_slice_plane_is_noticed(place, tilted):
    viewer = ViewerModel()
    assert is_tilted(viewer.add_image(DATA, **place), viewer.dims) == tilted


def test_the_place_under_the_mouse_is_that_of_the_picture():
    viewer = ViewerModel()
    image = viewer.add_image(DATA, affine=SHEARED_IN_THE_PICTURE)
    view = view_on_screen(image, viewer.dims)
    # napari draws column 4 of row 3 here, whatever the slice: see `LayerSlicing`.
    world = (99, 3 + 0.4 * 4, 4 + 5)
    np.testing.assert_allclose(place_on_slice(image, view, viewer.dims, world), (3, 4))


def test_sliders_that_do_not_move_through_the_slices_are_refused():
    viewer = ViewerModel()
    turned = np.eye(4)[[1, 0, 2, 3]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = viewer.add_image(DATA)
        image.affine = turned
    with pytest.raises(VolumeError, match="sliders do not move through its slices"):
        view_on_screen(image, viewer.dims)


def test_a_scale_of_zero_is_refused():
    viewer = ViewerModel()
    image = viewer.add_image(DATA)
    with pytest.raises(np.linalg.LinAlgError):  # napari's own
        image.scale = (0, 1, 1)
    with pytest.raises(VolumeError, match="transform without an inverse"):
        view_on_screen(image, viewer.dims)
