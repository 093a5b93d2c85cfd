"""The settings of propagation and of the networks: for command line, form and session file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.core.settings import Settings, setting

__all__ = [
    "CompactConfig",
    "ModelConfig",
    "PropagationConfig",
    "Settings",
    "sam2_config",
    "setting",
    "slm_sam2_config",
]


@dataclass(frozen=True, kw_only=True)
class PropagationConfig(Settings):
    """How masks are propagated through the volume."""

    direction: str = setting(
        "both",
        "Direction",
        "Propagate from the seeds in both directions, or only towards higher (forward) or lower "
        "(backward) slice numbers.",
        choices=("both", "forward", "backward"),
    )
    merge: str = setting(
        "auto",
        "Merge between seeds",
        "Between two seeds both sweeps are merged, weighted by confidence and by the distance to "
        "their seeds. 'interpolation' adds the shape interpolated between the seeds as a third "
        "part. 'auto' uses the merge that suits the model.",
        choices=("auto", "sweeps", "interpolation"),
    )
    overlap: str = setting(
        "highest",
        "Overlap",
        "Where two labels overlap: 'highest' takes the more probable one, where a label counts "
        "more the nearer its seed is; 'keep' leaves the existing label; 'overwrite' replaces it by "
        "the new one. Seeds are always kept. Beyond its outermost seed a label ends where other "
        "labels have more than half of its mask.",
        choices=("highest", "keep", "overwrite"),
    )
    stop_after_absent: int = setting(
        3,
        "Stop after absent slices",
        "Beyond the outermost seed a sweep ends after this many slices in a row without the "
        "object.",
        minimum=1,
        unit="slices",
    )
    memory: str = setting(
        "standard",
        "Memory",
        "Memory of SAM 2 and SLM-SAM 2: 'standard' reads the seeds and the last slices; "
        "'confident' reads the seeds, the last slice and the most similar of the slices with a "
        "high confidence (after SAMed-2).",
        choices=("standard", "confident"),
        advanced=True,
    )
    batch_size: int | None = setting(
        None,
        "Labels per batch",
        "Labels that the network segments at once; none: as many as the free memory of the device "
        "holds. A smaller number needs less memory.",
        minimum=1,
        unit="labels",
        advanced=True,
        none="as memory allows",
    )
    precision: str = setting(
        "auto",
        "Precision",
        "Precision of the computation. 'auto' uses bfloat16 on devices that compute it faster than "
        "float32, and float32 on others.",
        choices=("auto", "float32", "bfloat16"),
        advanced=True,
    )
    memory_dtype: str = setting(
        "bfloat16",
        "Precision of stored memory",
        "SAM 2 stores memory maps in bfloat16; float32 takes twice the space.",
        choices=("bfloat16", "float32"),
        advanced=True,
    )
    image_size: int | None = setting(
        None,
        "Input size",
        "Side of the network's input; none: the model's own, or 512 where a slice would take more "
        "than 3 s on a CPU (a note reports it; never in a batch). A smaller input is faster and "
        "shows less detail: SAM 2.1 at 512 instead of 1024 takes about an eighth of the time.",
        minimum=32,
        unit="px",
        advanced=True,
        none="automatic",
    )
    memory_pooling: int = setting(
        1,
        "Pooling of memory",
        "1 is exact. 2 and 4 average 2 x 2 and 4 x 4 neighbouring memory tokens: the memory "
        "attention of large networks is up to four times faster, and its result is approximate.",
        choices=(1, 2, 4),
        advanced=True,
    )
    embedding_budget: int = setting(
        2048,
        "Memory for image features",
        "Encoded slices are stored up to this size, so that further labels and corrections do not "
        "encode them again. 0 stores none.",
        minimum=0,
        unit="MiB",
        advanced=True,
    )
    embedding_disk: int = setting(
        0,
        "Disk for image features",
        "Encoded slices of SAM 2 and SLM-SAM 2 are also kept on the disk up to this size, so that "
        "a later session with the same image and model starts without encoding them again. Not "
        "used on CUDA. 0 keeps none; 'napari-slmsam2 embeddings' shows and clears them.",
        minimum=0,
        unit="GiB",
        advanced=True,
    )

    def covers(self, recorded: PropagationConfig) -> bool:
        """Whether a recorded run has these settings.

        What is None here is chosen when a run begins, and then recorded: any value fits it. Where
        encoded slices are kept does not matter.
        """
        disk = recorded.embedding_disk
        return self.replace(**self.chosen_in(recorded), embedding_disk=disk) == recorded

    def chosen_in(self, recorded: PropagationConfig) -> dict[str, Any]:
        """What a recorded run has for the settings that are None here and chosen at its start."""
        return {name: getattr(recorded, name) for name in _CHOSEN if getattr(self, name) is None}


_CHOSEN = ("batch_size", "image_size")
"""Settings that are chosen for the model and the computer where they are None."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Networks of the SAM 2 family: SAM 2.1, SAM 2.0, and SLM-SAM 2 on any of their trunks.

    Defaults are SAM 2.1 Hiera-T (Ravi et al. 2024, arXiv:2408.00714); the short-term memory is
    SLM-SAM 2's (Chen et al., arXiv:2505.01854).
    """

    image_size: int = setting(
        1024, "Input size", "Side of the square network input.", minimum=32, unit="px"
    )
    embed_dim: int = setting(96, "Trunk width", "Channels of the first stage.", minimum=1)
    trunk_heads: int = setting(1, "Trunk heads", "Attention heads of the first stage.", minimum=1)
    stages: tuple[int, ...] = setting((1, 2, 7, 2), "Stages", "Blocks of the four stages.")
    global_attention_blocks: tuple[int, ...] = setting(
        (5, 7, 9), "Global blocks", "Trunk blocks that attend to the whole slice."
    )
    window_spec: tuple[int, ...] = setting(
        (8, 4, 14, 7), "Windows", "Attention window of each stage, in tokens."
    )
    pos_embed_background: tuple[int, int] = setting(
        (7, 7), "Position grid", "Grid of the trunk's learned position embedding."
    )
    model_dim: int = setting(256, "Model width", "Channels of the image feature.", minimum=8)
    memory_dim: int = setting(64, "Memory width", "Channels of a memory map.", minimum=4)
    attention_layers: int = setting(4, "Memory attention layers", "Of each memory.", minimum=1)
    attention_heads: int = setting(1, "Memory attention heads", "Of each memory.", minimum=1)
    feedforward_dim: int = setting(2048, "Memory attention feed-forward", "Width.", minimum=1)
    memory_slices: int = setting(
        7,
        "Long-term memory",
        "Rows of the time table: one for seeds, one per past slice.",
        minimum=2,
        unit="slices",
    )
    max_pointers: int = setting(
        16, "Object pointers", "Longest distance of a pointer, plus one.", minimum=1
    )
    short_memory_slices: int = setting(
        0,
        "Short-term memory",
        "Slices that the short-term memory attention reads. 0: SAM 2, without it.",
        minimum=0,
        unit="slices",
    )
    short_time_rows: int | None = setting(
        None,
        "Own time table",
        "Rows of the short-term memory's own time table; none: it reads the long-term one.",
        minimum=1,
    )
    fusion: str = setting(
        "sum",
        "Fusion",
        "How the two memories are joined: 'sum' and ConvNeXt blocks as published, or 'gate', "
        "long + g * (short - long), which starts as SAM 2.",
        choices=("sum", "gate"),
    )
    fuser_layers: int = setting(2, "Fuser blocks", "ConvNeXt blocks after the sum.", minimum=0)
    fuser_layer_scale: float = setting(
        1e-6, "Fuser layer scale", "Initial layer scale of the ConvNeXt blocks.", minimum=0
    )
    decoder_layers: int = setting(2, "Decoder layers", "Two-way transformer blocks.", minimum=1)
    decoder_heads: int = setting(8, "Decoder heads", "Attention heads.", minimum=1)
    decoder_mlp_dim: int = setting(2048, "Decoder feed-forward", "Width.", minimum=1)
    iou_head_dim: int = setting(256, "IoU head", "Width of the predicted-IoU head.", minimum=1)
    mask_channels: int = setting(16, "Mask prompt channels", "Width.", minimum=4)
    sam_version: str = setting(
        "2.1",
        "SAM version",
        "SAM 2.0 has no embedding of absent objects in its memory maps and does not encode the "
        "distance of object pointers.",
        choices=("2.1", "2.0"),
    )
    adapter: str = setting(
        "none",
        "Slice adapter",
        "Adapters in the image encoder: 'temporal' (3 x 3 x 3, SAMed-2) and 'temporal-slices' "
        "(3 x 1 x 1, MA-SAM) mix neighbouring slices, 'dilated' (DD-SAM2) widens the view within "
        "a slice.",
        choices=("none", "temporal", "temporal-slices", "dilated"),
    )
    adapter_dim: int = setting(
        32, "Adapter width", "Channels of the bottleneck of a temporal adapter.", minimum=1
    )
    adapter_slices: int = setting(
        3,
        "Adapter slices",
        "Consecutive slices that a temporal adapter reads: the slice itself and as many before as "
        "after it.",
        minimum=1,
        unit="slices",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.stages) != 4 or len(self.window_spec) != 4:
            raise ConfigError(
                "setting stages", "the trunk has four stages", found=(self.stages, self.window_spec)
            )
        openers = {sum(self.stages[:i]) for i in (1, 2, 3)}
        if openers & set(self.global_attention_blocks):
            raise ConfigError(
                "setting global_attention_blocks",
                "names a block that opens a stage; those pool within windows",
                expected=f"none of {sorted(openers)}",
                found=self.global_attention_blocks,
            )
        if self.adapter_slices % 2 == 0:
            raise ConfigError("setting adapter_slices", "must be odd", found=self.adapter_slices)
        self._divides("image_size", self.image_size, 32)
        self._divides("model_dim", self.model_dim, 8)
        self._divides("model_dim", self.model_dim, self.memory_dim, "memory_dim")
        self._divides("model_dim", self.model_dim // 2, self.decoder_heads, "2 * decoder_heads")
        self._divides("model_dim", self.model_dim // 4, self.attention_heads, "4 * attention_heads")
        rows = self.short_time_rows or self.memory_slices
        if self.short_memory_slices > rows:
            raise ConfigError(
                "setting short_memory_slices",
                "is longer than the time table it reads",
                expected=f"at most {rows}",
                found=self.short_memory_slices,
            )

    @staticmethod
    def _divides(name: str, value: int, divisor: int, what: str | None = None) -> None:
        if value % divisor:
            raise ConfigError(
                f"setting {name}",
                f"must be a multiple of {what or divisor}",
                found=value,
            )

    @property
    def encoded_slices(self) -> int:
        """Slices that the embedding of one slice depends on, itself included."""
        return self.adapter_slices if self.adapter.startswith("temporal") else 1

    @property
    def has_short_memory(self) -> bool:
        """Whether there is a short-term memory beside the long-term one."""
        return self.short_memory_slices > 0


@dataclass(frozen=True, kw_only=True)
class CompactConfig(Settings):
    """The compact short-long-memory network, which reads an object-centred crop."""

    architecture: str = setting(
        "window",
        "Architecture",
        "Name of the architecture in files of weights.",
        choices=("window",),
    )
    window_size: int = setting(
        80, "Window", "Side of the crop that the network reads.", minimum=32, unit="px"
    )
    window_margin: float = setting(
        2.0, "Margin", "Side of the crop over the longer side of the object.", minimum=1.2
    )
    widths: tuple[int, ...] = setting(
        (16, 32, 64, 96), "Widths", "Channels at full, half, quarter and eighth resolution."
    )
    memory_dim: int = setting(32, "Memory width", "Channels of a memory token.", minimum=8)
    memory: str = setting(
        "both",
        "Memories",
        "Read-outs that the network has: the previous slice, the annotated slices, or both.",
        choices=("both", "short", "long"),
    )
    seed_slices: int = setting(
        2, "Long-term memory", "Annotated slices that it reads.", minimum=1, unit="slices"
    )
    fusion: str = setting(
        "gate",
        "Fusion",
        "How the two read-outs are joined: their sum, or long + g * (short - long).",
        choices=("gate", "sum"),
    )
    follow: str = setting(
        "object",
        "Window follows",
        "Whether the crop follows the object or shows the whole slice.",
        choices=("object", "slice"),
    )
    feedback: float = setting(
        0.0,
        "Feedback",
        "Share of the network's correction that is propagated to the next slice; 0: the mask is "
        "propagated by the optical flow alone.",
        minimum=0.0,
        maximum=1.0,
    )
    structures: tuple[int, ...] = setting(
        (),
        "Structures",
        "Label values of the structures that the network was adapted to; each has an embedding of "
        "its own.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.structures)) < len(self.structures):
            raise ConfigError("setting structures", "holds a label twice", found=self.structures)
        if self.window_size % 8:
            raise ConfigError(
                "setting window_size", "must be a multiple of 8", found=self.window_size
            )
        if len(self.widths) != 4 or any(width % 8 for width in self.widths):
            raise ConfigError("setting widths", "must be four multiples of 8", found=self.widths)


_TRUNKS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "small": {"stages": (1, 2, 11, 2), "global_attention_blocks": (7, 10, 13)},
    "base_plus": {
        "embed_dim": 112,
        "trunk_heads": 2,
        "stages": (2, 3, 16, 3),
        "global_attention_blocks": (12, 16, 20),
        "pos_embed_background": (14, 14),
    },
    "large": {
        "embed_dim": 144,
        "trunk_heads": 2,
        "stages": (2, 6, 36, 4),
        "global_attention_blocks": (23, 33, 43),
        "pos_embed_background": (7, 7),
        "window_spec": (8, 4, 16, 8),
    },
}


def sam2_config(trunk: str = "tiny", **changes: Any) -> ModelConfig:
    """SAM 2.1 with one of its trunks: ``tiny``, ``small``, ``base_plus`` or ``large``."""
    if trunk not in _TRUNKS:
        raise ConfigError("trunk", "is not known", expected=" | ".join(_TRUNKS), found=repr(trunk))
    return ModelConfig(**{**_TRUNKS[trunk], **changes})


def slm_sam2_config(
    trunk: str = "tiny", *, short_memory_slices: int = 1, fusion: str = "sum", **changes: Any
) -> ModelConfig:
    """SLM-SAM 2 on one of SAM 2.1's trunks."""
    return sam2_config(trunk, short_memory_slices=short_memory_slices, fusion=fusion, **changes)
