"""The metadata of OME-Zarr (OME-NGFF 0.1 to 0.5): axes, placement, labels.

Read and written here with zarr alone: ome-zarr-py and ngff-zarr make dask a dependency, and
versions 0.1 to 0.5 with any order of axes are a page of code.
"""

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
from napari_slmsam2.core.label_table import RGBA, LabelTable
from napari_slmsam2.io.geometry import Geometry, TimeAxis, default_axes, name_axes
from napari_slmsam2.io.units import (
    IN_MM,
    IN_SECONDS,
    NGFF_NAMES,
    NGFF_TIME_NAMES,
    common_unit,
    time_unit_name,
    unit_name,
)

_VERSIONS = ("0.4", "0.5")
_ROLES = {"space": "s", "channel": "c", "time": "t"}
_ROLES_BY_NAME = {"c": "c", "t": "t", "z": "s", "y": "s", "x": "s"}
_FIVE = "tczyx"
"""The axes of versions 0.1 and 0.2, which name none."""

_LABELS = "image-label"


@dataclass(frozen=True)
class Metadata:
    """The description of one image in the attributes of a group.

    Attributes
    ----------
    image : mapping
        One of the multiscale images.
    axes : sequence of mapping
        Empty where the file names none.
    version : str
    holds_labels : bool
    channel_names : tuple of str
        May be empty.
    table : LabelTable
        Names and colours of labels.
    """

    image: Mapping[str, Any]
    axes: Sequence[Mapping[str, Any]]
    version: str
    holds_labels: bool
    channel_names: tuple[str, ...]
    table: LabelTable

    @classmethod
    def all_of(cls, attributes: Mapping[str, Any]) -> list[Metadata]:
        """Read the attributes of a group: one entry per image; empty where there is none."""
        ome = attributes.get("ome", attributes)
        channels = ome.get("omero", {}).get("channels", ())
        table = _table(ome[_LABELS]) if _LABELS in ome else LabelTable()
        return [
            cls(
                image,
                [a if isinstance(a, Mapping) else {"name": a} for a in image.get("axes", ())],
                str(ome.get("version", image.get("version", ""))),
                _LABELS in ome,
                tuple(str(c.get("label", i)) for i, c in enumerate(channels)),
                table,
            )
            for image in ome.get("multiscales") or ()
        ]

    @property
    def name(self) -> str:
        """The name of the image, which may be empty."""
        return str(self.image.get("name") or "")

    @property
    def levels(self) -> list[str]:
        """The paths of the arrays of all levels, the finest first."""
        return [str(level["path"]) for level in self.image["datasets"]]

    def template(self, n_dims: int) -> dict[str, Any]:
        """What `label_attributes` keeps of the image."""
        found: dict[str, Any] = {"ngff": self.version}
        letters = self.letters(n_dims)
        order = "".join(letter for letter in letters if letter in "xyz")
        if len(self.axes) == n_dims and len(order) == 3:
            names = [str(a.get("name")) for a, x in zip(self.axes, letters, strict=True)
                     if x in "xyz"]  # fmt: skip
            found |= {"order": order, "names": names}
        return found

    def letters(self, n_dims: int) -> str:
        """One letter per dimension, see `RawImage`."""
        if len(self.axes) != n_dims:
            return _FIVE if n_dims == len(_FIVE) and not self.axes else default_axes(n_dims)
        roles = "".join(_role(axis) for axis in self.axes)
        return name_axes(roles, [axis.get("name") for axis in self.axes], "zyx")

    def geometry(self, n_dims: int, level: int = 0) -> Geometry:
        """Spacing and origin in one unit, that of the last axis, and the time axis."""
        letters = self.letters(n_dims)
        spatial = [i for i, letter in enumerate(letters) if letter in "xyz"]
        if len(self.axes) != n_dims or len(spatial) != 3:
            return Geometry()
        units = [unit_name(self.axes[i].get("unit")) for i in spatial]
        unit, factors = common_unit(units)
        scale, translation = self._placement(n_dims, level)
        first, second, third = (float(scale[i]) * f for i, f in zip(spatial, factors, strict=True))
        origin = None
        if translation is not None:
            i, j, k = (float(translation[i]) * f for i, f in zip(spatial, factors, strict=True))
            origin = i, j, k
        time = None
        if "t" in letters:
            place = letters.index("t")
            start = 0.0 if translation is None else translation[place]
            time = TimeAxis.usable(
                scale[place], time_unit_name(self.axes[place].get("unit")), start
            )
        return Geometry((first, second, third), unit, origin=origin, time=time)

    def _placement(
        self, n_dims: int, level: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
        """Scale and, if there is one, translation: first those of the level, then of the image."""
        scale, translation = np.ones(n_dims), None
        for owner in (self.image["datasets"][level], self.image):
            for step in owner.get("coordinateTransformations", ()):
                if step.get("type") == "scale":
                    factor = np.array(step["scale"], np.float64)
                    scale = scale * factor
                    translation = None if translation is None else translation * factor
                elif step.get("type") == "translation":
                    shift = np.array(step["translation"], np.float64)
                    translation = shift if translation is None else translation + shift
        return scale, translation


def _table(description: Mapping[str, Any]) -> LabelTable:
    """Names and colours in the metadata of a label image."""
    names: dict[int, str] = {}
    colours: dict[int, RGBA] = {}
    for entry in description.get("properties") or ():
        name = entry.get("name", entry.get("class"))
        if name is not None and "label-value" in entry:
            names[int(entry["label-value"])] = str(name)
    for entry in description.get("colors") or ():
        if entry.get("rgba") is not None:
            red, green, blue, alpha = (float(part) / 255 for part in entry["rgba"])
            colours[int(entry["label-value"])] = red, green, blue, alpha
    return LabelTable(names, colours)


def _role(axis: Mapping[str, Any]) -> str:
    by_type = _ROLES.get(str(axis.get("type", "")))
    return by_type or _ROLES_BY_NAME.get(str(axis.get("name")).lower(), "?")


def axis_names(template: Any) -> tuple[str, list[str]]:
    """The order of the axes of labels, and their names: those of the image if it has some.

    Parameters
    ----------
    template : object
        Of `Metadata.template`, or of another format.
    """
    if isinstance(template, dict) and "ngff" in template and "order" in template:
        return template["order"], template["names"]
    return "zyx", list("zyx")


def version_for(template: Any) -> str:
    """The version to write: that of the image where it is one of ours, else the most read one."""
    version = template.get("ngff") if isinstance(template, dict) else None
    return version if version in _VERSIONS else _VERSIONS[0]


def label_attributes(
    path: Path,
    geometry: Geometry,
    template: Any,
    factors: Sequence[Sequence[int]],
    table: LabelTable,
    lead: str = "",
) -> dict[str, Any]:
    """The attributes of a group with label arrays ``0``, ``1`` ...

    Parameters
    ----------
    path : Path
    geometry : Geometry
        Of array ``0``, along the axes of `axis_names`.
    template : object
        Of the image.
    factors : sequence of sequence of int
        By which the voxels of each array are larger than those of array ``0``.
    table : LabelTable
        Names and colours.
    lead : {"", "t", "c", "tc"}
        The axes before the three of space.

    Warns
    -----
    SlmSam2Warning
        The image is rotated, sheared or reflected in its world, which OME-Zarr cannot represent.
    """
    version = version_for(template)
    order, names = axis_names(template)
    origin = geometry.origin_along(order)
    if geometry.affine is not None and origin is None:
        warnings.warn(
            f"{path.name}: OME-Zarr keeps the voxel size and the unit of the image, but not its "
            "rotation or reflection in the world. Write .nii.gz to keep these.",
            SlmSam2Warning,
            stacklevel=2,
        )
    axis = {"type": "space"}
    if geometry.unit in IN_MM:
        axis["unit"] = NGFF_NAMES[geometry.unit]
    time = geometry.time or TimeAxis()
    leading = [_leading_axis(letter, time) for letter in lead]
    steps = [time.step if letter == "t" else 1.0 for letter in lead]
    starts = [time.start if letter == "t" else 0.0 for letter in lead]
    image: dict[str, Any] = {
        "name": path.name.removesuffix(".zarr").removesuffix(".ome"),
        "axes": [*leading, *({"name": name, **axis} for name in names)],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": _placement(
                    geometry.spacing, origin, factor, steps, starts
                ),
            }
            for level, factor in enumerate(factors)
        ],
    }
    if len(factors) > 1:
        image["type"] = "mode"
    labels = _label_description(table)
    if version == "0.4":
        multiscales = [{"version": version, **image}]
        return {"multiscales": multiscales, _LABELS: {"version": version, **labels}}
    return {"ome": {"version": version, "multiscales": [image], _LABELS: labels}}


