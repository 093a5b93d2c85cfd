"""NRRD and NHDR.

pynrrd reads the header and writes files. The voxels are read here, because pynrrd reads all of them
into memory, follows paths of data files to anywhere, and does not notice surplus data.
"""

from __future__ import annotations

import bz2
import gzip
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import nrrd  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import SlmSam2Warning, VolumeError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.io import _segments
from napari_slmsam2.io.geometry import Geometry, TimeAxis, name_axes
from napari_slmsam2.io.raw import (
    LABELS_MARK,
    MAX_GZIP_RATIO,
    ArrayLike,
    RawImage,
    SlabFiles,
    check_size,
    raw_array,
    read_stream,
)
from napari_slmsam2.io.selection import Selection, choose_image
from napari_slmsam2.io.units import (
    IN_MM,
    IN_SECONDS,
    NO_UNIT,
    common_unit,
    time_unit_name,
    unit_name,
)

_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, "
    "int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_DTYPES = {name: code for code, names in _TYPES.items() for name in names.split(", ")}

# Signs that turn the first two world axes into right and anterior.
_SPACES = {
    "right-anterior-superior": (1, 1), "ras": (1, 1),
    "left-anterior-superior": (-1, 1), "las": (-1, 1),
    "left-posterior-superior": (-1, -1), "lps": (-1, -1),
}  # fmt: skip
_SPATIAL_KINDS = ("domain", "space")
_NO_KINDS = ("", "none", "???")
_ROLES_BY_NAME = {"x": "s", "y": "s", "z": "s", "t": "t", "time": "t", "c": "c", "channel": "c"}
_MARK = "napari-slmsam2"
"""Key of the field that marks labels."""

_KEPT = ("space", "space dimension", "space directions", "space origin", "space units",
         "measurement frame")  # fmt: skip


def read(path: Path, selection: Selection) -> RawImage:
    """Open a NRRD file; raw encoding stays in the file.

    Raises
    ------
    VolumeError
        The header or the data are damaged, or a data file lies elsewhere than beside or below
        the header.

    Warns
    -----
    SlmSam2Warning
        There are more data than the header specifies.
    """
    choose_image(str(path), selection, ("",))
    header, start, listed = _read_header(path)
    sizes = [int(n) for n in header["sizes"]]
    if int(header["dimension"]) != len(sizes) or min(sizes) < 1:
        raise VolumeError(str(path), "has unusable sizes", found=sizes)
    roles = _roles(header, len(sizes))
    names = [str(name) for name in header.get("labels", ())]
    axes = name_axes(roles, names if len(names) == len(sizes) else (), "xyz")
    data = _data(path, header, start, sizes, listed)
    raw = RawImage(data=data, axes=axes, format="NRRD")
    segments = _segments.read_segments(header)
    n_layers = sizes[axes.index("c")] if "c" in axes else 1
    tables = _segments.tables(segments, n_layers) if segments else ()
    kept = {k: header[k] for k in (*_KEPT, "spacings", "units", "labels") if k in header}
    return RawImage(
        data=raw.data,
        axes=axes,
        format="NRRD",
        geometry=replace(_geometry(header, roles), time=_time(header, roles)),
        template=kept | {"roles": roles, "order": raw.order, "segments": bool(segments)},
        channel_names=tuple(", ".join(table.names.values()) for table in tables),
        aliases=tuple(tuple(table.names.values()) for table in tables),
        label_tables=tables,
        holds_labels=bool(segments) or header.get(_MARK) == LABELS_MARK,
    )


def _read_header(path: Path) -> tuple[dict[str, Any], int, list[str]]:
    """The fields of a header, its length in bytes, and the data files listed after it."""
    lines: list[bytes] = []
    listed: list[str] = []
    with path.open("rb") as file:
        for line in file:
            lines.append(line)
            if not line.strip():
                break
            if re.match(rb"\s*data ?file\s*:\s*LIST\b", line, re.IGNORECASE):
                names = [name.decode("utf-8", "surrogateescape").strip() for name in file]
                listed = [name for name in names if name]
                break
    # As text: pynrrd drops all but ASCII from bytes, also from names of segments.
    text = [line.decode("utf-8", "replace") for line in lines]
    return dict(nrrd.read_header(text)), sum(map(len, lines)), listed


