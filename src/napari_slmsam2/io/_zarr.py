"""Zarr folders: OME-Zarr images and labels, and plain arrays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import zarr

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io import _ngff
from napari_slmsam2.io.chunked_array import ChunkedArray
from napari_slmsam2.io.geometry import default_axes, name_axes
from napari_slmsam2.io.raw import RawImage
from napari_slmsam2.io.selection import Selection, choose_image, choose_level

_ROLES = {"z": "s", "y": "s", "x": "s", "c": "c", "channel": "c", "t": "t", "time": "t"}


def read(path: Path, selection: Selection) -> RawImage:
    """Open an array, or one level of an OME-Zarr image, lazily."""
    node: Any = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        choose_image(str(path), selection, ("",))
        choose_level(str(path), selection, [node.shape])
        axes, named = _letters(node)
        return RawImage(ChunkedArray(node), axes, "Zarr", named=named)
    found = _images(node)
    if not found:
        raise VolumeError(
            str(path),
            "is a group without an image",
            expected="an array or an OME-Zarr image",
            found=", ".join(sorted(node.keys())) or "nothing",
            hint="Give the path of the array within it.",
        )
    place, metadata = found[choose_image(str(path), selection, _names(found))]
    arrays: list[Any] = [node[f"{place}{name}"] for name in metadata.levels]
    level = choose_level(str(path), selection, [array.shape for array in arrays])
    data = arrays[level]
    return RawImage(
        ChunkedArray(data),
        metadata.letters(data.ndim),
        "OME-Zarr",
        geometry=metadata.geometry(data.ndim, level),
        template=metadata.template(data.ndim),
        channel_names=metadata.channel_names,
        label_tables=(metadata.table,) if metadata.table else (),
        holds_labels=metadata.holds_labels,
    )


def images(path: Path) -> tuple[str, ...]:
    """Names of the images in a store."""
    node: Any = zarr.open(str(path), mode="r")
    found = [] if isinstance(node, zarr.Array) else _images(node)
    return _names(found) if found else ("",)


def kept_order(template: Any) -> str | None:
    """The axis order of the image, if it is an OME-Zarr with named axes."""
    return _ngff.axis_names(template)[0]


def _images(group: Any) -> list[tuple[str, _ngff.Metadata]]:
    """Every image of a group: where its arrays are, and its metadata.

    Groups that hold a series of images (bioformats2raw) or the wells of a plate name none
    themselves: their images are in the groups below.
    """
    own = _ngff.Metadata.all_of(dict(group.attrs))
    if own:
        return [("", metadata) for metadata in own]
    found: list[tuple[str, _ngff.Metadata]] = []
    for name, child in sorted(group.groups(), key=lambda item: _numeric(item[0])):
        for metadata in _ngff.Metadata.all_of(dict(child.attrs)):
            named = replace(metadata, image={**metadata.image, "name": metadata.name or name})
            found.append((f"{name}/", named))
    return found


def _numeric(name: str) -> tuple[int, str]:
    return (int(name) if name.isdecimal() else -1), name


def _names(found: list[tuple[str, _ngff.Metadata]]) -> tuple[str, ...]:
    return tuple(metadata.name for _, metadata in found) if len(found) > 1 else ("",)


def _letters(array: Any) -> tuple[str, bool]:
    """The letters of the dimensions of a plain array, and whether it names them."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")  # xarray
    letters = [str(name).strip().lower() for name in names or ()]
    if len(letters) != array.ndim or not all(letter in _ROLES for letter in letters):
        return default_axes(array.ndim), False
    return name_axes("".join(_ROLES[letter] for letter in letters), letters, "zyx"), True
