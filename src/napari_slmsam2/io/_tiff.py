"""TIFF, OME-TIFF and ImageJ stacks, with their voxel size."""

from __future__ import annotations

import math
import struct
import weakref
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from napari_slmsam2.core.errors import OutputError, VolumeError
from napari_slmsam2.io.geometry import Geometry, TimeAxis
from napari_slmsam2.io.raw import LABELS_MARK, ArrayLike, RawImage, check_size, raw_array
from napari_slmsam2.io.selection import Selection, choose_image, choose_level
from napari_slmsam2.io.units import (
    IN_SECONDS,
    OME_SYMBOLS,
    OME_TIME_SYMBOLS,
    common_unit,
    time_unit_name,
    unit_name,
)

MAX_IN_MEMORY = 2**30
"""Bytes up to which a compressed stack is read at once; larger ones are read page by page."""

_MAX_RATIO = 20_000
_MAX_TAGS = 4096
_IMAGEJ_LIMIT = 2**32 - 2**25
_IMAGEJ_DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
_STACK_AXES = "IQRT"  # Pages without a stated meaning; ImageJ often says time for depth.
_DAMAGED = "The file is damaged or was not copied completely."


class PageStack:
    """A compressed TIFF stack that decodes only the pages asked for.

    Parameters
    ----------
    series : tifffile.TiffPageSeries
        Its file must stay open.
    shape : tuple of int
        Ends with the shape of a page.
    """

    def __init__(self, series: Any, shape: tuple[int, ...]) -> None:
        self.series = series
        self.shape = shape
        self.dtype = np.dtype(series.dtype)
        self.page_shape = tuple(int(n) for n in series.keyframe.shape)
        self.stack_shape = self.shape[: len(self.shape) - len(self.page_shape)]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        keys = key if isinstance(key, tuple) else (key,)
        n_stack = len(self.stack_shape)
        pages = np.arange(math.prod(self.stack_shape)).reshape(self.stack_shape)
        wanted = np.asarray(pages[keys[:n_stack]])
        parts = [self._page(int(i))[keys[n_stack:]] for i in wanted.ravel()]
        return np.stack(parts).reshape(wanted.shape + parts[0].shape)

    def _page(self, index: int) -> npt.NDArray[Any]:
        return np.asarray(self.series.pages[index].asarray()).reshape(self.page_shape)


def read(path: Path, selection: Selection) -> RawImage:
    """Open an image series of a file."""
    tif = tifffile.TiffFile(path)
    try:
        _check_directories(tif, path)
        number = choose_image(str(path), selection, _series_names(tif))
        finest = tif.series[number]
        shapes = [level.shape for level in finest.levels]
        series = finest.levels[choose_level(str(path), selection, shapes)]
        axes, shape = _dimensions(series)
        geometry, template = _voxel_size(tif, number)
        if selection.level:
            template = {"flavour": "ome"}
            geometry = _of_level(geometry, _dimensions(finest), (axes, shape))
        data, keep_open = _data(tif, series, shape, path)
        names = _ome_channel_names(tif, number) if tif.is_ome else ()
        marked = _description(tif, number) == LABELS_MARK
    except BaseException:
        tif.close()
        raise
    if keep_open:
        weakref.finalize(data, tif.close)
    else:
        tif.close()
    kind = "OME-TIFF" if tif.is_ome else "ImageJ TIFF" if tif.is_imagej else "TIFF"
    letters = _letters(axes, shape)
    raw = RawImage(
        data, letters, kind, geometry, template, channel_names=names, holds_labels=marked
    )
    if raw.order == "zyx":
        return raw
    return replace(raw, geometry=geometry.reordered("zyx", raw.order))


