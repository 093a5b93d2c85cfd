"""Encoding of a slice, with the neighbouring slices that the model reads beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.segmenter import SliceSegmenter
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache

THICK_SLICES = 8.0
"""Distance of slices over the distance of pixels from which neighbours show another anatomy: the
slice itself is read in their place."""


def slices_to_encode(
    index: int,
    n_slices: int,
    neighbours: int,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> tuple[int, ...]:
    """The slices that the embedding of a slice depends on.

    Parameters
    ----------
    index : int
    n_slices : int
        Of the volume; beyond its ends the outermost slice is repeated.
    neighbours : int
        Slices on either side that the model reads.
    spacing : tuple of float
        ``(slice, row, column)`` distance of the voxel centres.

    Returns
    -------
    tuple of int, of length 2 * neighbours + 1
        In order; ``index`` is in the middle.
    """
    if spacing[0] > THICK_SLICES * float(np.sqrt(spacing[1] * spacing[2])):
        return (index,) * (2 * neighbours + 1)
    around = range(index - neighbours, index + neighbours + 1)
    return tuple(min(max(i, 0), n_slices - 1) for i in around)


def encode_slice(
    segmenter: SliceSegmenter,
    volume: Volume,
    window: IntensityWindow,
    index: int,
    cache: EmbeddingCache,
    call: Callable[[Callable[[], Any]], Any] = lambda compute: compute(),
) -> Any:
    """The embedding of a slice, from the cache or from the model.

    Parameters
    ----------
    segmenter : SliceSegmenter
    volume : Volume
    window : IntensityWindow
    index : int
    cache : EmbeddingCache
        Of this segmenter, volume and window; the slices that were read are the key.
    call : callable
        ``call(compute)`` runs the model, see
        `napari_slmsam2.engine.propagation.memory_fallback.MemoryFallback.call`.
    """

    def encode(slices: tuple[int, ...]) -> Any:
        image = _read(volume, window, slices)
        return call(lambda: segmenter.encode_image(image))

    key = slices_to_encode(index, volume.n_slices, segmenter.neighbours, volume.slice_spacing)
    return cache.get(key, encode, getattr(segmenter, "most_stored", None))


def encode_ahead(
    segmenter: SliceSegmenter,
    volume: Volume,
    window: IntensityWindow,
    indices: Sequence[int],
    cache: EmbeddingCache,
    encode: Callable[[Sequence[npt.NDArray[np.float32]]], Sequence[Any]],
) -> None:
    """Store the embeddings of the next slices, if that of the first one is not stored yet.

    Parameters
    ----------
    segmenter, volume, window, cache : object
        See `encode_slice`.
    indices : sequence of int
        The next slices.
    encode : callable
        Gives the embeddings of images, as one batch.
    """
    keys = [
        slices_to_encode(index, volume.n_slices, segmenter.neighbours, volume.slice_spacing)
        for index in indices
    ]
    missing = list(dict.fromkeys(key for key in keys if key not in cache))
    if not missing or missing[0] != keys[0] or not cache.has_room(len(missing)):
        return
    images = [_read(volume, window, key) for key in missing]
    for key, embedding in zip(missing, encode(images), strict=True):
        cache.put(key, embedding)


def _read(
    volume: Volume, window: IntensityWindow, slices: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    images = [window.apply(volume.take(i)) for i in slices]
    return images[0] if len(images) == 1 else np.stack(images)
