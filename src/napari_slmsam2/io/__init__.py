"""Files: images and labels with their geometry, and writing that is all or nothing."""

from __future__ import annotations

from napari_slmsam2.core.atomic_write import atomic_write, check_writable
from napari_slmsam2.io._ngff import is_label_store
from napari_slmsam2.io.images import LoadedImage, describe, read_image
from napari_slmsam2.io.labels import check_same_grid, read_labels, write_labels
from napari_slmsam2.io.seed_axis import with_seed_axis

__all__ = [
    "LoadedImage",
    "atomic_write",
    "check_same_grid",
    "check_writable",
    "describe",
    "is_label_store",
    "read_image",
    "read_labels",
    "with_seed_axis",
    "write_labels",
]
