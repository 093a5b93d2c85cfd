from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Labels
from qtpy.QtCore import QThreadPool
from qtpy.QtWidgets import QApplication

from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.widgets import AnnotateWidget
from napari_slmsam2.widgets.files.recovery import ENVIRONMENT
from tests.fakes import FakeSegmenter

SHAPE = (12, 16, 24)


class SlowFake(FakeSegmenter):
    """A fake that waits at every slice, and at a gate where a test wants it to."""

    delay = 0.0
    gate: threading.Event | None = None
    error: Exception | None = None

    def segment(self, *args: Any) -> Any:
        if self.error is not None:
            raise self.error
        if self.gate is not None:
            assert self.gate.wait(20)
        time.sleep(self.delay)
        return super().segment(*args)


class FakeModels:
    """Hands out a segmenter in place of a model."""

    def __init__(self, segmenter: Any) -> None:
        self.ready = ReadyModel(segmenter, "fake", None)
        self.asked: list[Any] = []

    def is_loaded(self, request: Any) -> bool:
        return True

    def get(self, request: Any, control: Any) -> ReadyModel:
        self.asked.append(request)
        return self.ready


@pytest.fixture
def segmenter() -> SlowFake:
    return SlowFake()


@pytest.fixture(autouse=True)
def recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test finds, or leaves, work in the user's folder."""
    folder = tmp_path / "recovery"
    monkeypatch.setenv(ENVIRONMENT, str(folder))
    return folder


@pytest.fixture
def _no_thread_left() -> Any:
    yield
    left = [t for t in threading.enumerate() if t.name.startswith("napari-slmsam2")]
    for thread in left:
        thread.join(10)
    assert not [t for t in left if t.is_alive()]


@pytest.fixture
def _little_garbage() -> None:
    """napari collects garbage whenever it removes layers: what is there before is left out."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def viewer(
    _no_thread_left: None, _little_garbage: None, make_napari_viewer: Callable[..., Any]
) -> Any:
    yield make_napari_viewer(strict_qt="raise")
    assert QThreadPool.globalInstance().waitForDone(10_000), "a worker was left behind"


def scan(shape: Sequence[int] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(0.6 + 0.05 * rng.normal(size=shape), 0, 1).astype(np.float32)


class Bench:
    """A viewer with a scan and the panel, and hands to work with."""

    def __init__(self, viewer: Any, qtbot: Any, segmenter: SlowFake) -> None:
        self.viewer, self.qtbot, self.segmenter = viewer, qtbot, segmenter
        self.panel = AnnotateWidget(viewer)
        self.panel.runner.models = FakeModels(segmenter)
        viewer.window.add_dock_widget(self.panel, name="Annotate")
        QApplication.processEvents()  # the panel makes its Labels layer when it is shown

    @property
    def layer(self) -> Labels:
        return self.panel.workspace.labels

    @property
    def seeds(self) -> set[tuple[int, int]]:
        """(slice, label) of the seed list."""
        return {row[:2] for row in self.panel.seeds.rows}

    def show(self, index: int) -> None:
        self.panel.workspace.go_to(index)

    def paint(self, index: int, *, label: int = 1, at: Sequence[int] = (8, 10), size: int = 5):
        """One dab of napari's own brush on a slice of axis 0."""
        self.show(index)
        self.layer.selected_label = max(label, 1)
        self.layer.brush_size = size
        self.layer.paint((index, *at), label)
        QApplication.processEvents()

    def run(self, mode: str = "auto") -> None:
        """A whole run."""
        self.panel.propagate(mode)
        self.finish()

    def finish(self) -> None:
        self.qtbot.waitUntil(lambda: not self.panel.runner.running, timeout=60_000)

    def until_slices(self, n: int) -> None:
        self.qtbot.waitUntil(lambda: len(self.panel.scores.visited) >= n, timeout=20_000)


@pytest.fixture
def bench(viewer: Any, qtbot: Any, segmenter: SlowFake) -> Bench:
    viewer.add_image(scan(), name="scan", scale=(3, 1, 1), translate=(5, 0, 2))
    return Bench(viewer, qtbot, segmenter)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the panel tells in napari's notifications."""
    told: list[str] = []
    for module in (
        "annotate.panel",
        "runs.runs",
        "files.files",
        "workspace.seeds",
        "files.save_dialogs",
    ):
        for name in ("show_error", "show_warning", "show_info"):
            monkeypatch.setattr(
                f"napari_slmsam2.widgets.{module}.{name}", told.append, raising=False
            )
    return told
