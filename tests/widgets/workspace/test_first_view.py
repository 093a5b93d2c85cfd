from __future__ import annotations

import nibabel
import numpy as np
import pytest
from tests.widgets.conftest import SHAPE, Bench, scan

from napari_slmsam2.widgets import AnnotateWidget

PLUGIN = "napari-slmsam2"
N_X, N_Y, N_Z = 14, 11, 6


@pytest.fixture
def window(viewer):
    import npe2

    npe2.PluginManager.instance().discover()
    return viewer


@pytest.fixture
def nifti(tmp_path):
    data = np.random.default_rng(0).normal(size=(N_X, N_Y, N_Z)).astype(np.float32)
    path = tmp_path / "mr.nii.gz"
    nibabel.save(nibabel.Nifti1Image(data, np.diag([0.5, 0.5, 4, 1])), path)
    return path


def slices(panel):
    annotation = panel.workspace.annotation
    return None if annotation is None else annotation.volume.n_slices


@pytest.mark.parametrize("panel_first", [False, True])
def test_a_scan_is_turned_to_the_plane_in_which_it_was_taken(window, qtbot, nifti, panel_first):
    panel = None
    if panel_first:
        panel = AnnotateWidget(window)
        window.window.add_dock_widget(panel)
    window.open(nifti, plugin=PLUGIN)
    if panel is None:
        panel = AnnotateWidget(window)
        window.window.add_dock_widget(panel)
    qtbot.waitUntil(lambda: slices(panel) == N_Z, timeout=60_000)
    assert tuple(window.dims.order) == (2, 1, 0), "x to the right"
    assert panel.workspace.index in (2, 3), "the middle"
    assert panel.turn_view.isHidden()
    window.dims.order = (0, 1, 2)
    qtbot.wait(50)
    assert slices(panel) == N_X, "a person may look from elsewhere"
    assert not panel.turn_view.isHidden()


def test_labels_of_a_file_or_a_sample_do_not_hinder_it(window, qtbot):
    window.open_sample(PLUGIN, "scan_with_seeds")
    panel = AnnotateWidget(window)
    window.window.add_dock_widget(panel)
    qtbot.waitUntil(lambda: tuple(window.dims.order) == (2, 1, 0), timeout=60_000)
    panel.take_labels.click()
    assert {row[2] for row in panel.seeds.rows} == {"painted"}


def test_turned_axes_are_left_as_they_are(window, qtbot, nifti):
    window.open(nifti, plugin=PLUGIN)
    window.dims.order = (1, 0, 2)
    panel = AnnotateWidget(window)
    window.window.add_dock_widget(panel)
    qtbot.wait(50)
    assert slices(panel) == N_Y
    panel.turn_view.click()
    assert slices(panel) == N_Z


def test_painted_labels_keep_the_view_as_it_is(window, qtbot, nifti):
    [image] = window.open(nifti, plugin=PLUGIN)
    labels = np.zeros(image.data.shape, np.uint8)
    labels[3, 3, 3] = 1
    window.add_labels(labels, scale=image.scale, units=image.units, axis_labels=image.axis_labels)
    panel = AnnotateWidget(window)
    window.window.add_dock_widget(panel)
    qtbot.wait(50)
    assert slices(panel) == N_X
    assert "axis 2 (z)" in panel.turn_view.text()


def test_any_other_image_gets_a_button(viewer, qtbot, segmenter):
    viewer.add_image(scan(), scale=(1, 1, 2.5))
    bench = Bench(viewer, qtbot, segmenter)
    qtbot.waitUntil(lambda: not bench.panel.turn_view.isHidden(), timeout=60_000)
    assert slices(bench.panel) == SHAPE[0]
    assert "axis 2" in bench.panel.turn_view.text()
    bench.panel.turn_view.click()
    assert slices(bench.panel) == SHAPE[2]
    assert tuple(viewer.dims.order) == (2, 0, 1)
    qtbot.waitUntil(bench.panel.turn_view.isHidden, timeout=60_000)


def test_time_stays_in_front(viewer, qtbot, segmenter):
    viewer.add_image(np.stack([scan()] * 3), scale=(1, 1, 1, 4), axis_labels=("t", "z", "y", "x"))
    bench = Bench(viewer, qtbot, segmenter)
    qtbot.waitUntil(lambda: not bench.panel.turn_view.isHidden(), timeout=60_000)
    bench.panel.turn_view.click()
    assert tuple(viewer.dims.order) == (0, 3, 1, 2)
    assert bench.panel.workspace.view.held == ((0, 1),)


def test_even_voxels_need_no_turn(bench, qtbot):
    qtbot.wait(50)
    assert bench.panel.turn_view.isHidden()
