"""Choosing one volume of a file that holds several images, channels or time points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io.geometry import Geometry
from napari_slmsam2.io.raw import IndexedView, RawImage

_NOUNS = {"image": "images", "channel": "channels", "time": "time points"}
_LETTERS = {"channel": "c", "time": "t"}


@dataclass(frozen=True)
class Selection:
    """Which volume of a file is wanted.

    Attributes
    ----------
    image : int or str, optional
        Number or name of an image, in files with several.
    channel : int or str, optional
        Number or name of a channel.
    time : int, optional
        Number of a time point.
    stack : {"channel", "time"}, optional
        Take the channels, or the time points, as the slices of the volume.
    prefix : str
        Of the command line options that messages name, ``"seeds-"`` for instance.
    level : int
        Resolution level, 0 for the finest.
    """

    image: int | str | None = None
    channel: int | str | None = None
    time: int | None = None
    stack: Literal["channel", "time"] | None = None
    prefix: str = ""
    level: int = 0

    def advice(self, option: str, value: object = "N") -> str:
        """How an option is given, on the command line and in Python."""
        python = repr(value) if option == "stack" else value
        return f"--{self.prefix}{option} {value} ({option}={python} in Python)"


@dataclass(frozen=True, eq=False)
class PickedVolume:
    """One volume of a file.

    Attributes
    ----------
    data : array_like, shape (I, J, K)
    order : str
        Names of its axes: ``"xyz"`` in some order.
    geometry : Geometry
    channel : int or None
        The channel that was chosen.
    n_times : int
        Time points of the file.
    """

    data: Any
    order: str
    geometry: Geometry
    channel: int | None
    n_times: int


def pick_volume(raw: RawImage, what: str, selection: Selection) -> PickedVolume:
    """The volume that the options name.

    Parameters
    ----------
    raw : RawImage
    what : str
        The file, for messages.
    selection : Selection

    Raises
    ------
    VolumeError
        There are several channels or time points and no option names one (the message lists them
        and names the option), the one asked for does not exist, or the image has no three spatial
        dimensions.
    """
    shape = tuple(int(n) for n in raw.data.shape)
    axes = _resolve_unknown(raw.axes, shape, what, selection)
    fields = np.dtype(raw.data.dtype).names or ()
    names = raw.channel_names or tuple(fields)
    if selection.stack is not None:
        axes = _stacked(axes, shape, what, selection)
    else:
        _refuse_flat(axes, shape, what, selection)
    field = None
    channel: int | None = None
    if fields:
        channel = _choose(what, "channel", selection, len(fields), names)
        field = fields[channel]
    fixed: list[int | None] = []
    for size, axis in zip(shape, axes, strict=True):
        if axis in "xyz":
            fixed.append(None)
        elif axis == "c":
            channel = _choose(what, "channel", selection, size, names, raw.aliases)
            fixed.append(channel)
        elif axis == "t":
            fixed.append(_choose(what, "time", selection, size))
        else:
            fixed.append(0)
    _refuse_idle_options(what, axes + ("c" if names else ""), selection)
    order = "".join(axis for axis in axes if axis in "xyz")
    geometry = raw.geometry.reordered(raw.order, order)
    n_times = shape[axes.index("t")] if "t" in axes else 1
    return PickedVolume(_picked(raw.data, fixed, field), order, geometry, channel, n_times)


def _picked(data: Any, fixed: Sequence[int | None], field: str | None) -> Any:
    if field is None and all(index is None for index in fixed):
        return data
    view = IndexedView(data, fixed, field)
    if type(data) is not np.ndarray:
        return view
    part = view[()]
    # A copy of one of several, so that the others do not stay in memory.
    return part if part.nbytes == data.nbytes else np.array(part, order="K")


def _resolve_unknown(axes: str, shape: Sequence[int], what: str, selection: Selection) -> str:
    """Take dimensions without a name as time or channels where the file has neither.

    One such dimension is time, or channels if the option for channels is used; two are time and
    channels, in this order.
    """
    places = [i for i, axis in enumerate(axes) if axis == "?" and shape[i] > 1]
    free = [letter for letter in "tc" if letter not in axes]
    if len(places) == 1 and "c" in free and selection.channel is not None:
        free = ["c"]
    if len(places) == 1 and "c" in free and selection.stack == "channel":
        free = ["c"]
    if len(places) > len(free):
        raise VolumeError(
            what,
            "has too many dimensions",
            expected="3D, channels, time",
            found=f"shape {tuple(shape)}",
            hint="Save one volume of it as a file.",
        )
    letters = list(axes)
    for place, letter in zip(places, free, strict=False):
        letters[place] = letter
    return "".join(letters)


def _movable(axes: str, shape: Sequence[int]) -> dict[str, int]:
    """Sizes of the dimensions that may hold the slices of an image that has one slice only."""
    n_spatial = sum(axis in "xyz" for axis in axes)
    if n_spatial > 3 or not {"x", "y"} <= set(axes):
        return {}
    if n_spatial == 3 and shape[axes.index("z")] > 1:
        return {}
    found = {option: axes.find(letter) for option, letter in _LETTERS.items()}
    return {option: shape[i] for option, i in found.items() if i >= 0 and shape[i] > 1}


def _stacked(axes: str, shape: Sequence[int], what: str, selection: Selection) -> str:
    """The letters of the dimensions where channels or time points are the slices."""
    option = str(selection.stack)
    movable = _movable(axes, shape)
    if option not in movable:
        raise VolumeError(
            what, f"has no slices along {option}",
            expected=" or ".join(movable) or "an image of one slice, and several channels or "
            "time points", found=f"axes {axes} of shape {tuple(shape)}",
            hint=f"Leave --{selection.prefix}stack out.",
        )  # fmt: skip
    letters = ["?" if axis == "z" else axis for axis in axes]
    letters[axes.index(_LETTERS[option])] = "z"
    return "".join(letters)


def _refuse_flat(axes: str, shape: Sequence[int], what: str, selection: Selection) -> None:
    """An image of one slice: offer the dimension in which the slices may be."""
    n_spatial = sum(axis in "xyz" for axis in axes)
    movable = _movable(axes, shape)
    chosen = {"channel": selection.channel, "time": selection.time}
    offered = [option for option in movable if n_spatial == 2 or chosen[option] is None]
    if offered:
        held = " and ".join(f"{movable[option]} {_NOUNS[option]}" for option in offered)
        advice = " or ".join(selection.advice("stack", option) for option in offered)
        raise VolumeError(
            what, f"has one slice and {held}", expected="a stack of slices",
            found=f"shape {tuple(shape)}",
            hint=f"If these are the slices, take them as such with {advice}.",
        )  # fmt: skip
    if n_spatial != 3:
        raise VolumeError(
            what, "is not a 3D volume", expected="3 spatial dimensions",
            found=f"{n_spatial} of shape {tuple(shape)}",
        )  # fmt: skip


def _refuse_idle_options(what: str, axes: str, selection: Selection) -> None:
    """Options that ask for more than the only one there is."""
    for option, letter in _LETTERS.items():
        value = getattr(selection, option)
        if value not in (None, 0, "0") and letter not in axes:
            name = "time point" if option == "time" else option
            raise VolumeError(
                what, f"has only one {name}", found=f"{name} {value}",
                hint=f"Leave --{selection.prefix}{option} out.",
            )  # fmt: skip


def choose_image(what: str, selection: Selection, names: Sequence[str]) -> int:
    """The number of the image that the options name, of a file with several.

    Parameters
    ----------
    what : str
        The file, for messages.
    selection : Selection
    names : sequence of str
        Of all images; may be empty strings.

    Raises
    ------
    VolumeError
        No option names one (the message lists them), or there is no such image.
    """
    if len(names) == 1 and selection.image not in (None, 0, "0", names[0]):
        raise VolumeError(what, "has only one image", found=f"image {selection.image}")
    return _choose(what, "image", selection, len(names), names)


def choose_level(what: str, selection: Selection, shapes: Sequence[Sequence[int]]) -> int:
    """The number of the resolution level that the options name.

    Parameters
    ----------
    what : str
        The file, for messages.
    selection : Selection
    shapes : sequence of tuple of int
        Of all levels, the finest first.

    Raises
    ------
    VolumeError
        There is no such level; the message lists them.
    """
    if not 0 <= selection.level < len(shapes):
        listed = [f"{i} ({' x '.join(map(str, shape))})" for i, shape in enumerate(shapes)]
        raise VolumeError(
            what, "has no such resolution level", expected=", ".join(listed),
            found=f"level {selection.level}",
        )  # fmt: skip
    return selection.level


def _choose(
    what: str,
    option: str,
    selection: Selection,
    size: int,
    names: Sequence[str] = (),
    aliases: Sequence[Sequence[str]] = (),
) -> int:
    """The index that an option names."""
    value = getattr(selection, option)
    if value is None and size == 1:
        return 0
    choices = [f"{i} ({n})" if n else str(i) for i, n in enumerate(names)]
    listed = ", ".join(choices) if len(names) == size else f"0 to {size - 1}"
    if value is None:
        raise VolumeError(
            what,
            f"has {size} {_NOUNS[option]}",
            expected=f"one {option}: {listed}",
            hint=f"Choose one with {selection.advice(option)}.",
        )
    index = value
    if isinstance(value, str):
        known = [(*alias, name) for name, alias in zip(names, aliases, strict=False)]
        known = known or [(name,) for name in names]
        found = [i for i, group in enumerate(known) if value in group]
        if len(found) == 1:
            index = found[0]
        elif value.strip().isdecimal():
            index = int(value)
    if isinstance(index, str) or not 0 <= index < size:
        raise VolumeError(what, f"has no such {option}", expected=listed, found=value)
    return index
