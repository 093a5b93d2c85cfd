"""Files: images and labels with their geometry, written completely or not at all."""

from __future__ import annotations

from napari_slmsam2.core.atomic_write import atomic_write, check_writable
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.io._ngff import is_label_store
from napari_slmsam2.io.images import LoadedImage, describe, read_image
from napari_slmsam2.io.label_names import named_labels, read_label_names, write_label_names
from napari_slmsam2.io.label_stream import LabelStream
from napari_slmsam2.io.labels import (
    LabelMap,
    check_same_grid,
    read_label_map,
    read_labels,
    write_labels,
)
from napari_slmsam2.io.plausibility import warn_of_few_values
from napari_slmsam2.io.seed_axis import with_seed_axis
from napari_slmsam2.io.series import Series, open_series

__all__ = [
    "LabelMap",
    "LabelStream",
    "LabelTable",
    "LoadedImage",
    "Series",
    "atomic_write",
    "check_same_grid",
    "check_writable",
    "describe",
    "is_label_store",
    "named_labels",
    "open_series",
    "read_image",
    "read_label_map",
    "read_label_names",
    "read_labels",
    "warn_of_few_values",
    "with_seed_axis",
    "write_label_names",
    "write_labels",
]
