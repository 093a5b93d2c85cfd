"""A process that keeps the model that it built last."""

from __future__ import annotations

import pytest

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.engine import loading
from napari_slmsam2.engine.loading import forget_last_model, keep_last_model, make_segmenter
from tests.random_weights import tiny_file


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(loading, "_kept", None)
    keep_last_model()


def test_models_are_built_again_by_default(tmp_path):
    assert make_segmenter("flow") is not make_segmenter("flow")


@pytest.mark.usefixtures("kept")
def test_the_last_model_is_used_again(tmp_path):
    weights = tiny_file(tmp_path / "tiny.safetensors")
    first = make_segmenter(weights, device="cpu")
    assert make_segmenter(weights, device="cpu") is first
    other = PropagationConfig(memory_dtype="float32")
    second = make_segmenter(weights, device="cpu", config=other)
    assert second is not first
    assert make_segmenter(weights, device="cpu", config=other) is second
    assert make_segmenter(weights, device="cpu") is not first


@pytest.mark.usefixtures("kept")
def test_changed_weights_and_a_forgotten_model_are_loaded_again(tmp_path):
    weights = tiny_file(tmp_path / "tiny.safetensors")
    first = make_segmenter(weights, device="cpu")
    weights.touch()
    second = make_segmenter(weights, device="cpu")
    assert second is not first
    forget_last_model()
    assert make_segmenter(weights, device="cpu") is not second
