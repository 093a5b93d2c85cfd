"""Zarr folders: OME-Zarr images and labels, and plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io import _ngff
from napari_slmsam2.io.raw import Geometry, RawImage, default_roles

_CHUNK = 128


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


def write(path: Path, labels: npt.NDArray[Any], geometry: Geometry, template: Any) -> None:
    """Write labels as an OME-Zarr label image, in the version of the image if it is one.

    Empty chunks take no room.
    """
    version = _ngff.version_for(template)
    is_old = version == "0.4"
    codec = numcodecs.Blosc("zstd") if is_old else BloscCodec(cname="zstd")
    group = zarr.open_group(str(path), mode="w-", zarr_format=2 if is_old else 3)
    array = group.create_array(
        "0",
        shape=labels.shape,
        dtype=labels.dtype,
        chunks=tuple(min(n, _CHUNK) for n in labels.shape),
        compressors=codec,
        fill_value=0,
        chunk_key_encoding={"name": "v2" if is_old else "default", "separator": "/"},
        dimension_names=None if is_old else list("zyx"),
    )
    array[...] = labels
    group.attrs.update(_ngff.label_attributes(path, geometry, version))
