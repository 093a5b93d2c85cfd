from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels

from napari_slmsam2.core.errors import GridMismatchError
from napari_slmsam2.widgets.workspace.workspace import Workspace

SHAPE = (6, 8, 9)

pytestmark = pytest.mark.filterwarnings("ignore:Non-orthogonal slicing")


@pytest.fixture
def space(qapp):
    viewer = ViewerModel()
    image = viewer.add_image(np.random.default_rng(0).random(SHAPE), name="scan")
    made = Workspace(viewer)
    made.set_image(image)
    made.add_labels()
    yield made
    made.close_connections()


def paint(space, index=2):
    annotation, sink = space.stack.annotation, space.stack.sink
    sink.layer.data[index, 2:5, 2:5] = 1
    annotation.take_edit(index, sink.read(index))


CHANGES = [
    {"scale": (5, 0.5, 0.5)},
    {"scale": (-5, 0.5, 0.5)},
    {"translate": (3, 4, 5)},
    {"affine": np.diag([5, 0.5, 0.5, 1])},
    {"rotate": (0, 0, 30)},
    {"shear": (0.1, 0.2, 0.3)},
    {"units": ("mm", "mm", "mm")},
    {"units": ("um", "nm", "nm"), "scale": (2, 300, 300)},
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_labels_follow_their_image(space, change):
    paint(space)
    for name, value in change.items():
        setattr(space.image, name, value)
    assert space.problem is None
    assert space.labels.units == space.image.units
    voxel = space.labels.world_to_data(space.image.data_to_world((4, 5, 6)))
    np.testing.assert_allclose(voxel, (4, 5, 6))
    assert [(p.label, p.index) for p in space.annotation.prompts] == [(1, 2)]


def test_a_volume_has_the_voxel_size_that_was_set_later(space):
    paint(space)
    told = []
    space.volume_replaced.connect(lambda annotation, what: told.append((annotation, what)))
    annotation = space.annotation
    stack = space.stack
    stack.session = object()
    space.image.translate = (1, 2, 3)
    assert told == []
    assert stack.session is not None
    space.image.scale = (5, 0.5, 0.5)
    assert space.annotation is annotation
    assert annotation.volume.spacing == (5, 0.5, 0.5)
    assert stack.session is None
    assert told == [(annotation, "The voxel size of the image changed")]
    space.image.units = "mm"
    assert annotation.volume.unit == "mm"


def test_labels_that_were_moved_do_not_follow_and_are_reported(space):
    space.labels.translate = (0, 0, 2)
    assert isinstance(space.problem, GridMismatchError)
    assert "2 voxels apart" in str(space.problem)
    space.image.scale = (5, 1, 1)
    np.testing.assert_array_equal(space.labels.scale, (1, 1, 1))
    assert isinstance(space.problem, GridMismatchError)
    space.labels.scale, space.labels.translate = (5, 1, 1), (0, 0, 0)
    assert space.problem is None
    assert space.annotation.volume.spacing == (5, 1, 1)


def test_labels_from_elsewhere_are_not_moved(space):
    other = Labels(np.zeros(SHAPE, np.uint8))
    space.viewer.add_layer(other)
    space.set_labels(other)
    space.image.scale = (5, 1, 1)
    np.testing.assert_array_equal(other.scale, (1, 1, 1))
    assert isinstance(space.problem, GridMismatchError)


def test_the_labels_of_an_image_follow_also_while_another_one_is_worked_on(space):
    first, labels = space.image, space.labels
    space.set_image(space.viewer.add_image(np.zeros((4, 5, 6)), name="other"))
    first.scale = (5, 1, 1)
    np.testing.assert_array_equal(labels.scale, (5, 1, 1))


def test_the_labels_follow_when_the_panel_was_reopened(space):
    space.close_connections()
    again = Workspace(space.viewer)
    again.set_image(space.image)
    space.image.scale = (5, 1, 1)
    np.testing.assert_array_equal(again.labels.scale, (5, 1, 1))
    again.close_connections()
    space.image.scale = (7, 1, 1)
    np.testing.assert_array_equal(again.labels.scale, (5, 1, 1))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_labels_may_be_a_twentieth_of_a_voxel_off(space, size):
    space.image.scale = (size, 5 * size, 5 * size)
    space.labels.translate = (0, 0.2 * size, 0)
    assert space.problem is None
    space.labels.translate = (0, 0.3 * size, 0)
    assert isinstance(space.problem, GridMismatchError)


def test_another_image_on_the_same_grid_becomes_the_volume(space):
    paint(space)
    told = []
    space.volume_replaced.connect(lambda annotation, what: told.append(what))
    other = space.viewer.add_image(np.ones(SHAPE), name="other")
    space.set_image(other)
    assert space.annotation.volume.take(0).min() == 1
    assert len(space.annotation.prompts) == 1
    assert told == ["Another image was chosen"]


def test_new_voxels_of_the_image_become_the_volume_and_seeds_survive_another_shape(space):
    paint(space)
    told = []
    space.volume_replaced.connect(lambda annotation, what: told.append(what))
    space.image.data = np.ones(SHAPE)
    assert space.annotation.volume.take(0).min() == 1
    space.image.data = np.zeros((3, 4, 5))
    assert isinstance(space.problem, GridMismatchError)
    space.image.data = np.full(SHAPE, 2.0)
    assert space.annotation.volume.take(0).min() == 2
    assert len(space.annotation.prompts) == 1
    assert told == ["The voxels of the image changed"] * 3


def test_a_scale_of_zero_is_a_problem_and_no_crash(space):
    with pytest.raises(np.linalg.LinAlgError):  # napari's own
        space.image.scale = (0, 1, 1)
    assert space.index == -1
    space.go_to(3)
    assert "transform without an inverse" in str(space.problem)
    space.image.scale = (1, 1, 1)
    space.go_to(3)
    assert space.problem is None
    assert space.index == 3


def test_an_image_is_worked_on_with_the_top_labels_that_fit(qapp):
    viewer = ViewerModel()
    image = viewer.add_image(np.zeros(SHAPE), name="scan")
    _, top = (viewer.add_labels(np.zeros(SHAPE, np.uint8)) for _ in range(2))
    space = Workspace(viewer)
    space.set_image(image)
    assert space.labels is top
    space.close_connections()
