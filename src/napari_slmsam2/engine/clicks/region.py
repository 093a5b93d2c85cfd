"""From a box or a lasso to a distance whose level sets are regions between its core and its rim."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from napari_slmsam2.engine.clicks.geodesic import UNLIKE, distance_from

Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int64]

BOX_CORE, BOX_MARGIN, BOX_AREA, BOX_AREA_SPREAD = 0.5, 0.3, 0.68, 0.15
"""For a box: the ellipse that counts as object and the margin around the box, as fractions of its
size; the expected area of the object as a fraction of the box, and the spread of its logarithm."""

LASSO_SLACK, LASSO_AREA_SPREAD = 0.25, 0.2
"""For a lasso: how far the outline may lie from it, as a fraction of the radius of a disc of its
area (at least 1.5 pixels); the spread of the logarithm of the area of the object over its area."""

_BINS = 24


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Where an object is.

    Attributes
    ----------
    core : ndarray of bool, shape (H, W)
        Surely object.
    likely : ndarray of bool, shape (H, W)
        Mostly object: its intensities are learned from.
    beyond : ndarray of bool, shape (H, W)
        Surely not object.
    area : float
        Expected area, in pixels.
    spread : float
        Spread of the logarithm of the area.
    """

    core: Mask
    likely: Mask
    beyond: Mask
    area: float
    spread: float


def box_region(shape: tuple[int, int], box: Field, inside: Pixels, outside: Pixels) -> Region:
    """The region of a box ``(row_min, column_min, row_max, column_max)`` with marked pixels."""
    low, high = box[:2], box[2:]
    rows, columns = np.indices(shape)
    # -1 to 1 along both sides of the box.
    down, right = (
        (places - (a + b) / 2) / ((b - a) / 2)
        for places, a, b in zip((rows, columns), low, high, strict=True)
    )
    within = (np.abs(down) <= 1) & (np.abs(right) <= 1)
    radius = np.hypot(down, right)
    core = within & (radius <= max(BOX_CORE, float(radius.min())))
    core = _marked(core, inside, outside)
    if not core.any():
        core = within & (radius == radius[within].min())
    beyond = ~within
    beyond[tuple(outside.T)] = True
    height, width = high - low
    likely = core | (within & (radius <= 0.7))
    return Region(core, likely, beyond & ~core, BOX_AREA * height * width, BOX_AREA_SPREAD)


def lasso_region(lasso: Mask, inside: Pixels, outside: Pixels) -> Region:
    """The region of the interior of a polygon, shape (H, W), with marked pixels."""
    slack = max(1.5, LASSO_SLACK * float(np.sqrt(lasso.sum() / np.pi)))
    depth = ndi.distance_transform_edt(np.pad(lasso, 1))[1:-1, 1:-1]
    core = depth > min(slack, 0.8 * float(depth.max()))
    core = _marked(core, inside, outside)
    if not core.any():
        core = depth == depth.max()
    beyond = ndi.distance_transform_edt(~lasso) > slack
    beyond[tuple(outside.T)] = True
    likely = core | lasso
    return Region(core, likely, beyond & ~core, float(lasso.sum()), LASSO_AREA_SPREAD)


def _marked(core: Mask, inside: Pixels, outside: Pixels) -> Mask:
    """A core without the surroundings of pixels outside, and with those inside."""
    core = core.copy()
    for row, column in outside:
        core[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = False
    core[tuple(inside.T)] = True
    return core


def region_distance(cost: Field, smooth: Field, region: Region) -> Field:
    """0 in the core of a region, 1 beyond it; shape (H, W).

    Parameters
    ----------
    cost, smooth : ndarray of float, shape (H, W)
        See `gradient_cost`.
    region : Region
    """
    core, beyond = region.core, region.beyond
    if not beyond.any():
        return np.where(region.likely, 0.0, 1.0)
    foreign = _background(smooth, region.likely, beyond)
    inner = distance_from(cost + UNLIKE * foreign, np.argwhere(core))
    outer = distance_from(
        cost + UNLIKE * (1 - foreign), np.argwhere(beyond & ndi.binary_dilation(~beyond))
    )
    ratio = inner / (inner + outer + 1e-12)
    return np.where(beyond, 1.0, ratio)


def _background(smooth: Field, inside: Mask, outside: Mask) -> Field:
    """Probability that an intensity belongs to the outside, from two histograms."""
    low, high = np.percentile(smooth, (2, 98))
    bins = np.clip((smooth - low) / max(high - low, 0.02) * _BINS, 0, _BINS - 1).astype(int)
    shares = []
    for mask in (inside, outside):
        counts = np.bincount(bins[mask], minlength=_BINS).astype(np.float64)
        counts = ndi.gaussian_filter1d(counts, 1.5, mode="nearest") + 0.02
        shares.append(counts / counts.sum())
    return np.asarray((shares[1] / (shares[0] + shares[1]))[bins])