def kept_order(template: Any) -> str | None:
    """The axis order of the image, if it is a NRRD file."""
    order: str | None = template.get("order") if _is_header(template) else None
    return order


def _is_header(template: Any) -> bool:
    return isinstance(template, dict) and "roles" in template


def _data(
    path: Path, header: dict[str, Any], start: int, sizes: list[int], listed: list[str]
) -> ArrayLike:
    kind = str(header["type"]).lower()
    if kind not in _DTYPES:
        raise VolumeError(
            str(path), "has an unknown voxel type", expected=", ".join(_DTYPES), found=kind
        )
    byte_order = ">" if str(header.get("endian", "little")).lower() == "big" else "<"
    dtype = np.dtype(byte_order + _DTYPES[kind])
    encoding = str(header["encoding"]).lower()
    lines = int(header.get("line skip", header.get("lineskip", 0)))
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    if lines < 0:
        raise VolumeError(str(path), "has an unusable line skip", expected="0 or more", found=lines)
    detached = header.get("data file", header.get("datafile"))
    if detached is None:
        return _array_in(path, start, sizes, dtype, encoding, lines, skip)
    names = _data_files(path, detached, sizes, listed)
    files = [_beside(path, name) for name in names]
    if len(files) == 1:
        return _array_in(files[0], 0, sizes, dtype, encoding, lines, skip)
    per_file, rest = divmod(sizes[-1], len(files))
    if rest:
        raise VolumeError(
            str(path), "its data files cannot hold its slices in equal parts",
            expected=f"a number of files that divides {sizes[-1]}", found=f"{len(files)} files",
        )  # fmt: skip
    part = [*sizes[:-1], per_file]
    return SlabFiles([_array_in(f, 0, part, dtype, encoding, lines, skip) for f in files])


def _data_files(path: Path, value: Any, sizes: Sequence[int], listed: list[str]) -> list[str]:
    """Names of data files: one, those of ``LIST``, or a numbered pattern."""
    text = str(value).strip()
    if text.split()[0] == "LIST":
        if not listed:
            raise VolumeError(str(path), "lists no data files", expected="names after LIST")
        return listed
    for n_numbers in (4, 3):  # the last of four is the dimension of each file
        pieces = text.rsplit(maxsplit=n_numbers)
        if len(pieces) == n_numbers + 1 and all(_is_number(p) for p in pieces[1:]):
            pattern, (first, last, step) = pieces[0], (int(p) for p in pieces[1:4])
            if "%" not in pattern or step == 0 or abs(last - first) >= abs(step) * max(sizes) * 2:
                break
            return [pattern % i for i in range(first, last + (1 if step > 0 else -1), step)]
    if "%" in text and " " in text:
        raise VolumeError(
            str(path), "has an unusable pattern of data files",
            expected="PATTERN MIN MAX STEP, for instance slice%03d.raw 0 23 1", found=text,
        )  # fmt: skip
    return [text]


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _beside(path: Path, name: str) -> Path:
    """The data file of a header.

    A header from elsewhere must not be able to open any file of the computer.
    """
    folder = path.parent.resolve()
    elsewhere = ".." in PurePosixPath(name).parts or ".." in PureWindowsPath(name).parts
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
    if elsewhere or (absolute and not Path(name).resolve().is_relative_to(folder)):
        raise VolumeError(
            str(path), "names a data file that is not beside or below it",
            expected=f"a file in {folder}", found=name,
            hint="Move the data file beside the header and change `data file` to its name.",
        )  # fmt: skip
    file = path.parent / name
    if not file.is_file():
        raise VolumeError(str(path), "its data file is missing", expected=str(file))
    return file


