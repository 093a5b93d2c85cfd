"""Zarr folders: OME-Zarr images and labels, and plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io import _ngff
from napari_slmsam2.io._pyramid import levels
from napari_slmsam2.io.raw import Colours, Geometry, RawImage, default_roles

_CHUNK = 128
_MOST_COLOURS = 1024
"""So many labels have been counted, not named: nobody chose their colours."""


def read(path: Path) -> RawImage:
    """Open an array, or the finest level of an OME-Zarr image, lazily."""
    node: Any = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        return RawImage(node, default_roles(node.ndim), "zyx", "Zarr")
    metadata = _ngff.Metadata.of(dict(node.attrs))
    if metadata is None:
        raise VolumeError(
            str(path),
            "is a group without an image",
            expected="an array or an OME-Zarr image",
            found=", ".join(sorted(node.keys())) or "nothing",
            hint="Give the path of the array within it.",
        )
    data: Any = node[metadata.finest]
    return RawImage(
        data,
        metadata.roles(data.ndim),
        "zyx",
        "OME-Zarr",
        geometry=metadata.geometry(data.ndim),
        template=metadata.template,
        channel_names=metadata.channel_names,
    )


def write(
    path: Path,
    labels: npt.NDArray[Any],
    geometry: Geometry,
    template: Any,
    colours: Colours | None = None,
) -> None:
    """Write labels as an OME-Zarr label image, in the version of the image if it is one.

    There are coarser levels, down to one of at most 256 voxels along each axis. Empty chunks
    take no room.
    """
    version = _ngff.version_for(template)
    is_old = version == "0.4"
    codec = numcodecs.Blosc("zstd") if is_old else BloscCodec(cname="zstd")
    group = zarr.open_group(str(path), mode="w-", zarr_format=2 if is_old else 3)
    factors = []
    for level, (array, factor) in enumerate(levels(labels, geometry.spacing)):
        factors.append(factor)
        stored = group.create_array(
            str(level),
            shape=array.shape,
            dtype=array.dtype,
            chunks=tuple(min(n, _CHUNK) for n in array.shape),
            compressors=codec,
            fill_value=0,
            chunk_key_encoding={"name": "v2" if is_old else "default", "separator": "/"},
            dimension_names=None if is_old else list("zyx"),
        )
        stored[...] = array
    group.attrs.update(
        _ngff.label_attributes(path, geometry, version, factors, _colours(labels, colours))
    )


def _colours(
    labels: npt.NDArray[Any], colours: Colours | None
) -> dict[int, tuple[int, int, int, int]]:
    """RGBA, 0 to 255, of every label that is there; nothing where there are too many."""
    if colours is None:
        return {}
    found = np.unique(np.concatenate([np.unique(plane) for plane in labels]))
    found = found[found > 0]
    if not 0 < len(found) <= _MOST_COLOURS:
        return {}
    rgba = np.rint(255 * np.clip(colours(found), 0, 1)).astype(int).tolist()
    return {label: (r, g, b, a) for label, (r, g, b, a) in zip(found.tolist(), rgba, strict=True)}
