"""Where a sweep is between the largest slice of an object and its end, as far as that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.engine.features.interpolation import resized

ELLIPSOID_SHARE = 0.5
"""Share of the ellipsoid, against the flow, in the area of a slice before a marked end."""

MAX_SHARE = 0.98
"""Share of the half length that lies behind a seed of a much smaller area, at most."""

OPEN_SHARE = 1 / 3
"""Half length that is expected beyond the outermost seed, over the distance between the outermost
seeds, where the object reaches further than a sphere through the largest one."""

SHRINKAGE = 0.05
"""Part of the inner radius that is taken off per half length travelled towards an open end."""


@dataclass(frozen=True, slots=True)
class Taper:
    """How far along its object a sweep is, as far as the seeds show it.

    Towards a marked end the object is thought of as half an ellipsoid that passes through the seed
    from which the sweep comes, with the area of the largest seed at its equator.

    Attributes
    ----------
    apex : float
        Slice from which the distance is measured: the equator of the ellipsoid before a marked
        end, else the seed from which the sweep comes.
    area : float
        Area on the apex, in pixels.
    half_length : float
        Slices from the apex to the end: to the marked end, or as far as a sphere through the
        seed, or an ellipsoid through it and the largest seed, would reach; the shorter of both.
        With several seeds at most what is left of a sphere through the largest one, or a share of
        the distance between the outermost seeds, whichever is longer.
    end : int or None
        First slice without the object, if the person marked it.
    between : bool
        The sweep runs towards another slice on which the object was annotated.
    """

    apex: float
    area: float
    half_length: float
    end: int | None = None
    between: bool = False

    def travel(self, index: int) -> float:
        """Distance of a slice from the apex, in half lengths."""
        return abs(index - self.apex) / self.half_length

    def shape(self, distance: npt.NDArray[np.float32], index: int) -> npt.NDArray[np.float32]:
        """Make a mask shrink towards the end where it does not do so by itself.

        Parameters
        ----------
        distance : ndarray of float32, shape (H, W)
            Signed distance to the outline, positive inside.
        index : int
            Slice of the mask.

        Returns
        -------
        ndarray of float32, shape (H, W)
            The distance minus a constant. Before a marked end at least one pixel stays.
        """
        area = int((distance > 0).sum())
        if self.between or area == 0:
            return distance
        if self.end is None:
            part = min(0.6, SHRINKAGE * self.travel(index))
            return distance - np.float32(part * distance.max())
        ellipsoid = self.area * max(0.0, 1.0 - self.travel(index) ** 2)
        wanted = area ** (1 - ELLIPSOID_SHARE) * ellipsoid**ELLIPSOID_SHARE
        if wanted >= area:
            return distance
        return resized(distance, wanted)


def find_taper(
    areas: Mapping[int, int],
    index: int,
    direction: int,
    extent: tuple[int, int] | None,
    spacing: tuple[float, float, float],
) -> Taper:
    """The taper of an object on the slices ahead of a sweep, from the seeds of its label.

    Parameters
    ----------
    areas : mapping of slice index to int
        Area of each seed in pixels, 0 where the object is absent. At least one lies behind.
    index : int
        Slice that the sweep has reached.
    direction : {+1, -1}
    extent : tuple of int or None
        First and last slice of the object, if the person marked them.
    spacing : tuple of float
        ``(slice, row, column)`` distance of the voxel centres.
    """
    behind = {i: a for i, a in areas.items() if (index - i) * direction > 0 and a}
    ahead = [i for i in areas if (i - index) * direction > 0]
    source = max(behind, key=lambda i: i * direction)
    following = min(ahead, key=lambda i: i * direction, default=None)
    if following is not None and areas[following]:
        area = behind[source]
        return Taper(source, area, _sphere_radius(area, spacing), between=True)
    apex = max(behind, key=lambda i: (behind[i], i * direction))
    # Of the half length of the ellipsoid through both seeds, by the area of the nearer one.
    passed = float(np.sqrt(1.0 - behind[source] / behind[apex]))
    ends = [] if following is None else [following]
    if extent is not None:
        ends.append(extent[1] + 1 if direction > 0 else extent[0] - 1)
    if ends:
        end = min(ends, key=lambda i: i * direction)
        share = min(MAX_SHARE, passed)
        half_length = max(1, abs(end - source)) / (1.0 - share)
        return Taper(end - direction * half_length, behind[apex], half_length, end=end)
    half_length = _sphere_radius(behind[source], spacing)
    if passed:
        from_apex = abs(source - apex) / passed
        half_length = min(half_length, from_apex - abs(source - apex))
    if len(behind) > 1:
        left = _sphere_radius(behind[apex], spacing) - abs(source - apex)
        span = max(abs(source - i) for i in behind)
        half_length = max(0.5, min(half_length, max(left, OPEN_SHARE * span)))
    return Taper(source, behind[source], half_length)


def _sphere_radius(area: float, spacing: tuple[float, float, float]) -> float:
    along, row, column = spacing
    return max(0.5, float(np.sqrt(area / np.pi * row * column)) / along)
