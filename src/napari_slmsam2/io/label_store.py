"""Labels in an OME-Zarr, written in blocks of slices by one process or by several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec

from napari_slmsam2.core.errors import OutputError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.io import _ngff
from napari_slmsam2.io._pyramid import Factor, coarser_levels, write_coarser
from napari_slmsam2.io.chunked_array import ChunkedArray, label_chunks
from napari_slmsam2.io.geometry import Geometry


@dataclass(frozen=True)
class LabelStore:
    """The arrays of an OME-Zarr of labels; it becomes one with `finish`.

    It can be pickled and used in several processes at once, which write different blocks.

    Attributes
    ----------
    folder : Path
    axes : tuple of int
        The dimension of the stored array for each axis of the image.
    axis : int
        The axis of the image along which slices are stacked.
    place : tuple of int
        Indices along the axes before the three of space, of the volume of a series that is read
        and written; see `at`.
    """

    folder: Path
    axes: tuple[int, int, int]
    axis: int
    place: tuple[int, ...] = ()

    @classmethod
    def create(
        cls,
        folder: Path,
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        axis: int,
        *,
        order: str,
        template: Any,
        lead: Mapping[str, int] | None = None,
    ) -> LabelStore:
        """Create an empty store; nothing but its array ``0`` is there before `finish`.

        The axes have the names and the order of the image, and the version is that of the image
        if it is an OME-Zarr. Empty chunks take no space.

        Parameters
        ----------
        folder : Path
            Must not exist.
        shape : sequence of int
            Of the image.
        dtype : dtype-like
        axis : int
            The axis of the image along which slices are stacked.
        order : str
            Names of the axes of the image, ``"xyz"`` in some order.
        template : object
            Of the image.
        lead : mapping of {"t" or "c": int}, optional
            Sizes of the axes before the three of space, of a series. The store is that of its
            first volume.
        """
        lead = lead or {}
        kept, _ = _ngff.axis_names(template)
        i, j, k = (kept.index(letter) for letter in order)
        version_2 = _ngff.version_for(template) == "0.4"
        group = zarr.open_group(str(folder), mode="w-", zarr_format=2 if version_2 else 3)
        store = cls(folder, (i, j, k), axis, (0,) * len(lead))
        stored = [shape[order.index(letter)] for letter in kept]
        store._create(group, "0", stored, dtype, template, lead)
        return store

    def _create(
        self,
        group: Any,
        name: str,
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        template: Any,
        lead: Mapping[str, int],
        made_from: int = 1,
    ) -> Any:
        """An array of zeros; the shape of a volume is that of the file."""
        version_2 = group.metadata.zarr_format == 2
        return group.create_array(
            name,
            shape=(*lead.values(), *shape),
            # numpy has two names for 64 bits, of which zarr knows one.
            dtype=np.dtype(np.dtype(dtype).str),
            chunks=(1,) * len(lead) + label_chunks(shape, self.axes[self.axis], made_from),
            compressors=numcodecs.Blosc("zstd") if version_2 else BloscCodec(cname="zstd"),
            fill_value=0,
            chunk_key_encoding={"name": "v2" if version_2 else "default", "separator": "/"},
            dimension_names=None if version_2 else [*lead, *_ngff.axis_names(template)[1]],
        )

    def at(self, place: tuple[int, ...]) -> LabelStore:
        """The store of another volume of the series."""
        return replace(self, place=place)

    @cached_property
    def _stored(self) -> Any:
        return _volume_at(zarr.open_array(str(self.folder / "0"), mode="r+"), self.place)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the image."""
        i, j, k = (int(self._stored.shape[a]) for a in self.axes)
        return i, j, k

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the labels."""
        return np.dtype(self._stored.dtype)

    @property
    def depth(self) -> int:
        """Slices of a chunk: blocks that begin at a multiple of it share no chunk."""
        return int(self._stored.chunks[self.axes[self.axis]])

    def blocks(self, at_least: int = 1) -> Iterator[range]:
        """The slices in blocks that share no chunk.

        Parameters
        ----------
        at_least : int
            Slices of a block; the last one may have fewer.
        """
        step = -(-at_least // self.depth) * self.depth
        n_slices = self.shape[self.axis]
        for first in range(0, n_slices, step):
            yield range(first, min(first + step, n_slices))

    def write(self, first: int, labels: npt.NDArray[np.integer]) -> None:
        """Write a block of slices; several processes may write different blocks at once.

        Parameters
        ----------
        first : int
            The first slice: a multiple of `depth`.
        labels : ndarray of int
            Shape of the image, with the slices of the block along ``axis``: a multiple of
            `depth`, or up to the last slice.

        Raises
        ------
        OutputError
            The block does not fit the chunks, or a label does not fit the dtype.
        """
        stop = first + labels.shape[self.axis]
        n_slices, depth = self.shape[self.axis], self.depth
        if first % depth or (stop % depth and stop != n_slices) or stop > n_slices:
            raise OutputError(
                str(self.folder), "a block of slices does not fit the chunks",
                expected=f"slices from a multiple of {depth} to a multiple of {depth}, or to "
                f"{n_slices - 1}", found=f"{first} to {stop - 1}", hint="Take them from `blocks`.",
            )  # fmt: skip
        highest = int(labels.max(initial=0))
        if highest > np.iinfo(self.dtype).max:
            raise OutputError(
                str(self.folder), "a label does not fit",
                expected=f"labels up to {np.iinfo(self.dtype).max}", found=highest,
                hint="Create the store with the highest label.",
            )  # fmt: skip
        self._stored[self._key(first, stop)] = labels.transpose(np.argsort(self.axes))

    def read(self, first: int, stop: int) -> npt.NDArray[Any]:
        """The slices ``first`` to ``stop - 1``, in the axis order of the image."""
        return np.asarray(self._stored[self._key(first, stop)]).transpose(self.axes)

    def _key(self, first: int, stop: int) -> tuple[slice, ...]:
        key = [slice(None)] * 3
        key[self.axes[self.axis]] = slice(first, stop)
        return tuple(key)

    def labels(self) -> ChunkedArray:
        """The labels, shape of the image, to be read and written by this process alone."""
        return ChunkedArray(self._stored, self.axes, name=str(self.folder))

    def moved(self, folder: Path, labels: ChunkedArray) -> LabelStore:
        """The same store in its new folder, which its `labels` follow."""
        moved = replace(self, folder=folder)
        labels.stored = moved._stored
        return moved

    def begin_coarser(self, geometry: Geometry, template: Any) -> Factor | None:
        """Create the first coarser level, so that several processes can write it.

        Parameters
        ----------
        geometry, template
            As in `finish`.

        Returns
        -------
        tuple of int or None
            For `write_coarser`; None where there is no coarser level.
        """
        for shape, step, _ in coarser_levels(self._stored.shape, geometry.spacing):
            group = zarr.open_group(str(self.folder), mode="r+")
            self._create(group, "1", shape, self.dtype, template, {}, math.prod(step))
            return step
        return None

    def write_coarser(self, step: Factor, slices: range) -> None:
        """Write the chunks of the first coarser level that are made from some slices alone.

        Parameters
        ----------
        step : tuple of int
            Returned by `begin_coarser`.
        slices : range
            They are written, and no other process writes them.
        """
        coarse = zarr.open_array(str(self.folder / "1"), mode="r+")
        axis = self.axes[self.axis]
        write_coarser(self._stored, coarse, step, axis, lambda needed: _within(needed, slices))

    def finish(
        self,
        geometry: Geometry,
        template: Any,
        table: LabelTable,
        lead: Mapping[str, int] | None = None,
        *,
        written: Sequence[range] = (),
    ) -> None:
        """Write the coarser levels, chunk by chunk, and the metadata.

        There are levels down to one of at most 256 voxels along each axis.

        Parameters
        ----------
        geometry : Geometry
            Along the axes of the file.
        template : object
            Of the image.
        table : LabelTable
        lead : mapping, optional
            As in `create`.
        written : sequence of range
            Slices with which `write_coarser` was called.
        """
        lead = lead or {}

        def is_left(needed: range) -> bool:
            return len(factors) > 1 or not any(_within(needed, slices) for slices in written)

        group = zarr.open_group(str(self.folder), mode="r+")
        fine, factors = group["0"], [(1, 1, 1)]
        for shape, step, factor in coarser_levels(self._stored.shape, geometry.spacing):
            name = str(len(factors))
            made_from = math.prod(step)
            if name in group:
                coarse = group[name]
            else:
                coarse = self._create(group, name, shape, self.dtype, template, lead, made_from)
            for place in np.ndindex(*lead.values()):
                volumes = _volume_at(fine, place), _volume_at(coarse, place)
                write_coarser(*volumes, step, self.axes[self.axis], is_left)
            fine = coarse
            factors.append(factor)
        group.attrs.update(
            _ngff.label_attributes(self.folder, geometry, template, factors, table, "".join(lead))
        )


def _within(inner: range, outer: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop


class _VolumeAt:
    """One volume of a stored series.

    Parameters
    ----------
    array : zarr.Array
    place : tuple of int
        Indices along its first axes.
    """

    def __init__(self, array: Any, place: tuple[int, ...]) -> None:
        self._array, self._place = array, place
        self.shape = tuple(int(n) for n in array.shape[len(place) :])
        self.chunks = tuple(int(n) for n in array.chunks[len(place) :])
        self.ndim, self.dtype = len(self.shape), np.dtype(array.dtype)

    def __getitem__(self, key: tuple[slice, ...]) -> npt.NDArray[Any]:
        return np.asarray(self._array[(*self._place, *key)])

    def __setitem__(self, key: tuple[slice, ...], values: npt.NDArray[Any]) -> None:
        self._array[(*self._place, *key)] = values


def _volume_at(array: Any, place: tuple[int, ...]) -> Any:
    return _VolumeAt(array, place) if place else array
