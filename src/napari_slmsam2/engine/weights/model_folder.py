"""Names of adapted models: check, rename, delete."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from napari_slmsam2.core.errors import ConfigError, OutputError
from napari_slmsam2.engine.weights.local_models import SUFFIX
from napari_slmsam2.engine.weights.model_card import FOLDER_VARIABLE, models_folder
from napari_slmsam2.engine.weights.registry import get_model, is_weights_file, list_models

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def path_for(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """The file of a new model of this name.

    Raises
    ------
    ConfigError
        The name is not valid as a file name, has the suffix of a file, or is taken.
    """
    if not _NAME.fullmatch(name) or is_weights_file(name):
        raise ConfigError(
            f"name {name!r}",
            "cannot be the name of a model",
            expected="letters, digits, '.', '_', '+' and '-', without the suffix of a file",
        )
    taken = {card.name.lower() for card in list_models(folder)}
    if name.lower() in taken:
        raise ConfigError(
            f"name {name!r}", "is taken", hint="Choose another, or rename or delete that model."
        )
    return models_folder(folder) / f"{name}{SUFFIX}"


def check_room(path: Path, size: int = 2**26) -> None:
    """Check before training that a file of weights can be written.

    Parameters
    ----------
    path : Path
        The file to be written.
    size : int
        Bytes that must be free.

    Raises
    ------
    OutputError
        The folder cannot be created or written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise OutputError(
            str(path), "cannot be written", found=error.strerror or str(error)
        ) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(str(path), "cannot be written", found=f"no permission in {path.parent}")
    if free < size:
        raise OutputError(
            str(path.parent),
            "has not enough space",
            expected=f"{size / 2**20:.0f} MiB",
            found=f"{free / 2**20:.0f} MiB free",
            hint=f"Free space, or choose another folder with {FOLDER_VARIABLE}.",
        )


def file_of(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """The file of a model in the folder of models.

    Raises
    ------
    ConfigError
        There is no such model, or it is part of this program.
    """
    card = get_model(name, folder)
    if card.path is None or card.bundled:
        raise ConfigError(
            f"model {card.name}",
            "is part of this program",
            expected="a model that was adapted, see `models list`",
        )
    return card.path


def rename_model(old: str, new: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Rename a model and return its file.

    Raises
    ------
    ConfigError
        See `file_of` and `path_for`.
    OutputError
        The file cannot be renamed.
    """
    source, target = file_of(old, folder), path_for(new, folder)
    try:
        os.rename(source, target)
    except OSError as error:
        raise OutputError(
            str(source), "cannot be renamed", found=error.strerror or str(error)
        ) from error
    return target


def delete_model(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Delete the file of a model and return its path.

    Raises
    ------
    ConfigError
        See `file_of`.
    OutputError
        The file cannot be deleted.
    """
    path = file_of(name, folder)
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(
            str(path), "cannot be deleted", found=error.strerror or str(error)
        ) from error
    return path
