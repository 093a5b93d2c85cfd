from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_slmsam2.core.errors import GridMismatchError, VolumeError
from napari_slmsam2.widgets.workspace.grid import (
    check_same_grid,
    is_same_grid,
    make_labels_layer,
    make_volume,
    show_slice,
    slice_on_screen,
    view_on_screen,
    world_affine,
)

rng = np.random.default_rng(0)


def model(*layers):
    viewer = ViewerModel()
    for layer in layers:
        viewer.add_layer(layer)
    return viewer


@pytest.mark.parametrize(
    ("order", "axis", "slices", "plane"),
    [
        ((0, 1, 2), 0, 5, (6, 7)),
        ((1, 0, 2), 1, 6, (5, 7)),
        ((2, 1, 0), 2, 7, (5, 6)),
        ((0, 2, 1), 0, 5, (6, 7)),
    ],
)
def test_the_plane_on_screen_is_the_slice(order, axis, slices, plane):
    data = rng.random((5, 6, 7))
    image = Image(data, scale=(3, 2, 1))
    viewer = model(image)
    viewer.dims.order = order
    view = view_on_screen(image, viewer.dims)
    volume = make_volume(image, view)
    assert (volume.axis, volume.n_slices, volume.slice_shape) == (axis, slices, plane)
    np.testing.assert_array_equal(volume.take(2), data.take(2, axis))
    assert volume.spacing == (3, 2, 1)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_positions_go_through_scale_and_translation(order):
    image = Image(np.zeros((5, 6, 7)), scale=(3, 0.5, 2), translate=(100, -4, 7))
    viewer = model(Image(np.zeros((20, 20, 20)), scale=(9, 9, 9)), image)
    viewer.dims.order = order
    view = view_on_screen(image, viewer.dims)
    for index in (0, 3, 4):
        show_slice(image, view, viewer.dims, index)
        assert slice_on_screen(image, view, viewer.dims) == index


def test_time_and_channel_follow_the_sliders():
    data = rng.random((2, 4, 5, 6, 7))
    image = Image(data, axis_labels=("t", "c", "z", "y", "x"))
    viewer = model(image)
    viewer.dims.set_point((0, 1), (1, 3))
    view = view_on_screen(image, viewer.dims)
    assert view.held == ((0, 1), (1, 3))
    np.testing.assert_array_equal(make_volume(image, view).take(2), data[1, 3, 2])
    assert view.slice_key(2) == (1, 3, 2, slice(None), slice(None))


def test_a_channel_axis_between_slices_and_plane_is_held():
    data = rng.random((5, 2, 6, 7))
    image = Image(data, axis_labels=("z", "c", "y", "x"))
    view = view_on_screen(image, model(image).dims)
    assert view.layer_axis == 0
    np.testing.assert_array_equal(make_volume(image, view).take(4), data[4, 0])


def test_a_layer_with_fewer_axes_than_the_viewer():
    image = Image(np.zeros((5, 6, 7)))
    viewer = model(Image(np.zeros((3, 5, 6, 7))), image)
    view = view_on_screen(image, viewer.dims)
    assert (view.axes, view.axis) == ((0, 1, 2), 0)
    show_slice(image, view, viewer.dims, 4)
    assert viewer.dims.point[1] == 4


def test_colours_become_luminance():
    data = np.zeros((4, 5, 6, 3), np.uint8)
    data[2, ..., 1] = 100
    image = Image(data, rgb=True)
    volume = make_volume(image, view_on_screen(image, model(image).dims))
    np.testing.assert_allclose(volume.take(2), 71.54, rtol=1e-4)
    assert volume.take(2).shape == (5, 6)


def test_multiscale_gives_its_finest_level():
    data = rng.random((8, 16, 16))
    image = Image([data, data[::2, ::2, ::2]], multiscale=True)
    volume = make_volume(image, view_on_screen(image, model(image).dims))
    assert volume.shape == (8, 16, 16)
    labels = make_labels_layer(image)
    assert labels.data.shape == (8, 16, 16)
    assert is_same_grid(image, labels)


@pytest.mark.parametrize("held", [False, True])
def test_lazy_images_are_read_one_slice_at_a_time(held):
    read = []

    def block(block_info=None):
        read.append(block_info[None]["chunk-location"])
        return np.ones(block_info[None]["chunk-shape"], np.float32)

    shape = (2, 5, 6, 7) if held else (5, 6, 7)
    chunks = (*((1,) * s for s in shape[:-2]), *((s,) for s in shape[-2:]))
    image = Image(da.map_blocks(block, chunks=chunks, dtype=np.float32), contrast_limits=(0, 1))
    view = view_on_screen(image, model(image).dims)
    read.clear()
    volume = make_volume(image, view)
    assert read == []
    volume.take(3)
    assert len(set(read)) == 1


def test_zarr_labels_can_be_worked_on():
    image = Image(np.zeros((4, 5, 6)))
    labels = Labels(zarr.zeros((4, 5, 6), dtype="u1", chunks=(1, 5, 6)))
    check_same_grid(image, labels)


def test_a_flat_image_has_no_slices():
    image = Image(np.zeros((5, 6)))
    with pytest.raises(VolumeError, match="no stack of slices"):
        view_on_screen(image, model(image).dims)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (Labels(np.zeros((4, 5, 7), np.uint8)), "shapes differ"),
        (Labels(np.zeros((4, 5, 6), np.uint8), translate=(0, 0, 1)), "same place"),
        (Labels(np.zeros((4, 5, 6), np.uint8), rotate=10), "same place"),
        (Labels(np.zeros((4, 5, 6), np.uint8), units="mm"), "units differ"),
        (Labels(da.zeros((4, 5, 6), dtype=np.uint8)), "cannot be written"),
        (
            Labels([np.zeros((4, 5, 6), int), np.zeros((2, 2, 3), int)], multiscale=True),
            "multiscale",
        ),
    ],
)
def test_labels_on_another_grid_are_refused(labels, words):
    with pytest.raises(GridMismatchError, match=words):
        check_same_grid(Image(np.zeros((4, 5, 6))), labels)


def test_a_new_labels_layer_lies_on_the_image_exactly():
    image = Image(
        np.zeros((4, 5, 6)),
        scale=(3, 1, 2),
        translate=(1, 2, 3),
        rotate=10,
        shear=(0, 0, 0.1),
        affine=np.diag([2, 2, 2, 1]),
        units=("mm", "mm", "mm"),
        axis_labels=("z", "y", "x"),
        metadata={"file": "scan.nii"},
    )
    labels = make_labels_layer(image)
    assert labels.metadata == image.metadata
    check_same_grid(image, labels)
    assert labels.units == image.units
    assert labels.axis_labels == image.axis_labels
    np.testing.assert_allclose(labels.data_to_world((1, 2, 3)), image.data_to_world((1, 2, 3)))


def test_the_world_of_a_file_is_x_y_z():
    image = Image(np.zeros((2, 4, 5, 6)), scale=(1, 3, 2, 0.5), translate=(0, 10, 20, 30))
    view = view_on_screen(image, model(image).dims)
    point = world_affine(image, view) @ (1, 2, 3, 1)
    np.testing.assert_allclose(point[:3], (31.5, 24, 13))
