"""Checks of the output files before the long work begins."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from napari_slmsam2.core.errors import ConfigError, OutputError
from napari_slmsam2.io import check_writable, is_label_store

_UNCOMPRESSED = (".nii", ".img", ".hdr", ".mgh", ".npy")
_COMPRESSED_SHARE = 0.02


def check_outputs(
    outputs: Mapping[str, Path | None], inputs: Iterable[Path], *, force: bool
) -> None:
    """Refuse outputs that cannot be written, that exist, or that are inputs too.

    Parameters
    ----------
    outputs : mapping of option to path
        None where the option was not given.
    inputs : iterable of Path
    force : bool
        Whether existing files may be replaced.

    Raises
    ------
    ConfigError
        Two options name the same file.
    OutputError
        A file cannot be written, or exists.
    """
    taken = {path.resolve(): "an input" for path in inputs}
    for option, path in outputs.items():
        if path is None:
            continue
        place = path.resolve()
        if place in taken:
            raise ConfigError(option, f"names the same file as {taken[place]}", found=path)
        taken[place] = option
        check_writable(path, overwrite=True, replaceable_folder=is_label_store)
        if path.exists() and not force:
            raise OutputError(
                f"{option} {path}", "exists already", hint="Give --force to replace it."
            )


def check_log(log: Path | None, others: Iterable[Path | None]) -> None:
    """Refuse a log file that is an input or a result too, before anything is appended to it.

    Raises
    ------
    ConfigError
    """
    if log is None:
        return
    if log.resolve() in {path.resolve() for path in others if path is not None}:
        raise ConfigError("--log", "names the same file as another argument", found=log)


def check_suffix(option: str, path: Path | None, suffix: str) -> None:
    """Refuse a file name whose suffix does not match the content."""
    if path is not None and path.suffix.lower() != suffix:
        raise ConfigError(option, "has another suffix", expected=suffix, found=path.name)


def check_space(option: str, path: Path, n_bytes: int) -> None:
    """Refuse a label map for which the disk has no space.

    Parameters
    ----------
    option : str
    path : Path
    n_bytes : int
        Size of the labels without compression. Formats that compress are expected to need a
        fiftieth of it.

    Raises
    ------
    OutputError
    """
    share = 1.0 if path.name.lower().endswith(_UNCOMPRESSED) else _COMPRESSED_SHARE
    needed = int(n_bytes * share)
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OutputError(
            f"{option} {path}",
            "the disk has too little space",
            expected=f"{needed / 2**20:.1f} MiB",
            found=f"{free / 2**20:.1f} MiB",
            hint="Free some space, or choose a folder on another disk.",
        )


@contextmanager
def locked_outputs(outputs: Mapping[str, Path | None]) -> Iterator[None]:
    """Keep other runs from writing the same files, until the context ends.

    Raises
    ------
    OutputError
        Another run writes one of them.
    """
    from filelock import FileLock, Timeout

    folder = Path(tempfile.gettempdir()) / "napari-slmsam2-locks"
    with ExitStack() as stack:
        for option, path in outputs.items():
            if path is None:
                continue
            name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
            lock = FileLock(folder / f"{name}.lock", timeout=0)
            try:
                folder.mkdir(mode=0o1777, exist_ok=True)
                stack.enter_context(lock)
            except Timeout:
                raise OutputError(
                    f"{option} {path}",
                    "is being written by another run",
                    hint="Wait for its end, or choose another name.",
                ) from None
            except OSError:
                # No lock can be had here; atomic_write still refuses a file that has appeared.
                continue
        yield
