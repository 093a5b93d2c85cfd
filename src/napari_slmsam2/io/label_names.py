"""Label description files of ITK-SNAP: names and colours of labels as text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.core.label_table import RGBA, LabelTable

_LINE = re.compile(
    r"\s*(?P<label>\d+)\s+(?P<red>\d+)\s+(?P<green>\d+)\s+(?P<blue>\d+)\s+(?P<alpha>[\d.]+)\s+"
    r'\S+\s+\S+\s+"(?P<name>.*)"\s*'
)
_HEADER = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Where the fields are:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    MSH:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
    0     0    0    0        0  0  0    "Clear Label"
"""


def read_label_names(path: str | os.PathLike[str]) -> LabelTable:
    """Read a label description file of ITK-SNAP.

    Parameters
    ----------
    path : path-like
        Lines of index, red, green, blue, opacity, two flags and the quoted name.

    Raises
    ------
    VolumeError
        The file cannot be read, or a line is not of this form; the message gives its number.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VolumeError(
            str(path), "cannot be read as a label description", found=str(error)
        ) from error
    names: dict[int, str] = {}
    colours: dict[int, RGBA] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise VolumeError(
                str(path), f"line {number} describes no label",
                expected='INDEX RED GREEN BLUE OPACITY 1 1 "NAME", as ITK-SNAP writes it',
                found=line.strip()[:80],
            )  # fmt: skip
        label = int(match["label"])
        if label:
            red, green, blue = (min(int(match[c]), 255) / 255 for c in ("red", "green", "blue"))
            names[label] = match["name"]
            colours[label] = red, green, blue, min(float(match["alpha"]), 1.0)
    return LabelTable(names, colours)


def named_labels(table: LabelTable, labels: Iterable[int]) -> LabelTable:
    """The table with a name for every one of some labels: its number where it has none."""
    names = {label: f"Label {label}" for label in labels if label not in table.names}
    return LabelTable({**table.names, **names}, table.colours)


def write_label_names(
    path: str | os.PathLike[str], table: LabelTable, *, overwrite: bool = False
) -> Path:
    """Write a label description file of ITK-SNAP.

    Parameters
    ----------
    path : path-like
    table : LabelTable
        A label without a name gets its number as the name, one without a colour is white.
    overwrite : bool

    Raises
    ------
    OutputError
        The file exists or cannot be written.
    """
    text = _HEADER
    for label in table.labels:
        red, green, blue, alpha = table.colours.get(label, (1.0, 1.0, 1.0, 1.0))
        channels = " ".join(f"{round(255 * c):4d}" for c in (red, green, blue))
        name = table.names.get(label, f"Label {label}").replace('"', "'")
        text += f'{label:5d}  {channels}  {alpha:7.3g}  1  1    "{name}"\n'
    return atomic_write(
        path, lambda file: file.write_text(text, encoding="utf-8"), overwrite=overwrite
    )
