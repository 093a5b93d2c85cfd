"""The label table beside the panel: a real viewer, real clicks and the panel's undo."""

from __future__ import annotations

import csv
import gc
import time
import weakref

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QApplication, QColorDialog, QFileDialog, QLineEdit
from tests.widgets.conftest import scan

from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io import read_label_map
from napari_slmsam2.io.label_names import read_label_names
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets import AnnotateWidget, LabelTableWidget
from napari_slmsam2.widgets.labels.counting import LabelCounter
from napari_slmsam2.widgets.labels.model import Column
from napari_slmsam2.widgets.workspace.slicing import transform_of


class Table:
    """The table, and hands to work with."""

    def __init__(self, viewer, qtbot):
        self.widget = LabelTableWidget(viewer)
        self.qtbot = qtbot
        viewer.window.add_dock_widget(self.widget, name="Label table")
        self.view, self.table = self.widget.view, self.widget.view.table
        self.settle()

    def settle(self):
        QApplication.processEvents()
        self.qtbot.waitUntil(lambda: not self.widget.counter.busy, timeout=10_000)

    @property
    def labels(self):
        return [row.label for row in self.widget.rows]

    def row(self, label):
        return next(row for row in self.widget.rows if row.label == label)

    @property
    def shown(self):
        model = self.table.model()
        return [model.index(n, Column.LABEL).data() for n in range(model.rowCount())]

    def cell(self, label, column):
        model = self.table.model()
        number = self.shown.index(str(label))
        return model.index(number, column)

    def click(self, label, column=Column.NAME, *, modifier=Qt.KeyboardModifier.NoModifier):
        index = self.cell(label, column)
        self.table.scrollTo(index)
        place = self.table.visualRect(index).center()
        viewport = self.table.viewport()
        self.qtbot.mouseClick(viewport, Qt.MouseButton.LeftButton, modifier, place)

    def double_click(self, label, column=Column.LABEL):
        self.click(label, column)
        place = self.table.visualRect(self.cell(label, column)).center()
        self.qtbot.mouseDClick(self.table.viewport(), Qt.MouseButton.LeftButton, pos=place)

    def check(self, label, column):
        index = self.cell(label, column)
        checked = index.data(Qt.ItemDataRole.CheckStateRole)
        states = Qt.CheckState
        new = states.Unchecked if Qt.CheckState(checked) == states.Checked else states.Checked
        self.table.model().setData(index, new, Qt.ItemDataRole.CheckStateRole)


@pytest.fixture
def table(bench, viewer, qtbot):
    return Table(viewer, qtbot)


@pytest.fixture
def warnings(monkeypatch):
    told = []
    for name in ("show_warning", "show_info"):
        monkeypatch.setattr(f"napari_slmsam2.widgets.labels.panel.{name}", told.append)
    return told


def test_strokes_and_runs_appear_as_exact_rows(bench, table):
    assert table.labels == []
    assert not table.view.merge.isEnabled()
    bench.paint(5)
    table.settle()
    voxels = int((bench.layer.data == 1).sum())
    row = table.row(1)
    assert (row.voxels, row.slices, row.seeds, row.first, row.largest) == (voxels, 1, 1, 5, 5)
    assert row.volume is None, "pixels have no size in mm3"
    bench.viewer.layers["scan"].units = ("mm", "mm", "mm")
    bench.paint(7, label=3, at=(3, 3))
    table.settle()
    assert table.row(1).volume == pytest.approx(3.0 * voxels)
    bench.run()
    table.settle()
    row = table.row(1)
    assert row.voxels == int((bench.layer.data == 1).sum()) > voxels
    assert row.slices == int((bench.layer.data == 1).any(axis=(1, 2)).sum())
    scores = [q.confidence for q in bench.panel.workspace.annotation.quality[1].values()]
    assert row.quality == pytest.approx(np.mean(scores))
    bench.panel.undo()
    table.settle()
    assert table.row(1).voxels == voxels
    assert table.row(1).quality is None


