"""Settings of `adapt`: the named recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.core.settings import Settings, setting

#: Prefixes of parameters by architecture; the rest is the image encoder and, in compact networks,
#: the decoder.
HEADS = {
    "window": ("heads.", "out.", "cue_scale.", "carried_weight", "structures"),
    "sam2": ("sam_mask_decoder.", "sam_prompt_encoder.", "obj_ptr_proj."),
}
MEMORY = {
    "window": (
        "seed_encoder.",
        "short_stem.",
        "long_stem.",
        "stem_fuser.",
        "short_out.",
        "memory_fuser.",
        "memory_in.",
    ),
    "sam2": (
        "memory_attention.",
        "recent_memory_",
        "memory_encoder.",
        "maskmem_tpos_enc",
        "rec_maskmem_tpos_enc",
        "no_mem_",
        "no_obj_",
        "obj_ptr_tpos_proj.",
        "mask_downsample.",
    ),
}

#: Suffixes of the parameters that adapters train, see `napari_slmsam2.training.lora`. The class
#: embeddings are new in an adapted network: they have no weights to update.
ADAPTERS = (".lora_a", ".lora_b", "structures")

#: Forms of `napari_slmsam2.engine.sam2.slice_adapters` that a recipe can add to a SAM 2 network.
SLICE_ADAPTERS = ("temporal", "temporal-slices", "dilated")

SLICE_ADAPTER_KEY = ".adapter."
"""Part of the names of the parameters of slice adapters."""

TRAINED = {
    "all": "Whole network",
    "memory+heads": "Memories and heads",
    "heads": "Heads",
    "adapters": "Low-rank updates (LoRA)",
    "temporal": "Temporal adapters, heads (SAMed-2)",
    "temporal-slices": "Adapters along slices, heads (MA-SAM)",
    "dilated": "Dilated adapters, heads (DD-SAM2)",
}
"""Choices of what is trained, and their titles."""

#: Keys in files of weights that differ from the name of the setting.
FILE_KEYS = {"l2_sp": "pull", "evaluations": "judgements"}


@dataclass(frozen=True, kw_only=True)
class AdaptRecipe(Settings):
    """How the compact network is adapted to a few volumes.

    Attributes
    ----------
    architecture : {"window", "sam2"}
        Of the networks that the recipe adapts.
    base : str
        Name of the default base model.
    file_size : int
        Upper bound of the size of an adapted model, in bytes.
    """

    architecture: ClassVar[str] = "window"
    base: ClassVar[str] = "compact"
    file_size: ClassVar[int] = 2**26

    name: str = setting("quick", "Recipe", "Name, which is kept in the adapted model.")
    source: str = setting(
        "volumes",
        "Training data",
        "Labelled volumes, or the annotated slices of one volume and pseudo-stacks made from them.",
        choices=("volumes", "seeds"),
    )
    minutes: float = setting(
        5.0, "Time", "Of clips, training and evaluation together.", minimum=0.05, unit="min"
    )
    steps: int = setting(400, "Steps", "Optimiser steps, at most.", minimum=2)
    fewest_steps: int = setting(
        30,
        "Fewest steps",
        "The shortest schedule; refused if it does not fit into a given time.",
        minimum=1,
        advanced=True,
    )
    batch_size: int = setting(16, "Batch", "Clips per step. Less needs less memory.", minimum=1)
    clips: int = setting(256, "Clips", "Clips cut from the volumes, at most.", minimum=4)
    trained: str = setting(
        "all",
        "Trained parts",
        "The whole network, its memories and heads, its heads, or adapters: low-rank updates of "
        "all its weights. temporal, temporal-slices, dilated: slice adapters in the image encoder, "
        "and the heads; SAM 2 networks only. Fewer parts change and forget less.",
        choices=tuple(TRAINED),
    )
    rank: int = setting(8, "Rank", "Rank of the low-rank updates.", minimum=1, advanced=True)
    labels_are: str = setting(
        "auto",
        "Labels are",
        "structures: each label is the same structure in all volumes and gets a class embedding. "
        "objects: of one kind, such as cells. auto: structures where there are two to five labels.",
        choices=("auto", "structures", "objects"),
    )
    learning_rate: float = setting(
        4e-4, "Learning rate", "Highest learning rate of AdamW.", minimum=1e-7
    )
    l2_sp: float = setting(
        0.002,
        "Decay towards the base model",
        "Share of its distance to the base model that every weight loses after every step "
        "(decoupled L2-SP), so that the network does not forget.",
        minimum=0,
        maximum=1,
        advanced=True,
    )
    average: float = setting(
        0.97,
        "Averaging",
        "Decay of the moving average of the weights, which is evaluated and kept.",
        minimum=0,
        maximum=0.9999,
        advanced=True,
    )
    evaluations: int = setting(
        6, "Evaluations", "Evaluations of the held-out part during training, at most.", minimum=1
    )
    patience: int = setting(
        4, "Patience", "Stop after this many evaluations without improvement.", minimum=1
    )
    seed: int = setting(0, "Seed", "Random seed of clips and training.", minimum=0, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trained not in self.trainable():
            raise ConfigError(
                "setting trained",
                f"{self.trained} does not apply to a compact network",
                expected=" | ".join(self.trainable()),
                found=self.trained,
                hint="Slice adapters belong to the image encoder of SAM 2: use the recipe paper.",
            )

    @classmethod
    def trainable(cls) -> tuple[str, ...]:
        """The choices of ``trained`` that the architecture has."""
        is_sam2 = cls.architecture == "sam2"
        return tuple(choice for choice in TRAINED if is_sam2 or choice not in SLICE_ADAPTERS)

    @property
    def slice_adapter(self) -> str | None:
        """Form of the slice adapter that is trained."""
        return self.trained if self.trained in SLICE_ADAPTERS else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the keys of files of weights."""
        return {FILE_KEYS.get(name, name): value for name, value in super().to_dict().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        names = {key: name for name, key in FILE_KEYS.items()}
        return super().from_dict({names.get(key, key): v for key, v in values.items()})

    def trains(self, parameter: str) -> bool:
        """Whether the parameter of this name is trained."""
        if self.trained == "all":
            return True
        if self.trained == "adapters":
            return parameter.endswith(ADAPTERS)
        if self.slice_adapter is not None and SLICE_ADAPTER_KEY in parameter:
            return True
        parts = HEADS[self.architecture]
        if self.trained == "memory+heads":
            parts += MEMORY[self.architecture]
        return parameter.startswith(parts)


@dataclass(frozen=True, kw_only=True)
class PaperRecipe(AdaptRecipe):
    """SLM-SAM 2's own fine-tuning (Chen et al., arXiv:2505.01854), for SAM 2.1 and SLM-SAM 2."""

    architecture: ClassVar[str] = "sam2"
    base: ClassVar[str] = "slm-sam2.1-tiny"
    file_size: ClassVar[int] = 2**30

    clip_slices: int = setting(8, "Clip", "Consecutive slices of a clip.", minimum=2, unit="slices")
    most_labels: int = setting(3, "Labels", "Labels of a clip, at most.", minimum=1)
    encoder_rate: float = setting(
        3e-6,
        "Learning rate of the encoder",
        "Learning rate of its last layer.",
        minimum=0,
        advanced=True,
    )
    adapter_rate: float = setting(
        1e-4,
        "Learning rate of slice adapters",
        "They start at zero and need larger steps than pretrained weights (SAMed-2, DD-SAM2).",
        minimum=0,
        advanced=True,
    )
    layer_decay: float = setting(
        0.9,
        "Layer decay",
        "Learning rate of a layer of the encoder's trunk over that of the next layer.",
        minimum=0.01,
        maximum=1,
        advanced=True,
    )
    weight_decay: float = setting(
        0.1, "Weight decay", "Of all weights but biases and norms.", minimum=0, advanced=True
    )
    clip_norm: float = setting(
        0.1, "Gradient norm", "Gradients are clipped to it.", minimum=0, advanced=True
    )
    corrections: int = setting(
        7, "Corrections", "Clicks that correct a box or a point prompt.", minimum=0, advanced=True
    )
    checkpointing: str = setting(
        "auto",
        "Gradient checkpointing",
        "Recompute activations in the backward pass instead of storing them: about a third slower, "
        "with much less memory. auto: where a step does not fit otherwise.",
        choices=("auto", "on", "off"),
        advanced=True,
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        AdaptRecipe(),
        AdaptRecipe(
            name="this-volume",
            source="seeds",
            minutes=1.5,
            steps=120,
            fewest_steps=10,
            clips=96,
            learning_rate=2e-4,
            l2_sp=0.01,
            average=0.95,
            evaluations=4,
            patience=3,
        ),
        PaperRecipe(
            name="paper",
            minutes=120.0,
            steps=500,
            fewest_steps=20,
            batch_size=1,
            clips=500,
            learning_rate=5e-6,
            l2_sp=0.0,
            average=0.0,
            evaluations=10,
            patience=10,
        ),
    )
}

ABOUT = {
    "quick": "One to five labelled volumes, minutes on a CPU: the compact network learns how the "
    "objects change from slice to slice and where they end.",
    "this-volume": "The annotated slices of one volume, and pseudo-stacks made from them: about "
    "two minutes on a CPU.",
    "paper": "SLM-SAM 2 as published: one to five labelled volumes train SAM 2.1 or SLM-SAM 2 on a "
    "graphics card.",
}
"""What every recipe is for."""


def get_recipe(name: str) -> AdaptRecipe:
    """The recipe of a name.

    Raises
    ------
    ConfigError
        No recipe has this name.
    """
    if name not in RECIPES:
        raise ConfigError("recipe", "is not known", expected=" | ".join(RECIPES), found=repr(name))
    return RECIPES[name]
