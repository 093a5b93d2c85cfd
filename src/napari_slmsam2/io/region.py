"""A part of an image: which voxels, and their exact place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io.geometry import Geometry
from napari_slmsam2.io.raw import IndexedView

if TYPE_CHECKING:
    from napari_slmsam2.io.images import LoadedImage

_Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Region:
    """A box of voxels.

    Attributes
    ----------
    start : tuple of int
        Its first voxel, along the axes of the file.
    stop : tuple of int
        One after its last voxel.
    """

    start: _Triple
    stop: _Triple

    @classmethod
    def of(cls, roi: Sequence[slice], shape: _Triple, order: str, what: str) -> Region:
        """The region that an index expression selects, such as ``np.s_[10:60, :, 100:200]``.

        Parameters
        ----------
        roi : sequence of slice
            Along the axes of the file. An end that is None is that of the image.
        shape : tuple of int
            Of the image.
        order : str
            Names of the axes.
        what : str
            The file, for messages.

        Raises
        ------
        VolumeError
            The region is empty, or a part of it lies outside the image.
        """
        full = ", ".join(f"{axis} 0:{n}" for axis, n in zip(order, shape, strict=True))
        given = ",".join(_written(side) for side in roi)
        if len(roi) != 3 or any(side.step not in (None, 1) for side in roi):
            raise VolumeError(
                what, "is a volume, of which the region does not name three ranges",
                expected=f"START:STOP for each of the axes {', '.join(order)}", found=given,
            )  # fmt: skip
        ends = [
            (0 if side.start is None else side.start, n if side.stop is None else side.stop)
            for side, n in zip(roi, shape, strict=True)
        ]
        if not all(0 <= start < stop <= n for (start, stop), n in zip(ends, shape, strict=True)):
            raise VolumeError(
                what, "does not hold the region", expected=f"START < STOP within {full}",
                found=given, hint="STOP is not part of the region. A colon alone is a whole axis.",
            )  # fmt: skip
        (i, a), (j, b), (k, c) = ends
        return cls((i, j, k), (a, b, c))

    @property
    def key(self) -> tuple[slice, slice, slice]:
        """The index expression."""
        i, j, k = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k

    def __str__(self) -> str:
        return ",".join(map(_written, self.key))


def _written(side: slice) -> str:
    return f"{'' if side.start is None else side.start}:{'' if side.stop is None else side.stop}"


def crop(image: LoadedImage, roi: Sequence[slice]) -> LoadedImage:
    """A part of an image, with its own geometry; nothing is read.

    Parameters
    ----------
    image : LoadedImage
    roi : sequence of slice
        See `Region.of`.

    Raises
    ------
    VolumeError
        The region is empty, or a part of it lies outside the image.
    """
    volume = image.volume
    region = Region.of(roi, volume.shape, image.order, volume.name)
    geometry = cropped_geometry(image.geometry, region)
    part = replace(
        volume,
        data=IndexedView(volume.data, region.key),
        affine=geometry.affine,
        start=region.start,
    )
    template = _cropped_template(image.template, region)
    return replace(
        image, volume=part, geometry=geometry, template=template, region=region, whole=image
    )


def cropped_geometry(geometry: Geometry, region: Region) -> Geometry:
    """The geometry of a part of an image."""
    affine, start = geometry.affine, np.array(region.start, np.float64)
    if affine is not None:
        affine = affine.copy()
        affine[:3, 3] += affine[:3, :3] @ start
    i, j, k = (start * geometry.spacing + (geometry.origin or 0.0)).tolist()
    return replace(geometry, affine=affine, origin=(i, j, k) if affine is None else None)


def _cropped_template(template: Any, region: Region) -> Any:
    """The template where it does not hold the place of the first voxel, or with another place."""
    if isinstance(template, dict):
        return template if {"ngff", "flavour"} & template.keys() else None
    if not hasattr(template, "set_sform"):
        return None
    header = template.copy()
    # The transforms of a header may differ; each one that is set moves by the same voxels.
    if int(header["sform_code"]) > 0:
        sform = header.get_sform()
        for row, place in zip("xyz", sform[:3, :3] @ region.start + sform[:3, 3], strict=True):
            header[f"srow_{row}"][3] = place
    if int(header["qform_code"]) > 0:
        qform = header.get_qform()
        for row, place in zip("xyz", qform[:3, :3] @ region.start + qform[:3, 3], strict=True):
            header[f"qoffset_{row}"] = place
    return header
