"""The metadata of OME-Zarr (OME-NGFF 0.4 and 0.5): axes, placement, labels."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import SlmSam2Warning
from napari_slmsam2.io.raw import Geometry, default_roles
from napari_slmsam2.io.units import IN_MM, NO_UNIT, unit_name

_VERSIONS = ("0.4", "0.5")
_ROLES = {"space": "s", "channel": "c", "time": "t"}
_ROLES_BY_NAME = {"c": "c", "t": "t", "z": "s", "y": "s", "x": "s"}
_LONG_NAMES = {
    "pm": "picometer",
    "nm": "nanometer",
    "um": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "inch": "inch",
}
_LABELS = "image-label"


@dataclass(frozen=True)
class Metadata:
    """What the attributes of a group say about its image.

    Attributes
    ----------
    image : mapping
        The first of the multiscale images.
    axes : sequence of mapping
        Empty where the file names none.
    version : str
    holds_labels : bool
    channel_names : tuple of str
        May be empty.
    """

    image: Mapping[str, Any]
    axes: Sequence[Mapping[str, Any]]
    version: str
    holds_labels: bool
    channel_names: tuple[str, ...]

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Metadata | None:
        """Read the attributes of a group; None where they speak of no image."""
        ome = attributes.get("ome", attributes)
        if not ome.get("multiscales"):
            return None
        image = ome["multiscales"][0]
        axes = [a if isinstance(a, Mapping) else {"name": a} for a in image.get("axes", ())]
        channels = ome.get("omero", {}).get("channels", ())
        return cls(
            image,
            axes,
            str(ome.get("version", image.get("version", ""))),
            _LABELS in ome,
            tuple(str(c.get("label", i)) for i, c in enumerate(channels)),
        )

    @property
    def finest(self) -> str:
        """The path of the array of the finest level."""
        return str(self.image["datasets"][0]["path"])

    @property
    def template(self) -> dict[str, Any]:
        """What `label_attributes` keeps of it, and whether it is a label map."""
        return {"ngff": self.version, "holds_labels": self.holds_labels}

    def roles(self, n_dims: int) -> str:
        """One letter per dimension, see `RawImage`."""
        if len(self.axes) != n_dims:
            return default_roles(n_dims)
        return "".join(_role(axis) for axis in self.axes)

    def geometry(self, n_dims: int) -> Geometry:
        """Spacing and origin in one unit, which is that of the last axis."""
        roles = self.roles(n_dims)
        if len(self.axes) != n_dims or roles.count("s") != 3:
            return Geometry()
        spatial = [i for i, role in enumerate(roles) if role == "s"]
        units = [unit_name(self.axes[i].get("unit")) for i in spatial]
        unit = units[-1] if all(u in IN_MM for u in units) else NO_UNIT
        factors = [1.0 if unit in (u, NO_UNIT) else IN_MM[u] / IN_MM[unit] for u in units]
        scale, translation = self._placement(n_dims)
        z, y, x = (float(scale[i]) * f for i, f in zip(spatial, factors, strict=True))
        origin = None
        if translation is not None:
            k, j, i = (float(translation[i]) * f for i, f in zip(spatial, factors, strict=True))
            origin = k, j, i
        return Geometry((z, y, x), unit, origin=origin)

    def _placement(
        self, n_dims: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
        """Scale and, if there is one, translation: first those of the level, then of the image."""
        scale, translation = np.ones(n_dims), None
        for owner in (self.image["datasets"][0], self.image):
            for step in owner.get("coordinateTransformations", ()):
                if step.get("type") == "scale":
                    factor = np.array(step["scale"], np.float64)
                    scale = scale * factor
                    translation = None if translation is None else translation * factor
                elif step.get("type") == "translation":
                    shift = np.array(step["translation"], np.float64)
                    translation = shift if translation is None else translation + shift
        return scale, translation


def _role(axis: Mapping[str, Any]) -> str:
    by_type = _ROLES.get(str(axis.get("type", "")))
    return by_type or _ROLES_BY_NAME.get(str(axis.get("name")), "?")


def version_for(template: Any) -> str:
    """The version to write: that of the image where it is one of ours, else the most read one."""
    version = template.get("ngff") if isinstance(template, dict) else None
    return version if version in _VERSIONS else _VERSIONS[0]


def label_attributes(
    path: Path,
    geometry: Geometry,
    version: str,
    factors: Sequence[Sequence[int]],
    colours: Mapping[int, Sequence[int]],
) -> dict[str, Any]:
    """The attributes of a group with label arrays ``0``, ``1`` ... of axes (z, y, x).

    Parameters
    ----------
    path : Path
    geometry : Geometry
        Of array ``0``.
    version : str
    factors : sequence of sequence of int
        By which the voxels of each array are larger than those of array ``0``.
    colours : mapping of label to RGBA from 0 to 255
        May be empty.

    Warns
    -----
    SlmSam2Warning
        The image is rotated, sheared or reflected in its world, which OME-Zarr cannot say.
    """
    origin = geometry.origin_along("zyx")
    if geometry.affine is not None and origin is None:
        warnings.warn(
            f"{path.name}: OME-Zarr keeps the voxel size and the unit of the image, but not its "
            "rotation or reflection in the world. Write .nii.gz to keep these.",
            SlmSam2Warning,
            stacklevel=2,
        )
    axis = {"type": "space"}
    if geometry.unit in _LONG_NAMES:
        axis["unit"] = _LONG_NAMES[geometry.unit]
    image: dict[str, Any] = {
        "name": path.name.removesuffix(".zarr").removesuffix(".ome"),
        "axes": [{"name": name, **axis} for name in "zyx"],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": _placement(geometry.spacing, origin, factor),
            }
            for level, factor in enumerate(factors)
        ],
    }
    if len(factors) > 1:
        image["type"] = "mode"
    labels: dict[str, Any] = {}
    if colours:
        labels["colors"] = [
            {"label-value": label, "rgba": list(rgba)} for label, rgba in colours.items()
        ]
    if version == "0.4":
        multiscales = [{"version": version, **image}]
        return {"multiscales": multiscales, _LABELS: {"version": version, **labels}}
    return {"ome": {"version": version, "multiscales": [image], _LABELS: labels}}


def _placement(
    spacing: Sequence[float], origin: Sequence[float] | None, factor: Sequence[int]
) -> list[dict[str, Any]]:
    """Voxel size and, where one is known or implied, the place of the first voxel's centre."""
    scale = [s * f for s, f in zip(spacing, factor, strict=True)]
    placement: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if origin is not None or max(factor) > 1:
        # The first voxel of a coarser level lies in the middle of those that it stands for.
        first = [
            o + s * (f - 1) / 2
            for o, s, f in zip(origin or (0.0, 0.0, 0.0), spacing, factor, strict=True)
        ]
        placement.append({"type": "translation", "translation": first})
    return placement


def is_label_store(folder: Path) -> bool:
    """Whether a folder is an OME-Zarr of labels, which may be replaced by others."""
    for name, key in ((".zattrs", None), ("zarr.json", "attributes")):
        try:
            content = json.loads((folder / name).read_bytes())
            attributes = content if key is None else content[key]
            metadata = Metadata.of(attributes)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
        if metadata is not None:
            return metadata.holds_labels
    return False
