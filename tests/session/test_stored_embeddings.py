"""A later session reads what the encoder computed in an earlier one."""

from __future__ import annotations

import numpy as np
import pytest
from tests.random_weights import TINY, randomise, tiny_file

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.propagation.embedding_files import embeddings_folder, stored_files
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.session.session import SegmentationSession

STORED = PropagationConfig(embedding_disk=1)
SLICES = 6


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_file(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_SLMSAM2_EMBEDDINGS", str(tmp_path / "embeddings"))
    return tmp_path / "embeddings"


@pytest.fixture
def encoded(monkeypatch):
    """How many slices the encoder was given."""
    counted = []
    encode = SliceNetwork.encode_image

    def counting(self, images):
        counted.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(SliceNetwork, "encode_image", counting)
    return counted


def segment(weights, config=STORED, window=None):
    """The labels and logits of a new session."""
    rng = np.random.default_rng(4)
    volume = Volume(rng.uniform(0, 1, (SLICES, 40, 36)).astype(np.float32))
    session = SegmentationSession(volume, model=weights, device="cpu", config=config, window=window)
    mask = np.zeros((40, 36), bool)
    mask[10:25, 8:22] = True
    session.add_prompt(SlicePrompt.from_mask(1, 2, mask))
    for _ in session.propagate():
        pass
    return session.labels.copy(), [session.logits_on_slice(i)[1] for i in (0, 1, 3, 4, 5)]


def assert_equal(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    for logits, others in zip(found[1], expected[1], strict=True):
        np.testing.assert_array_equal(logits, others)


def test_a_second_session_encodes_nothing_and_is_equal_bit_by_bit(weights, encoded):
    without = segment(weights, PropagationConfig())
    assert sum(encoded) == SLICES
    assert stored_files(embeddings_folder()) == [], "nothing is kept unless it is asked for"
    first = segment(weights)
    assert sum(encoded) == 2 * SLICES
    assert len(stored_files(embeddings_folder())) == SLICES
    second = segment(weights)
    assert sum(encoded) == 2 * SLICES
    assert_equal(first, without)
    assert_equal(second, without)


@pytest.mark.parametrize(
    "other",
    [
        {"window": IntensityWindow.from_limits(0.1, 0.8)},
        {"config": STORED.replace(image_size=96)},
        {"config": STORED.replace(precision="bfloat16")},
    ],
    ids=["window", "size", "precision"],
)
def test_other_computations_are_encoded_again(weights, encoded, other):
    segment(weights)
    segment(weights, **other)
    assert sum(encoded) == 2 * SLICES
    segment(weights, **other)
    assert sum(encoded) == 2 * SLICES


def test_other_weights_are_encoded_again(weights, encoded, tmp_path):
    from napari_slmsam2.engine.weights.checkpoints import save_weights

    segment(weights)
    network = SliceNetwork(TINY)
    randomise(network, 12)
    other = tmp_path / "other.safetensors"
    save_weights(other, network.state_dict(), {"config": TINY.to_dict()})
    segment(other)
    assert sum(encoded) == 2 * SLICES


def test_slices_with_neighbours_are_kept_with_them(encoded, tmp_path):
    from napari_slmsam2.engine.weights.checkpoints import save_weights

    config = TINY.replace(adapter="temporal", adapter_dim=4)
    network = SliceNetwork(config)
    randomise(network, 3)
    file = tmp_path / "adapted.safetensors"
    save_weights(file, network.state_dict(), {"config": config.to_dict()})
    without = segment(file, PropagationConfig())
    segment(file)
    calls = len(encoded)
    assert_equal(segment(file), without)
    assert len(encoded) == calls


def test_a_damaged_slice_is_encoded_again(weights, encoded, folder):
    first = segment(weights)
    path = sorted(folder.iterdir())[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert_equal(segment(weights), first)
    assert sum(encoded) == SLICES + 1
    assert_equal(segment(weights), first)
    assert sum(encoded) == SLICES + 1


def test_a_change_of_the_setting_takes_effect_in_a_session(weights, folder):
    volume = Volume(np.random.default_rng(0).random((3, 40, 36), np.float32))
    session = SegmentationSession(volume, model=weights, device="cpu")
    mask = np.ones((40, 36), bool)
    session.add_prompt(SlicePrompt.from_mask(1, 1, mask))
    for _ in session.propagate():
        pass
    assert stored_files(folder) == []
    session.config = STORED
    for _ in session.propagate():
        pass
    assert len(stored_files(folder)) == 3


def test_the_compact_network_keeps_nothing(folder):
    """Its crops differ with the object, and cost less than reading them."""
    volume = Volume(np.random.default_rng(0).random((4, 40, 36), np.float32))
    session = SegmentationSession(volume, model="compact", device="cpu", config=STORED)
    mask = np.zeros((40, 36), bool)
    mask[10:20, 10:20] = True
    session.add_prompt(SlicePrompt.from_mask(1, 1, mask))
    for _ in session.propagate():
        pass
    assert stored_files(folder) == []
