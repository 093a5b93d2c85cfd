"""Lassos and scribbles with napari's own tools in a real viewer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.layers import Labels, Shapes
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)
from qtpy.QtWidgets import QApplication
from tests.widgets.prompts.test_prompting import Clicker, Gated, Wrapped, blobs, overlap

OUTLINE = [(3.4, 5.4), (3.2, 9), (3.4, 15.6), (7, 16), (10.6, 15.6), (10.8, 9), (10.6, 5.4), (7, 5)]


@pytest.fixture
def model():
    return Gated()


@pytest.fixture
def clicker(viewer, qtbot, model):
    viewer.add_image(blobs(), name="scan", scale=(3, 1, 1), translate=(5, 0, 2))
    bench = Clicker(viewer, qtbot, model)
    bench.show(5)
    bench.panel.prompt_bar.reach.setValue(0)
    return bench


def drawing(clicker, kind):
    [layer] = [x for x in clicker.viewer.layers if type(x) is kind and x is not clicker.layer]
    return layer


def drag(clicker, layer, *places):
    """A drag of the mouse with the tool of a layer."""
    index = clicker.panel.workspace.index

    def event(kind, place):
        position = clicker.panel.workspace.image.data_to_world((index, *place))
        values = {"type": kind, "button": 1, "pos": 10.0 * np.array(place), "modifiers": ()}
        values |= {"position": position, "is_dragging": True, "view_direction": None}
        values |= {"dims_displayed": [1, 2], "dims_point": [index, 0, 0]}
        return Wrapped(SimpleNamespace(**values))

    mouse_press_callbacks(layer, event("mouse_press", places[0]))
    for place in places[1:]:
        mouse_move_callbacks(layer, event("mouse_move", place))
    mouse_release_callbacks(layer, event("mouse_release", places[-1]))
    QApplication.processEvents()
    QApplication.processEvents()
    clicker.wait()


def test_a_lasso_is_a_mask_and_a_seed_at_once(clicker):
    clicker.panel.prompt_bar.lasso.click()
    layer = drawing(clicker, Shapes)
    assert layer.mode == "add_polygon_lasso"
    assert clicker.viewer.layers.selection.active is layer
    drag(clicker, layer, *OUTLINE)
    assert overlap(clicker.mask(5)) > 0.9
    assert clicker.panel.seeds.rows == [(5, 1, "lasso")]
    assert len(layer.data) == 0
    assert len(clicker.panel.workspace.annotation.prompts.get(1, 5).lasso) > 3
    [lines] = clicker.marks
    assert lines.name == "boxes"
    clicker.panel.undo()
    assert not clicker.layer.data.any()
    assert clicker.seeds == set()


def test_a_polygon_of_the_shapes_layer_is_a_lasso_too(clicker):
    clicker.panel.draw_lasso()
    layer = drawing(clicker, Shapes)
    layer.add_polygons([np.array([(5, *corner) for corner in OUTLINE])])
    clicker.qtbot.waitUntil(lambda: clicker.seeds == {(5, 1)}, timeout=20_000)
    assert overlap(clicker.mask(5)) > 0.9


def test_points_correct_a_lasso(clicker):
    clicker.panel.draw_lasso()
    drag(clicker, drawing(clicker, Shapes), *OUTLINE)
    clicker.panel.click_points()
    assert not [x for x in clicker.viewer.layers if isinstance(x, Shapes)]
    clicker.click(7, 14, modifiers=("Shift",))
    prompt = clicker.panel.workspace.annotation.prompts.get(1, 5)
    assert prompt.lasso is not None
    assert not clicker.mask(5)[7, 14]


def test_strokes_are_a_mask_and_each_is_undone_alone(clicker):
    clicker.panel.prompt_bar.scribble.click()
    layer = drawing(clicker, Labels)
    assert layer.mode == "paint"
    layer.brush_size = 1
    drag(clicker, layer, (7, 7), (7, 14))
    assert overlap(clicker.mask(5)) > 0.9
    assert clicker.panel.seeds.rows == [(5, 1, "scribble")]
    one = clicker.mask(5)
    assert not clicker.panel.prompt_bar.outside.isHidden()
    clicker.panel.prompt_bar.outside.setChecked(True)
    assert layer.selected_label == 2
    drag(clicker, layer, (4, 15), (10, 15))
    assert not clicker.mask(5)[5:10, 15].any()
    prompt = clicker.panel.workspace.annotation.prompts.get(1, 5)
    assert set(prompt.scribble_labels) == {0, 1}
    clicker.panel.undo()
    np.testing.assert_array_equal(clicker.mask(5), one)
    assert set(np.unique(layer.data)) == {0, 1}, "the stroke is undone, too"
    clicker.panel.undo()
    assert not layer.data.any()
    assert clicker.seeds == set()


def test_strokes_belong_to_their_slice_and_label(clicker):
    clicker.panel.draw_scribble()
    layer = drawing(clicker, Labels)
    layer.brush_size = 1
    drag(clicker, layer, (7, 8), (7, 13))
    drawn = layer.data.copy()
    clicker.show(6)
    assert not layer.data.any()
    np.testing.assert_allclose(
        layer.data_to_world((0, 3, 3)), clicker.layer.data_to_world((6, 3, 3))
    )
    clicker.show(5)
    np.testing.assert_array_equal(layer.data, drawn)
    clicker.layer.selected_label = 2
    assert not layer.data.any()


def test_a_stroke_outside_alone_is_refused_and_removed(clicker):
    clicker.panel.draw_scribble()
    layer = drawing(clicker, Labels)
    clicker.panel.prompt_bar.outside.setChecked(True)
    drag(clicker, layer, (1, 1), (1, 5))
    assert clicker.told == "Mark the object first."
    assert clicker.seeds == set()
    assert not layer.data.any()


@pytest.mark.parametrize("kind", [Shapes, Labels])
def test_escape_and_other_tools_remove_the_layer(clicker, kind):
    start = clicker.panel.draw_lasso if kind is Shapes else clicker.panel.draw_scribble
    names = [layer.name for layer in clicker.viewer.layers]
    start()
    layer = drawing(clicker, kind)
    labels = [clicker.panel.labels.itemText(i) for i in range(clicker.panel.labels.count())]
    assert labels == [clicker.layer.name]
    next(f for k, f in layer.keymap.items() if str(k) == "Escape")(layer)
    assert clicker.panel.prompting.mode == "off"
    assert [x.name for x in clicker.viewer.layers] == names
    start()
    clicker.viewer.layers.selection.active = clicker.panel.workspace.image
    assert clicker.panel.prompting.mode == "off"
    start()
    clicker.panel.prompt_bar.paint.click()
    assert [x.name for x in clicker.viewer.layers] == names
    assert clicker.layer.mode == "paint"
    start()
    clicker.viewer.layers.remove(drawing(clicker, kind))
    assert clicker.panel.prompting.mode == "off"


def test_the_keys_are_free(clicker):
    keys = {s.key for s in clicker.panel.shortcuts.bound}
    assert {"Shift+O", "Shift+D"} <= keys


@pytest.mark.parametrize("kind", [Shapes, Labels])
def test_what_was_drawn_is_previewed_in_3d_while_the_tool_stays_chosen(clicker, kind):
    clicker.panel.prompt_bar.reach.setValue(2)
    start = clicker.panel.draw_lasso if kind is Shapes else clicker.panel.draw_scribble
    start()
    layer = drawing(clicker, kind)
    preview = clicker.panel.prompting.preview
    drag(clicker, layer, *(OUTLINE if kind is Shapes else [(7, 7), (7, 14)]))
    clicker.qtbot.waitUntil(lambda: preview.slices == (3, 4, 6, 7), timeout=20_000)
    clicker.qtbot.waitUntil(lambda: not preview.running, timeout=20_000)
    assert clicker.panel.prompting.mode == ("lasso" if kind is Shapes else "scribble")
    assert clicker.viewer.layers.selection.active is layer
    assert not clicker.layer.data[4].any()
    clicker.panel.accept()
    assert clicker.layer.data[[3, 4, 6, 7]].any((1, 2)).all()
    assert clicker.seeds == {(5, 1)}
    drag(clicker, layer, *(OUTLINE if kind is Shapes else [(6, 7), (6, 14)]))
    clicker.qtbot.waitUntil(lambda: preview.slices == (3, 4, 6, 7), timeout=20_000)
    next(f for k, f in layer.keymap.items() if str(k) == "Escape")(layer)
    assert not preview.active
    assert clicker.viewer.layers.selection.active is layer, "Escape drops the preview first"
