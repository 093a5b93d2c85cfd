"""Which slices of a labelled volume play the annotated ones when a model is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import ConfigError, PromptError

SEED_COUNTS = (1, 3, 5)
END_AREA = 0.2
"""An end slice is annotated where the object has this share of its largest area."""


def slice_areas(mask: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.int64]:
    """Pixels of a mask on every slice, shape (n_slices,)."""
    areas: npt.NDArray[np.int64] = np.count_nonzero(
        mask, axis=tuple(a for a in range(3) if a != axis)
    )
    return areas


def largest_slice(mask: npt.NDArray[np.bool_], axis: int) -> int:
    """The slice with the largest area; the first of equal ones.

    Parameters
    ----------
    mask : ndarray of bool, shape (I, J, K)
    axis : int

    Raises
    ------
    PromptError
        The mask is empty.
    """
    areas = slice_areas(mask, axis)
    if not areas.any():
        raise PromptError("mask", "has no voxels, so no slice of it can be a seed")
    return int(areas.argmax())


def choose_seeds(mask: npt.NDArray[np.bool_], axis: int, n: int) -> tuple[int, ...]:
    """The slices that a person would annotate first.

    One: the largest slice. Three: also the first and the last slice with at least 20 % of its
    area. Five: also the slices midway between those (the nearest one with the object).

    Parameters
    ----------
    mask : ndarray of bool, shape (I, J, K)
        One label.
    axis : int
    n : {1, 3, 5}

    Returns
    -------
    tuple of int
        Sorted, without repetition: fewer than ``n`` where slices coincide.

    Raises
    ------
    ConfigError
        Another number of seeds.
    PromptError
        The mask is empty.
    """
    if n not in SEED_COUNTS:
        raise ConfigError(
            "number of seeds", "is not one of the choices", expected="1, 3 or 5", found=n
        )
    areas = slice_areas(mask, axis)
    largest = largest_slice(mask, axis)
    if n == 1:
        return (largest,)
    wide = np.flatnonzero(areas >= END_AREA * areas[largest])
    seeds = {int(wide[0]), largest, int(wide[-1])}
    if n == 5:
        present = np.flatnonzero(areas)
        for end in (wide[0], wide[-1]):
            middle = (int(end) + largest) / 2
            seeds.add(int(present[np.abs(present - middle).argmin()]))
    return tuple(sorted(seeds))


def seed_volume(
    labels: npt.NDArray[np.integer], seeds_per_label: Mapping[int, Iterable[int]], axis: int
) -> npt.NDArray[np.integer]:
    """A label volume that holds every label on its seed slices only.

    Parameters
    ----------
    labels : ndarray of integer, shape (I, J, K)
    seeds_per_label : mapping of label to slice indices
    axis : int

    Returns
    -------
    ndarray
        Shape and dtype of ``labels``.

    Raises
    ------
    PromptError
        A label has no voxel on one of its seed slices.
    """
    seeds = np.zeros_like(labels)
    for label, indices in seeds_per_label.items():
        for index in indices:
            here = tuple(index if a == axis else slice(None) for a in range(3))
            mask = labels[here] == label
            if not mask.any():
                raise PromptError(f"label {label}", "is not on its seed slice", found=index)
            seeds[here][mask] = label
    return seeds
