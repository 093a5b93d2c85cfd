"""Writing files and folders so that they are either complete or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from napari_slmsam2.core.errors import OutputError
from napari_slmsam2.io._ngff import is_label_store


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Find out before long work whether a file can be written.

    Parameters
    ----------
    path : path-like
        The file, or OME-Zarr of labels, to be written.
    overwrite : bool
        Whether an existing one may be replaced.

    Returns
    -------
    Path

    Raises
    ------
    OutputError
        The folder is missing or may not be written to, the file exists, or the path is a folder
        that holds something else than the labels of an OME-Zarr.
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
        if path.is_dir() and not is_label_store(path):
            raise OutputError(
                str(path), "is a folder", expected="a file name, or an OME-Zarr of labels"
            )
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
    """Write a file, or a folder like that of OME-Zarr, completely or not at all.

    The writer works in a temporary folder beside the target. What it wrote is flushed to the disk
    and then renamed into place; companion files (the ``.hdr`` of an ``.img``) come along, the
    target itself last. After an error, a full disk or Ctrl-C nothing is left behind and what
    existed is as it was.

    Parameters
    ----------
    path : path-like
        The file or folder to be written.
    writer : callable
        Gets the path to write to; it has the name of the target.
    overwrite : bool
        Whether existing ones may be replaced, see `check_writable`.

    Returns
    -------
    Path
        What was written.

    Raises
    ------
    OutputError
        It exists and may not be replaced, or cannot be written.
    """
    path = check_writable(path, overwrite=overwrite)
    work: Path | None = None
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent))
        writer(work / path.name)
        written = sorted(work.iterdir(), key=lambda file: file.name == path.name)
        for file in written:
            _flush_all(file)
            check_writable(path.with_name(file.name), overwrite=overwrite)
        for file in written:
            _put_in_place(file, path.with_name(file.name))
        with contextlib.suppress(OSError):  # Windows cannot flush a folder.
            _flush(path.parent)
    except OSError as error:
        raise _output_error(path, error) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return path


def _put_in_place(new: Path, target: Path) -> None:
    """Rename; a folder that stands there steps aside, and back if that fails."""
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
