"""Reading, checking, converting and writing weights."""

from __future__ import annotations

import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from napari_slmsam2.core.config import ModelConfig, sam2_config, slm_sam2_config
from napari_slmsam2.core.errors import CheckpointError, ConfigError, OutputError
from napari_slmsam2.engine.loading import load_network, published_config
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.weights.checkpoints import (
    SAM2_TO_SLM_SAM2,
    convert_state,
    file_sha256,
    load_state,
    load_weights,
    read_metadata,
    save_weights,
)

TINY = ModelConfig(
    image_size=64,
    embed_dim=8,
    stages=(1, 1, 2, 1),
    global_attention_blocks=(3,),
    window_spec=(4, 2, 4, 2),
    model_dim=32,
    memory_dim=16,
    attention_layers=1,
    feedforward_dim=32,
    decoder_layers=1,
    decoder_heads=2,
    decoder_mlp_dim=32,
    iou_head_dim=32,
    mask_channels=4,
)


def small_module() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3, "optimizer": {}}])
def test_pickled_state_dicts(tmp_path, wrap):
    state = small_module().state_dict()
    torch.save(wrap(state), tmp_path / "w.pt")
    assert equal(load_state(tmp_path / "w.pt"), dict(state))


def test_malicious_pickle_is_refused_and_not_run(tmp_path):
    control, target = tmp_path / "control", tmp_path / "hacked"
    pickle.loads(pickle.dumps(Malicious(control)))
    assert control.is_dir(), "the attack must work where nobody defends"
    content = {"model": {**small_module().state_dict(), "x": Malicious(target)}}
    torch.save(content, tmp_path / "zip.pt")
    torch.save(content, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious(target), protocol=2))
    for name in ("zip.pt", "legacy.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match=rf"{name}.*nothing in it was run"):
            load_state(tmp_path / name)
        assert not target.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", b"PK\x03\x04broken", b"\x80\x02", bytes(1000)]
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_no_checkpoints(tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"w{suffix}"):
        load_state(path)


@given(at=st.integers(0, 10_000), cut=st.booleans())
def test_damaged_checkpoints_never_break_out(tmp_path_factory, at, cut):
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    torch.save(small_module().state_dict(), path)
    content = bytearray(path.read_bytes())
    at %= len(content)
    if cut:
        content = content[:at]
    else:
        content[at] ^= 0xFF
    path.write_bytes(content)
    try:
        state = load_state(path)
    except CheckpointError:
        return
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_other_zip_and_missing_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_state(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_state(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match="is not a file"):
        load_state(tmp_path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(2)])
def test_pickles_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"holds no weights|is not a state dict"):
        load_state(tmp_path / "w.pt")


def test_strict_loading_fills_the_module():
    source, target = small_module(), small_module()
    load_weights(target, source.state_dict(), what="here")
    assert equal(source.state_dict(), target.state_dict())


def test_strict_loading_names_every_kind_of_problem():
    module = small_module()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    state = dict(small_module().state_dict())
    del state["0.bias"]
    state["0.weight"] = torch.zeros(4, 5)
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        load_weights(module, state, what="other.pt")
    message = str(error.value)
    for part in (
        "other.pt",
        "1 missing: 0.bias",
        "1 unexpected: extra.weight",
        "0.weight (expected (4, 3), found (4, 5))",
    ):
        assert part in message
    assert equal(dict(module.state_dict()), before)


def test_long_lists_of_keys_are_shortened():
    state = {f"k{i}": torch.zeros(1) for i in range(30)}
    with pytest.raises(CheckpointError, match="30 unexpected: k0, k1, k10, k11 and 26 more"):
        load_weights(nn.Identity(), state, what="here")


def test_key_counts_of_the_published_networks():
    sam2 = SliceNetwork(sam2_config("tiny")).state_dict()
    slm = SliceNetwork(slm_sam2_config("tiny")).state_dict()
    assert (len(sam2), len(slm)) == (471, 596)
    assert sam2.keys() < slm.keys()


def test_sam2_weights_need_the_conversion_by_name():
    state = SliceNetwork(TINY).state_dict()
    network = SliceNetwork(TINY.replace(short_memory_slices=1))
    with pytest.raises(CheckpointError, match=r"missing: rec_maskmem_tpos_enc, recent_memory"):
        load_weights(network, state, what="sam2.pt")


