"""The model is loaded in the background after the first stroke."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.widgets.runs.task import Models


@pytest.fixture
def loading(bench, monkeypatch):
    """The gate at which the loading of the model waits, and what was loaded."""
    gate, loaded = threading.Event(), []

    def make_segmenter(model, **options):
        assert gate.wait(20)
        loaded.append(model)
        if model != "compact":
            raise ConfigError("model", "is broken")
        return bench.ready

    bench.ready = bench.panel.runner.models.ready
    monkeypatch.setattr("napari_slmsam2.engine.loading.make_segmenter", make_segmenter)
    bench.panel.runner.models = Models()
    yield gate, loaded
    gate.set()


def test_the_first_stroke_loads_the_model_with_progress(bench, qtbot, loading):
    gate, loaded = loading
    bar = bench.panel.run_bar
    assert loaded == []
    bench.paint(5)
    assert "Loading the model" in bar.status.text()
    assert not bar.bar.isHidden()
    assert bar.go_button.isEnabled()
    bench.paint(6)
    gate.set()
    qtbot.waitUntil(lambda: bar.bar.isHidden(), timeout=10_000)
    assert bar.status.text() == ""
    bench.run()
    assert loaded == ["compact"], "the run takes the model that is loaded"
    assert bench.layer.data.any(axis=(1, 2)).all()


def test_a_run_that_is_started_meanwhile_waits_for_the_same_model(bench, loading):
    gate, loaded = loading
    bench.paint(5)
    bench.panel.propagate()
    gate.set()
    bench.finish()
    assert loaded == ["compact"]
    assert bench.layer.data.any(axis=(1, 2)).all()
    assert bench.panel.run_bar.status.text() == "Done."


def test_a_model_that_cannot_be_loaded_is_reported_by_the_run_only(
    bench, qtbot, loading, messages, tmp_path
):
    gate, _ = loading
    gate.set()
    bench.panel.model.choose(str(tmp_path / "broken.pt"))
    bench.paint(5)
    qtbot.waitUntil(lambda: bench.panel.run_bar.bar.isHidden(), timeout=10_000)
    bench.paint(6)
    assert messages == []
    bench.run()
    assert len(messages) == 1
    assert "is broken" in messages[0]


def test_the_panel_closed_while_the_model_is_loading(bench, qtbot, loading):
    gate, _ = loading
    bench.paint(5)
    panel = weakref.ref(bench.panel)
    bench.viewer.window.remove_dock_widget(bench.panel)
    bench.panel.deleteLater()
    bench.panel = None
    gate.set()
    qtbot.wait(200)
    gc.collect()
    assert panel() is None
