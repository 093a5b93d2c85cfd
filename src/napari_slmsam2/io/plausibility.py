"""Checks that an image is an image and labels are labels, before long work begins."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import SlmSam2Warning, VolumeError
from napari_slmsam2.core.volume import Volume

_SAMPLED_SLICES = 16
_MANY_VALUES = 64
"""Fewer values than these, each in its own places, may be anybody's labels."""

_FEW_VALUES = 24
"""An image of whole numbers with fewer values than these looks like a label map."""

_FLAT = 0.5
"""Share of neighbouring labelled voxels that are equal: near 1 in labels, near 0 in an image."""


def looks_like_labels(volume: Volume) -> bool:
    """Whether an image has so few values that it looks like a label map.

    Parameters
    ----------
    volume : Volume
        At most 16 of its slices are read.
    """
    if np.dtype(volume.data.dtype).kind not in "bui":
        return False
    values: set[int] = set()
    for index in _sample(volume.n_slices):
        values.update(np.unique(volume.take(index)).tolist())
        if len(values) > _FEW_VALUES:
            return False
    return min(values) >= 0 and len(values) > 1


def looks_like_an_image(labels: npt.NDArray[np.integer], axis: int = 0) -> bool:
    """Whether an array of labels has the values of an image.

    Labels are equal over whole regions. An image has many values, and most of them differ from
    those of their neighbours.

    Parameters
    ----------
    labels : ndarray of int, shape (I, J, K)
    axis : int
        The axis along which slices are taken.
    """
    values: set[int] = set()
    equal = pairs = 0
    filled = np.flatnonzero(labels.any(axis=tuple(a for a in range(3) if a != axis)))
    for position in _sample(len(filled)):
        plane = np.take(labels, filled[position], axis)
        values.update(np.unique(plane).tolist())
        left, right = plane[:, :-1], plane[:, 1:]
        inside = (left > 0) & (right > 0)
        pairs += int(inside.sum())
        equal += int((inside & (left == right)).sum())
    return len(values) > _MANY_VALUES and pairs > 0 and equal < _FLAT * pairs


def _sample(n: int) -> list[int]:
    """Up to 16 indices, evenly spread."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, _SAMPLED_SLICES))})


def check_roles(
    image: Volume, labels: npt.NDArray[np.integer], image_path: Path, labels_path: Path
) -> None:
    """Refuse an image given as labels, and report labels given as an image.

    Parameters
    ----------
    image : Volume
    labels : ndarray of int, shape of the image
    image_path, labels_path : Path
        For messages.

    Raises
    ------
    VolumeError
        The labels have the values of an image.

    Warns
    -----
    SlmSam2Warning
        The image has the values of a label map.
    """
    flat = looks_like_labels(image)
    if looks_like_an_image(labels, image.axis):
        swapped = f" and {image_path} looks like labels: swap the two files" if flat else ""
        raise VolumeError(
            str(labels_path), "looks like an image, not like labels" + swapped,
            expected="regions of equal values, 0 for background",
            found=f"many values up to {int(labels.max())} that change from voxel to voxel",
        )  # fmt: skip
    if flat:
        warnings.warn(
            f"{image_path}: it has at most {_FEW_VALUES} different values and looks like a label "
            "map. Is it the image?",
            SlmSam2Warning,
            stacklevel=2,
        )
