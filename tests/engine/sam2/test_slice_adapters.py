"""Slice adapters: what they read, what they leave alone, and files that hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.random_weights import TINY, randomise

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.core.errors import CheckpointError, ConfigError
from napari_slmsam2.engine.loading import load_network
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.weights.checkpoints import save_weights

FORMS = ("temporal", "temporal-slices", "dilated")


@pytest.fixture(scope="module")
def base() -> SliceNetwork:
    network = SliceNetwork(TINY)
    randomise(network, 1)
    return network.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Three neighbouring slices, as the encoder reads them."""
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def adapted(base: SliceNetwork, form: str, *, trained: bool = False) -> SliceNetwork:
    network = SliceNetwork(base.config.replace(adapter=form, adapter_dim=8))
    if trained:
        randomise(network, 5)
    own = network.state_dict()
    network.load_state_dict({**own, **base.state_dict()})
    return network.eval()


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_untrained_adapters_change_no_bit(base, images, form):
    expected = base.image_encoder.trunk(images)
    found = adapted(base, form).image_encoder.trunk(images)
    for before, now in zip(expected, found, strict=True):
        middle = before if form == "dilated" else before[1:2]
        assert torch.equal(now, middle)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_a_network_draws_the_same_weights_with_adapters(form):
    torch.manual_seed(3)
    plain = SliceNetwork(TINY).state_dict()
    torch.manual_seed(3)
    with_adapters = SliceNetwork(TINY.replace(adapter=form)).state_dict()
    assert all(torch.equal(with_adapters[key], value) for key, value in plain.items())


@pytest.mark.parametrize("form", ["temporal", "temporal-slices"])
@torch.no_grad()
def test_trained_temporal_adapters_read_both_neighbours(base, images, form):
    network = adapted(base, form, trained=True)
    found = network.encode_image(images).feature
    assert found.shape[0] == 1
    for neighbour in (0, 2):
        other = images.clone()
        other[neighbour] += 1
        assert not torch.equal(network.encode_image(other).feature, found)


@torch.no_grad()
def test_a_dilated_adapter_reads_one_slice_by_itself(base, images):
    network = adapted(base, "dilated", trained=True)
    together = network.image_encoder.trunk(images)[-1]
    alone = torch.cat([network.image_encoder.trunk(images[i : i + 1])[-1] for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert not torch.equal(together, base.image_encoder.trunk(images)[-1])


@torch.no_grad()
def test_a_temporal_kernel_sees_whole_slices_not_attention_windows(base, images):
    """A neighbour's change reaches the same place across the borders of attention windows."""
    network = adapted(base, "temporal", trained=True)
    block = network.image_encoder.trunk.blocks[0]
    assert block.window_size == 8
    x = torch.randn(3, 16, 16, 16, generator=torch.Generator().manual_seed(4))
    other = x.clone()
    other[0, 7, 7] += 5  # the last token of a window; its neighbours lie in three others
    changed = (block(other)[1] != block(x)[1]).any(-1)
    assert changed[6:9, 6:9].all()


@pytest.mark.parametrize("form", FORMS)
def test_a_file_holds_the_adapters_and_is_read_strictly(tmp_path, base, form):
    network = adapted(base, form, trained=True)
    path = tmp_path / "adapted.safetensors"
    save_weights(path, network.state_dict(), {"config": network.config.to_dict()})
    loaded = load_network(path).network
    assert loaded.config == network.config
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    state = {k: v for k, v in network.state_dict().items() if "blocks.0.adapter" not in k}
    save_weights(path, state, {"config": network.config.to_dict()})
    with pytest.raises(CheckpointError, match=r"missing: .*blocks\.0\.adapter"):
        load_network(path)


def samed2_state(network: SliceNetwork) -> dict[str, torch.Tensor]:
    """The layout of a published SAMed-2 checkpoint."""
    state = dict(network.state_dict())
    for index, block in enumerate(network.image_encoder.trunk.blocks):
        width = block.dim_out
        prefix = f"image_encoder.trunk.blocks.{index}.fancy_fusion."
        for name, shape in (
            ("cross_attn.in_proj_weight", (3 * width, width)),
            ("cross_attn.in_proj_bias", (3 * width,)),
            ("cross_attn.out_proj.weight", (width, width)),
            ("cross_attn.out_proj.bias", (width,)),
            ("norm.weight", (width,)),
            ("norm.bias", (width,)),
        ):
            state[prefix + name] = torch.randn(shape)
    return state


@pytest.mark.slow
def test_a_checkpoint_in_the_layout_of_samed2_is_recognised(tmp_path):
    config = ModelConfig(
        stages=(1, 2, 11, 2), global_attention_blocks=(7, 10, 13), sam_version="2.0",
        adapter="temporal",
    )  # fmt: skip
    network = SliceNetwork(config)
    state = samed2_state(network)
    assert sum("fancy_fusion" in key for key in state) == 96
    assert sum(".adapter." in key for key in state) == 128
    path = tmp_path / "samed2.pth"
    torch.save({"model": state}, path)
    loaded = load_network(path).network
    assert loaded.config == config
    state["image_encoder.trunk.blocks.3.fancy_fusion.gate"] = torch.zeros(1)
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match=r"1 unexpected: .*fancy_fusion\.gate"):
        load_network(path)


def test_a_pickled_memory_bank_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "memory_bank_list_640.pkl"
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match="could run any program"):
        load_network(str(path))


def test_sam_2_0_has_neither_absent_embedding_nor_pointer_distance():
    newer, older = SliceNetwork(TINY), SliceNetwork(TINY.replace(sam_version="2.0"))
    assert newer.state_dict().keys() - older.state_dict().keys() == {
        "no_obj_embed_spatial",
        "obj_ptr_tpos_proj.weight",
        "obj_ptr_tpos_proj.bias",
    }
    assert older.state_dict().keys() <= newer.state_dict().keys()


def test_an_even_number_of_adapter_slices_is_refused():
    with pytest.raises(ConfigError, match="must be odd"):
        TINY.replace(adapter_slices=2)


def test_parameters_are_those_of_the_paper():
    """Yan et al.: 34,144 to 79,168 parameters a block, 861,472 on Hiera-S."""
    stages, blocks = (1, 2, 11, 2), (7, 10, 13)
    config = ModelConfig(stages=stages, global_attention_blocks=blocks, adapter="temporal")
    network = SliceNetwork(config.replace(image_size=64))
    counts = [
        sum(p.numel() for p in block.adapter.parameters())
        for block in network.image_encoder.trunk.blocks
    ]
    assert np.unique(counts).tolist() == [34_144, 40_576, 53_440, 79_168]
    assert sum(counts) == 861_472
