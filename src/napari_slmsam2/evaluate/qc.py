"""A contact sheet: the slices of a result to check, on one picture."""

from __future__ import annotations

import colorsys
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import ConfigError, GridMismatchError
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.quality import FLAG_SCORE, SliceQuality, Suggestion, rank_slices
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.evaluate._sheet import Sheet, Tile

_MARGIN = 0.15
_LEAST_MARGIN = 6


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Where the labels of a volume are.

    Attributes
    ----------
    areas : dict of int to ndarray of int64, shape (n_slices,)
        Pixels of every label on every slice; sorted by label.
    rows, columns : ndarray of bool, shape (H,) and (W,)
        Whether any label is there.
    """

    areas: dict[int, npt.NDArray[np.int64]]
    rows: npt.NDArray[np.bool_]
    columns: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, volume: Volume, labels: Any) -> LabelMap:
        """Read the label volume once, slice by slice."""
        areas: dict[int, npt.NDArray[np.int64]] = {}
        rows, columns = (np.zeros(n, bool) for n in volume.slice_shape)
        for index in range(volume.n_slices):
            here = np.asarray(labels[volume.slicer(index)])
            for label, count in zip(*np.unique(here, return_counts=True), strict=True):
                if label:
                    per_slice = areas.setdefault(int(label), np.zeros(volume.n_slices, np.int64))
                    per_slice[index] = count
            rows |= (here != 0).any(axis=1)
            columns |= (here != 0).any(axis=0)
        return cls({label: areas[label] for label in sorted(areas)}, rows, columns)


def contact_sheet(
    volume: Volume,
    labels: Any,
    window: IntensityWindow,
    path: str | os.PathLike[str],
    *,
    seeds: Mapping[int, Iterable[int]] | None = None,
    quality: Mapping[int, Mapping[int, SliceQuality]] | None = None,
    n: int = 24,
) -> None:
    """Draw the slices that matter with the outlines of the labels, cropped to them.

    Shown are the annotated slices (framed white), those that most need a correction (framed red,
    with the reason), both ends of the largest labels with the slice beyond, and slices spread
    evenly between. Pixels have their physical aspect ratio. Volumes in mm that know where they
    lie in the patient are shown as radiologists do: superior or anterior up, the patient's right
    (in sagittal slices anterior) on the left.

    Parameters
    ----------
    volume : Volume
        Only the slices shown are read.
    labels : array_like of integer
        Shape of the volume; 0 is background.
    window : IntensityWindow
        Black and white of the picture.
    path : path-like
        PNG file, 1600 pixels wide. Written in place; for a write that is complete or not at all,
        let `napari_slmsam2.io.atomic.atomic_write` call this.
    seeds : mapping of label to slice indices, optional
        Annotated slices.
    quality : mapping of label to mapping of slice index to SliceQuality, optional
        From the propagation.
    n : int
        Number of slices at most.

    Raises
    ------
    GridMismatchError
        Labels and volume differ in shape.
    ConfigError
        ``n`` is less than 1.
    OSError
        The file cannot be written.
    """
    if tuple(labels.shape) != volume.shape:
        raise GridMismatchError(
            "labels",
            "have another shape than the image",
            expected=volume.shape,
            found=tuple(labels.shape),
        )
    if n < 1:
        raise ConfigError("slices of the contact sheet", "too few", expected="1 or more", found=n)
    annotated = {label: sorted(indices) for label, indices in (seeds or {}).items()}
    found = LabelMap.of(volume, labels)
    flags = flagged_slices(quality or {}, annotated, n // 4)
    indices = choose_slices(found.areas, volume.n_slices, annotated, flags, n)
    view = View.of(volume)
    crop = _crop(found)
    _, *steps = volume.slice_spacing
    colours = label_colours(list(found.areas))
    tiles = [
        Tile(
            image=view.turn(window.apply(volume.take(i)[crop])),
            labels=view.turn(np.asarray(labels[volume.slicer(i)])[crop]),
            title=f"slice {i}",
            seeded=_seeded(annotated, i, len(found.areas)),
            flag=_reason(flags.get(i), len(found.areas)),
        )
        for i in indices
    ]
    header = _header(volume, window, view, len(indices))
    height, width = steps[::-1] if view.transpose else steps
    Sheet(tiles, (height, width), colours, header).save(path)


@dataclass(frozen=True, slots=True)
class View:
    """How a slice is turned for display.

    Attributes
    ----------
    transpose, flip_rows, flip_columns : bool
        Flips come after the transposition.
    up, left : str
        Anatomical directions, empty where they are not known.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    up: str = ""
    left: str = ""

    @classmethod
    def of(cls, volume: Volume) -> View:
        """The radiological view where the volume has a place in a patient, else as stored."""
        if volume.affine is None or volume.unit != "mm":
            return cls()
        axes = list(volume.plane_axes)
        directions = volume.affine[:3, axes] / np.linalg.norm(volume.affine[:3, axes], axis=0)
        world = np.abs(directions).argmax(axis=0)
        if world[0] == world[1]:
            return cls()
        row, column = (1, 0) if world[1] > world[0] else (0, 1)
        return cls(
            transpose=row == 1,
            flip_rows=bool(directions[world[row], row] > 0),
            flip_columns=bool(directions[world[column], column] > 0),
            up="RAS"[world[row]],
            left="RAS"[world[column]],
        )

    def turn(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A slice of shape (H, W) as it is shown."""
        image = image.T if self.transpose else image
        rows = slice(None, None, -1 if self.flip_rows else 1)
        return image[rows, :: -1 if self.flip_columns else 1]


def flagged_slices(
    quality: Mapping[int, Mapping[int, SliceQuality]],
    seeds: Mapping[int, Iterable[int]],
    most: int,
) -> dict[int, Suggestion]:
    """The slices that most need a correction, each with its most urgent suggestion.

    Parameters
    ----------
    quality, seeds : mapping
        As for `napari_slmsam2.core.quality.rank_slices`.
    most : int
        Number of slices at most. Those with a score below
        `napari_slmsam2.core.quality.FLAG_SCORE` are not flagged.
    """
    flags: dict[int, Suggestion] = {}
    for suggestion in rank_slices(quality, seeds):
        if len(flags) >= most or suggestion.score < FLAG_SCORE:
            break
        flags.setdefault(suggestion.index, suggestion)
    return flags


def choose_slices(
    areas: Mapping[int, npt.NDArray[np.int64]],
    n_slices: int,
    seeds: Mapping[int, Iterable[int]],
    flagged: Iterable[int],
    n: int,
) -> tuple[int, ...]:
    """The slices to show, sorted.

    Parameters
    ----------
    areas : mapping of label to ndarray, shape (n_slices,)
    n_slices : int
    seeds : mapping of label to slice indices
        At most half of the slices are given to them.
    flagged : iterable of int
        Worst first.
    n : int
        Number of slices at most; fewer where the labels span fewer.
    """
    labelled = np.flatnonzero(sum(areas.values())) if areas else np.arange(n_slices)
    first = max(0, int(labelled[0]) - 1)
    last = min(n_slices - 1, int(labelled[-1]) + 1)
    annotated = sorted({i for indices in seeds.values() for i in indices})
    if last - first < n and all(first <= i <= last for i in annotated):
        return tuple(range(first, last + 1))
    chosen = dict.fromkeys(_spread(annotated, max(1, n // 2)))
    chosen.update(dict.fromkeys(flagged))
    chosen.update(dict.fromkeys(_ends(areas, n_slices)[: max(2, n // 4)]))
    picked = list(chosen)[:n]
    while len(picked) < n:
        distance = np.abs(np.arange(first, last + 1)[:, None] - np.array([picked])).min(
            axis=1, initial=n_slices
        )
        if not distance.any():
            break
        picked.append(first + int(distance.argmax()))
    return tuple(sorted(picked))


def label_colours(labels: Sequence[int]) -> dict[int, tuple[int, int, int]]:
    """A bright colour for every label; neighbours in the list are far apart in hue."""
    colours = {}
    for rank, label in enumerate(labels):
        hue = (0.13 + rank * 0.618034) % 1.0
        light = 0.68 if 0.6 < hue < 0.85 else 0.54  # Blue and violet are dark to the eye.
        light += 0.16 * (rank // 8 % 2)  # Every eighth hue is nearly the same.
        red, green, blue = colorsys.hls_to_rgb(hue, light, 1.0)
        colours[label] = (round(red * 255), round(green * 255), round(blue * 255))
    return colours


def _spread(indices: Sequence[int], most: int) -> list[int]:
    """At most that many of the indices, evenly spread, with both ends."""
    if len(indices) <= most:
        return list(indices)
    places = np.linspace(0, len(indices) - 1, most).round().astype(int)
    return [indices[p] for p in places]


def _ends(areas: Mapping[int, npt.NDArray[np.int64]], n_slices: int) -> list[int]:
    """First and last slices of the labels and the ones beyond, largest label first."""
    ends: list[int] = []
    for area in sorted(areas.values(), key=lambda a: -int(a.sum())):
        present = np.flatnonzero(area)
        first, last = int(present[0]), int(present[-1])
        ends += [first, last, first - 1, last + 1]
    return [i for i in dict.fromkeys(ends) if 0 <= i < n_slices]


def _crop(found: LabelMap) -> tuple[slice, slice]:
    """The labelled region with a margin, as an index of a slice."""
    sides = []
    for used in (found.rows, found.columns):
        if not used.any():
            return slice(None), slice(None)
        first, last = np.flatnonzero(used)[[0, -1]].tolist()
        margin = max(_LEAST_MARGIN, math.ceil(_MARGIN * (last - first + 1)))
        sides.append(slice(max(0, first - margin), last + 1 + margin))
    return sides[0], sides[1]


def _seeded(seeds: Mapping[int, Sequence[int]], index: int, n_labels: int) -> str:
    labels = [label for label, indices in seeds.items() if index in indices]
    if not labels:
        return ""
    return "annotated" if n_labels < 2 else f"annotated: {_some(labels)}"


def _reason(suggestion: Suggestion | None, n_labels: int) -> str:
    if suggestion is None:
        return ""
    return suggestion.reason + (f" ({suggestion.label})" if n_labels > 1 else "")


def _some(labels: Sequence[int], most: int = 4) -> str:
    return ", ".join(map(str, labels[:most])) + (", ..." if len(labels) > most else "")


def _header(volume: Volume, window: IntensityWindow, view: View, shown: int) -> str:
    parts = [
        volume.name,
        f"{shown} of {volume.n_slices} slices along axis {volume.axis}",
        " x ".join(f"{s:.3g}" for s in volume.spacing) + f" {volume.unit}",
        f"window {window.low:g} to {window.high:g}",
    ]
    if view.up:
        parts.append(f"up {view.up}, left {view.left}")
    return "   |   ".join(parts)
