"""Checks of an image and its seeds against mistakes that no run can make good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.core.prompts import PromptSet
from napari_slmsam2.core.volume import Volume

_MANY_LABELS = 50
_MIN_VOXELS = 1000
_SAMPLED_SLICES = 16
_STRAY_SHARE = 0.02
_STRAY_VOXELS = 2
_OBJECT_VOXELS = 10


@dataclass(frozen=True, slots=True)
class StraySeed:
    """An annotated slice with hardly any voxels beside the other ones of its label.

    Attributes
    ----------
    label, index : int
    voxels : int
        Annotated on this slice.
    largest : int
        Voxels of the largest annotation of the label.
    """

    label: int
    index: int
    voxels: int
    largest: int


def find_stray_seeds(prompts: PromptSet) -> tuple[StraySeed, ...]:
    """Find seeds of few voxels, which are probably slips of the pen.

    Every annotated slice counts as a complete annotation of its label: a voxel painted by mistake
    ends the object there. A seed is stray if it has at most a fiftieth of the voxels of the
    label's largest one, or at most 2 voxels where that has 10 or more.

    Parameters
    ----------
    prompts : PromptSet

    Returns
    -------
    tuple of StraySeed
        Ordered by label and slice.
    """
    areas: dict[int, dict[int, int]] = {}
    for prompt in prompts:
        if prompt.mask is not None:
            areas.setdefault(prompt.label, {})[prompt.index] = int(np.count_nonzero(prompt.mask))
    found = []
    for label in sorted(areas):
        largest = max(areas[label].values())
        few = max(_STRAY_SHARE * largest, _STRAY_VOXELS if largest >= _OBJECT_VOXELS else 0)
        found += [
            StraySeed(label, index, area, largest)
            for index, area in sorted(areas[label].items())
            if area <= few
        ]
    return tuple(found)


def check_labels(labels: npt.NDArray[np.integer], name: str) -> None:
    """Refuse an image that was given as labels.

    Labels form areas of one value; neighbouring voxels of an image differ.

    Parameters
    ----------
    labels : ndarray of int, shape (I, J, K)
    name : str
        The file, for the message.

    Raises
    ------
    VolumeError
    """
    values, voxels, same = _coherence(labels)
    if values > _MANY_LABELS and voxels > _MIN_VOXELS and same < 0.5:
        raise VolumeError(
            name,
            "looks like an image, not like labels",
            expected="areas of one value each",
            found=f"{values} values; {100 * (1 - same):.0f} % of the neighbouring voxels differ",
            hint="Were image and seeds exchanged?",
        )


def check_image(volume: Volume, seeds: npt.NDArray[np.integer]) -> None:
    """Refuse a label map that was given as the image.

    Parameters
    ----------
    volume : Volume
    seeds : ndarray of int, shape of the volume

    Raises
    ------
    VolumeError
        All seeds have the value of the image, which consists of areas of few values.
    """
    dtype = np.dtype(volume.data.dtype)
    if dtype.kind not in "bui":
        return
    compared = False
    for index in range(volume.n_slices):
        drawn = np.asarray(seeds[volume.slicer(index)])
        if drawn.any():
            plane = volume.take(index)
            if (plane[drawn != 0] != drawn[drawn != 0]).any():
                return
            compared = True
    if compared:
        raise VolumeError(
            volume.name,
            "is a label map, not an image",
            expected="intensities",
            found="the value of the label in every voxel that the seeds annotate",
            hint="Give the scan as the image.",
        )


def _coherence(labels: npt.NDArray[np.integer]) -> tuple[int, int, float]:
    """Values, voxels, and the share of equal ones among neighbours, on some slices."""
    indices: Iterable[int] = np.unique(
        np.linspace(0, labels.shape[0] - 1, _SAMPLED_SLICES).round().astype(int)
    ).tolist()
    values: set[int] = set()
    voxels = pairs = equal = 0
    for index in indices:
        plane = np.asarray(labels[index])
        values.update(np.unique(plane[plane != 0]).tolist())
        voxels += int(np.count_nonzero(plane))
        for one, other in ((plane[1:], plane[:-1]), (plane[:, 1:], plane[:, :-1])):
            labelled = (one != 0) & (other != 0)
            pairs += int(np.count_nonzero(labelled))
            equal += int(np.count_nonzero(labelled & (one == other)))
    return len(values), voxels, equal / pairs if pairs else 1.0
