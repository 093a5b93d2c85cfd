"""Reader of scans and label maps with their geometry."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io.layer_grid import METADATA_KEY, grid_of, layer_geometry

LayerData = tuple[Any, dict[str, Any], str]
PathOrPaths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

MAX_IN_MEMORY = 2**30
"""Size in bytes up to which an uncompressed image is read at once; larger ones slice by slice."""

_LABEL_WORDS = {
    "annotation", "annotations", "aseg", "dseg", "label", "labelmap", "labels", "mask", "masks",
    "parcellation", "roi", "rois", "seg", "segmentation", "segmentations", "segs",
}  # fmt: skip
_NIFTI_INTENT_LABEL = 1002


def get_reader(path: PathOrPaths) -> Callable[[PathOrPaths], list[LayerData]] | None:
    """The reader of a file, if this plugin can open it.

    Parameters
    ----------
    path : path-like, or sequence of path-like
        Several files to stack into one layer are left to other readers.

    Returns
    -------
    callable or None
    """
    if not isinstance(path, str | os.PathLike):
        return None
    from napari_slmsam2.io.formats import format_to_read

    try:
        format_to_read(Path(path))
    except VolumeError:
        return None
    return read


def read(path: PathOrPaths) -> list[LayerData]:
    """Open a file as a Labels layer if it holds a label map, else as an Image layer.

    A file is a label map if its name (``scan_seg.nii.gz``, ``labels.nrrd``), its NIfTI header or
    its OME-Zarr metadata marks it as one, and it contains whole numbers only. The axes are those
    of the file; time and unknown axes come first, each channel becomes a layer.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    list of (data, attributes, layer type)

    Raises
    ------
    VolumeError
        The file is damaged or contains no image.
    """
    if not isinstance(path, str | os.PathLike):
        raise VolumeError(str(path), "is not one file")
    file = Path(path)
    from napari_slmsam2.core.errors import SlmSam2Error
    from napari_slmsam2.io.formats import format_to_read

    try:
        raw = format_to_read(file).load(file).read(file)
        layer = _labels(raw, file) if _is_marked_as_labels(raw, file) else None
        return [layer or _image(raw, file)]
    except SlmSam2Error:
        raise
    except Exception as error:
        raise VolumeError(
            str(file), "cannot be read as an image", found=f"{type(error).__name__}: {error}",
            hint="The file may be damaged or of another format than its suffix.",
        ) from error  # fmt: skip


def _is_marked_as_labels(raw: Any, file: Path) -> bool:
    header = raw.template
    if raw.format.startswith("NIfTI") and int(header["intent_code"]) == _NIFTI_INTENT_LABEL:
        return True
    if raw.format == "OME-Zarr" and header["holds_labels"]:
        return True
    words = re.split(r"[^a-z]+", file.name.lower())
    return not _LABEL_WORDS.isdisjoint(words)


def _labels(raw: Any, file: Path) -> LayerData | None:
    """A Labels layer; None if a voxel is not a whole number."""
    from napari_slmsam2.io import read_labels

    try:
        data = read_labels(file)
    except VolumeError:
        return None
    return data, _attributes(raw, file), "labels"


def _image(raw: Any, file: Path) -> LayerData:
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
    _lead(attributes, [f"?{i}" if r == "?" else r for i, r in enumerate(roles) if r in "t?"])
    if "c" not in roles:
        return data, attributes, "image"
    if colours and len(colours) in (3, 4) and data.dtype == np.uint8:
        return data, attributes | {"rgb": True}, "image"
    names = raw.channel_names or colours or [str(i) for i in range(data.shape[-1])]
    attributes["name"] = [f"{attributes['name']} {name}" for name in names]
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


def _attributes(raw: Any, file: Path) -> dict[str, Any]:
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
            file_format=raw.format, template=raw.template,
        )  # fmt: skip
        attributes["metadata"] = {METADATA_KEY: grid}
    return attributes


def _lead(attributes: dict[str, Any], names: list[str]) -> None:
    """Put axes without a known size before the spatial ones."""
    n = len(names)
    attributes["scale"] = [1.0] * n + attributes["scale"]
    attributes["translate"] = [0.0] * n + attributes["translate"]
    attributes["units"] = ["pixel"] * n + attributes["units"]
    attributes["axis_labels"] = names + attributes["axis_labels"]