def _of_level(
    geometry: Geometry, finest: tuple[str, tuple[int, ...]], level: tuple[str, tuple[int, ...]]
) -> Geometry:
    """The geometry of a level, from the axes and shapes of the finest one and its own.

    Sizes that are no multiple are those of a whole factor, rounded up or down.
    """
    spacing = []
    sizes = dict(zip(_letters(*finest), finest[1], strict=True))
    coarse = dict(zip(_letters(*level), level[1], strict=True))
    for axis, step in zip("zyx", geometry.spacing, strict=True):
        fine, few = sizes.get(axis, 1), coarse.get(axis, 1)
        whole = round(fine / few)
        is_whole = whole > 0 and few in (fine // whole, -(-fine // whole))
        spacing.append(step * (whole if is_whole else fine / few))
    z, y, x = spacing
    return replace(geometry, spacing=(z, y, x))


def images(path: Path) -> tuple[str, ...]:
    """Names of the image series of a file."""
    with tifffile.TiffFile(path) as tif:
        _check_directories(tif, path)
        return _series_names(tif)


def _series_names(tif: Any) -> tuple[str, ...]:
    """The name of every series, and its shape where there are several."""
    if len(tif.series) == 1:
        return ("",)
    names = [str(series.name or "") for series in tif.series]
    unique = len(set(names)) == len(names) and all(names)
    return tuple(
        name if unique else f"{name} {' x '.join(map(str, series.shape))}".strip()
        for name, series in zip(names, tif.series, strict=True)
    )


def _check_directories(tif: Any, path: Path) -> None:
    """Refuse damage to the page directories that tifffile follows for ever or only logs.

    A chain of pages that leads back into itself never ends. The description of the first page
    often stands at the end of the file: a file that was cut there keeps its voxels and loses their
    size.
    """
    layout, file = tif.tiff, tif.filehandle
    offset = first = tif.pages[0].offset
    seen: set[int] = set()
    while 0 < offset < file.size:
        if offset in seen:
            raise VolumeError(str(path), "its pages lead in a circle", hint=_DAMAGED)
        seen.add(offset)
        file.seek(offset)
        try:
            (n_tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
            entries = file.read(min(n_tags, _MAX_TAGS) * layout.tagsize)
            (following,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
        except struct.error:
            break  # The end of the file: tifffile notices.
        if offset == first and 270 not in tif.pages[0].tags:
            places = range(0, len(entries), layout.tagsize)
            tags = [struct.unpack_from(f"{tif.byteorder}H", entries, i)[0] for i in places]
            if 270 in tags:
                raise VolumeError(
                    str(path), "its description of the voxels cannot be read", hint=_DAMAGED
                )
        offset = following


def _dimensions(series: Any) -> tuple[str, tuple[int, ...]]:
    """Axes and shape, with the Z of a stack of one slice, which tifffile leaves out."""
    squeeze = any(a in series.axes for a in ("Z", *_STACK_AXES))
    squeeze = squeeze or "Z" not in series.get_axes(squeeze=False)
    shape = tuple(int(n) for n in series.get_shape(squeeze=squeeze))
    return series.get_axes(squeeze=squeeze), shape


def _data(tif: Any, series: Any, shape: tuple[int, ...], path: Path) -> tuple[ArrayLike, bool]:
    """The voxels, and whether the file must stay open for them."""
    dtype = np.dtype(series.dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    offset = series.dataoffset
    if offset is not None and not series.is_multifile:
        return raw_array(path, shape, dtype.newbyteorder(tif.byteorder), offset, "C"), False
    missing = sum(page is None for page in series.pages)
    if missing:
        raise VolumeError(
            str(path),
            "lacks pages that its metadata speak of",
            expected=f"{len(series.pages)} pages",
            found=f"{len(series.pages) - missing}",
            hint="It is damaged, or a file that belongs to it is missing.",
        )
    if not series.is_multifile:
        check_size(path, n_bytes, compressed=True, ratio=_MAX_RATIO)
    page_shape = tuple(series.keyframe.shape)
    stacked = shape[len(shape) - len(page_shape) :] == page_shape
    if n_bytes <= MAX_IN_MEMORY or not stacked:
        data: np.ndarray = series.asarray()
        return data.reshape(shape), False
    return PageStack(series, shape), True


def _letters(axes: str, shape: tuple[int, ...]) -> str:
    """The letters of the dimensions, see `RawImage`.

    Without a Z dimension the last stack of pages is taken as the slices.
    """
    position = -1
    if "Z" not in axes:
        position = max((i for i, a in enumerate(axes) if a in _STACK_AXES), default=-1)
    letters = {"T": "t", "Z": "z", "Y": "y", "X": "x"}
    # Channels, or the samples of a colour picture where there are no channels.
    several = [a for a in "CS" if a in axes and shape[axes.index(a)] > 1]
    letters[several[0] if several else "C"] = "c"
    return "".join("z" if i == position else letters.get(a, "?") for i, a in enumerate(axes))


def _voxel_size(tif: Any, number: int) -> tuple[Geometry, dict[str, Any]]:
    """The geometry in the order z, y, x, and the metadata that give labels the same one."""
    if tif.is_ome:
        pixels = _ome_pixels(tif, number)
        return _physical_size({} if pixels is None else pixels.attrib), {"flavour": "ome"}
    if tif.is_imagej:
        return _imagej_voxel_size(tif.pages[0].tags, tif.imagej_metadata)
    if tif.is_shaped:
        return _physical_size(tif.shaped_metadata[0]), {}
    return Geometry(), {}


def _description(tif: Any, number: int) -> str:
    """The free text that describes an image series; empty where there is none."""
    if tif.is_ome:
        images = [
            element
            for element in ElementTree.fromstring(tif.ome_metadata).iter()
            if element.tag.rpartition("}")[2] == "Image"
        ]
        parts = images[number] if number < len(images) else ()
        found = [x.text for x in parts if x.tag.rpartition("}")[2] == "Description"]
        return found[0] or "" if found else ""
    if tif.is_imagej:
        return str(tif.imagej_metadata.get("Info", ""))
    return str(tif.shaped_metadata[0].get("Description", "")) if tif.is_shaped else ""


def _ome_pixels(tif: Any, number: int) -> Any:
    """The element that describes the pixels of a series."""
    found = [
        element
        for element in ElementTree.fromstring(tif.ome_metadata).iter()
        if element.tag.rpartition("}")[2] == "Pixels"
    ]
    return found[number] if number < len(found) else None


def _physical_size(attributes: Mapping[str, Any]) -> Geometry:
    """The geometry that attributes in the words of OME describe."""
    sizes = [attributes.get(f"PhysicalSize{a}") for a in "ZYX"]
    time = TimeAxis.usable(
        attributes.get("TimeIncrement"), time_unit_name(attributes.get("TimeIncrementUnit", "s"))
    )
    if sizes[1] is None or sizes[2] is None:
        return Geometry(time=time)
    units = [unit_name(attributes.get(f"PhysicalSize{a}Unit", "µm")) for a in "ZYX"]
    unit, factors = common_unit(units)
    z, y, x = (float(s) * f if s is not None else 1.0 for s, f in zip(sizes, factors, strict=True))
    return _usable(z, y, x, unit, time)


def _ome_channel_names(tif: Any, number: int) -> tuple[str, ...]:
    pixels = _ome_pixels(tif, number)
    if pixels is None:
        return ()
    channels = [e for e in pixels if e.tag.rpartition("}")[2] == "Channel"]
    names = tuple(c.get("Name", "") for c in channels)
    return names if all(names) else ()


def _imagej_voxel_size(tags: Any, metadata: Mapping[str, Any]) -> tuple[Geometry, dict[str, Any]]:
    resolution = [tags[name].value if name in tags else (1, 1) for name in
                  ("XResolution", "YResolution")]  # fmt: skip
    x, y = (d / n if n and d else 1.0 for n, d in resolution)
    z = float(metadata.get("spacing", 1.0))
    kept = {k: metadata[k] for k in ("unit", "spacing") if k in metadata}
    time_unit = time_unit_name(metadata.get("tunit", "s"))
    time = TimeAxis.usable(metadata.get("finterval"), time_unit)
    unit = unit_name(str(metadata.get("unit", "")))
    template = {"flavour": "imagej", "resolution": tuple(resolution), "metadata": kept}
    return _usable(abs(z), y, x, unit, time), template


def _usable(z: float, y: float, x: float, unit: str, time: TimeAxis | None = None) -> Geometry:
    if not all(math.isfinite(s) and s > 0 for s in (z, y, x)):
        return Geometry(time=time)
    return Geometry((z, y, x), unit, time=time)


def write(
    path: Path, labels: npt.NDArray[Any], geometry: Geometry, template: Any, lead: str = ""
) -> None:
    """Write labels as an ImageJ stack if the image is one and can be, else as OME-TIFF.

    OME-TIFF holds every size and the voxel size to the last digit, but no labels of 64 bits: these
    are written as plain TIFF, with the voxel size in the words of OME in its description. The axes
    of ``lead`` (time, channels) come first.

    Raises
    ------
    OutputError
        Labels of 64 bits, to a name that ends in ``.ome.tif``.
    """
    metadata: dict[str, Any] = {"axes": lead.upper() + "ZYX"}
    time = geometry.time if "t" in lead else None
    if "c" not in lead and _as_imagej(path, labels, template):
        if time is not None:
            metadata["finterval"] = time.step
            if time.unit in IN_SECONDS:
                metadata["tunit"] = time.unit
        tifffile.imwrite(
            path, labels, imagej=True, photometric="minisblack",
            resolution=template["resolution"],
            metadata={**metadata, "Info": LABELS_MARK, **template["metadata"]},
        )  # fmt: skip
        return
    metadata["Description"] = LABELS_MARK
    if time is not None:
        metadata["TimeIncrement"] = time.step
        if time.unit in IN_SECONDS:
            metadata["TimeIncrementUnit"] = OME_TIME_SYMBOLS[time.unit]
    for axis, size in zip("ZYX", geometry.spacing, strict=True):
        metadata[f"PhysicalSize{axis}"] = size
        metadata[f"PhysicalSize{axis}Unit"] = OME_SYMBOLS.get(geometry.unit, geometry.unit)
    is_ome = labels.dtype.itemsize < 8
    if not is_ome and ".ome." in path.name.lower():
        raise OutputError(
            str(path), "cannot hold these labels", expected="labels up to 2**32 - 1 in OME-TIFF",
            found=int(labels.max()), hint="Write .tif, .nii.gz, .nrrd or .ome.zarr.",
        )  # fmt: skip
    tifffile.imwrite(
        path, labels, ome=is_ome, photometric="minisblack", compression="zlib",
        bigtiff=labels.nbytes > _IMAGEJ_LIMIT, metadata=metadata,
    )  # fmt: skip


def _as_imagej(path: Path, labels: npt.NDArray[Any], template: Any) -> bool:
    return (
        isinstance(template, dict)
        and template.get("flavour") == "imagej"
        and ".ome." not in path.name.lower()
        and labels.dtype in _IMAGEJ_DTYPES
        and labels.nbytes < _IMAGEJ_LIMIT
    )
