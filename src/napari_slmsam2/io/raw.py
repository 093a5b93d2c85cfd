"""What a file holds, before one volume of it is picked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io.units import NO_UNIT

Colours = Callable[[npt.NDArray[np.integer]], npt.NDArray[np.floating]]
"""From n labels to their colours: RGBA from 0 to 1, shape (n, 4)."""

_CHUNK = 2**24

MAX_GZIP_RATIO = 1032
"""Deflate cannot shrink data by more."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a 3D array lie.

    Attributes
    ----------
    spacing : tuple of float
        Distance of voxel centres along the three axes, in ``unit``.
    unit : str
        ``um``, ``mm``, ...; ``pixel`` where it is not known.
    affine : ndarray of float64, shape (4, 4), or None
        Voxel indices to world coordinates (x to the right, y anterior, z superior) in ``unit``.
        None where the file does not say.
    origin : tuple of float or None
        Where the first voxel lies along the three axes, in ``unit``, in a file that says this but
        not in which directions of the world the axes run.
    """

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    unit: str = NO_UNIT
    affine: npt.NDArray[np.float64] | None = None
    origin: tuple[float, float, float] | None = None

    def reversed(self) -> Geometry:
        """The geometry of the transposed array."""
        z, y, x = self.spacing
        affine = None if self.affine is None else self.affine[:, [2, 1, 0, 3]]
        origin = None if self.origin is None else self.origin[::-1]
        return Geometry((x, y, z), self.unit, affine, origin)

    def origin_along(self, order: str) -> tuple[float, float, float] | None:
        """Where the first voxel lies along the axes of the array.

        Parameters
        ----------
        order : {"xyz", "zyx"}
            Of the axes.

        Returns
        -------
        tuple of float or None
            None where it is not known, or the axes do not run along those of the world.
        """
        if self.affine is None:
            return self.origin
        affine = self.affine if order == "xyz" else self.affine[[2, 1, 0, 3]]
        if not np.allclose(affine[:3, :3], np.diag(self.spacing), rtol=1e-4, atol=1e-6):
            return None
        first, second, third = affine[:3, 3].tolist()
        return first, second, third


def default_roles(n_dims: int) -> str:
    """Roles of the dimensions of an array without a description: the last three are space."""
    return "?" * (n_dims - 3) + "s" * min(n_dims, 3)


@dataclass(frozen=True, eq=False)
class RawImage:
    """The array of a file and the meaning of its dimensions.

    Attributes
    ----------
    data : array_like
        May be lazy. A structured dtype holds channels by name.
    roles : str
        One letter per dimension of ``data``: ``s`` space, ``c`` channel, ``t`` time, ``?``
        something else.
    order : {"xyz", "zyx"}
        Whether slices are stacked along the last or the first spatial dimension.
    format : str
    geometry : Geometry
        Of the spatial dimensions.
    template : object
        What the writer of the same format needs to give labels the same header.
    channel_names : tuple of str
        May be empty.
    stored_dtype : dtype or None
        Of the file, where ``data`` yields another one because it is scaled.
    """

    data: Any
    roles: str
    order: Literal["xyz", "zyx"]
    format: str
    geometry: Geometry = field(default_factory=Geometry)
    template: Any = None
    channel_names: tuple[str, ...] = ()
    stored_dtype: np.dtype[Any] | None = None


class ArrayLike(Protocol):
    """What the lazy arrays of this package have in common with numpy, dask and zarr arrays."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of every dimension."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """What indexing yields."""
        ...

    def __getitem__(self, key: Any) -> Any: ...


class ScaledArray:
    """A stored array times a slope plus an intercept, computed when it is read.

    Parameters
    ----------
    stored : array_like
    slope, intercept : float
    """

    def __init__(self, stored: ArrayLike, slope: float, intercept: float) -> None:
        self.stored = stored
        self.slope = slope
        self.intercept = intercept
        self.shape = stored.shape
        self.dtype = np.dtype(np.float64)

    def __getitem__(self, key: Any) -> npt.NDArray[np.float64]:
        return np.asarray(self.stored[key]).astype(np.float64) * self.slope + self.intercept


class IndexedView:
    """A lazy array with some of its dimensions fixed.

    Parameters
    ----------
    data : array_like
    fixed : sequence of int or None
        An index for every dimension that is fixed, None for those that stay.
    name : str, optional
        Field of a structured dtype.
    """

    def __init__(
        self, data: ArrayLike, fixed: Sequence[int | None], name: str | None = None
    ) -> None:
        self.data = data
        self.fixed = tuple(fixed)
        self.name = name
        self.shape = tuple(
            int(n) for n, index in zip(data.shape, fixed, strict=True) if index is None
        )
        dtype = np.dtype(data.dtype)
        self.dtype = dtype if name is None else dtype[name]

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        keys = iter(key if isinstance(key, tuple) else (key,))
        full = tuple(next(keys, slice(None)) if i is None else i for i in self.fixed)
        part = np.asarray(self.data[full])
        return part if self.name is None else part[self.name]


