"""Finish tools in the window: previewed, applied as one step, and never on locked labels."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtWidgets import QApplication

from napari_slmsam2.session.finish import HOLES, ISLANDS, SMOOTH
from napari_slmsam2.session.label_edits import lock_labels
from napari_slmsam2.widgets import FinishWidget


class Finish:
    def __init__(self, viewer, qtbot):
        self.viewer, self.qtbot = viewer, qtbot
        self.widget = FinishWidget(viewer)
        viewer.window.add_dock_widget(self.widget, name="Finish")
        QApplication.processEvents()

    def choose(self, tool, **values):
        self.widget.form.editors["tool"].value = tool
        for name, value in values.items():
            self.widget.form.editors[name].value = value

    def press(self, name):
        button = getattr(self.widget, f"{name}_button")
        assert button.isEnabled()
        button.click()
        self.qtbot.waitUntil(lambda: not self.widget.busy, timeout=10_000)

    @property
    def previews(self):
        return [layer for layer in self.viewer.layers if layer.name.startswith("Preview")]


@pytest.fixture
def finish(bench, viewer, qtbot):
    data = bench.layer.data.copy()
    data[2:10, 2:9, 4:14] = 1
    data[3:9, 12, 20] = 1
    data[4:7, 4, 6] = 0
    data[2:10, 10:14, 4:10] = 2
    data[6, 14, 22] = 2
    bench.layer.data = data
    QApplication.processEvents()
    bench.layer.selected_label = 1
    return Finish(viewer, qtbot)


def test_a_preview_changes_nothing_and_is_removed_by_apply(bench, finish):
    before = bench.layer.data.copy()
    finish.choose(ISLANDS)
    finish.press("preview")
    [layer] = finish.previews
    np.testing.assert_array_equal(bench.layer.data, before)
    island = np.zeros(before.shape, bool)
    island[3:9, 12, 20] = True
    np.testing.assert_array_equal(layer.data == 1, island)
    np.testing.assert_array_equal(layer.scale, bench.layer.scale)
    np.testing.assert_array_equal(layer.translate, bench.layer.translate)
    assert "Label 1: 6 voxels removed (red), 0 added (green) on 6 slices." in (
        finish.widget.message.text()
    )
    assert bench.panel.workspace.index in range(3, 9), "a slice that changes is shown"
    assert bench.viewer.layers.selection.active is bench.layer
    assert bench.panel.workspace.labels is bench.layer
    finish.press("apply")
    assert not finish.previews
    assert finish.widget.message.text() == (
        "Done. Label 1: 6 voxels removed, 0 added on 6 slices."
    ), "there are no colours any more"
    np.testing.assert_array_equal(bench.layer.data, np.where(island, 0, before))
    assert bench.panel.undo_button.text() == "Undo islands"
    bench.panel.undo_button.click()
    np.testing.assert_array_equal(bench.layer.data, before)
    bench.panel.redo_button.click()
    np.testing.assert_array_equal(bench.layer.data, np.where(island, 0, before))


def test_range_and_all_labels(bench, finish):
    finish.choose(ISLANDS, first=5, last=6)
    finish.widget.all_labels.click()
    before = bench.layer.data.copy()
    finish.press("apply")
    expected = before.copy()
    expected[5:7, 12, 20] = 0
    expected[6, 14, 22] = 0
    np.testing.assert_array_equal(bench.layer.data, expected)


@pytest.mark.parametrize(("tool", "size"), [(HOLES, 3), (SMOOTH, None)])
def test_the_other_tools(bench, finish, tool, size):
    before = bench.layer.data.copy()
    finish.choose(tool)
    finish.press("preview")
    [layer] = finish.previews
    if size is not None:
        assert (layer.data == 2).sum() == size
    finish.press("apply")
    changed = bench.layer.data != before
    np.testing.assert_array_equal(changed, layer.data > 0)
    assert changed.any()
    assert not (changed & (before == 2)).any()


def test_painted_slices_stay_unless_asked(bench, finish):
    bench.paint(4, at=(8, 20), size=1)
    finish.choose(ISLANDS)
    finish.press("preview")
    assert not (finish.previews[0].data[4] > 0).any()
    finish.choose(ISLANDS, with_seeds=True)
    assert not finish.previews, "other settings discard the preview"
    finish.press("apply")
    assert bench.layer.data[4, 12, 20] == 0
    assert (4, 1) in bench.seeds


def test_a_locked_label_is_refused_with_a_message(bench, finish):
    before = bench.layer.data.copy()
    lock_labels(bench.panel.workspace.annotation, [1])
    finish.choose(ISLANDS)
    finish.press("apply")
    assert "label 1: is locked" in finish.widget.message.text()
    np.testing.assert_array_equal(bench.layer.data, before)


def test_only_the_settings_of_the_tool_are_shown(finish):
    for tool, shown in (
        (ISLANDS, {"smallest"}),
        (HOLES, {"largest", "per_slice"}),
        (SMOOTH, {"sigma"}),
    ):
        finish.choose(tool)
        editors = finish.widget.form.editors
        visible = {
            name
            for name in ("smallest", "largest", "per_slice", "sigma")
            if not editors[name].native.isHidden()
        }
        assert visible == shown


def test_nothing_to_change_is_reported(bench, finish):
    finish.choose(ISLANDS, smallest=1)
    finish.press("preview")
    assert finish.widget.message.text() == "There is nothing to change."
    assert not finish.previews


def test_closing_removes_the_preview(bench, finish, qtbot):
    finish.choose(ISLANDS)
    finish.press("preview")
    assert finish.previews
    bench.viewer.window.remove_dock_widget(finish.widget)
    assert not finish.previews
    finish.widget.deleteLater()
    qtbot.wait(50)


def test_the_panel_has_a_button(bench):
    bench.panel.finish.click()
    docks = bench.viewer.window.dock_widgets.values()
    assert [w for w in docks if isinstance(w, FinishWidget)]


def test_an_unexpected_error_is_reported_and_the_tools_stay_usable(finish, monkeypatch):
    def fail(*_):
        raise MemoryError("too large")

    with monkeypatch.context() as patch:
        patch.setattr("napari_slmsam2.widgets.finish.panel.find_changes", fail)
        finish.press("preview")
    assert "MemoryError: too large" in finish.widget.message.text()
    finish.choose(ISLANDS)
    finish.press("preview")
    assert len(finish.previews) == 1


def test_the_sizes_state_what_zero_stands_for(finish):
    editors = finish.widget.form.editors
    assert editors["smallest"].native.text() == "the largest only"
    assert editors["largest"].native.text() == "any size"
    editors["smallest"].value = 20
    assert editors["smallest"].native.text() == "20 voxels or more"
