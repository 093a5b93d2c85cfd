"""Atomic writing of files and folders: a target is complete, or as it was before."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from napari_slmsam2.core.errors import OutputError

_ABANDONED_AFTER = 24 * 3600.0
"""Seconds without a change after which temporary files of another computer are abandoned."""

_active: set[str] = set()
"""Names of the temporary folders that this process is writing to."""


def check_writable(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    replaceable_folder: Callable[[Path], bool] | None = None,
) -> Path:
    """Check before long work that a file can be written.

    Parameters
    ----------
    path : path-like
        The file or folder to be written.
    overwrite : bool
        Whether an existing one may be replaced.
    replaceable_folder : callable, optional
        Gets the path of an existing folder and returns whether it may be replaced as a whole.
        Default: no folder may.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        The parent folder is missing or not writable, the file exists, or the path is a folder
        that may not be replaced.
    """
    path = Path(path)
    folder = path.parent
    try:
        if "\0" in path.name:
            raise OutputError(str(path), "cannot be written", expected="a name without NUL")
        if not folder.is_dir():
            raise OutputError(
                str(path),
                "cannot be written",
                expected="an existing folder",
                found=f"no folder {folder}",
                hint="Create the folder first.",
            )
        if path.is_dir() and not (replaceable_folder is not None and replaceable_folder(path)):
            expected = "a file name"
            if replaceable_folder is not None:
                expected += ", or an OME-Zarr of labels"
            raise OutputError(str(path), "is a folder", expected=expected)
        if path.exists() and not overwrite:
            raise OutputError(
                str(path), "exists already", hint="Ask for overwriting to replace it."
            )
    except OSError as error:
        raise _output_error(path, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(str(path), "cannot be written", found=f"no permission in {folder}")
    return path


class AtomicTarget:
    """A file, or a folder such as an OME-Zarr, that is written completely or not at all.

    What is written to `place` is flushed to the disk by `commit` and then renamed into place;
    companion files (the ``.hdr`` of an ``.img``) are moved as well, the target itself last. A
    target that is not committed stays as it was; what a killed process left beside it is cleared,
    and a folder that it had moved aside is put back. As a context manager it discards what was
    not committed.

    Parameters
    ----------
    path : path-like
        The file or folder to be written.
    overwrite : bool
        Whether existing files may be replaced, see `check_writable`.
    replaceable_folder : callable, optional
        See `check_writable`.

    Attributes
    ----------
    path : Path
    place : Path
        Where to write to, in a temporary folder beside the target; it has the target's name.

    Raises
    ------
    OutputError
        The target exists and may not be replaced, or cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        replaceable_folder: Callable[[Path], bool] | None = None,
    ) -> None:
        clear_abandoned(path)
        self._overwrite, self._replaceable = overwrite, replaceable_folder
        self.path = self._check(Path(path))
        with self.reported():
            self._work: Path | None = _temporary_folder(self.path)
        self.place = self._work / self.path.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.discard()

    def commit(self) -> Path:
        """Put what was written in place of the target.

        Raises
        ------
        OutputError
            The target has appeared meanwhile and may not be replaced, or cannot be written.
        """
        assert self._work is not None, "it was committed or discarded before"
        with self.reported():
            written = sorted(self._work.iterdir(), key=lambda file: file.name == self.path.name)
            for file in written:
                _flush_all(file)
                self._check(self.path.with_name(file.name))
            for file in written:
                _put_in_place(file, self.path.with_name(file.name))
            with contextlib.suppress(OSError):  # Windows cannot flush a folder.
                _flush(self.path.parent)
        self.discard()
        return self.path

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Turn an error of the system into one that names the target.

        Raises
        ------
        OutputError
        """
        try:
            yield
        except OSError as error:
            raise _output_error(self.path, error) from error

    def discard(self) -> None:
        """Remove what was written and not committed."""
        work, self._work = self._work, None
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
            _active.discard(work.stem)

    def _check(self, path: Path) -> Path:
        return check_writable(path, overwrite=self._overwrite, replaceable_folder=self._replaceable)


def atomic_write(
    path: str | os.PathLike[str],
    writer: Callable[[Path], object],
    *,
    overwrite: bool = False,
    replaceable_folder: Callable[[Path], bool] | None = None,
) -> Path:
    """Write a file, or a folder such as an OME-Zarr, completely or not at all.

    After an error, a full disk or Ctrl-C no temporary file remains and an existing target is
    unchanged, see `AtomicTarget`.

    Parameters
    ----------
    path : path-like
        The file or folder to be written.
    writer : callable
        Gets the path to write to, which has the name of the target.
    overwrite : bool
        Whether existing files may be replaced, see `check_writable`.
    replaceable_folder : callable, optional
        See `check_writable`.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    OutputError
        The target exists and may not be replaced, or cannot be written.
    """
    with AtomicTarget(path, overwrite=overwrite, replaceable_folder=replaceable_folder) as target:
        with target.reported():
            writer(target.place)
        return target.commit()


def clear_abandoned(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files of killed processes beside a target.

    Temporary folders of processes that still run are kept, and those of other computers until
    they have been unchanged for a day.

    Parameters
    ----------
    path : path-like
        The target of `AtomicTarget`.
    """
    path = Path(path)
    name = re.escape(f".{path.name[:100]}.")
    pattern = re.compile(name + r"(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-\w+\.(?P<kind>tmp|old)")
    with contextlib.suppress(OSError, ValueError):
        for entry in list(path.parent.iterdir()):
            match = pattern.fullmatch(entry.name)
            if match is None or not _is_abandoned(entry, match["host"], int(match["pid"])):
                continue
            if match["kind"] == "old" and not path.exists():
                os.replace(entry, path)
            else:
                shutil.rmtree(entry, ignore_errors=True)


def _temporary_folder(path: Path) -> Path:
    """Create a folder beside the target whose name says which process writes to it."""
    name = f".{path.name[:100]}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    _active.add(name)
    folder = path.with_name(name + ".tmp")
    try:
        folder.mkdir(0o700)
    except BaseException:
        _active.discard(name)
        raise
    return folder


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_abandoned(entry: Path, host: str, pid: int) -> bool:
    if host == _host() and pid == os.getpid():
        # A process of the same number, in a container for instance, may have been killed.
        return entry.stem not in _active
    if host == _host() and sys.platform != "win32":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
    return time.time() - entry.stat().st_mtime > _ABANDONED_AFTER


def _put_in_place(new: Path, target: Path) -> None:
    """Rename into place; an existing folder is moved aside first, and back if that fails."""
    if not (new.is_dir() and target.is_dir()):
        os.replace(new, target)
        return
    aside = new.parent.with_suffix(".old")
    os.replace(target, aside)
    try:
        os.replace(new, target)
    except BaseException:
        os.replace(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _flush_all(path: Path) -> None:
    """Flush a file, or the files in a folder."""
    files = [path] if path.is_file() else (f for f in path.rglob("*") if f.is_file())
    for file in files:
        _flush(file)


def _flush(path: Path) -> None:
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _output_error(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(str(path), "cannot be written", found=reason)
