"""Time series: one volume per time point of an opened file."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io.formats import format_to_read
from napari_slmsam2.io.images import LoadedImage, explained, load_volume
from napari_slmsam2.io.labels import LabelMap, labels_of
from napari_slmsam2.io.raw import IndexedView, RawImage
from napari_slmsam2.io.selection import Selection


@dataclass(frozen=True, eq=False)
class Series:
    """A file with several time points, which is read once.

    Attributes
    ----------
    raw : RawImage
    path : Path
    selection : Selection
        Without a time point.
    axis : int or None
        Propagation axis.
    """

    raw: RawImage
    path: Path
    selection: Selection
    axis: int | None = None

    @property
    def n_times(self) -> int:
        """Number of time points."""
        return self.raw.n_times

    def image(self, time: int) -> LoadedImage:
        """The volume of a time point, read when slices are taken.

        Raises
        ------
        VolumeError
            There is no such time point, or it is no 3D image.
        """
        with explained(self.path):
            return load_volume(self.raw, self.path, self._at(time), self.axis)

    def labels(
        self, time: int, like: LoadedImage | None = None, *, trust_voxels: bool = False
    ) -> LabelMap:
        """The labels of a time point, see `read_label_map`."""
        with explained(self.path):
            return labels_of(self.raw, self.path, self._at(time), like, trust_voxels=trust_voxels)

    def _at(self, time: int) -> Selection:
        return replace(self.selection, time=time if self.n_times > 1 else None)


def open_series(
    path: str | os.PathLike[str],
    *,
    axis: int | None = None,
    image: int | str | None = None,
    channel: int | str | None = None,
    stack: Literal["channel", "time"] | None = None,
    option_prefix: str = "",
) -> Series:
    """Open a file with all of its time points.

    Parameters
    ----------
    path : path-like
    axis, image, channel, stack, option_prefix : optional
        See `read_image`.

    Raises
    ------
    VolumeError
        The file is missing, damaged or of no known format.
    """
    path = Path(path)
    selection = Selection(image, channel, None, stack, option_prefix)
    with explained(path):
        raw = format_to_read(path).read(path, selection)
        if stack == "time":
            raise VolumeError(
                str(path), "its time points were chosen as the slices", found="stack time",
                hint="Leave the choice of all time points out.",
            )  # fmt: skip
        # A view of an array in memory: its volumes are not copied.
        view = IndexedView(raw.data, (None,) * len(raw.data.shape))
        return Series(replace(raw, data=view), path, selection, axis)
