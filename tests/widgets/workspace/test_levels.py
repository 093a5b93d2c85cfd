"""The resolution level of a multiscale image is chosen in the panel, and its labels lie on it."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from napari.layers import Image
from tests.widgets.conftest import Bench, scan

from napari_slmsam2.widgets.files.saving import all_labels, describe_image, save_labels
from napari_slmsam2.widgets.workspace.levels import level_layer

FINE, COARSE = (12, 32, 48), (12, 16, 24)


@pytest.fixture
def bench(viewer, qtbot, segmenter):
    levels = [scan(FINE), scan(COARSE), scan((12, 8, 12))]
    viewer.add_image(levels, multiscale=True, name="scan", scale=(3, 1, 1), translate=(5, 0, 2))
    return Bench(viewer, qtbot, segmenter)


def test_labels_of_a_level_are_run_and_saved_on_its_grid(bench, tmp_path):
    panel, chooser = bench.panel, bench.panel.levels
    assert not chooser.isHidden()
    assert [chooser.itemText(i) for i in range(chooser.count())] == [
        "Level 0: 12 x 32 x 48",
        "Level 1: 12 x 16 x 24",
        "Level 2: 12 x 8 x 12",
    ]
    assert bench.layer.data.shape == FINE
    panel.level_chooser.choose(1)
    image = panel.workspace.image
    assert image.name == "scan level 1"
    assert image.data is bench.viewer.layers["scan"].data[1]
    assert (image.visible, bench.viewer.layers["scan"].visible) == (True, False)
    assert (chooser.currentIndex(), panel.images.layer) == (1, image)
    assert bench.layer.data.shape == COARSE
    np.testing.assert_allclose(bench.layer.scale, (3, 2, 2))
    np.testing.assert_allclose(bench.layer.translate, (5, 0.5, 2.5))
    bench.paint(5)
    bench.run()
    assert bench.layer.data[2].any()
    view = panel.workspace.view
    source, grid = describe_image(image, view)
    read, lead = all_labels(bench.layer, view)
    path = save_labels(tmp_path / "labels.nii.gz", read(), source, grid, lead=lead)
    saved = nibabel.load(path)
    assert sorted(saved.shape) == sorted(COARSE)
    assert sorted(saved.header.get_zooms()) == [2, 2, 3]
    assert np.count_nonzero(saved.dataobj) == np.count_nonzero(bench.layer.data)


def test_every_level_keeps_its_layers(bench):
    panel = bench.panel
    fine = bench.layer
    panel.level_chooser.choose(2)
    coarse, image = bench.layer, panel.workspace.image
    panel.level_chooser.choose(0)
    assert (bench.layer, panel.workspace.image.name) == (fine, "scan")
    assert panel.workspace.image.visible
    assert not image.visible
    panel.level_chooser.choose(2)
    assert (bench.layer, panel.workspace.image) == (coarse, image)
    bench.viewer.layers.remove("scan")
    assert panel.levels.isHidden(), "the other levels are gone with their layer"


def test_images_without_levels_offer_none(bench):
    panel = bench.panel
    plain = bench.viewer.add_image(scan(), name="plain")
    panel.workspace.set_image(plain)
    assert panel.levels.isHidden()
    panel.workspace.set_image(bench.viewer.layers["scan"])
    assert not panel.levels.isHidden()


def test_the_voxels_of_a_level_lie_where_napari_draws_them():
    """In the middle of the voxels that they stand for, also with an affine within the slices."""
    data = np.zeros((6, 9, 8), np.uint8)
    affine = np.eye(4)
    affine[:3] = [[2, 0, 0, 4], [0, 1, 0.2, 2], [0, -0.3, 1.5, -3]]
    image = Image(
        [data, data[::2, ::3, ::2]],
        multiscale=True,
        scale=(2, 0.5, 0.7),
        translate=(1, -2, 3),
        shear=(0, 0, 0.3),
        affine=affine,
        units=("um", "um", "um"),
        axis_labels=("z", "y", "x"),
    )
    layer = level_layer(image, 1)
    assert layer.data.shape == (3, 3, 4)
    assert (layer.units, layer.axis_labels) == (image.units, image.axis_labels)
    for voxel in [(0, 0, 0), (2, 1, 3), (1, 2, 0)]:
        middle = np.array(voxel) * (2, 3, 2) + (0.5, 1, 0.5)
        np.testing.assert_allclose(layer.data_to_world(voxel), image.data_to_world(middle))
