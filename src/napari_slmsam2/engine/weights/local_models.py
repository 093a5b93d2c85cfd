"""Adapted networks in the folder of models, and the metadata of their files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from napari_slmsam2.core.config import CompactConfig, ModelConfig
from napari_slmsam2.core.errors import CheckpointError, ConfigError
from napari_slmsam2.engine.weights.checkpoints import read_metadata
from napari_slmsam2.engine.weights.model_card import ModelCard, models_folder

SUFFIX = ".safetensors"


def find_adapted(folder: str | os.PathLike[str] | None = None) -> tuple[ModelCard, ...]:
    """Cards of all ``.safetensors`` files of the folder, by name; only headers are read.

    Parameters
    ----------
    folder : path-like, optional
        See `napari_slmsam2.engine.weights.model_card.models_folder`.

    Returns
    -------
    tuple of ModelCard
        Cards of files that cannot be used have a ``problem``.
    """
    try:
        paths = sorted(models_folder(folder).glob(f"[!.]*{SUFFIX}"))
    except OSError:
        return ()
    return tuple(_card(path) for path in paths)


def read_model_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a file of weights.

    Returns
    -------
    dict
        ``config``, and for an adapted network ``adapted``: base model, recipe, data, metrics.

    Raises
    ------
    CheckpointError
        The file cannot be read, or its metadata does not describe a network.
    """
    noted = read_metadata(path)
    try:
        config = noted["config"]
        kind = CompactConfig if config.get("architecture") == "window" else ModelConfig
        kind.from_dict(config)
        if not isinstance(noted.get("adapted", {}), dict):
            raise TypeError("adapted")
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            str(path),
            "does not describe the network that its weights are for",
            expected="a file of this program, with a configuration in its metadata",
            found=", ".join(noted) or "no metadata",
        ) from error
    return noted


def _card(path: Path) -> ModelCard:
    name = path.name.removesuffix(SUFFIX)
    try:
        noted = read_model_metadata(path)
    except CheckpointError as error:
        return ModelCard(
            name=name,
            title=f"{name} (cannot be used)",
            kind="network",
            licence="unknown",
            description=str(error),
            path=path,
            problem=error.problem,
        )
    return ModelCard(
        name=name,
        title=name,
        kind="network",
        licence=str(noted.get("licence", "not specified")),
        description=_description(noted),
        path=path,
    )


def _description(noted: dict[str, Any]) -> str:
    try:
        adapted = noted["adapted"]
        base, recipe, data = adapted["base"]["name"], adapted["recipe"]["name"], adapted["data"]
        before, after = (adapted["metrics"][when]["dice"] for when in ("before", "after"))
        volumes = f"{len(data)} volume{'' if len(data) == 1 else 's'}"
        return (
            f"Adapted from {base} to {volumes} with the recipe {recipe}; Dice on the held-out "
            f"part ({adapted['held_out']}): {before:.3f} before, {after:.3f} after."
        )
    except (KeyError, TypeError, ValueError):
        return "A file of weights in the folder of models."
