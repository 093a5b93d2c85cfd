"""What is told of a model before it is chosen, and where files of weights are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from napari_slmsam2.core.config import ModelConfig

#: Names the folder of models, for example one that was filled on another machine.
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
    """What a user should know of a model before choosing it.

    Attributes
    ----------
    name : str
        What to ask for.
    title : str
    kind : {"classical", "network"}
        Classical models need no weights.
    licence : str
        SPDX name, of the weights where there are some, else of the code.
    description : str
    config : ModelConfig or None
        None for a classical model, and for a file that tells it itself.
    weights : WeightsFile or None
        None for a model that needs no download.
    conversion : str or None
        How the file's weights are turned into the network's, see
        `napari_slmsam2.engine.weights.checkpoints.convert_state`.
    path : Path or None
        File of weights on this computer: in the folder of models, or in this package.
    bundled : bool
        The file came with this package.
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
        """Whether the model comes with a file of weights that is downloaded."""
        return self.weights is not None


def models_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Where weights are looked for and downloaded to.

    Parameters
    ----------
    folder : path-like, optional
        Default: the environment variable ``NAPARI_SLMSAM2_MODELS``, else the user's cache.
    """
    chosen = folder or os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("napari-slmsam2", appauthor=False)) / "models"
