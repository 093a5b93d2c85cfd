"""Files from which unsaved work is restored. Imports neither napari nor Qt."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import platformdirs
from filelock import FileLock, Timeout

from napari_slmsam2.core.errors import OutputError, SessionFileError

if TYPE_CHECKING:
    from napari_slmsam2.session.file import SessionInfo

ENVIRONMENT = "NAPARI_SLMSAM2_RECOVERY"
"""Variable that names another folder for recovery files."""

_LOCK = "lock"
_ENDING = ".slmsam2"


def recovery_folder() -> Path:
    """Where recovery files lie: one folder per image, in it one per panel."""
    folder = os.environ.get(ENVIRONMENT)
    if folder:
        return Path(folder)
    return Path(platformdirs.user_state_dir("napari-slmsam2", appauthor=False)) / "recovery"


class ImageIdentity:
    """Identifies an image across sessions.

    Parameters
    ----------
    data : array_like
    n_axes : int
        Without colours.
    path : str or None
        Its file.
    """

    def __init__(self, data: Any, n_axes: int, path: str | None) -> None:
        self.data = data
        self._n_axes = n_axes
        self._path = path

    @cached_property
    def key(self) -> str:
        """A hash of path, shape and three planes; reads them."""
        shape = tuple(int(n) for n in self.data.shape)
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self._path, shape, np.dtype(self.data.dtype).str)).encode())
        for quarter in (1, 2, 3):
            middle = tuple(n * quarter // 4 for n in shape[: self._n_axes - 2])
            digest.update(np.ascontiguousarray(self.data[middle]).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Recovered:
    """Unsaved work of a closed panel on one image.

    Attributes
    ----------
    folder : Path
    files : tuple of (Path, SessionInfo)
        One per stack of slices, oldest first.
    """

    folder: Path
    files: tuple[tuple[Path, SessionInfo], ...]

    @property
    def written(self) -> datetime:
        """When it was written last."""
        return self.files[-1][1].created

    def describe(self) -> str:
        """``5 seeds of 2 labels, 3 May 2031, 14:02``, in local time."""
        n_seeds = sum(info.n_seeds for _, info in self.files)
        n_labels = len({label for _, info in self.files for label in info.labels})
        time = self.written.astimezone()
        return (
            f"{n_seeds} seed{'s' * (n_seeds != 1)} of {n_labels} label{'s' * (n_labels != 1)}, "
            f"{time.day} {time:%b %Y, %H:%M}"
        )


class RecoveryStore:
    """The recovery files of one panel. Used by one thread at a time.

    A folder is locked as long as its panel lives; the system frees the lock of one that crashed.

    Parameters
    ----------
    root : Path
        See `recovery_folder`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
        self._locks: dict[Path, FileLock] = {}
        self._files: dict[int, Path] = {}

    def find(self, image: ImageIdentity) -> list[Recovered]:
        """Unsaved work on an image, newest first; no other panel is offered it until `close`."""
        found = []
        for folder in (self._root / image.key).glob("*/"):
            if folder in self._locks or not self._lock(folder):
                continue
            files = _readable(folder)
            if files:
                found.append(Recovered(folder, files))
            else:
                self._locks.pop(folder).release()
        return sorted(found, key=lambda recovered: recovered.written, reverse=True)

    def write(self, number: int, image: ImageIdentity, write: Callable[[Path], object]) -> Path:
        """Write, or replace, the file of a stack of slices.

        Parameters
        ----------
        number : int
            Of the stack, within this panel.
        image : ImageIdentity
        write : callable
            Writes a session file to the path that it is given.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        folder = self._root / image.key / self._name
        if folder not in self._locks:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                free = self._lock(folder)
            except OSError as error:
                reason = error.strerror or str(error)
                raise OutputError(str(folder), "cannot be made", found=reason) from error
            assert free, "the name of the folder is unique"
        path = folder / f"{number}{_ENDING}"
        write(path)
        before = self._files.get(number, path)
        self._files[number] = path
        if before != path:
            before.unlink(missing_ok=True)
        return path

    def remove(self, number: int) -> None:
        """The work of a stack is saved elsewhere."""
        path = self._files.pop(number, None)
        if path is not None:
            path.unlink(missing_ok=True)
            folder = path.parent
            if folder not in self._locks:
                _remove_if_empty(folder)

    def discard(self, folder: Path) -> None:
        """Delete the work of a closed panel."""
        self._locks.pop(folder).release()
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Release what is left to other panels; folders without a file are removed."""
        for folder, lock in self._locks.items():
            lock.release()
            _remove_if_empty(folder)
        self._locks.clear()

    def _lock(self, folder: Path) -> bool:
        lock = FileLock(folder / _LOCK, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._locks[folder] = lock
        return True


def _remove_if_empty(folder: Path) -> None:
    """Remove a panel's folder that holds no work, and the folder of its image."""
    if not any(folder.glob(f"*{_ENDING}")):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # it holds what other panels left
        folder.parent.rmdir()


def _readable(folder: Path) -> tuple[tuple[Path, SessionInfo], ...]:
    from napari_slmsam2.session.file import describe_session

    files = []
    for path in folder.glob(f"*{_ENDING}"):
        with contextlib.suppress(SessionFileError):
            files.append((path, describe_session(path)))
    return tuple(sorted(files, key=lambda file: file[1].created))