def _leading_axis(letter: str, time: TimeAxis) -> dict[str, str]:
    """The description of an axis of time or channels."""
    axis = {"name": letter, "type": {"t": "time", "c": "channel"}[letter]}
    if letter == "t" and time.unit in IN_SECONDS:
        axis["unit"] = NGFF_TIME_NAMES[time.unit]
    return axis


def _label_description(table: LabelTable) -> dict[str, Any]:
    labels: dict[str, Any] = {}
    if table.colours:
        labels["colors"] = [
            {"label-value": label, "rgba": [round(255 * part) for part in table.colours[label]]}
            for label in sorted(table.colours)
        ]
    if table.names:
        labels["properties"] = [
            {"label-value": label, "name": table.names[label]} for label in sorted(table.names)
        ]
    return labels


def _placement(
    spacing: Sequence[float],
    origin: Sequence[float] | None,
    factor: Sequence[int],
    steps: Sequence[float] = (),
    starts: Sequence[float] = (),
) -> list[dict[str, Any]]:
    """Voxel size and, where one is known or implied, the place of the first voxel's centre.

    ``steps`` and ``starts`` are those of the axes before the three of space.
    """
    scale = [*steps, *(s * f for s, f in zip(spacing, factor, strict=True))]
    placement: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if origin is not None or max(factor) > 1 or any(starts):
        # The first voxel of a coarser level lies in the middle of those that it stands for.
        first = [
            o + s * (f - 1) / 2
            for o, s, f in zip(origin or (0.0, 0.0, 0.0), spacing, factor, strict=True)
        ]
        placement.append({"type": "translation", "translation": [*starts, *first]})
    return placement


def is_label_store(folder: Path) -> bool:
    """Whether a folder is an OME-Zarr of labels, which other labels may replace."""
    for name, key in ((".zattrs", None), ("zarr.json", "attributes")):
        try:
            content = json.loads((folder / name).read_bytes())
            attributes = content if key is None else content[key]
            found = Metadata.all_of(attributes)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            continue
        if found:
            return found[0].holds_labels
    return False
