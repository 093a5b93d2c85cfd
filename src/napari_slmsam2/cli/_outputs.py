"""Looks at the output files before the long work begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from napari_slmsam2.core.errors import ConfigError, OutputError
from napari_slmsam2.io import check_writable, is_label_store


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


def check_suffix(option: str, path: Path | None, suffix: str) -> None:
    """Refuse a file name that does not tell what will be in the file."""
    if path is not None and path.suffix.lower() != suffix:
        raise ConfigError(option, "has another suffix", expected=suffix, found=path.name)
