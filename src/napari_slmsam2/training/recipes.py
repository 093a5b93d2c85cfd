"""How a network is adapted: the named recipes."""

from __future__ import annotations

from dataclasses import dataclass

from napari_slmsam2.core.config import Settings, setting
from napari_slmsam2.core.errors import ConfigError

#: Parts of the window network by what they do; the rest is its image encoder and decoder.
HEADS = ("heads.", "out.", "cue_scale.", "carried_weight")
MEMORY = (
    "seed_encoder.",
    "short_stem.",
    "long_stem.",
    "stem_fuser.",
    "short_out.",
    "memory_fuser.",
    "memory_in.",
)


@dataclass(frozen=True, kw_only=True)
class AdaptRecipe(Settings):
    """How the compact network is adapted to a few volumes."""

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
        "All of the network, its memories and heads, or its heads.",
        choices=("all", "memory+heads", "heads"),
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
        8, "Judgements", "How often the held-out part is propagated on the way.", minimum=1
    )
    patience: int = setting(
        4, "Patience", "Stop after this many judgements without a better one.", minimum=1
    )
    seed: int = setting(0, "Seed", "Of clips and training.", minimum=0, advanced=True)

    def trains(self, parameter: str) -> bool:
        """Whether a parameter of the network, by its name, is trained."""
        if self.trained == "all":
            return True
        return parameter.startswith(HEADS + (MEMORY if self.trained == "memory+heads" else ()))


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
    )
}


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