def _array_in(
    file: Path,
    start: int,
    sizes: Sequence[int],
    dtype: np.dtype[Any],
    encoding: str,
    lines: int,
    skip: int,
) -> ArrayLike:
    """The array in a data file.

    Lines are skipped in the file as it is, bytes in the decompressed data. A negative skip of -n
    counts from the end: the data end n - 1 bytes before it.
    """
    needed = math.prod(sizes) * dtype.itemsize
    offset = _after_lines(file, start, lines)
    if encoding == "raw":
        size = file.stat().st_size
        end = size + skip + 1 if skip < 0 else offset + skip + needed
        offset = max(end - needed, 0) if skip < 0 else offset + skip
        if skip < 0 and end - needed < start:
            check_size(file, start + needed)
        _report_surplus(file, 0 if skip < 0 else size - end)
        return raw_array(file, sizes, dtype, offset, "F")
    opener: Any = {"gz": gzip, "gzip": gzip, "bz2": bz2, "bzip2": bz2}.get(encoding)
    if opener is None:
        raise VolumeError(
            str(file), "has an unsupported encoding", expected="raw, gzip, bzip2", found=encoding,
            hint="Save it again with the encoding gzip.",
        )  # fmt: skip
    if opener is gzip:
        check_size(file, needed, compressed=True, ratio=MAX_GZIP_RATIO)
    with file.open("rb") as compressed:
        compressed.seek(offset)
        with opener.open(compressed) as stream:
            if skip < 0:
                content = stream.read()
                end = len(content) + skip + 1
                if end < needed:
                    raise VolumeError(
                        str(file), "is truncated", expected=f"{needed} bytes of data", found=end
                    )
                voxels = np.frombuffer(content[end - needed : end], dtype)
                return voxels.reshape(tuple(sizes), order="F")
            skipped = len(stream.read(skip))
            if skipped < skip:
                raise VolumeError(str(file), "is truncated", found=f"{skipped} bytes")
            array, surplus = read_stream(stream, sizes, dtype, str(file))
    _report_surplus(file, surplus)
    return array


def _after_lines(file: Path, start: int, lines: int) -> int:
    with file.open("rb") as stream:
        stream.seek(start)
        for _ in range(lines):
            stream.readline()
        return stream.tell()


def _report_surplus(file: Path, surplus: int) -> None:
    if surplus > 0:
        warnings.warn(
            f"{file.name}: {surplus} bytes follow the voxels that its header specifies. They are "
            "not read. Check `sizes`, `type` and `byte skip` of the header.",
            SlmSam2Warning,
            stacklevel=2,
        )


def _roles(header: dict[str, Any], n_dims: int) -> str:
    directions = header.get("space directions")
    kinds = [str(k).lower() for k in header.get("kinds", ())]
    kinds = kinds if len(kinds) == n_dims else [""] * n_dims
    names = [str(name).strip().lower() for name in header.get("labels", ())]
    names = names if len(names) == n_dims else [""] * n_dims
    if directions is not None and len(directions) == n_dims:
        spatial = [row is not None and not np.isnan(row).any() for row in directions]
    elif not all(kind in _NO_KINDS for kind in kinds):
        spatial = [kind in _SPATIAL_KINDS for kind in kinds]
    elif all(name in _ROLES_BY_NAME for name in names):
        spatial = [_ROLES_BY_NAME[name] == "s" for name in names]
    else:
        spatial = [i >= n_dims - 3 for i in range(n_dims)]
    others = [
        "t" if kind == "time" or (kind in _NO_KINDS and _ROLES_BY_NAME.get(name) == "t") else "c"
        for kind, name in zip(kinds, names, strict=True)
    ]
    return "".join("s" if s else other for s, other in zip(spatial, others, strict=True))


def _geometry(header: dict[str, Any], roles: str) -> Geometry:
    spatial = [i for i, role in enumerate(roles) if role == "s"]
    if len(spatial) != 3:
        return Geometry()
    directions = header.get("space directions")
    if directions is None:
        units = [unit_name(u) for u in header.get("units", ())]
        units = [units[i] for i in spatial] if len(units) == len(roles) else []
        unit, factors = common_unit(units) if units else (NO_UNIT, [1.0] * 3)
        spacings = np.asarray(header.get("spacings", np.ones(len(roles))), float)[spatial]
        spacings = spacings * factors
        x, y, z = (float(abs(s)) if np.isfinite(s) and s else 1.0 for s in spacings)
        return Geometry((x, y, z), unit)
    matrix = np.array([directions[i] for i in spatial], np.float64).T
    origin = np.array(header.get("space origin", np.zeros(len(matrix))), np.float64)
    units = [unit_name(u) for u in header.get("space units", ())]
    unit = NO_UNIT
    if len(units) == len(matrix):
        unit, factors = common_unit(units)
        matrix, origin = matrix * np.array(factors)[:, None], origin * factors
    x, y, z = np.sqrt((matrix**2).sum(axis=0)).tolist()
    space = str(header.get("space", "")).lower()
    if matrix.shape != (3, 3) or space not in _SPACES or np.linalg.det(matrix) == 0:
        return Geometry((x, y, z), unit)
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = origin
    affine[:2] *= np.array(_SPACES[space])[:, None]
    # The named spaces are in millimetres unless the file specifies another unit.
    return Geometry((x, y, z), unit if unit != NO_UNIT else "mm", affine)


