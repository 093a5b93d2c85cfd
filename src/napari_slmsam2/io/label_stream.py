"""Labels that are written to an OME-Zarr while they are computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.atomic_write import AtomicTarget
from napari_slmsam2.core.errors import GridMismatchError, OutputError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.io._ngff import is_label_store
from napari_slmsam2.io.chunked_array import ChunkedArray
from napari_slmsam2.io.formats import format_to_write
from napari_slmsam2.io.images import LoadedImage
from napari_slmsam2.io.raw import Colours, IndexedView

if TYPE_CHECKING:
    from napari_slmsam2.io._pyramid import Factor
    from napari_slmsam2.io.geometry import Geometry
    from napari_slmsam2.io.label_store import LabelStore

LabelArray = ChunkedArray | IndexedView

_MOST_DESCRIBED = 1024
"""More labels than these have been counted, not named: their colours are not chosen."""


class LabelStream:
    """An OME-Zarr of labels in a temporary folder, until `finish` puts it in place.

    As a context manager it discards what was not finished; an existing file is unchanged then.

    Parameters
    ----------
    path : path-like
        Ends in ``.zarr``.
    like : LoadedImage
        The image: its shape, axes, geometry and slice axis are those of the labels.
    highest : int
        The highest label that will be written; the smallest dtype that holds it is used.
    overwrite : bool
        Whether an existing OME-Zarr of labels may be replaced.
    lead : mapping of {"t" or "c": int}, optional
        Sizes of the axes before the three of space, of a series.
    crop : bool
        Of a part of an image (``like.region``): whether the file holds the part, with its own
        geometry, instead of the whole image with 0 outside of it.

    Attributes
    ----------
    store : LabelStore
        For writing in blocks, also from other processes.
    labels : ChunkedArray, or a view of one
        The labels, shape of ``like``, of which only the slabs in use are in memory; of a series
        those of its first volume. A session that is made with them (``labels=``) writes finished
        slices to the disk.

    Raises
    ------
    OutputError
        The file exists, or cannot be written.
    VolumeError
        The package zarr is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        like: LoadedImage,
        *,
        highest: int,
        overwrite: bool = False,
        lead: Mapping[str, int] | None = None,
        crop: bool = False,
    ) -> None:
        target = format_to_write(Path(path))
        if not target.is_written_in_blocks:
            raise OutputError(
                str(path), "cannot be written slice by slice", expected=".ome.zarr",
                found=Path(path).suffix,
            )  # fmt: skip
        target.load(Path(path))
        from napari_slmsam2.io.label_store import LabelStore

        # What the labels cover of the file.
        self._part = None if crop or like.region is None else like.region.key
        if self._part is not None and like.whole is not None:
            like = like.whole
        self._like, self._lead = like, dict(lead or {})
        self._target = AtomicTarget(path, overwrite=overwrite, replaceable_folder=is_label_store)
        try:
            with self._target.reported():
                self.store: LabelStore = LabelStore.create(
                    self._target.place,
                    like.volume.shape,
                    np.min_scalar_type(highest),
                    like.volume.axis,
                    order=like.order,
                    template=like.template,
                    lead=self._lead,
                )
        except BaseException:
            self._target.discard()
            raise
        self._labels = self.store.labels()
        self.labels: LabelArray = self._labels
        if self._part is not None:
            self.labels = IndexedView(self._labels, self._part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.discard()

    def fill(self, labels: Any) -> None:
        """Write all labels, block by block.

        Parameters
        ----------
        labels : array_like of whole numbers, shape of the image
            Of a series after the axes of ``lead``.
        """
        axis = self.store.axis
        for place in self._places():
            store, volume = self.store.at(place), labels[place] if place else labels
            if self._part is not None:
                self._fill_part(store, volume)
                continue
            for block in store.blocks():
                key: list[slice] = [slice(None)] * 3
                key[axis] = slice(block.start, block.stop)
                part = _rounded(volume[tuple(key)])
                with self._target.reported():
                    store.write(block.start, part.astype(store.dtype))

    def _fill_part(self, store: LabelStore, volume: Any) -> None:
        target = store.labels()
        part, axis = IndexedView(target, self._part or ()), store.axis
        for first in range(0, part.shape[axis], store.depth):
            key: list[slice] = [slice(None)] * 3
            key[axis] = slice(first, first + store.depth)
            part[tuple(key)] = _rounded(volume[tuple(key)])
        with self._target.reported():
            target.flush()

    def _places(self) -> Iterator[tuple[int, ...]]:
        """Indices of all volumes: of a single one, the empty tuple."""
        return np.ndindex(*self._lead.values())

    def begin_coarser(self) -> Factor | None:
        """Create the first coarser level of a single volume, see `LabelStore.begin_coarser`."""
        with self._target.reported():
            return self.store.begin_coarser(self._stored_geometry(), self._like.template)

    def _stored_geometry(self) -> Geometry:
        like = self._like
        order = "".join(like.order[self.store.axes.index(a)] for a in range(3))
        return like.geometry.reordered(like.order, order)

    def finish(
        self,
        *,
        table: LabelTable | None = None,
        colours: Colours | None = None,
        written: Sequence[range] = (),
    ) -> Path:
        """Write coarser levels and metadata, and put the file in place.

        Parameters
        ----------
        table, colours : optional
            Names and colours, see `napari_slmsam2.io.write_labels`.
        written : sequence of range
            Slices of which `LabelStore.write_coarser` has written the first coarser level.

        Raises
        ------
        OutputError
            The file cannot be written, or has appeared meanwhile.

        Warns
        -----
        SlmSam2Warning
            The image has a rotation or reflection, which OME-Zarr cannot represent.
        """
        like = self._like
        with self._target.reported():
            self._labels.flush()
            volumes = [self._labels]
            if self._lead:
                volumes = [self.store.at(place).labels() for place in self._places()]
            table = described(
                (volume[i] for volume in volumes for i in range(len(volume))),
                table or like.label_table, colours,
            )  # fmt: skip
            geometry = self._stored_geometry()
            self.store.finish(geometry, like.template, table, self._lead, written=written)
        path = self._target.commit()
        self.store = self.store.moved(path, self._labels)
        return path

    def discard(self) -> None:
        """Remove what was written, if it was not finished."""
        self._target.discard()


def _rounded(labels: Any) -> npt.NDArray[Any]:
    """Labels that may be floats, which need not be exact, as whole numbers."""
    array: npt.NDArray[Any] = np.asarray(labels)
    return np.rint(array) if array.dtype.kind == "f" else array


def described(labels: Iterable[Any], table: LabelTable, colours: Colours | None) -> LabelTable:
    """Names and colours of the labels in an array, or in parts of one; not of more than 1024."""
    if colours is None:
        return table
    found: npt.NDArray[Any] = np.unique(np.concatenate([np.unique(plane) for plane in labels]))
    found = found[found > 0]
    if not 0 < len(found) <= _MOST_DESCRIBED:
        return table
    rgba = np.clip(colours(found), 0, 1).tolist()
    shown = {label: (r, g, b, a) for label, (r, g, b, a) in zip(found.tolist(), rgba, strict=True)}
    return table.updated(LabelTable(colours=shown))


def check_label_shape(path: Path, labels: Any, like: LoadedImage) -> None:
    """Refuse labels of which the last three axes do not have the shape of their image."""
    if tuple(labels.shape[-3:]) != like.volume.shape:
        raise GridMismatchError(
            str(path), "labels do not have the shape of the image",
            expected=like.volume.shape, found=tuple(labels.shape),
        )  # fmt: skip
