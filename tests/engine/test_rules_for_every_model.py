"""Every model computes on the inference thread, and moves to the CPU when memory runs out."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.core.errors import DeviceMemoryError, SlmSam2Warning
from napari_slmsam2.core.events import FellBack, Finished
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.clicks.prompt_solver import PromptSolver
from napari_slmsam2.engine.inference_thread import run_on_inference_thread
from napari_slmsam2.engine.loading import ReadyModel, make_segmenter
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.engine.weights.registry import list_models

from ..fakes import WINDOW, prompts_of, run
from ..random_weights import TINY, randomise

RANDOM_WEIGHTS = {
    "sam2.1": {"short_memory_slices": 0},
    "slm-sam2.1": {"short_memory_slices": 1},
    "sam2.0": {"short_memory_slices": 0, "sam_version": "2.0"},
}
MODELS = ("compact", "flow", "interpolation", *RANDOM_WEIGHTS)
CALLS = ("encode_image", "encode_seed", "segment")


@pytest.fixture
def volume() -> Volume:
    rng = np.random.default_rng(0)
    z, y, x = np.indices((7, 40, 44))
    inside = (y - 20) ** 2 + (x - 20 - z) ** 2 < 90
    return Volume(np.clip(0.3 + 0.4 * inside + rng.normal(0, 0.03, z.shape), 0, 1).astype("f4"))


@pytest.fixture
def prompts():
    y, x = np.indices((40, 44))
    return prompts_of(SlicePrompt.from_mask(1, 3, (y - 20) ** 2 + (x - 23) ** 2 < 90))


@pytest.fixture
def make(tmp_path):
    """A model of the registry, or of its architecture with few random weights."""

    def segmenter(name: str):
        if name not in RANDOM_WEIGHTS:
            return make_segmenter(name, device="cpu").segmenter
        config = ModelConfig(**{**TINY.to_dict(), **RANDOM_WEIGHTS[name]})
        network = SliceNetwork(config)
        randomise(network, 3)
        path = tmp_path / "tiny.safetensors"
        save_weights(path, network.state_dict(), {"config": config.to_dict()})
        return make_segmenter(path, device="cpu").segmenter

    return segmenter


def called(segmenter, call: str) -> str:
    """The method that a run calls for one of `CALLS`."""
    pairs = call == "segment" and hasattr(segmenter, "segment_visits")
    return "segment_visits" if pairs else call


def is_on_cpu(segmenter) -> bool:
    return segmenter.device.type == "cpu"


def as_accelerator(segmenter, call, monkeypatch) -> None:
    """Let the CPU pass for another device, whose memory runs out in one of the calls."""
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    names = [n for n in ("device", "_storage") if n in segmenter.__dict__]
    for name in names:
        setattr(segmenter, name, torch.device("mps"))

    def wrapped(which, method):
        def run_it(*args):
            if is_on_cpu(segmenter):
                return method(*args)
            if which == call:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            before = {name: getattr(segmenter, name) for name in names}
            segmenter.__dict__.update(dict.fromkeys(names, torch.device("cpu")))
            try:
                return method(*args)
            finally:
                segmenter.__dict__.update(before)

        return run_it

    for which in CALLS:
        method = called(segmenter, which)
        monkeypatch.setattr(segmenter, method, wrapped(which, getattr(segmenter, method)))


def test_the_models_here_stand_for_all_of_the_registry():
    known = {card.name.partition("-tiny")[0] for card in list_models()}
    families = {name for name in known if not name.endswith(("small", "plus", "large"))}
    assert families == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_all_calls_are_made_on_the_inference_thread(name, make, volume, prompts, monkeypatch):
    segmenter = make(name)
    threads: dict[str, set[int]] = {}
    for call in CALLS:
        method = getattr(segmenter, called(segmenter, call))

        def watched(*args, call=call, method=method):
            threads.setdefault(call, set()).add(threading.get_ident())
            return method(*args)

        monkeypatch.setattr(segmenter, called(segmenter, call), watched)
    run(segmenter, volume, prompts)
    points = SlicePrompt.from_points(2, 5, [(20, 25)])
    PromptSolver(segmenter, volume, WINDOW).find(points)
    assert set(threads) == set(CALLS)
    assert set.union(*threads.values()) == {run_on_inference_thread(threading.get_ident)}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["compact", *RANDOM_WEIGHTS])
def test_exhausted_memory_moves_the_model_to_the_cpu(
    name, call, make, volume, prompts, monkeypatch
):
    expected = run(make(name), volume, prompts).labels
    assert (expected == 1).any((1, 2)).sum() > 1
    segmenter = make(name)
    as_accelerator(segmenter, call, monkeypatch)
    ready = ReadyModel(segmenter, name, None)
    assert ready.device == "mps"
    drive = run(segmenter, volume, prompts)
    assert is_on_cpu(segmenter)
    assert (ready.device, ready.precision) == ("cpu", "float32")
    assert isinstance(drive.events[-1], Finished)
    assert drive.of(FellBack)[-1].message == (
        "mps ran out of memory: the run continues, more slowly, on the CPU"
    )
    np.testing.assert_array_equal(drive.labels, expected)


@pytest.mark.parametrize("name", ["compact", *RANDOM_WEIGHTS])
def test_a_click_moves_the_model_to_the_cpu_too(name, make, volume, monkeypatch):
    segmenter = make(name)
    as_accelerator(segmenter, "encode_seed", monkeypatch)
    points = SlicePrompt.from_points(2, 5, [(20, 25)])
    with pytest.warns(SlmSam2Warning, match="on the CPU"):
        assert PromptSolver(segmenter, volume, WINDOW).find(points).mask.any()
    assert is_on_cpu(segmenter)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", MODELS)
def test_on_the_cpu_it_is_an_error_of_this_package(
    name, call, error, make, volume, prompts, monkeypatch
):
    segmenter = make(name)

    def full(*args):
        raise error("Tried to allocate 20.00 MiB")

    monkeypatch.setattr(segmenter, called(segmenter, call), full)
    with pytest.raises(DeviceMemoryError, match="ran out of memory"):
        run(segmenter, volume, prompts)
