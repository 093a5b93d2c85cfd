"""The arrays of a session file, written and read in blocks where they are large."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.io.chunked_array import ChunkedArray
from napari_slmsam2.session.label_array import LabelArray

Members = dict[str, Any]
"""Arrays by their names in the file, see `LabelArray`."""


class Arrays:
    """The arrays of a session file, read on demand and only in the shape that they must have."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, name: str) -> bool:
        """Whether there is an array of this name; files of earlier versions have fewer."""
        with zipfile.ZipFile(self._path) as file:
            return name in file.namelist()

    def read(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """An array of integers or bools.

        Raises
        ------
        ValueError
            It has another shape or dtype.
        """
        with zipfile.ZipFile(self._path) as file, file.open(name) as member:
            _header(member, name, shape)
        with zipfile.ZipFile(self._path) as file, file.open(name) as member:
            array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
            if member.read(1):
                raise ValueError(f"{name} is too long")
            return np.ascontiguousarray(array)

    def read_any(self, name: str) -> npt.NDArray[Any]:
        """An array of any shape and dtype; objects are refused."""
        with zipfile.ZipFile(self._path) as file, file.open(name) as member:
            array: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
            return array

    def labels(self, name: str, shape: tuple[int, ...], target: LabelArray | None) -> LabelArray:
        """An array of labels, see `read`; read block by block into ``target``, if there is one."""
        if target is None:
            array = self.read(name, shape)
            _check_labels(name, array)
            return array
        with zipfile.ZipFile(self._path) as file, file.open(name) as member:
            is_fortran, dtype = _header(member, name, shape)
            for key in _blocks(shape, is_fortran=is_fortran):
                size = [side.stop - side.start for side in key]
                content = member.read(math.prod(size) * dtype.itemsize)
                block = np.frombuffer(content, dtype).reshape(
                    size, order="F" if is_fortran else "C"
                )
                _check_labels(name, block)
                if block.max(initial=0) > np.iinfo(target.dtype).max:
                    raise ValueError(f"{name} holds label {block.max()}")
                target[key] = block
            if member.read(1):
                raise ValueError(f"{name} is too long")
        return target


def _check_labels(name: str, array: npt.NDArray[Any]) -> None:
    if array.dtype.kind == "b" or array.min(initial=0) < 0:
        raise ValueError(f"{name} does not hold labels")


def _header(member: Any, name: str, shape: tuple[int, ...]) -> tuple[bool, np.dtype[Any]]:
    """Whether an array of integers or bools is stored in Fortran order, and its dtype."""
    version = np.lib.format.read_magic(member)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    found, is_fortran, dtype = read(member)
    if found != shape or dtype.kind not in "biu":
        raise ValueError(f"{name} is {dtype} of shape {found}, not {shape}")
    return is_fortran, dtype


def write_array(member: Any, array: LabelArray) -> None:
    """Write an array in NumPy's format; one that is not in memory block by block."""
    if isinstance(array, np.ndarray):
        np.lib.format.write_array(member, array, allow_pickle=False)
        return
    # Slices of one axis lie together in one of the two orders.
    is_fortran = isinstance(array, ChunkedArray) and (
        int(np.argmax(np.divide(array.shape, array.chunk_shape))) == array.ndim - 1
    )
    header = {
        "descr": np.lib.format.dtype_to_descr(array.dtype),
        "fortran_order": is_fortran,
        "shape": array.shape,
    }
    np.lib.format.write_array_header_2_0(member, header)
    for key in _blocks(array.shape, is_fortran=is_fortran):
        member.write(array[key].tobytes(order="F" if is_fortran else "C"))


def _blocks(shape: tuple[int, ...], *, is_fortran: bool) -> Iterator[tuple[slice, ...]]:
    """Blocks of about a million values that follow each other in the file."""
    axis = len(shape) - 1 if is_fortran else 0
    step = max(1, 2**20 * shape[axis] // max(1, math.prod(shape)))
    for start in range(0, shape[axis], step):
        key = [slice(0, n) for n in shape]
        key[axis] = slice(start, min(start + step, shape[axis]))
        yield tuple(key)
