"""Which slices of a labelled volume play the annotated ones when a model is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import ConfigError, PromptError

SEED_COUNTS = (1, 3, 5)
END_AREA = 0.2
"""An end slice is annotated where the object has this share of its largest area."""

INNER_SEEDS = (0.2, 0.5, 0.8)
"""Shares of the extent at which slices are annotated that leave both ends to the model."""


@dataclass(frozen=True, slots=True)
class AnnotationProtocol:
    """Annotations that are taken from the truth before a model is measured.

    Attributes
    ----------
    n_seeds : {1, 3, 5}
        Annotated slices, see `choose_seeds`.
    ends : bool
        Whether the first and the last slice of the object are marked as well.
    inner : bool
        Whether the slices are those of `choose_inner_seeds`; for three only.
    """

    n_seeds: int
    ends: bool = False
    inner: bool = False

    @classmethod
    def parse(cls, text: str) -> AnnotationProtocol:
        """Read ``3``, ``3-ends``, ``3-inner`` or ``3-inner-ends``.

        Raises
        ------
        ConfigError
            There is no such protocol.
        """
        for protocol in PROTOCOLS:
            if str(protocol) == text:
                return protocol
        raise ConfigError(
            "protocol", "is not known", expected=" | ".join(map(str, PROTOCOLS)), found=repr(text)
        )

    def __str__(self) -> str:
        return f"{self.n_seeds}{'-inner' * self.inner}{'-ends' * self.ends}"

    def choose_seeds(self, mask: npt.NDArray[np.bool_], axis: int) -> tuple[int, ...]:
        """The annotated slices of one label, shape (I, J, K); sorted, without repetition."""
        if self.inner:
            return choose_inner_seeds(mask, axis)
        return choose_seeds(mask, axis, self.n_seeds)


PROTOCOLS = tuple(
    AnnotationProtocol(n, ends, inner)
    for n, inner in ((1, False), (3, False), (3, True), (5, False))
    for ends in (False, True)
)


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


def object_extent(mask: npt.NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """The first and the last slice with the object.

    Parameters
    ----------
    mask : ndarray of bool, shape (I, J, K)
    axis : int

    Raises
    ------
    PromptError
        The mask is empty.
    """
    present = np.flatnonzero(slice_areas(mask, axis))
    if not present.size:
        raise PromptError("mask", "has no voxels, so it begins and ends nowhere")
    return int(present[0]), int(present[-1])


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


def choose_inner_seeds(mask: npt.NDArray[np.bool_], axis: int) -> tuple[int, ...]:
    """The slices at 20, 50 and 80 % of the extent, or the nearest ones with the object.

    Parameters
    ----------
    mask : ndarray of bool, shape (I, J, K)
        One label.
    axis : int

    Returns
    -------
    tuple of int
        Sorted, without repetition.

    Raises
    ------
    PromptError
        The mask is empty.
    """
    first, last = object_extent(mask, axis)
    present = np.flatnonzero(slice_areas(mask, axis))
    places = (first + share * (last - first) for share in INNER_SEEDS)
    return tuple(sorted({int(present[np.abs(present - place).argmin()]) for place in places}))


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