def test_a_sheared_layer_has_the_exact_volume(viewer, qtbot, segmenter):
    affine = np.diag([2.0, 0.5, 0.5, 1.0])
    affine[1, 2] = 0.3
    viewer.add_image(scan(), name="scan", affine=affine, units=("um", "um", "um"))
    viewer.add_labels(np.ones((12, 16, 24), np.uint8), affine=affine, units=("um", "um", "um"))
    viewer.window.add_dock_widget(AnnotateWidget(viewer), name="Annotate")
    QApplication.processEvents()
    table = Table(viewer, qtbot)
    assert table.row(1).volume == pytest.approx(12 * 16 * 24 * 2 * 0.5 * 0.5 * 1e-9)
    assert table.cell(1, Column.VOLUME).data().endswith("µm³")


def test_rename_lock_done_and_colour_are_steps_of_the_panels_undo(bench, table, monkeypatch):
    bench.paint(5)
    bench.paint(6, label=2, at=(3, 3))
    table.settle()
    colours = bench.layer.get_color(1).copy(), bench.layer.get_color(2).copy()
    table.table.model().setData(table.cell(2, Column.NAME), "liver", Qt.ItemDataRole.EditRole)
    table.check(2, Column.LOCKED)
    table.check(1, Column.DONE)
    monkeypatch.setattr(QColorDialog, "getColor", lambda *_: QColor(255, 0, 128))
    table.click(2)
    table.widget.recolour()
    table.settle()
    row = table.row(2)
    assert (row.name, row.locked, table.row(1).done) == ("liver", True, True)
    np.testing.assert_allclose(bench.layer.get_color(2)[:3], (1, 0, 128 / 255), atol=0.01)
    np.testing.assert_allclose(bench.layer.get_color(1), colours[0], atol=0.01)
    for word in ("colour", "done", "lock", "rename"):
        assert bench.panel.undo_button.text() == f"Undo {word}"
        bench.panel.undo_button.click()
    table.settle()
    row = table.row(2)
    assert (row.name, row.locked, table.row(1).done) == ("", False, False)
    np.testing.assert_allclose(bench.layer.get_color(2), colours[1], atol=0.01)
    bench.panel.redo()
    table.settle()
    assert table.row(2).name == "liver"
    assert list(bench.layer.features["label_name"]) == ["", "liver"]


def test_a_run_leaves_a_locked_label_as_it_is(bench, table):
    bench.paint(5)
    bench.paint(5, label=2, at=(8, 15))
    bench.run()
    table.settle()
    table.check(2, Column.LOCKED)
    before = bench.layer.data == 2
    bench.paint(8, label=1, at=(8, 14), size=7)
    painted_over = bench.layer.data == 2
    bench.run("all")
    np.testing.assert_array_equal(bench.layer.data == 2, painted_over)
    assert painted_over.sum() <= before.sum()
    assert {gap.label for gap in bench.panel.workspace.annotation.runs[-1].gaps} == {1}


def test_the_tools_of_the_panel_refuse_a_locked_label(bench, table, messages, warnings):
    bench.paint(5)
    table.settle()
    table.check(1, Column.LOCKED)
    before = bench.layer.data.copy()
    bench.panel.mark_start()
    bench.panel.mark_absent()
    bench.panel.propagate()
    assert len(messages) == 3
    assert all("locked" in text for text in messages)
    table.click(1)
    table.view.remove.click()
    assert "is locked" in warnings[-1]
    np.testing.assert_array_equal(bench.layer.data, before)


def test_merge_and_delete_with_undo(bench, table, warnings):
    bench.paint(5)
    bench.paint(6, label=2, at=(3, 3))
    bench.paint(7, label=4, at=(3, 14))
    table.settle()
    before = bench.layer.data.copy()
    table.click(4)
    table.click(2, modifier=Qt.KeyboardModifier.ControlModifier)
    assert table.view.merge.text() == "Merge into 2"
    table.view.merge.click()
    table.settle()
    assert table.labels == [1, 2]
    np.testing.assert_array_equal(bench.layer.data, np.where(before == 4, 2, before))
    assert bench.seeds == {(5, 1), (6, 2), (7, 2)}
    table.click(1)
    table.qtbot.keyClick(table.table, Qt.Key.Key_Delete)
    table.settle()
    assert table.labels == [2]
    assert not (bench.layer.data == 1).any()
    for _ in range(2):
        bench.panel.undo_button.click()
    table.settle()
    np.testing.assert_array_equal(bench.layer.data, before)
    assert table.labels == [1, 2, 4]
    assert bench.seeds == {(5, 1), (6, 2), (7, 4)}


