"""Labels in an OME-Zarr, written in blocks of slices by one process or by several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from napari_slmsam2.io._pyramid import coarser_levels, write_coarser
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
    """

    folder: Path
    axes: tuple[int, int, int]
    axis: int

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
        """
        kept, _ = _ngff.axis_names(template)
        i, j, k = (kept.index(letter) for letter in order)
        version_2 = _ngff.version_for(template) == "0.4"
        group = zarr.open_group(str(folder), mode="w-", zarr_format=2 if version_2 else 3)
        store = cls(folder, (i, j, k), axis)
        store._create(group, "0", [shape[order.index(letter)] for letter in kept], dtype, template)
        return store

    def _create(
        self, group: Any, name: str, shape: Sequence[int], dtype: npt.DTypeLike, template: Any
    ) -> Any:
        """An array of zeros; the shape is that of the file."""
        version_2 = group.metadata.zarr_format == 2
        return group.create_array(
            name,
            shape=tuple(shape),
            # numpy has two names for 64 bits, of which zarr knows one.
            dtype=np.dtype(np.dtype(dtype).str),
            chunks=label_chunks(shape, self.axes[self.axis]),
            compressors=numcodecs.Blosc("zstd") if version_2 else BloscCodec(cname="zstd"),
            fill_value=0,
            chunk_key_encoding={"name": "v2" if version_2 else "default", "separator": "/"},
            dimension_names=None if version_2 else _ngff.axis_names(template)[1],
        )

    @cached_property
    def _stored(self) -> Any:
        return zarr.open_array(str(self.folder / "0"), mode="r+")

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
        return ChunkedArray(self._stored, self.axes)

    def finish(self, geometry: Geometry, template: Any, table: LabelTable) -> None:
        """Write the coarser levels, slab by slab, and the metadata.

        There are levels down to one of at most 256 voxels along each axis.

        Parameters
        ----------
        geometry : Geometry
            Along the axes of the file.
        template : object
            Of the image.
        table : LabelTable
        """
        group = zarr.open_group(str(self.folder), mode="r+")
        fine, factors = self._stored, [(1, 1, 1)]
        for shape, step, factor in coarser_levels(fine.shape, geometry.spacing):
            coarse = self._create(group, str(len(factors)), shape, self.dtype, template)
            write_coarser(fine, coarse, step, self.axes[self.axis])
            fine = coarse
            factors.append(factor)
        group.attrs.update(_ngff.label_attributes(self.folder, geometry, template, factors, table))
