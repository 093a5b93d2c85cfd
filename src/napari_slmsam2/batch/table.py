"""Tables of jobs: CSV, TSV and JSON lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from napari_slmsam2.core.errors import ConfigError

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table of jobs.

    Attributes
    ----------
    where : str
        File and line, for messages.
    values : dict of {str: object}
        By column: text, or a JSON value. Empty cells are left out.
    """

    where: str
    values: dict[str, Any]


def read_table(path: Path) -> list[Row]:
    """Read a table of jobs.

    Parameters
    ----------
    path : Path
        ``.csv`` (separated by ``,`` or ``;``) or ``.tsv`` with a header, or ``.jsonl`` with one
        object per line. Text in UTF-8.

    Returns
    -------
    list of Row
        Empty lines are left out.

    Raises
    ------
    ConfigError
        The file is missing, of another format, or a row does not fit the header. The message
        names the row.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(
            f"--table {path}", "is of no known format", expected=" | ".join(_SUFFIXES), found=suffix
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if suffix in (".csv", ".tsv"):
                return list(_delimited(path, file, "\t" if suffix == ".tsv" else None))
            return list(_json_lines(path, file))
    except OSError as error:
        raise ConfigError(f"--table {path}", "cannot be read", found=error.strerror) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"--table {path}", "is not text in UTF-8") from error


def _delimited(path: Path, file: IO[str], delimiter: str | None) -> Iterator[Row]:
    if delimiter is None:
        first = file.readline()
        delimiter = ";" if ";" in first and "," not in first else ","
        file.seek(0)
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(path, header)
        for cells in reader:
            row = f"{path}, row {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise ConfigError(
                    row, "does not fit the header", expected=_count(header), found=_count(cells)
                )
            values = {k: v.strip() for k, v in zip(header, cells, strict=True) if v.strip()}
            yield Row(row, values)
    except csv.Error as error:
        raise ConfigError(f"{path}, row {reader.line_num}", f"cannot be read: {error}") from error


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise ConfigError(f"--table {path}", "is empty", expected="a header and rows")
    for number, column in enumerate(header, 1):
        if not column:
            raise ConfigError(f"{path}, row 1, column {number}", "has no name")
        if column in header[: number - 1]:
            raise ConfigError(f"{path}, row 1, column {column}", "is there twice")


def _json_lines(path: Path, file: IO[str]) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        where = f"{path}, row {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ConfigError(where, f"is no JSON: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(where, "is no job", expected="a JSON object", found=line.strip()[:40])
        yield Row(where, {key: value for key, value in values.items() if value not in (None, "")})


def _count(cells: list[str]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