def test_clicks_choose_the_label_and_show_its_slices(bench, table):
    for index, size in ((3, 3), (6, 7), (7, 5)):
        bench.paint(index, label=2, size=size)
    bench.paint(1)
    table.settle()
    table.click(2)
    assert bench.layer.selected_label == 2
    assert bench.panel.workspace.index == 1, "a single click stays on the slice"
    table.double_click(2)
    assert bench.panel.workspace.index == 6
    table.view.first.click()
    assert bench.panel.workspace.index == 3
    bench.layer.selected_label = 1
    assert table.table.labels == [1], "the table follows the label of the layer"


def test_rows_are_sorted_by_value_and_filtered_by_name_and_number(bench, table):
    for label, at in ((2, (3, 3)), (10, (3, 14)), (1, (11, 10))):
        bench.paint(5, label=label, at=at, size=label)
    table.settle()
    names = {1: "Spleen", 10: "liver"}
    for label, name in names.items():
        table.table.model().setData(table.cell(label, Column.NAME), name, Qt.ItemDataRole.EditRole)
    table.check(10, Column.DONE)
    table.settle()
    assert table.shown == ["1", "2", "10"]
    table.table.sortByColumn(Column.VOLUME, Qt.SortOrder.DescendingOrder)
    assert table.shown == ["10", "2", "1"]
    table.table.sortByColumn(Column.NAME, Qt.SortOrder.AscendingOrder)
    assert table.shown == ["10", "1", "2"]
    table.view.search.setText("SPL")
    assert table.shown == ["1"]
    table.view.search.setText("1")
    assert table.shown == ["10", "1"]
    table.view.search.clear()
    table.view.hide_done.click()
    assert table.shown == ["1", "2"]


def test_files_of_names_and_of_the_table(bench, table, monkeypatch, tmp_path, warnings):
    bench.paint(5)
    bench.paint(6, label=2, at=(3, 3))
    table.settle()
    table.table.model().setData(table.cell(1, Column.NAME), "liver", Qt.ItemDataRole.EditRole)
    table.settle()

    def save_as(path):
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), ""))

    save_as(tmp_path / "labels")
    table.widget.save_csv()
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["label_name"]) for row in rows] == [("1", "liver"), ("2", "")]
    assert int(rows[0]["voxels"]) == int((bench.layer.data == 1).sum())
    save_as(tmp_path / "names.txt")
    table.widget.save_names()
    found = read_label_names(tmp_path / "names.txt")
    assert found.names == {1: "liver", 2: "Label 2"}
    np.testing.assert_allclose(found.colours[1][:3], bench.layer.get_color(1)[:3], atol=0.01)
    (tmp_path / "other.txt").write_text('2 0 255 0 1 1 1 "spleen"\n', encoding="utf-8")
    monkeypatch.setattr(
        QFileDialog, "getOpenFileName", lambda *_, **__: (str(tmp_path / "other.txt"), "")
    )
    table.widget.read_names()
    table.settle()
    assert (table.row(1).name, table.row(2).name) == ("liver", "spleen")
    np.testing.assert_allclose(bench.layer.get_color(2)[:3], (0, 1, 0), atol=0.01)
    assert bench.panel.undo_button.text() == "Undo names"


