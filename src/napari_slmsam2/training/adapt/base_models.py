"""Which models a recipe can start from. Imports no torch."""

from __future__ import annotations

import os

from napari_slmsam2.engine.weights.local_models import read_model_metadata
from napari_slmsam2.engine.weights.model_card import ModelCard
from napari_slmsam2.engine.weights.registry import list_models
from napari_slmsam2.training.recipes import AdaptRecipe


def list_bases(
    recipe: AdaptRecipe, folder: str | os.PathLike[str] | None = None
) -> tuple[ModelCard, ...]:
    """The models of the lists that a recipe can adapt.

    Parameters
    ----------
    recipe : AdaptRecipe
    folder : path-like, optional
        See `napari_slmsam2.engine.weights.model_card.models_folder`.
    """
    wanted = recipe.architecture
    return tuple(card for card in list_models(folder) if architecture_of(card) == wanted)


def architecture_of(card: ModelCard) -> str | None:
    """``window`` (compact), ``sam2``, or None: classical, or a file that cannot be used."""
    if card.config is not None:
        return "sam2"
    if card.path is None or card.problem is not None:
        return None
    return (
        "window"
        if read_model_metadata(card.path)["config"].get("architecture") == "window"
        else "sam2"
    )
