"""Writing files so that they are either complete or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from napari_slmsam2.core.errors import OutputError


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Find out before long work whether a file can be written.

    Parameters
    ----------
    path : path-like
        The file to be written.
    overwrite : bool
        Whether an existing file may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        The folder is missing or may not be written to, the path is a folder, or the file exists.
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
                hint="Make the folder first.",
            )
        if path.is_dir():
            raise OutputError(str(path), "is a folder", expected="a file name")
        if path.exists() and not overwrite:
            raise OutputError(
                str(path), "exists already", hint="Ask for overwriting to replace it."
            )
    except OSError as error:
        raise _output_error(path, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(str(path), "cannot be written", found=f"no permission in {folder}")
    return path


def atomic_write(
    path: str | os.PathLike[str], writer: Callable[[Path], object], *, overwrite: bool = False
) -> Path:
    """Write a file completely or not at all.

    The writer works in a temporary folder beside the target. What it wrote is flushed to the disk
    and then renamed into place; companion files (the ``.hdr`` of an ``.img``) come along, the
    target itself last. After an error, a full disk or Ctrl-C nothing is left behind and an
    existing file is as it was.

    Parameters
    ----------
    path : path-like
        The file to be written.
    writer : callable
        Gets the path to write to; it has the name of the target.
    overwrite : bool
        Whether existing files may be replaced.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputError
        The file exists and may not be replaced, or cannot be written.
    """
    path = check_writable(path, overwrite=overwrite)
    work: Path | None = None
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent))
        writer(work / path.name)
        written = sorted(work.iterdir(), key=lambda file: file.name == path.name)
        for file in written:
            _flush(file)
            check_writable(path.with_name(file.name), overwrite=overwrite)
        for file in written:
            os.replace(file, path.with_name(file.name))
        with contextlib.suppress(OSError):  # Windows cannot flush a folder.
            _flush(path.parent)
    except OSError as error:
        raise _output_error(path, error) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return path


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
