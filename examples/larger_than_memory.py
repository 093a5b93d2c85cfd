"""Propagate in a part of a dask array, whose slices are computed when they are needed.

Arrays of dask and zarr, and memory maps, are never loaded as a whole.
"""

from __future__ import annotations

import dask.array as da
import numpy as np

from napari_slmsam2 import SegmentationSession, Volume
from napari_slmsam2.core.prompts import SlicePrompt

SHAPE = (2000, 256, 256)  # 0.5 GB as float32; each chunk is one slice


def make_slice(block_id: tuple[int, ...]) -> np.ndarray:
    """A slice of a bent tube in noise."""
    z = block_id[0]
    rows, columns = np.ogrid[: SHAPE[1], : SHAPE[2]]
    center = 128 + 40 * np.sin(z / 60), 128 + 40 * np.cos(z / 60)
    tube = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < 18**2
    noise = np.random.default_rng(z).normal(0, 0.2, SHAPE[1:])
    return (tube + noise)[None].astype(np.float32)


image = da.map_blocks(
    make_slice,
    chunks=((1,) * SHAPE[0], SHAPE[1:2], SHAPE[2:]),
    dtype=np.float32,
    meta=np.empty((0, 0, 0), np.float32),
)
session = SegmentationSession(Volume(image, axis=0, spacing=(2, 1, 1), unit="um"))
seed = np.asarray(image[1000]) > 0.7
session.add_prompt(SlicePrompt.from_mask(label=1, index=1000, mask=seed))
session.set_extent(1, 980, 1020)
for _ in session.propagate():
    pass
slices = np.flatnonzero(session.labels.any(axis=(1, 2)))
print(f"label 1 on slices {slices[0]} to {slices[-1]}")
