"""Descriptions of models, and the folder of their weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from napari_slmsam2.core.config import ModelConfig

#: Environment variable with the folder of models, e.g. one that was filled on another machine.
FOLDER_VARIABLE = "NAPARI_SLMSAM2_MODELS"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A file of weights that can be downloaded.

    Attributes
    ----------
    url : str
    filename : str
        Its name in the folder of models.
    size : int
        Bytes.
    sha256 : str
        Lower-case hexadecimal digest.
    """

    url: str
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Description of a model for the choice between models.

    Attributes
    ----------
    name : str
        Name by which the model is selected.
    title : str
    kind : {"classical", "network"}
        Classical models need no weights.
    licence : str
        SPDX name of the licence of the weights, or of the code for a model without weights.
    description : str
    config : ModelConfig or None
        None for a classical model, and for a file whose metadata contains it.
    weights : WeightsFile or None
        None for a model that needs no download.
    conversion : str or None
        Conversion of the weights in the file, see
        `napari_slmsam2.engine.weights.checkpoints.convert_state`.
    path : Path or None
        File of weights on this computer: in the folder of models, or in this package.
    bundled : bool
        The file is part of this package.
    problem : str or None
        Why that file cannot be used.
    """

    name: str
    title: str
    kind: str
    licence: str
    description: str
    config: ModelConfig | None = None
    weights: WeightsFile | None = None
    conversion: str | None = None
    path: Path | None = None
    bundled: bool = False
    problem: str | None = None

    @property
    def needs_download(self) -> bool:
        """Whether the weights of the model must be downloaded."""
        return self.weights is not None


def models_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """The folder in which weights are searched for and to which they are downloaded.

    Parameters
    ----------
    folder : path-like, optional
        Default: the environment variable ``NAPARI_SLMSAM2_MODELS``, else the user's cache.
    """
    chosen = folder or os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("napari-slmsam2", appauthor=False)) / "models"
