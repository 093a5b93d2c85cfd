"""NPY files: plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.io.geometry import Geometry, default_axes
from napari_slmsam2.io.raw import RawImage
from napari_slmsam2.io.selection import Selection, choose_image


def read(path: Path, selection: Selection) -> RawImage:
    """Open an array; it stays in the file."""
    choose_image(str(path), selection, ("",))
    data = np.load(path, mmap_mode="r", allow_pickle=False)
    return RawImage(data, default_axes(data.ndim), "NPY", named=False)


def write(
    path: Path, labels: npt.NDArray[Any], geometry: Geometry, template: Any, lead: str = ""
) -> None:
    """Write labels as an NPY file, which keeps no voxel size and no names of axes."""
    del geometry, template, lead
    np.save(path, labels, allow_pickle=False)