@pytest.mark.parametrize("name", ["one.seg.nrrd", "one.ome.zarr"])
def test_names_and_colours_are_saved_and_come_back_as_a_layer(
    bench, table, monkeypatch, qtbot, tmp_path, name
):
    bench.paint(5)
    bench.paint(6, label=2, at=(3, 3))
    table.settle()
    table.table.model().setData(table.cell(2, Column.NAME), "Größe", Qt.ItemDataRole.EditRole)
    monkeypatch.setattr(QColorDialog, "getColor", lambda *_: QColor(0, 0, 255))
    table.click(2)
    table.widget.recolour()
    path = tmp_path / name
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), ""))
    bench.panel.files.save_labels()
    qtbot.waitUntil(path.exists, timeout=10_000)
    qtbot.wait(200)
    found = read_label_map(path).table
    assert found.names[2] == "Größe"
    np.testing.assert_allclose(found.colours[2][:3], (0, 0, 1), atol=0.01)
    [layer] = bench.viewer.open(path, plugin="napari-slmsam2")
    np.testing.assert_allclose(layer.get_color(2)[:3], (0, 0, 1), atol=0.01)
    np.testing.assert_allclose(layer.get_color(1)[:3], bench.layer.get_color(1)[:3], atol=0.01)
    # The axes of NRRD are in another order: an image on the grid of the file.
    image = bench.viewer.add_image(np.ones(layer.data.shape, np.uint8), **transform_of(layer))
    bench.panel.workspace.set_image(image)
    bench.panel.workspace.set_labels(layer)
    table.settle()
    assert table.row(2).name == "Größe"
    # napari's own menu writes the edited table, too.
    table.table.model().setData(table.cell(1, Column.NAME), "one", Qt.ItemDataRole.EditRole)
    layer.save(str(tmp_path / f"again-{name}"), plugin="napari-slmsam2")
    assert read_label_map(tmp_path / f"again-{name}").table.names == {1: "one", 2: "Größe"}


def test_features_of_others_stay(bench, table):
    bench.layer.features = {"index": [0, 1, 9], "label_name": ["air", "?", "x"], "mine": [5, 6, 7]}
    bench.paint(5)
    bench.paint(6, label=2, at=(3, 3))
    table.settle()
    features = bench.layer.features
    assert list(features["index"]) == [0, 1, 2]
    assert list(features["label_name"]) == ["air", "", ""]
    assert list(features["mine"][:2]) == [5, 6]
    assert np.isnan(features["mine"][2])
    assert int(features["voxels"][1]) == int((bench.layer.data == 1).sum())


def test_a_thousand_labels_stay_fast(viewer, qtbot, segmenter):
    labels = np.zeros((40, 128, 128), np.uint16)
    grid = np.arange(1, 1025).reshape(32, 32).repeat(4, 0).repeat(4, 1)
    labels[5:35] = grid
    viewer.add_image(scan((40, 128, 128)), name="scan")
    viewer.add_labels(labels)
    viewer.window.add_dock_widget(AnnotateWidget(viewer), name="Annotate")
    QApplication.processEvents()
    table = Table(viewer, qtbot)
    assert len(table.labels) == 1024
    assert table.row(1000).voxels == 30 * 16
    waits = []
    for index in (10, 11, 12):
        annotation = table.widget.annotation
        plane = annotation.plane(index).copy()
        plane[:8, :8] = 1000
        viewer.layers["labels"].data[index] = plane
        annotation.take_edit(index, plane)
        table.widget._panel.workspace.seeds_changed.emit()
        while table.widget.counter.busy:
            started = time.perf_counter()
            QApplication.processEvents()
            waits.append(time.perf_counter() - started)
            time.sleep(0.001)
    assert table.row(1000).voxels == 30 * 16 + 3 * 64
    assert np.median(waits) < 0.02
    table.widget._edit(lambda annotation: None)
    started = time.perf_counter()
    table.table.model().setData(table.cell(500, Column.NAME), "cell", Qt.ItemDataRole.EditRole)
    assert time.perf_counter() - started < 0.5


