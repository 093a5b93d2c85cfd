"""Reader of scans and label maps with their geometry."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import SlmSam2Warning, VolumeError
from napari_slmsam2.io.layer_grid import METADATA_KEY, colour_cycle, grid_of, layer_geometry
from napari_slmsam2.io.units import NO_UNIT

if TYPE_CHECKING:
    from napari_slmsam2.core.label_table import LabelTable
    from napari_slmsam2.io.geometry import TimeAxis
    from napari_slmsam2.io.raw import RawImage

LayerData = tuple[Any, dict[str, Any], str]
PathOrPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

MAX_IN_MEMORY = 2**30
"""Size in bytes up to which an uncompressed image is read at once; larger ones slice by slice."""

_LABEL_WORDS = {
    "annotation", "annotations", "aseg", "dseg", "label", "labelmap", "labels", "mask", "masks",
    "parcellation", "roi", "rois", "seg", "segmentation", "segmentations", "segs",
}  # fmt: skip


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData]] | None:
    """The reader of a file, if this plugin can open it.

    Parameters
    ----------
    path : path-like, or sequence of path-like
        Several files to stack into one layer are left to other readers, unless all are DICOM.

    Returns
    -------
    callable or None
    """
    from napari_slmsam2.io.formats import DICOM, format_to_read

    try:
        if isinstance(path, str | os.PathLike):
            format_to_read(Path(path))
        elif not all(format_to_read(Path(file)) is DICOM for file in path):
            return None
    except VolumeError:
        return None
    return read


def read(path: PathOrPaths) -> list[LayerData]:
    """Open a file as a Labels layer if it holds a label map, else as an Image layer.

    A file is a label map if its name (``scan_seg.nii.gz``, ``labels.nrrd``), its header (the intent
    of NIfTI, the metadata of OME-Zarr, the mark that this plugin writes to other formats) or its
    segments mark it as one, and it contains whole numbers only. The axes
    are those of the file; time and unknown axes come first. Each channel, and each image of a file
    with several, becomes a layer.

    Parameters
    ----------
    path : path-like, or sequence of path-like
        Several: the files of one DICOM series.

    Returns
    -------
    list of (data, attributes, layer type)

    Raises
    ------
    VolumeError
        The file is damaged or contains no image.
    """
    from napari_slmsam2.io.formats import DICOM, format_to_read
    from napari_slmsam2.io.images import explained, read_dicom_files
    from napari_slmsam2.io.selection import Selection

    if not isinstance(path, str | os.PathLike):
        files = [Path(file) for file in path]
        with explained(files[0].parent):
            return _layers(read_dicom_files(files, Selection()), files[0].parent)
    file = Path(path)
    with explained(file):
        known = format_to_read(file)
        layers: list[LayerData] = []
        names = known.images(file)
        problems: list[VolumeError] = []
        for number, name in enumerate(names):
            try:
                found = _layers(known.read(file, Selection(image=number)), file)
            except VolumeError as error:
                # A folder of DICOM files often has series that are no volumes (scouts).
                if known is not DICOM or len(names) == 1:
                    raise
                problems.append(error)
                continue
            for data, attributes, kind in found:
                if len(names) > 1:
                    attributes |= {"name": _with_suffix(attributes["name"], name or str(number))}
                layers.append((data, attributes, kind))
        for problem in problems if layers else ():
            warnings.warn(f"Not opened: {problem}", SlmSam2Warning, stacklevel=2)
        if problems and not layers:
            raise problems[0]
        return layers


def _layers(raw: RawImage, file: Path) -> list[LayerData]:
    """The layers of one image of a file."""
    found = _labels(raw, file) if _is_marked_as_labels(raw, file) else None
    return found or [_image(raw, file)]


def _with_suffix(name: str | list[str], suffix: str) -> str | list[str]:
    if isinstance(name, str):
        return f"{name} {suffix}"
    return [f"{one} {suffix}" for one in name]


def _is_marked_as_labels(raw: RawImage, file: Path) -> bool:
    words = re.split(r"[^a-z]+", file.name.lower())
    return raw.holds_labels or bool(raw.label_tables) or not _LABEL_WORDS.isdisjoint(words)


def _labels(raw: RawImage, file: Path) -> list[LayerData] | None:
    """One layer, or one per channel or layer of segments; None where a voxel is no label."""
    from napari_slmsam2.io.labels import label_series_of
    from napari_slmsam2.io.selection import Selection

    layers: list[LayerData] = []
    n_layers = raw.data.shape[raw.axes.index("c")] if "c" in raw.axes else 1
    channels = range(n_layers) if n_layers > 1 else (None,)
    for channel in channels:
        try:
            found = label_series_of(raw, file, Selection(channel=channel))
        except VolumeError:
            return None
        attributes = _attributes(raw, file, found.table)
        if raw.n_times > 1:
            _lead(attributes, ["t"], raw.geometry.time)
        if channel is not None:
            called = raw.channel_names or ("",) * n_layers
            attributes["name"] += f" {called[channel] or channel}"
        if found.table.names:
            labels = sorted(found.table.names)
            names = [found.table.names[label] for label in labels]
            attributes["features"] = {
                "index": [0, *labels], "label_name": ["background", *names]
            }  # fmt: skip
        if found.table.colours:
            attributes["colormap"] = colour_cycle(found.table.colours)
        layers.append((found.array, attributes, "labels"))
    return layers


def _image(raw: RawImage, file: Path) -> LayerData:
    data, roles = raw.data, raw.roles
    attributes = _attributes(raw, file)
    colours = np.dtype(data.dtype).names
    if colours:
        voxels = np.asarray(data[(slice(None),) * len(roles)])
        data, roles = np.stack([voxels[name] for name in colours], axis=-1), roles + "c"
    if np.dtype(data.dtype).kind not in "buif":
        raise VolumeError(
            str(file), "does not hold real numbers", expected="integers or floats",
            found=np.dtype(data.dtype),
        )  # fmt: skip
    order = _display_order(data.shape, roles)
    data = _transposed(_array(data, raw.order, roles), roles, order)
    roles = "".join(roles[i] for i in order)
    names = [f"?{i}" if r == "?" else r for i, r in enumerate(roles) if r in "t?"]
    _lead(attributes, names, raw.geometry.time)
    if "c" not in roles:
        return data, attributes, "image"
    if colours and len(colours) in (3, 4) and data.dtype == np.uint8:
        return data, attributes | {"rgb": True}, "image"
    channels = raw.channel_names or colours or map(str, range(data.shape[-1]))
    attributes["name"] = [f"{attributes['name']} {name}" for name in channels]
    return data, attributes | {"channel_axis": len(roles) - 1}, "image"


def _display_order(shape: Sequence[int], roles: str) -> list[int]:
    """Axes in napari's order: time, others, space, channels; without axes of length 1."""
    kept = [i for i, role in enumerate(roles) if role == "s" or shape[i] > 1]
    return sorted(kept, key=lambda i: "t?sc".index(roles[i]))


