"""Jobs from a pattern of file names: the files, and the names that follow from theirs."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from napari_slmsam2.core.errors import ConfigError
from napari_slmsam2.io.formats import FORMATS

_WILDCARD = re.compile(r"\*\*[/\\]|\*|\?|\[[^\]]+\]")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True, slots=True)
class Match:
    """A file that fits a pattern.

    Attributes
    ----------
    path : Path
    placeholders : dict of {str: str}
        ``name`` (without the suffix of its format), ``file`` (with it), ``folder``, and what each
        wildcard stands for as ``1``, ``2`` ...
    """

    path: Path
    placeholders: dict[str, str]


def find_files(pattern: str) -> list[Match]:
    """Files and folders that fit a pattern, in the order of their names.

    Parameters
    ----------
    pattern : str
        With ``*``, ``?``, ``[...]``, and ``**`` for any folders.
    """
    wildcards = _as_regex(pattern)
    found = []
    for name in sorted(glob.glob(pattern, recursive=True)):
        groups = wildcards.fullmatch(Path(name).as_posix())
        parts = () if groups is None else groups.groups()
        found.append(match_of(Path(name), *((part or "").rstrip("/") for part in parts)))
    return found


def match_of(path: Path, *parts: str) -> Match:
    """The placeholders of a file.

    Parameters
    ----------
    path : Path
    *parts : str
        What the wildcards stand for.
    """
    numbered = {str(number): part for number, part in enumerate(parts, 1)}
    fixed = {"name": stem_of(path), "file": path.name, "folder": str(path.parent)}
    return Match(path, fixed | numbered)


def stem_of(path: Path) -> str:
    """The name of a file without the suffix of its format: ``a`` of ``a.nii.gz``."""
    suffixes = sorted((s for f in FORMATS for s in f.readable), key=len, reverse=True)
    for suffix in (".seg.nrrd", ".ome.zarr", ".ome.tif", ".ome.tiff", *suffixes):
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def fill_in(text: str, placeholders: dict[str, str], option: str) -> str:
    """Replace ``{name}`` and the other placeholders.

    Raises
    ------
    ConfigError
        There is no such placeholder.
    """

    def replace(match: re.Match[str]) -> str:
        if match[1] not in placeholders:
            raise ConfigError(
                option,
                f"has an unknown placeholder {match[0]}",
                expected=" ".join(f"{{{name}}}" for name in placeholders),
            )
        return placeholders[match[1]]

    return _PLACEHOLDER.sub(replace, text)


def _as_regex(pattern: str) -> re.Pattern[str]:
    """A regular expression with a group for every wildcard."""
    parts, end = [], 0
    text = pattern.replace("\\", "/")
    for match in _WILDCARD.finditer(text):
        parts.append(re.escape(text[end : match.start()]))
        parts.append(_group(match[0]))
        end = match.end()
    return re.compile("".join(parts) + re.escape(text[end:]))


def _group(wildcard: str) -> str:
    if wildcard.startswith("**"):
        return r"((?:.*/)?)"
    if wildcard.startswith("["):
        inside = re.escape(wildcard[1:-1]).replace(r"\-", "-")
        return f"([^{inside[1:]}])" if inside.startswith("!") else f"([{inside}])"
    return r"([^/]*)" if wildcard == "*" else r"([^/])"
