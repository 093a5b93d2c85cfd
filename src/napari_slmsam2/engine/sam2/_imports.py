"""The names of the ``sam2`` package that this package builds on.

Importing ``sam2`` starts Hydra for the whole process; that is undone here, so that programs with a
Hydra of their own keep working.
"""

from __future__ import annotations

from hydra.core.global_hydra import GlobalHydra

_hydra_was_running = GlobalHydra.instance().is_initialized()

from sam2.modeling.backbones.hieradet import (  # noqa: E402
    Hiera,
    MultiScaleAttention,
    MultiScaleBlock,
    do_pool,
)
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder  # noqa: E402
from sam2.modeling.backbones.utils import window_partition, window_unpartition  # noqa: E402
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer  # noqa: E402
from sam2.modeling.memory_encoder import (  # noqa: E402
    CXBlock,
    Fuser,
    MaskDownSampler,
    MemoryEncoder,
)
from sam2.modeling.position_encoding import (  # noqa: E402
    PositionEmbeddingSine,
    compute_axial_cis,
)
from sam2.modeling.sam.mask_decoder import MaskDecoder  # noqa: E402
from sam2.modeling.sam.prompt_encoder import PromptEncoder  # noqa: E402
from sam2.modeling.sam.transformer import RoPEAttention, TwoWayTransformer  # noqa: E402
from sam2.modeling.sam2_base import SAM2Base  # noqa: E402
from sam2.modeling.sam2_utils import MLP, LayerNorm2d, get_1d_sine_pe  # noqa: E402

if not _hydra_was_running:
    GlobalHydra.instance().clear()

__all__ = [
    "MLP",
    "CXBlock",
    "FpnNeck",
    "Fuser",
    "Hiera",
    "ImageEncoder",
    "LayerNorm2d",
    "MaskDecoder",
    "MaskDownSampler",
    "MemoryAttention",
    "MemoryAttentionLayer",
    "MemoryEncoder",
    "MultiScaleAttention",
    "MultiScaleBlock",
    "PositionEmbeddingSine",
    "PromptEncoder",
    "RoPEAttention",
    "SAM2Base",
    "TwoWayTransformer",
    "compute_axial_cis",
    "do_pool",
    "get_1d_sine_pe",
    "window_partition",
    "window_unpartition",
]
