"""Encoded slices on the disk, for later sessions with the same image and model."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import platformdirs

from napari_slmsam2.core.atomic_write import AtomicTarget, clear_abandoned
from napari_slmsam2.core.errors import OutputError, SlmSam2Warning

if TYPE_CHECKING:
    from torch import Tensor

#: Environment variable with the folder of encoded slices.
FOLDER_VARIABLE = "NAPARI_SLMSAM2_EMBEDDINGS"

_SUFFIX = ".embedding"
_DIGEST_BYTES = hashlib.sha256().digest_size
_LAYOUT = ".layout"


def embeddings_folder() -> Path:
    """The folder of encoded slices.

    That of the environment variable ``NAPARI_SLMSAM2_EMBEDDINGS``, else in the user's cache.
    """
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("napari-slmsam2", appauthor=False)) / "embeddings"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file with an encoded slice.

    Attributes
    ----------
    path : Path
    nbytes : int
    used : float
        When it was last written or read, in seconds since the epoch.
    """

    path: Path
    nbytes: int
    used: float


def stored_files(folder: str | os.PathLike[str]) -> list[StoredFile]:
    """The encoded slices in a folder, the least recently used first."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX):
                with contextlib.suppress(FileNotFoundError):  # another process removed it
                    state = entry.stat()
                    found.append(StoredFile(Path(entry), state.st_size, state.st_mtime))
    return sorted(found, key=lambda file: file.used)


def clear_embeddings(folder: str | os.PathLike[str]) -> int:
    """Delete all encoded slices in a folder; returns the bytes that were freed.

    What killed processes have left there is deleted as well, and not counted.
    """
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(folder):
            if entry.startswith(".") and _SUFFIX in entry:
                key = entry[1:].partition(_SUFFIX)[0]
                clear_abandoned(Path(folder) / f"{key}{_SUFFIX}")
    return sum(file.nbytes for file in stored_files(folder) if _remove(file.path))


class EmbeddingFiles:
    """Embeddings in a folder, up to a size; the least recently used are deleted first.

    Several processes may use one folder at the same time: a file is complete or missing, and one
    that was deleted meanwhile is a slice that is not stored. A damaged file is deleted. If files
    cannot be written, a warning is given once, and no more are.

    Parameters
    ----------
    folder : path-like
        Created when the first embedding is stored.
    budget : int
        Bytes of all files in the folder, at most; each further process may exceed it by one file.
    encoder : str
        What identifies the encoder: its weights, its configuration, the version of the code.
    """

    def __init__(self, folder: str | os.PathLike[str], budget: int, encoder: str) -> None:
        self._folder = Path(folder)
        self._budget = budget
        self._encoder = encoder
        self._is_writable = True

    def key(self, image: npt.NDArray[np.float32], *settings: object) -> str:
        """What identifies the embedding of an image.

        Parameters
        ----------
        image : ndarray of float32, shape (H, W) or (slices, H, W)
            As the encoder gets it: scaled, with the neighbouring slices.
        *settings : object
            Of the computation, such as its precision; their text is used.
        """
        about = repr((self._encoder, image.shape, *map(str, settings)))
        digest = hashlib.sha256(about.encode())
        digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors that were stored, on the CPU, in the memory layout that they had.

        Returns
        -------
        dict of str to Tensor, or None
            None where nothing, or nothing readable, is stored.
        """
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        tensors = _unpack(data)
        if tensors is None:
            _remove(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors, unless they are stored already or larger than the budget.

        Warns
        -----
        SlmSam2Warning
            They cannot be written; from now on nothing is stored.
        """
        path = self._path(key)
        if not self._is_writable or path.exists():
            return
        data = _pack(tensors)
        if len(data) > self._budget:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(data))
            with AtomicTarget(path, overwrite=True) as target:
                with target.reported():
                    target.place.write_bytes(data)
                target.commit()
        except (OSError, OutputError) as error:
            self._is_writable = False
            warnings.warn(
                f"Encoded slices are no longer stored on the disk: {error}",
                SlmSam2Warning,
                stacklevel=2,
            )

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}{_SUFFIX}"

    def _make_room(self, size: int) -> None:
        files = stored_files(self._folder)
        excess = sum(file.nbytes for file in files) + size - self._budget
        for file in files:
            if excess <= 0:
                return
            _remove(file.path)
            excess -= file.nbytes


def _remove(path: Path) -> bool:
    """Delete a file; False where it is gone already, or open on Windows."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


def _pack(tensors: Mapping[str, Tensor]) -> bytes:
    """A SHA-256 digest, and safetensors with the elements of each tensor as they lie in memory.

    The layout is kept because convolutions may round differently in another one.
    """
    import torch
    from safetensors.torch import save

    packed = {}
    for name, tensor in tensors.items():
        dense = tensor.detach().cpu()
        extent = 1 + sum((n - 1) * s for n, s in zip(dense.shape, dense.stride(), strict=True))
        if extent != dense.numel():
            dense = dense.contiguous()
        packed[name] = dense.as_strided((dense.numel(),), (1,), dense.storage_offset()).clone()
        packed[name + _LAYOUT] = torch.tensor([dense.shape, dense.stride()])
    data = save(packed)
    return hashlib.sha256(data).digest() + data


def _unpack(data: bytes) -> dict[str, Tensor] | None:
    """The inverse of `_pack`; None for damaged data."""
    from safetensors.torch import load

    digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        return None
    packed = load(content)
    return {
        name: packed[name].as_strided(*packed[name + _LAYOUT].tolist())
        for name in packed
        if not name.endswith(_LAYOUT)
    }