@pytest.mark.parametrize("fusion", ["sum", "gate"])
def test_conversion_copies_the_long_term_attention(fusion):
    torch.manual_seed(1)
    state = SliceNetwork(TINY).state_dict()
    network = SliceNetwork(TINY.replace(short_memory_slices=1, fusion=fusion))
    initial = {k: v.clone() for k, v in network.state_dict().items()}
    converted = convert_state(state, SAM2_TO_SLM_SAM2, network)
    load_weights(network, converted, what="converted")
    loaded = network.state_dict()
    copied = [k for k in loaded if k.startswith("recent_memory_attention.")]
    assert copied
    for key in copied:
        assert torch.equal(loaded[key], state[key.removeprefix("recent_")])
        assert loaded[key].data_ptr() != loaded[key.removeprefix("recent_")].data_ptr()
    fusion_keys = loaded.keys() - state.keys() - {*copied, "rec_maskmem_tpos_enc"}
    assert fusion_keys
    assert all(torch.equal(loaded[k], initial[k]) for k in fusion_keys)
    assert not loaded["rec_maskmem_tpos_enc"].any()
    assert all(torch.equal(loaded[k], state[k]) for k in state)


def test_conversion_refuses_what_it_is_not_for():
    network = SliceNetwork(TINY.replace(short_memory_slices=1))
    with pytest.raises(CheckpointError, match=r"not those of SAM 2\.1"):
        convert_state(network.state_dict(), SAM2_TO_SLM_SAM2, network)
    with pytest.raises(ConfigError, match=r"sam2\.1->slm-sam2"):
        convert_state({}, "sam1->sam2", network)


def test_saved_weights_come_back_with_their_metadata(tmp_path):
    state = SliceNetwork(TINY).state_dict()
    tied = {**state, "tied": next(iter(state.values()))}
    metadata = {"config": TINY.to_dict(), "trained_on": ["a", "b"], "steps": 7}
    path = tmp_path / "w.safetensors"
    save_weights(path, tied, metadata)
    assert equal(load_state(path), dict(tied))
    noted = read_metadata(path)
    assert noted["steps"] == 7
    assert ModelConfig.from_dict(noted["config"]) == TINY
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_weights_that_cannot_be_written(tmp_path):
    with pytest.raises(OutputError, match=r"expected \.safetensors"):
        save_weights(tmp_path / "w.pt", {}, {})
    with pytest.raises(OutputError, match="cannot be written"):
        save_weights(tmp_path / "no" / "w.safetensors", {"a": torch.zeros(1)}, {})
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, {})
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_metadata_of_other_files(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert read_metadata(tmp_path / "other.safetensors") == {}
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        read_metadata(tmp_path / "bad.safetensors")


def test_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
    with pytest.raises(CheckpointError, match="cannot be read"):
        file_sha256(tmp_path / "nothing")


def test_network_from_a_file_that_tells_its_config(tmp_path):
    network = SliceNetwork(TINY)
    path = tmp_path / "own.safetensors"
    save_weights(path, network.state_dict(), {"config": TINY.to_dict()})
    loaded = load_network(path)
    assert loaded.network.config == TINY
    assert loaded.name == "own.safetensors"
    assert loaded.sha256 == file_sha256(path)
    assert equal(loaded.network.state_dict(), dict(network.state_dict()))


def test_network_from_a_file_with_a_given_config_and_conversion(tmp_path):
    path = tmp_path / "sam2.pt"
    torch.save({"model": SliceNetwork(TINY).state_dict()}, path)
    with pytest.raises(CheckpointError, match="a network that is not known"):
        load_network(path)
    slm = TINY.replace(short_memory_slices=1)
    with pytest.raises(CheckpointError, match="missing"):
        load_network(path, config=slm)
    first = load_network(str(path), config=slm, conversion=SAM2_TO_SLM_SAM2)
    second = load_network(str(path), config=slm, conversion=SAM2_TO_SLM_SAM2)
    assert equal(first.network.state_dict(), second.network.state_dict())


@pytest.mark.parametrize(
    "trunk", ["tiny", "small", "base_plus", pytest.param("large", marks=pytest.mark.slow)]
)
def test_published_networks_are_told_by_their_weights(trunk):
    for config in (sam2_config(trunk), slm_sam2_config(trunk)):
        state = SliceNetwork(config).state_dict()
        assert published_config(state, what="here") == config


def test_names_that_are_no_networks(tmp_path):
    with pytest.raises(ConfigError, match="is not a network"):
        load_network("flow")
    with pytest.raises(ConfigError, match="is not known"):
        load_network("resnet")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_network(tmp_path / "missing.pt")


def test_others_may_read_the_weights_that_were_saved(tmp_path):
    beside = tmp_path / "plain"
    beside.touch()
    path = tmp_path / "w.safetensors"
    save_weights(path, {"w": torch.zeros(2)}, {})
    assert path.stat().st_mode == beside.stat().st_mode
