"""Random, non-degenerate weights and SAM 2's own predictor with the same ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter

from ..random_weights import randomise

SIZE = 128
TINY = {
    "image_size": SIZE,
    "embed_dim": 16,
    "stages": (1, 2, 3, 2),
    "global_attention_blocks": (4,),
    "attention_layers": 2,
    "feedforward_dim": 128,
}


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny matrices: threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sam2_network() -> SliceNetwork:
    network = SliceNetwork(ModelConfig(**TINY))
    randomise(network, 3)
    return network.eval()


@pytest.fixture(scope="session")
def predictor(sam2_network):
    """SAM 2's own video predictor, built from its own configuration files."""
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from sam2.build_sam import build_sam2_video_predictor

    with initialize_config_module("sam2", version_base="1.2"):
        predictor = build_sam2_video_predictor(
            "configs/sam2.1/sam2.1_hiera_t.yaml",
            device="cpu",
            hydra_overrides_extra=[
                f"++model.image_size={SIZE}",
                "++model.image_encoder.trunk.embed_dim=16",
                "++model.image_encoder.trunk.stages=[1,2,3,2]",
                "++model.image_encoder.trunk.global_att_blocks=[4]",
                "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
                "++model.memory_attention.num_layers=2",
                "++model.memory_attention.layer.dim_feedforward=128",
                "++model.fill_hole_area=0",
            ],
        )
    assert not GlobalHydra.instance().is_initialized()
    predictor.load_state_dict(sam2_network.state_dict(), strict=True)
    predictor.fill_hole_area = 0
    return predictor


@pytest.fixture(scope="session")
def volume() -> np.ndarray:
    """Textured slices with a moving bright ellipse, float32 in 0..1, shape (46, 72, 60)."""
    rng = np.random.default_rng(5)
    z, y, x = np.meshgrid(np.arange(46), np.arange(72), np.arange(60), indexing="ij")
    inside = ((y - 36 - 8 * np.sin(z / 7)) / 16) ** 2 + ((x - 30 - z / 6) / 11) ** 2 < 1
    texture = rng.normal(0, 0.08, z.shape)
    return np.clip(0.3 + 0.4 * inside + texture, 0, 1).astype(np.float32)


@pytest.fixture
def segmenter(sam2_network) -> NetworkSegmenter:
    return NetworkSegmenter(sam2_network, name="sam2", device=torch.device("cpu"))
