"""Plain arrays: NPY files and Zarr folders, with the scale of OME-Zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io.raw import Geometry, RawImage
from napari_slmsam2.io.units import IN_MM, NO_UNIT, unit_name

_ROLES = {"space": "s", "channel": "c", "time": "t"}


def read(path: Path) -> RawImage:
    """Open an array lazily."""
    if path.suffix.lower() == ".npy":
        data = np.load(path, mmap_mode="r", allow_pickle=False)
        return RawImage(data, _default_roles(data.ndim), "zyx", "NPY")
    return _read_zarr(path)


def _default_roles(n_dims: int) -> str:
    return "?" * (n_dims - 3) + "s" * min(n_dims, 3)


def _read_zarr(path: Path) -> RawImage:
    try:
        import zarr
    except ImportError as error:
        raise VolumeError(
            str(path),
            "needs a package that is not installed",
            expected="zarr",
            hint="Install zarr 3.",
        ) from error
    node: Any = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        return RawImage(node, _default_roles(node.ndim), "zyx", "Zarr")
    attributes = dict(node.attrs)
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if not multiscales:
        raise VolumeError(
            str(path),
            "is a group without an image",
            expected="an array or an OME-Zarr image",
            found=", ".join(sorted(node.keys())) or "nothing",
            hint="Give the path of the array within it.",
        )
    image = multiscales[0]
    level = image["datasets"][0]
    data: Any = node[level["path"]]
    axes = [a if isinstance(a, Mapping) else {"name": a} for a in image.get("axes", ())]
    if len(axes) != data.ndim:
        return RawImage(data, _default_roles(data.ndim), "zyx", "OME-Zarr")
    roles = "".join(_role(axis) for axis in axes)
    scale = _scale(level, data.ndim) * _scale(image, data.ndim)
    spatial = [i for i, role in enumerate(roles) if role == "s"]
    return RawImage(
        data,
        roles,
        "zyx",
        "OME-Zarr",
        geometry=_geometry(axes, scale, spatial),
        channel_names=_channel_names(attributes.get("ome", attributes)),
    )


def _role(axis: Mapping[str, Any]) -> str:
    by_name = {"c": "c", "t": "t", "z": "s", "y": "s", "x": "s"}
    return _ROLES.get(axis.get("type", "")) or by_name.get(str(axis.get("name")), "?")


def _scale(owner: Mapping[str, Any], n_dims: int) -> npt.NDArray[np.float64]:
    for transformation in owner.get("coordinateTransformations", ()):
        if transformation.get("type") == "scale":
            return np.array(transformation["scale"], np.float64)
    return np.ones(n_dims)


def _geometry(
    axes: Sequence[Mapping[str, Any]], scale: npt.NDArray[np.float64], spatial: list[int]
) -> Geometry:
    """Spacing in one unit, which is that of the last axis."""
    if len(spatial) != 3:
        return Geometry()
    units = [unit_name(axes[i].get("unit")) for i in spatial]
    unit = units[-1] if all(u in IN_MM for u in units) else NO_UNIT
    factors = [IN_MM[u] / IN_MM[unit] if unit in IN_MM else 1.0 for u in units]
    z, y, x = (float(scale[i]) * f for i, f in zip(spatial, factors, strict=True))
    return Geometry((z, y, x), unit)


def _channel_names(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    channels = attributes.get("omero", {}).get("channels", ())
    return tuple(str(c.get("label", i)) for i, c in enumerate(channels))


def write(path: Path, labels: npt.NDArray[Any], geometry: Geometry, template: Any) -> None:
    """Write labels as an NPY file, which keeps no voxel size."""
    del geometry, template
    np.save(path, labels, allow_pickle=False)
