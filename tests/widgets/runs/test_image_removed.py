"""The image layer is deleted during a run, in a window with a canvas."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import napari
import numpy as np
import pytest
from qtpy.QtWidgets import QApplication
from tests.widgets.conftest import FakeModels, SlowFake

from napari_slmsam2.widgets import AnnotateWidget

SHAPE = (12, 64, 96)


@pytest.mark.skipif(not os.environ.get("DISPLAY"), reason="a canvas needs an X display")
def test_an_image_deleted_during_a_run_ends_it_without_a_crash(
    repository: Path, tmp_path: Path
) -> None:
    """The only image, and one of two."""
    settings = {"QT_QPA_PLATFORM": "xcb", "NAPARI_SLMSAM2_RECOVERY": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "tests.widgets.runs.test_image_removed"],
        env={**os.environ, **settings, "NAPARI_CONFIG": str(tmp_path / "settings.yaml")},
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("running")]
    assert lines == ["running False, labels on slices [0, 1]"] * 2


def _live(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.005)


def _delete_image_during_a_run(n_images: int) -> None:
    """The slice on screen is segmented while its image is deleted."""
    viewer = napari.Viewer(show=True)
    rng = np.random.default_rng(0)
    data = np.clip(0.6 + 0.05 * rng.normal(size=SHAPE), 0, 1).astype(np.float32)
    for _ in range(n_images):
        image = viewer.add_image(data)
    panel, segmenter = AnnotateWidget(viewer), SlowFake()
    panel.runner.models = FakeModels(segmenter)
    viewer.window.add_dock_widget(panel)
    _live(0.5)
    labels = panel.workspace.labels
    panel.workspace.go_to(0)
    labels.brush_size = 9
    labels.paint((0, 30, 40), 1)
    panel.workspace.go_to(1)
    segmenter.gate = threading.Event()
    panel.run_bar.follow.setChecked(True)
    panel.propagate()
    _live(0.5)
    viewer.layers.remove(image)
    _live(0.5)
    segmenter.gate.set()
    _live(1.0)
    panel.workspace.viewer.dims.set_point(0, 0)
    labels.refresh()
    _live(0.5)
    slices = np.flatnonzero(labels.data.any(axis=(1, 2))).tolist()
    running = panel.runner.running
    viewer.close()
    sys.stdout.write(f"\nrunning {running}, labels on slices {slices}\n")


if __name__ == "__main__":
    _delete_image_during_a_run(1)
    _delete_image_during_a_run(2)
