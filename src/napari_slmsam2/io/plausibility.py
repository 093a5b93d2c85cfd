"""A check that an image is not a label map, before long work begins."""

from __future__ import annotations

import warnings

import numpy as np

from napari_slmsam2.core.errors import SlmSam2Warning
from napari_slmsam2.core.volume import Volume

_SAMPLED_SLICES = 16
_FEW_VALUES = 24
"""An image of whole numbers with at most this many values looks like a label map."""


def warn_of_few_values(image: Volume) -> None:
    """Warn of an image that looks like a label map.

    Parameters
    ----------
    image : Volume
        At most 16 of its slices are read.

    Warns
    -----
    SlmSam2Warning
        It has whole numbers from 0, and few different ones.
    """
    if np.dtype(image.data.dtype).kind not in "bui":
        return
    values: set[int] = set()
    n = image.n_slices
    for index in {round(i) for i in np.linspace(0, n - 1, min(n, _SAMPLED_SLICES))}:
        values.update(np.unique(image.take(index)).tolist())
        if len(values) > _FEW_VALUES:
            return
    if min(values) >= 0:
        warnings.warn(
            f"{image.name}: it has only {len(values)} different values and looks like a label "
            "map. Is it the image?",
            SlmSam2Warning,
            stacklevel=2,
        )
