"""NRRD and NHDR, through pynrrd."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import nrrd  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io.raw import (
    MAX_GZIP_RATIO,
    ArrayLike,
    Geometry,
    RawImage,
    check_size,
    raw_array,
    read_stream,
)
from napari_slmsam2.io.units import IN_MM, NO_UNIT, unit_name

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
_KEPT = ("space", "space dimension", "space directions", "space origin", "space units",
         "measurement frame")  # fmt: skip


def read(path: Path) -> RawImage:
    """Open a NRRD file; raw encoding stays in the file."""
    with path.open("rb") as file:
        header = dict(nrrd.read_header(file))
        start = file.tell()
    sizes = [int(n) for n in header["sizes"]]
    if int(header["dimension"]) != len(sizes) or min(sizes) < 1:
        raise VolumeError(str(path), "has unusable sizes", found=sizes)
    roles = _roles(header, len(sizes))
    return RawImage(
        data=_data(path, header, start, sizes),
        roles=roles,
        order="xyz",
        format="NRRD",
        geometry=_geometry(header, roles),
        template={k: header[k] for k in (*_KEPT, "spacings", "units") if k in header}
        | {"roles": roles},
    )


def _data(path: Path, header: dict[str, Any], start: int, sizes: list[int]) -> ArrayLike:
    kind = str(header["type"]).lower()
    if kind not in _DTYPES:
        raise VolumeError(
            str(path), "has an unknown voxel type", expected=", ".join(_DTYPES), found=kind
        )
    byte_order = ">" if str(header.get("endian", "little")).lower() == "big" else "<"
    dtype = np.dtype(byte_order + _DTYPES[kind])
    detached = header.get("data file", header.get("datafile"))
    file = path if detached is None else path.parent / str(detached)
    offset = start if detached is None else 0
    lines = int(header.get("line skip", header.get("lineskip", 0)))
    skip = int(header.get("byte skip", header.get("byteskip", 0)))
    needed = int(np.prod(sizes, dtype=object)) * dtype.itemsize
    if lines or (skip and skip != -1):
        raise VolumeError(str(path), "skips lines or bytes before its data, which is not supported")
    encoding = str(header["encoding"]).lower()
    if encoding == "raw":
        offset = file.stat().st_size - needed if skip == -1 else offset
        return raw_array(file, sizes, dtype, offset, "F")
    opener: Any = {"gz": gzip, "gzip": gzip, "bz2": bz2, "bzip2": bz2}.get(encoding)
    if opener is None:
        raise VolumeError(
            str(path), "has an unsupported encoding", expected="raw, gzip, bzip2", found=encoding
        )
    if opener is gzip:
        check_size(file, needed, compressed=True, ratio=MAX_GZIP_RATIO)
    with file.open("rb") as compressed:
        compressed.seek(offset)
        with opener.open(compressed) as stream:
            return read_stream(stream, sizes, dtype, str(path))


def _roles(header: dict[str, Any], n_dims: int) -> str:
    directions = header.get("space directions")
    kinds = [str(k).lower() for k in header.get("kinds", ())]
    if directions is not None and len(directions) == n_dims:
        spatial = [row is not None and not np.isnan(row).any() for row in directions]
    elif len(kinds) == n_dims:
        spatial = [k in _SPATIAL_KINDS for k in kinds]
    else:
        spatial = [i >= n_dims - 3 for i in range(n_dims)]
    kinds = kinds if len(kinds) == n_dims else ["?"] * n_dims
    return "".join(
        "s" if here else "t" if kind == "time" else "c"
        for here, kind in zip(spatial, kinds, strict=True)
    )


def _geometry(header: dict[str, Any], roles: str) -> Geometry:
    spatial = [i for i, role in enumerate(roles) if role == "s"]
    if len(spatial) != 3:
        return Geometry()
    units = header.get("space units", header.get("units"))
    names = {unit_name(u) for u in units} - {NO_UNIT} if units is not None else set()
    unit = names.pop() if len(names) == 1 else NO_UNIT
    directions = header.get("space directions")
    if directions is None:
        spacings = np.asarray(header.get("spacings", np.ones(len(roles))), float)[spatial]
        x, y, z = (float(abs(s)) if np.isfinite(s) and s else 1.0 for s in spacings)
        return Geometry((x, y, z), unit)
    matrix = np.array([directions[i] for i in spatial], np.float64).T
    x, y, z = np.sqrt((matrix**2).sum(axis=0)).tolist()
    space = str(header.get("space", "")).lower()
    if matrix.shape != (3, 3) or space not in _SPACES or np.linalg.det(matrix) == 0:
        return Geometry((x, y, z), unit)
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    affine[:2] *= np.array(_SPACES[space])[:, None]
    # The named spaces are in millimetres unless the file says otherwise.
    return Geometry((x, y, z), unit if unit != NO_UNIT else "mm", affine)


def write(path: Path, labels: npt.NDArray[Any], geometry: Geometry, template: Any) -> None:
    """Write labels as gzip-encoded NRRD, with the image's own space fields if it is one."""
    header: dict[str, Any] = {"encoding": "gzip", "kinds": ["domain"] * 3}
    if isinstance(template, dict) and "roles" in template:
        spatial = [i for i, role in enumerate(template["roles"]) if role == "s"]
        header |= {k: template[k] for k in _KEPT if k in template}
        for key in ("space directions", "spacings", "units"):
            if key in template:
                header[key] = np.asarray(template[key])[spatial]
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
    nrrd.write(str(path), labels, header, detached_header=path.suffix.lower() == ".nhdr")
