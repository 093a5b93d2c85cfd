"""How a network is adapted: the named recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from napari_slmsam2.core.config import Settings, setting
from napari_slmsam2.core.errors import ConfigError

#: Parts of a network by what they do, by its architecture; the rest is its image encoder, and of
#: the window network its decoder.
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

#: How the names of what adapters train end, see `napari_slmsam2.training.lora`. What tells
#: structures apart is new in an adapted network: it has no weights that could be updated.
ADAPTERS = (".lora_a", ".lora_b", "structures")


@dataclass(frozen=True, kw_only=True)
class AdaptRecipe(Settings):
    """How the compact network is adapted to a few volumes.

    Attributes
    ----------
    architecture : {"window", "sam2"}
        Of the networks that it adapts.
    base : str
        The model that it starts from if no other is asked for.
    file_size : int
        Bytes that the adapted model may take on the disk.
    """

    architecture: ClassVar[str] = "window"
    base: ClassVar[str] = "compact"
    file_size: ClassVar[int] = 2**26

    name: str = setting("quick", "Recipe", "Its name, which the adapted model tells.")
    source: str = setting(
        "volumes",
        "Learns from",
        "Labelled volumes, or the annotated slices of the open volume and stacks made from them.",
        choices=("volumes", "seeds"),
    )
    minutes: float = setting(
        5.0, "Time", "For everything: clips, training and judging.", minimum=0.05, unit="min"
    )
    steps: int = setting(400, "Steps", "Of the optimiser, at most.", minimum=2)
    fewest_steps: int = setting(
        30,
        "Fewest steps",
        "If not even these fit into the time, it is not started.",
        minimum=1,
        advanced=True,
    )
    batch_size: int = setting(16, "Batch", "Clips per step. Less needs less memory.", minimum=1)
    clips: int = setting(256, "Clips", "Cut from the volumes, at most.", minimum=4)
    trained: str = setting(
        "all",
        "What is trained",
        "All of the network, its memories and heads, its heads, or adapters: updates of low rank "
        "of all its weights.",
        choices=("all", "memory+heads", "heads", "adapters"),
    )
    rank: int = setting(8, "Rank", "Of the adapters.", minimum=1, advanced=True)
    labels_are: str = setting(
        "auto",
        "Labels are",
        "The same structures in all volumes, so that the network is told which one it follows, "
        "or any objects of one kind, such as cells; auto: structures where there are two to five.",
        choices=("auto", "structures", "objects"),
    )
    learning_rate: float = setting(4e-4, "Learning rate", "Of AdamW at its highest.", minimum=1e-7)
    pull: float = setting(
        0.002,
        "Pull",
        "Share of the way back to the base model that every weight goes after every step "
        "(decoupled L2-SP), so that the network does not forget.",
        minimum=0,
        maximum=1,
        advanced=True,
    )
    average: float = setting(
        0.97,
        "Averaging",
        "Decay of the running mean of the weights, which is what is judged and kept.",
        minimum=0,
        maximum=0.9999,
        advanced=True,
    )
    judgements: int = setting(
        6, "Judgements", "How often the held-out part is propagated on the way.", minimum=1
    )
    patience: int = setting(
        4, "Patience", "Stop after this many judgements without a better one.", minimum=1
    )
    seed: int = setting(0, "Seed", "Of clips and training.", minimum=0, advanced=True)

    def trains(self, parameter: str) -> bool:
        """Whether a parameter of the network, by its name, is trained."""
        if self.trained == "all":
            return True
        if self.trained == "adapters":
            return parameter.endswith(ADAPTERS)
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
    most_labels: int = setting(3, "Labels", "Of a clip, at most.", minimum=1)
    encoder_rate: float = setting(
        3e-6, "Learning rate of the encoder", "Of its last layer.", minimum=0, advanced=True
    )
    layer_decay: float = setting(
        0.9,
        "Layer decay",
        "Every layer of the encoder's trunk learns slower than the next one by this factor.",
        minimum=0.01,
        maximum=1,
        advanced=True,
    )
    weight_decay: float = setting(
        0.1, "Weight decay", "Not of biases and norms.", minimum=0, advanced=True
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
        "Computes parts twice instead of keeping them: about a third slower, with much less "
        "memory. 'auto': where a step does not fit without.",
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
            pull=0.01,
            average=0.95,
            judgements=4,
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
            pull=0.0,
            average=0.0,
            judgements=10,
            patience=10,
        ),
    )
}

ABOUT = {
    "quick": "One to five labelled volumes, minutes on a CPU: the compact network learns how the "
    "objects go on and where they end.",
    "this-volume": "The annotated slices of the open volume, and stacks made from them: about a "
    "minute.",
    "paper": "SLM-SAM 2 as published: one to five labelled volumes train SAM 2.1 or SLM-SAM 2 on a "
    "graphics card.",
}
"""What the recipes are for, in words."""


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
