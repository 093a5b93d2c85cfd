"""The zip file of a session, opened and checked."""

from __future__ import annotations

import json
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

from napari_slmsam2.core.errors import ConfigError, PromptError, SessionFileError
from napari_slmsam2.session.file.arrays import Arrays

FORMAT = "napari-slmsam2 session"
FORMAT_VERSION = 1

_MOST_JSON = 2**28


class explained:  # noqa: N801 - reads as a statement
    """Turns whatever a damaged file breaks into one error that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _DAMAGE):
            raise SessionFileError(
                str(self._path), "is damaged", found=f"{type(error).__name__}: {error}"
            ) from error


_DAMAGE = (
    ConfigError,
    PromptError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
)


def read_archive(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Read ``session.json``, and open the arrays.

    Raises
    ------
    SessionFileError
        The file is missing, is no session, is damaged or of a newer version.
    """
    if not path.is_file():
        raise SessionFileError(str(path), "is not a file" if path.exists() else "does not exist")
    if not zipfile.is_zipfile(path):
        raise SessionFileError(str(path), "is not a session file, or is damaged")
    try:
        with explained(path), zipfile.ZipFile(path) as file:
            if "session.json" not in file.namelist():
                raise SessionFileError(
                    str(path), "is not a session file", expected="session.json in it"
                )
            if file.getinfo("session.json").file_size > _MOST_JSON:
                raise ValueError("session.json is too long")
            content = json.loads(file.read("session.json"))
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise SessionFileError(str(path), "is not a session file of napari-slmsam2")
            if content["format_version"] > FORMAT_VERSION:
                raise SessionFileError(
                    str(path),
                    "is of a newer version",
                    expected=f"format {FORMAT_VERSION}",
                    found=f"format {content['format_version']}",
                    hint="Update napari-slmsam2.",
                )
    except OSError as error:
        raise SessionFileError(str(path), "cannot be read", found=error.strerror) from error
    return content, Arrays(path)
