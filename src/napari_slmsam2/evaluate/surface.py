"""Distances between the surfaces of two masks on an anisotropic grid.

A surface element sits at every corner where eight voxels meet that are not all inside or all
outside; its area is the piece of the marching-cubes surface between their centres (the surface
elements of Nikolov et al. 2021, doi:10.2196/26151, whose normalised surface Dice this is).
MONAI's metrics are not used: importing them takes ten seconds and more and pulls pandas and
torchvision where installed, and by default they weigh edge voxels instead of areas.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Surface:
    """The surface elements of a mask.

    Attributes
    ----------
    corners : ndarray of int64, shape (n, 3)
        Corner ``(i, j, k)`` is shared by the voxels ``i - 1`` and ``i`` along the first axis, and
        so on.
    areas : ndarray of float64, shape (n,)
        In squared units of the spacing.
    """

    corners: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.areas)


@dataclass(frozen=True, slots=True)
class SurfaceScores:
    """Agreement of two surfaces.

    Attributes
    ----------
    nsd : float
        Normalised surface Dice: share of both surfaces that lies within the tolerance of the
        other one. 0 where one mask is empty, NaN where both are.
    hd95 : float
        The larger of the two directed 95th percentiles of the distance, in the unit of the
        spacing. NaN where a mask is empty.
    assd : float
        Average symmetric surface distance, in the unit of the spacing. NaN where a mask is empty.
    """

    nsd: float
    hd95: float
    assd: float


def extract_surface(
    mask: npt.NDArray[np.bool_], spacing: Spacing, origin: tuple[int, int, int] = (0, 0, 0)
) -> Surface:
    """Find the surface elements of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (I, J, K)
        Beyond its edges there is no object.
    spacing : tuple of float
        Distance of the voxel centres along the three axes.
    origin : tuple of int
        Index of the mask's first voxel in the volume that it was cut from.

    Returns
    -------
    Surface
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    code = np.zeros(tuple(n + 1 for n in mask.shape), np.uint8)
    for bit, (i, j, k) in enumerate(product((0, 1), repeat=3)):
        view = padded[
            i : i + code.shape[0],
            j : j + code.shape[1],
            k : k + code.shape[2],
        ]
        code |= view << np.uint8(bit)
    corners = np.argwhere((code > 0) & (code < 255))
    areas = _corner_areas(spacing)[code[tuple(corners.T)]]
    return Surface(corners + np.asarray(origin, np.int64), areas)


@lru_cache(maxsize=16)
def _corner_areas(spacing: Spacing) -> npt.NDArray[np.float64]:
    """Area of the surface through each of the 256 ways to fill the 8 voxels around a corner.

    A mask and its complement share one surface, so of the two readings of an ambiguous corner the
    smaller area counts.
    """
    from skimage.measure import marching_cubes, mesh_surface_area

    areas = np.zeros(256)
    for code in range(1, 255):
        cube = np.array([code >> bit & 1 for bit in range(8)], np.float32).reshape(2, 2, 2)
        vertices, faces, _, _ = marching_cubes(cube, 0.5, spacing=spacing, method="lorensen")
        areas[code] = mesh_surface_area(vertices, faces)
    return np.minimum(areas, areas[::-1])


def surface_distances(
    first: Surface, second: Surface, spacing: Spacing
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distance of every element of one surface to the nearest element of the other.

    Exact, through k-d trees: time and memory follow the surfaces, not the volume between them.

    Returns
    -------
    first_to_second, second_to_first : ndarray of float64
        In the unit of the spacing; infinite where the other surface has no elements.
    """
    from scipy.spatial import KDTree

    if not len(first) or not len(second):
        return np.full(len(first), np.inf), np.full(len(second), np.inf)
    here, there = (s.corners * np.asarray(spacing) for s in (first, second))
    to_second, _ = KDTree(there).query(here)
    to_first, _ = KDTree(here).query(there)
    return to_second, to_first


@dataclass(frozen=True, eq=False)
class SurfacePair:
    """Two surfaces and how far their elements lie from each other.

    Attributes
    ----------
    surfaces : tuple of two Surface
    distances : tuple of two ndarrays of float64
        From `surface_distances`.
    """

    surfaces: tuple[Surface, Surface]
    distances: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

    @classmethod
    def of(cls, first: Surface, second: Surface, spacing: Spacing) -> SurfacePair:
        """Measure two surfaces against each other."""
        return cls((first, second), surface_distances(first, second, spacing))

    def score(self, tolerance: float, keep: npt.NDArray[np.bool_], axis: int) -> SurfaceScores:
        """Sum up the distances over some slices.

        An element lies between two slices and counts for both by half.

        Parameters
        ----------
        tolerance : float
            Distance up to which a surface counts as right, in the unit of the spacing.
        keep : ndarray of bool, shape (n_slices,)
            Slices that count.
        axis : int
            Axis of the slices.
        """
        kept = np.pad(keep.astype(float), 1, mode="edge")
        share = (kept[:-1] + kept[1:]) / 2
        sides = [
            (distances, surface.areas * share[surface.corners[:, axis]])
            for surface, distances in zip(self.surfaces, self.distances, strict=True)
        ]
        area = sum(float(weights.sum()) for _, weights in sides)
        if area == 0:
            return SurfaceScores(np.nan, np.nan, np.nan)
        if not all(len(surface) for surface in self.surfaces):
            return SurfaceScores(0.0, np.nan, np.nan)
        # Rounding of the scaled coordinates must not decide at the tolerance itself.
        limit = tolerance * (1 + 1e-9)
        close = sum(float(weights[distances <= limit].sum()) for distances, weights in sides)
        return SurfaceScores(
            nsd=close / area,
            hd95=max(_weighted_percentile(d, w, 0.95) for d, w in sides if w.any()),
            assd=sum(float(d @ w) for d, w in sides) / area,
        )


def _weighted_percentile(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], share: float
) -> float:
    """The smallest value that at least this share of the weight does not exceed."""
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulated, share * cumulated[-1] * (1 - 1e-12))])