def pick_volume(
    raw: RawImage, what: str, *, channel: int | str | None = None, time: int | None = None
) -> Any:
    """The 3D array that the options name.

    Parameters
    ----------
    raw : RawImage
    what : str
        The file, for messages.
    channel : int or str, optional
        Number or name of a channel.
    time : int, optional

    Returns
    -------
    array_like
        As many dimensions as there are spatial ones.

    Raises
    ------
    VolumeError
        There are several channels or time points and no option says which one; the message lists
        them. Or the one asked for does not exist.
    """
    if raw.roles.count("s") != 3:
        raise VolumeError(
            what, "is not a 3D volume", expected="3 spatial dimensions",
            found=f"{raw.roles.count('s')} of shape {tuple(raw.data.shape)}",
        )  # fmt: skip
    dtype = np.dtype(raw.data.dtype)
    names = raw.channel_names or tuple(dtype.names or ())
    field_name: str | None = None
    if dtype.names:
        field_name = dtype.names[_choose(what, "channel", channel, len(dtype.names), names)]
    fixed: list[int | None] = []
    for size, role in zip(raw.data.shape, raw.roles, strict=True):
        if role == "s":
            fixed.append(None)
        elif role == "c":
            fixed.append(_choose(what, "channel", channel, size, names))
        elif role == "t":
            fixed.append(_choose(what, "time", time, size))
        elif size == 1:
            fixed.append(0)
        else:
            raise VolumeError(
                what,
                "has too many dimensions",
                expected="3D, channels, time",
                found=f"shape {tuple(raw.data.shape)}",
                hint="Save one volume of it as a file.",
            )
    _refuse_idle_options(what, raw.roles + ("c" if names else ""), channel, time)
    if field_name is None and not any(index is not None for index in fixed):
        return raw.data
    view = IndexedView(raw.data, fixed, field_name)
    if type(raw.data) is not np.ndarray:
        return view
    part = view[()]
    # A copy of one of several, so that the others do not stay in memory.
    return part if part.nbytes == raw.data.nbytes else np.array(part, order="K")


def _refuse_idle_options(
    what: str, roles: str, channel: int | str | None, time: int | None
) -> None:
    """Options that ask for more than the only one there is."""
    for option, value, letter in (("channel", channel, "c"), ("time", time, "t")):
        if value not in (None, 0) and letter not in roles:
            raise VolumeError(what, f"has only one {option}", found=f"{option} {value}")


def _choose(
    what: str, option: str, value: int | str | None, size: int, names: Sequence[str] = ()
) -> int:
    """The index that an option means."""
    if value is None and size == 1:
        return 0
    choices = [f"{i} ({n})" for i, n in enumerate(names)] if len(names) == size else []
    listed = ", ".join(choices) if choices else f"0 to {size - 1}"
    noun = {"channel": "channels", "time": "time points"}[option]
    if value is None:
        raise VolumeError(
            what,
            f"has {size} {noun}",
            expected=f"one {option}: {listed}",
            hint=f"Pick one with the option {option}.",
        )
    index = names.index(value) if isinstance(value, str) and value in names else value
    if isinstance(index, str) and index.strip().isdecimal():
        index = int(index)
    if isinstance(index, str) or not 0 <= index < size:
        raise VolumeError(what, f"has no such {option}", expected=listed, found=value)
    return index


def check_size(path: Path, needed: int, *, compressed: bool = False, ratio: int = 1) -> None:
    """Refuse a header that claims more than the file can hold, before memory is taken for it.

    Parameters
    ----------
    path : Path
        The file with the data.
    needed : int
        Bytes up to the end of the data, uncompressed.
    compressed : bool
    ratio : int
        How far the compression can shrink data at most.

    Raises
    ------
    VolumeError
    """
    size = path.stat().st_size
    if needed > size * (ratio if compressed else 1):
        raise VolumeError(
            str(path),
            "is shorter than its header says",
            expected=f"{needed} bytes{' after decompression' if compressed else ''}",
            found=f"a file of {size} bytes",
            hint="It is damaged or was not copied completely.",
        )


def read_stream(stream: Any, shape: Sequence[int], dtype: np.dtype[Any], what: str) -> np.ndarray:
    """Read an array of Fortran order from a decompressing stream.

    Memory is touched only as data arrive, and the stream is read to its end, where gzip checks its
    checksum.

    Raises
    ------
    VolumeError
        The stream ends early.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(n_bytes, np.uint8)
    view, position = memoryview(buffer.data), 0
    while position < n_bytes:
        count = stream.readinto(view[position : position + _CHUNK])
        if not count:
            raise VolumeError(
                what, "is truncated", expected=f"{n_bytes} bytes of data", found=f"{position}"
            )
        position += count
    while stream.read(_CHUNK):
        pass
    return buffer.view(dtype).reshape(tuple(shape), order="F")


def raw_array(
    path: Path, shape: Sequence[int], dtype: np.dtype[Any], offset: int, order: Literal["F", "C"]
) -> ArrayLike:
    """An uncompressed array in a file, of which only the parts asked for are read."""
    from nibabel.arrayproxy import ArrayProxy

    proxy_type: Any = ArrayProxy
    shape = tuple(int(n) for n in shape)
    check_size(path, offset + math.prod(shape) * dtype.itemsize)
    proxy: ArrayLike = proxy_type(str(path), (shape, dtype, offset), mmap=False, order=order)
    return proxy