def _time(header: dict[str, Any], roles: str) -> TimeAxis | None:
    """The time axis that a header specifies."""
    place = roles.find("t")

    def value(key: str) -> Any:
        values = header.get(key, ())
        return values[place] if len(values) == len(roles) else None

    if place < 0:
        return None
    start = value("axis mins")
    usable = start is not None and np.isfinite(start)
    return TimeAxis.usable(
        value("spacings"), time_unit_name(value("units")), start if usable else 0
    )


def write(
    path: Path,
    labels: npt.NDArray[Any],
    geometry: Geometry,
    template: Any,
    table: LabelTable | None = None,
    lead: str = "",
) -> None:
    """Write labels as gzip-encoded NRRD, with the image's own space fields if it is one.

    A ``.seg.nrrd`` gets the names and colours of the labels as segments of 3D Slicer. The axes of
    ``lead`` (time, channels) follow the three of space.
    """
    is_segmentation = path.name.lower().endswith(_segments.SUFFIX)
    header: dict[str, Any] = {"encoding": "gzip", "kinds": ["domain"] * 3, _MARK: LABELS_MARK}
    fields: dict[str, str] = {}
    if _is_header(template):
        spatial = [i for i, role in enumerate(template["roles"]) if role == "s"]
        header |= {k: template[k] for k in _KEPT if k in template}
        for key in ("space directions", "spacings", "units", "labels"):
            if key in template and len(template[key]) == len(template["roles"]):
                kept = [template[key][i] for i in spatial]
                header[key] = kept if key in ("units", "labels") else np.asarray(kept)
    elif geometry.affine is not None:
        header["space"] = "right-anterior-superior"
        header["space directions"] = geometry.affine[:3, :3].T
        header["space origin"] = geometry.affine[:3, 3]
        if geometry.unit in IN_MM:
            header["space units"] = [geometry.unit] * 3
    else:
        header["spacings"] = np.array(geometry.spacing)
        if geometry.unit in IN_MM:
            header["units"] = [geometry.unit] * 3
    if lead:
        _add_axes(header, lead, geometry.time or TimeAxis())
    if is_segmentation:
        table = table or LabelTable()
        found = [int(label) for label in np.unique(labels) if label]
        fields = _segments.segment_fields(
            sorted({*found, *table.labels} - {0}), labels.shape, table
        )
    nrrd.write(str(path), labels, header, detached_header=path.suffix.lower() == ".nhdr")
    if fields:
        _add_fields(path, fields)


def _add_axes(header: dict[str, Any], lead: str, time: TimeAxis) -> None:
    """Extend the fields of the spatial axes by those of time and channels."""
    steps = [time.step if axis == "t" else np.nan for axis in lead]
    header["kinds"] = [*header["kinds"], *({"t": "time", "c": "list"}[axis] for axis in lead)]
    if "space directions" in header:
        matrix = np.asarray(header["space directions"])
        header["space directions"] = np.vstack(
            [matrix, np.full((len(lead), matrix.shape[1]), np.nan)]
        )
    header["spacings"] = np.array([*header.get("spacings", [np.nan] * 3), *steps])
    if "units" in header or time.unit in IN_SECONDS:
        unit = time.unit if time.unit in IN_SECONDS else ""
        header["units"] = [
            *header.get("units", [""] * 3), *(unit if axis == "t" else "" for axis in lead)
        ]  # fmt: skip
    if "labels" in header:
        header["labels"] = [*header["labels"], *lead]
    if time.start:
        header["axis mins"] = np.array(
            [*[np.nan] * 3, *(time.start if axis == "t" else np.nan for axis in lead)]
        )


def _add_fields(path: Path, fields: Mapping[str, str]) -> None:
    """Insert fields at the end of a header, as UTF-8: pynrrd writes ASCII only."""
    header, blank, data = path.read_bytes().partition(b"\n\n")
    lines = [f"\n{key}:={' '.join(value.split())}" for key, value in fields.items()]
    path.write_bytes(header + "".join(lines).encode() + blank + data)
