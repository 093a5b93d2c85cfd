"""On a CPU the input size follows from a measured time, where no size is specified."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine import loading
from napari_slmsam2.engine.loading import make_segmenter
from napari_slmsam2.engine.sam2 import input_size
from napari_slmsam2.engine.sam2.input_size import PartTimes, choose_size, measure_parts
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.session.file import load_session, replay, save_session
from napari_slmsam2.session.session import SegmentationSession

from ...random_weights import TINY, randomise

SLOW, FAST = PartTimes(1.2, 0.4), PartTimes(0.001, 0.0005)


@pytest.mark.parametrize(
    ("own", "times", "size"),
    [(1024, SLOW, 512), (1024, FAST, None), (512, SLOW, None), (256, SLOW, None),
     (768, SLOW, 512)],
)  # fmt: skip
def test_the_size_stays_where_a_slice_is_fast_or_the_input_small(own, times, size):
    chosen = choose_size(own, times, longest=3.0)
    assert (None if chosen is None else chosen.size) == size


def test_what_was_chosen_is_described_with_what_the_own_size_would_take():
    chosen = choose_size(1024, PartTimes(1.0, 0.3), longest=3.0)
    assert chosen.seconds == pytest.approx(1.4 * 1.0 + 0.3)
    assert chosen.own_seconds == pytest.approx(1.4 * 1.0 * 4 + 0.3 * 4**1.8)
    assert chosen.describe("--image-size") == (
        "input of 512 px: about 1.7 s per slice and label on this CPU. --image-size 1024, the "
        "model's own, shows more detail and would take about 9.2 s"
    )


@pytest.mark.parametrize("short_memory", [0, 2])
def test_parts_of_a_network_of_any_size_are_timed(monkeypatch, short_memory):
    monkeypatch.setattr(input_size, "SMALL_INPUT", 128)
    config = TINY.replace(image_size=1024, short_memory_slices=short_memory)
    times = measure_parts(SliceNetwork(config).eval(), torch.float32)
    assert 0 < times.encoder < 10
    assert 0 < times.attention < 10


@pytest.fixture
def small(monkeypatch):
    """Sizes of a test: 64 px where the own 96 px take too long."""
    monkeypatch.setattr(input_size, "SMALL_INPUT", 64)

    def measured(times: PartTimes) -> None:
        monkeypatch.setattr(input_size, "measure_parts", lambda network, dtype: times)
        monkeypatch.setattr(input_size, "LONGEST_SLICE_S", 0.01)

    return measured


@pytest.fixture
def model(tmp_path):
    config = TINY.replace(image_size=96)
    network = SliceNetwork(config)
    randomise(network, 11)
    path = tmp_path / "tiny.safetensors"
    save_weights(path, network.state_dict(), {"config": config.to_dict()})
    return path


def size_of(ready) -> int:
    return ready.segmenter.network.config.image_size


def test_only_an_open_size_on_a_slow_cpu_is_changed(small, model, monkeypatch):
    small(SLOW)
    slow = make_segmenter(model, device="cpu", fit_cpu=True)
    assert size_of(slow) == slow.chosen_size.size == 64
    own = make_segmenter(model, device="cpu")
    assert (size_of(own), own.chosen_size) == (96, None)
    weights = own.segmenter.network.state_dict()
    for name, value in slow.segmenter.network.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    given = PropagationConfig(image_size=96)
    explicit = make_segmenter(model, device="cpu", config=given, fit_cpu=True)
    assert (size_of(explicit), explicit.chosen_size) == (96, None)
    monkeypatch.setattr(loading, "_kept", {})  # jobs of a batch
    assert size_of(make_segmenter(model, device="cpu", fit_cpu=True)) == 96
    monkeypatch.setattr(loading, "_kept", None)
    small(FAST)
    assert size_of(make_segmenter(model, device="cpu", fit_cpu=True)) == 96


def test_the_chosen_size_is_recorded_and_repeated_on_any_computer(small, model, tmp_path):
    small(SLOW)
    rng = np.random.default_rng(0)
    volume = Volume(rng.random((8, 40, 40)).astype(np.float32))
    mask = np.zeros((40, 40), bool)
    mask[10:25, 12:30] = True
    session = SegmentationSession(volume, model=model, device="cpu")
    session.load_model(fit_cpu=True)
    session.add_prompt(SlicePrompt.from_mask(1, 2, mask))
    calls = iter(range(100))
    list(session.propagate(should_stop=lambda: next(calls) == 4))
    assert session.config.image_size is None
    assert session.runs[-1].config.image_size == 64
    assert session.summary()["chosen"]["image_size"] == 64
    assert session.config.covers(session.runs[-1].config)
    path = save_session(session, tmp_path / "stopped.slmsam2", with_state=True)
    list(session.resume())
    whole = save_session(session, tmp_path / "run.slmsam2")

    small(FAST)
    kept = load_session(path, image=volume, with_state=True)
    assert size_of(kept.load_model()) == 64
    list(kept.resume())
    np.testing.assert_array_equal(kept.labels, session.labels)
    again = load_session(whole, image=volume)
    list(replay(again))
    assert size_of(again.load_model()) == 96
    assert again.config == session.config
    np.testing.assert_array_equal(again.labels, session.labels)