def _array(data: Any, order: str, roles: str) -> Any:
    """The array, in memory if it is loaded or small, else as dask array of one chunk per slice."""
    shape, dtype = tuple(data.shape), np.dtype(data.dtype)
    if isinstance(data, np.ndarray) or math.prod(shape) * dtype.itemsize <= MAX_IN_MEMORY:
        array: npt.NDArray[Any] = np.asarray(data[(slice(None),) * len(shape)])
        return array.astype(dtype.newbyteorder("="), copy=False)
    import dask.array

    stacked = roles.rindex("s") if order == "xyz" else roles.index("s")
    chunks = [
        1 if i == stacked or role != "s" else n
        for i, (n, role) in enumerate(zip(shape, roles, strict=True))
    ]
    return dask.array.from_array(data, chunks=chunks, name=False)


def _transposed(data: Any, roles: str, order: list[int]) -> Any:
    data = data[tuple(slice(None) if i in order else 0 for i in range(len(roles)))]
    kept = sorted(order)
    return data.transpose([kept.index(i) for i in order])


def _attributes(raw: RawImage, file: Path, table: LabelTable | None = None) -> dict[str, Any]:
    spatial = [n for n, role in zip(raw.data.shape, raw.roles, strict=True) if role == "s"]
    if not 2 <= len(spatial) <= 3:
        raise VolumeError(
            str(file), "is neither a slice nor a volume", expected="2 or 3 spatial dimensions",
            found=f"{len(spatial)} of shape {tuple(raw.data.shape)}",
        )  # fmt: skip
    attributes = layer_geometry(raw.geometry, len(spatial), raw.order)
    attributes["name"] = re.split(r"\.(?=[a-zA-Z])", file.name)[0] or file.name
    if len(spatial) == 3:
        grid = grid_of(
            tuple(spatial), raw.geometry, order=raw.order, path=str(file.resolve()),
            file_format=raw.format, template=raw.template, table=table,
        )  # fmt: skip
        attributes["metadata"] = {METADATA_KEY: grid}
    return attributes


def _lead(attributes: dict[str, Any], names: list[str], time: TimeAxis | None) -> None:
    """Put time, and axes without a known size, before the spatial ones."""
    times = [name == "t" and time is not None for name in names]
    attributes["scale"] = [time.step if t and time else 1.0 for t in times] + attributes["scale"]
    starts = [time.start if t and time else 0.0 for t in times]
    attributes["translate"] = starts + attributes["translate"]
    units = [time.unit if t and time else NO_UNIT for t in times]
    attributes["units"] = units + attributes["units"]
    attributes["axis_labels"] = names + attributes["axis_labels"]