def test_the_colour_of_a_label_is_exact_in_a_selected_row(bench, table):
    bench.paint(5)
    table.settle()
    for select in (table.table.clearSelection, lambda: table.table.select(1)):
        select()
        picture = table.table.viewport().grab(table.table.visualRect(table.cell(1, Column.LABEL)))
        shown = picture.toImage().pixelColor(10, picture.height() // 2)
        expected = np.array(bench.layer.get_color(1)[:3]) * 255
        np.testing.assert_allclose(shown.getRgb()[:3], expected, atol=2)


def test_the_panel_has_a_button_for_the_table(bench, qtbot):
    bench.panel.label_table.click()
    QApplication.processEvents()
    docks = bench.viewer.window.dock_widgets
    opened = [widget for widget in docks.values() if isinstance(widget, LabelTableWidget)]
    assert len(opened) == 1
    bench.panel.label_table.click()
    assert len(bench.viewer.window.dock_widgets) == len(docks), "it is opened once"


def test_a_table_that_is_opened_again_counts_everything(bench, table, qtbot):
    bench.paint(5)
    table.settle()
    expected = table.row(1)
    bench.viewer.window.remove_dock_widget(table.widget)
    table.widget.deleteLater()
    assert Table(bench.viewer, qtbot).row(1) == expected


def test_the_counts_of_an_annotation_end_with_it(qtbot):
    counter = LabelCounter()
    annotation = Annotation(Volume(scan()))
    counter.request(annotation, None)
    qtbot.waitUntil(lambda: not counter.busy, timeout=10_000)
    closed = weakref.ref(annotation)
    del annotation
    gc.collect()
    assert closed() is None
    counter.close_connections()


def test_a_name_can_be_typed_while_voxels_are_counted(bench, table):
    bench.paint(5)
    table.settle()
    table.table.edit(table.cell(1, Column.NAME))
    [editor] = table.table.findChildren(QLineEdit)
    table.qtbot.keyClicks(editor, "liv")
    bench.paint(6)
    table.settle()
    assert table.row(1).slices == 2
    table.qtbot.keyClicks(editor, "er")
    table.qtbot.keyClick(editor, Qt.Key.Key_Return)
    QApplication.processEvents()
    assert bench.panel.workspace.annotation.table.names == {1: "liver"}


def test_without_a_panel_the_table_offers_to_open_it(viewer, qtbot):
    viewer.add_image(scan(), name="scan")
    table = Table(viewer, qtbot)
    assert not table.view.open_panel.isHidden()
    assert not table.view.more.isEnabled()
    table.view.open_panel.click()
    QApplication.processEvents()
    assert table.view.open_panel.isHidden()
    viewer.layers["scan labels"].data[3, 2:5, 2:5] = 2
    viewer.layers["scan labels"].refresh()
    qtbot.waitUntil(lambda: table.labels == [2], timeout=5_000)


def test_closing_the_panel_or_the_table_leaves_no_connection(bench, table, qtbot):
    bench.paint(5)
    table.settle()
    bench.viewer.window.remove_dock_widget(bench.panel)
    bench.panel.deleteLater()
    bench.panel = None
    qtbot.wait(50)
    assert table.labels == []
    assert not table.view.open_panel.isHidden()
    bench.viewer.window.remove_dock_widget(table.widget)
    closed = weakref.ref(table.widget)
    table.widget.deleteLater()
    del table.widget, table.view, table.table
    qtbot.wait(50)
    gc.collect()
    assert closed() is None


def test_the_table_is_in_a_saved_and_reopened_session(bench, table, monkeypatch, qtbot, tmp_path):
    bench.paint(5)
    table.settle()
    table.table.model().setData(table.cell(1, Column.NAME), "liver", Qt.ItemDataRole.EditRole)
    table.check(1, Column.LOCKED)
    path = tmp_path / "one.slmsam2"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), ""))
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_, **__: (str(path), ""))
    bench.panel.files.save_session()
    qtbot.waitUntil(path.exists, timeout=10_000)
    qtbot.wait(200)
    first = bench.layer
    with qtbot.waitSignal(bench.panel.files.opened, timeout=20_000):
        bench.panel.files.open_session()
    assert bench.layer is not first
    table.settle()
    assert (table.row(1).name, table.row(1).locked) == ("liver", True)
    assert bench.panel.workspace.annotation.table == LabelTable({1: "liver"}, locked=frozenset({1}))


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_check_boxes_are_outlined_in_every_theme(bench, table, viewer, qtbot, theme):
    bench.paint(5)
    table.settle()
    viewer.theme = theme
    table.table.clearSelection()
    qtbot.wait(200)
    cell = table.table.visualRect(table.table.filter.index(0, Column.LOCKED))
    picture = table.table.viewport().grab(cell).toImage()
    grey = np.array(
        [
            [picture.pixelColor(x, y).lightness() for x in range(picture.width())]
            for y in range(picture.height())
        ]
    )
    background = np.median(grey[0])
    assert (np.abs(grey - background) > 60).sum() > 20
