"""Labels as surfaces at their exact place, and pictures of the volume."""

from __future__ import annotations

import numpy as np
import pytest
from napari.layers import Surface
from PIL import Image
from qtpy.QtWidgets import QApplication, QFileDialog
from tests.widgets.conftest import scan
from tests.widgets.labels.test_label_table import Table

from napari_slmsam2.widgets import AnnotateWidget


def open_table(viewer, qtbot, **placed):
    viewer.window.add_dock_widget(AnnotateWidget(viewer), name="Annotate")
    QApplication.processEvents()
    return Table(viewer, qtbot)


def look(table, qtbot, *labels):
    table.table.clearSelection()
    for label in labels:
        table.table.select(label, more=True)
    table.view.look.click()
    qtbot.waitUntil(lambda: not table.widget.look.busy, timeout=20_000)


AFFINE = np.array(
    [[2.0, 0.1, 0.0, 4.0], [0.0, 0.6, 0.2, -3.0], [0.3, 0.0, 0.5, 8.0], [0.0, 0.0, 0.0, 1.0]]
)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing:UserWarning")
@pytest.mark.parametrize(
    "placed",
    [
        {"scale": (3, 1, 0.5), "translate": (5, -2, 7)},
        {"affine": AFFINE},
        {"scale": (2, 1, 1), "rotate": (10, 20, 30), "shear": (0.1, 0.2, 0)},
    ],
)
def test_a_surface_lies_on_the_voxels_of_its_label_in_the_world(viewer, qtbot, segmenter, placed):
    labels = np.zeros((12, 16, 24), np.uint8)
    labels[3:8, 4:10, 6:15] = 2
    viewer.add_image(scan(), name="scan", units="mm", **placed)
    layer = viewer.add_labels(labels, units="mm", **placed)
    table = open_table(viewer, qtbot)
    look(table, qtbot, 2)
    [surface] = [x for x in viewer.layers if isinstance(x, Surface)]
    assert viewer.dims.ndisplay == 3
    assert surface.units == layer.units
    assert viewer.layers.selection.active is not surface
    low, high = np.array([3, 4, 6]) - 0.5, np.array([7, 9, 14]) + 0.5
    np.testing.assert_allclose(surface.vertices.min(0), low)
    np.testing.assert_allclose(surface.vertices.max(0), high)
    world = np.array([surface.data_to_world(v) for v in surface.vertices[::50]])
    expected = np.array([layer.data_to_world(v) for v in surface.vertices[::50]])
    np.testing.assert_allclose(world, expected, rtol=1e-6)
    np.testing.assert_allclose(surface.vertex_colors[0][:3], layer.get_color(2)[:3], atol=0.01)


def test_a_surface_is_replaced_and_several_are_shown_at_once(bench, viewer, qtbot):
    table = Table(viewer, qtbot)
    bench.paint(5)
    bench.paint(6, label=2, at=(3, 3))
    table.settle()
    look(table, qtbot, 1, 2)
    look(table, qtbot, 1)
    names = sorted(x.name for x in viewer.layers if isinstance(x, Surface))
    assert names == ["Label 1 (surface)", "Label 2 (surface)"]


def test_rolled_axes_are_in_order_while_a_surface_is_shown_and_rolled_again_afterwards(
    viewer, qtbot, segmenter
):
    labels = np.zeros((12, 16, 24), np.uint8)
    labels[2:4, 3:12, 10:22] = 2
    viewer.add_image(scan(), name="scan", scale=(3, 1, 1))
    viewer.add_labels(labels, scale=(3, 1, 1))
    viewer.dims.order = (2, 1, 0)
    table = open_table(viewer, qtbot)
    space = table.widget._panel.workspace
    view = space.view
    look(table, qtbot, 2)
    assert space.view == view, "the panel keeps its slices"
    # napari draws the vertices of a surface in this order only.
    assert viewer.dims.order == (0, 1, 2)
    viewer.dims.ndisplay = 2
    assert viewer.dims.order == (2, 1, 0)
    assert space.view == view


def test_closing_the_table_in_3d_rolls_the_axes_again_afterwards(viewer, qtbot, segmenter):
    labels = np.zeros((12, 16, 24), np.uint8)
    labels[2:4, 3:12, 10:22] = 2
    viewer.add_image(scan(), name="scan", scale=(3, 1, 1))
    viewer.add_labels(labels, scale=(3, 1, 1))
    viewer.dims.order = (2, 1, 0)
    table = open_table(viewer, qtbot)
    look(table, qtbot, 2)
    viewer.window.remove_dock_widget(table.widget)
    table.widget.deleteLater()
    qtbot.wait(50)
    assert viewer.dims.order == (0, 1, 2)
    viewer.dims.ndisplay = 2
    assert viewer.dims.order == (2, 1, 0)
    viewer.dims.ndisplay = 3
    assert viewer.dims.order == (2, 1, 0), "the axes are in the hands of the viewer again"


def test_a_surface_of_one_time_point_has_the_place_of_that_time(viewer, qtbot, segmenter):
    labels = np.zeros((3, 12, 16, 24), np.uint8)
    labels[1, 3:8, 4:10, 6:15] = 2
    names = ("t", "z", "y", "x")
    viewer.add_image(np.stack([scan()] * 3), name="scan", axis_labels=names)
    viewer.add_labels(labels, axis_labels=names)
    viewer.dims.set_point(0, 1)
    table = open_table(viewer, qtbot)
    look(table, qtbot, 2)
    [surface] = [x for x in viewer.layers if isinstance(x, Surface)]
    assert surface.vertices.shape[1] == 4
    assert set(surface.vertices[:, 0]) == {1.0}
    np.testing.assert_allclose(surface.vertices.min(0)[1:], np.array([3, 4, 6]) - 0.5)


def test_surface_and_picture_are_saved(bench, viewer, qtbot, monkeypatch, tmp_path):
    table = Table(viewer, qtbot)
    bench.paint(5)
    bench.run()
    table.settle()
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *args, **_: (str(tmp_path / "out"), "")
    )
    table.table.select(1)
    table.widget.save_surface()
    table.widget.save_picture()
    qtbot.waitUntil(lambda: not table.widget.look.busy, timeout=20_000)
    assert (tmp_path / "out.stl").stat().st_size > 84
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width == 1600
