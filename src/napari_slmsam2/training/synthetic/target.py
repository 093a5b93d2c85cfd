"""The target of a synthetic stack: choice of the object, and its ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_slmsam2.training.synthetic.noise import Floats, smooth_noise
from napari_slmsam2.training.synthetic.shapes import Box, Scene

EMPTY = 4
"""Slices without the target beyond an end inside the stack."""

MIN_EXTENT = 6
MIN_AREA = 40
MIN_SIZE, MAX_SIZE = 10, 90

_CANDIDATES = 4
_MARGIN = 4

Mask = npt.NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class Target:
    """One object of a scene.

    Attributes
    ----------
    label : int
        The label it was taken from.
    box : tuple of slice
        Where ``mask`` lies in the scene: the object and some pixels around it, all sub-slices.
    mask : ndarray of bool, shape of the box
    trap : ndarray of bool, shape of the box, or None
        What continues the object beyond an end although it is none of it.
    """

    label: int
    box: Box
    mask: Mask
    trap: Mask | None = None

    def core(self, rng: np.random.Generator, along: float) -> Mask:
        """Irregular parts of the inside; ``along`` is sub-slices per pixel."""
        rows, columns = _sides(self.mask)
        size = max(6.0, 0.4 * min(rows.stop - rows.start, columns.stop - columns.start))
        noise = smooth_noise(rng, self.mask.shape, (size * along, size, size))
        return _shifted(self.mask, 3, np.logical_and) & (noise > rng.uniform(-0.5, 0.7))


def choose_target(rng: np.random.Generator, scene: Scene, fine: int) -> Target | None:
    """Choose a connected object of suitable size at random; None if the scene has none.

    Parameters
    ----------
    rng : numpy.random.Generator
    scene : Scene
    fine : int
        Sub-slices per slice.
    """
    labels, count = scene.labels, scene.count
    depth, height, width = labels.shape
    offsets = (np.arange(depth) * count)[:, None, None]
    areas = np.bincount((labels + offsets).ravel(), minlength=depth * count).reshape(depth, count)
    largest, extent = areas.max(axis=0), (areas > 0).sum(axis=0)
    suitable = (largest >= 2 * MIN_AREA) & (extent >= MIN_EXTENT * fine)
    suitable &= largest <= 0.3 * height * width
    suitable[: scene.first] = False
    candidates = rng.permutation(np.flatnonzero(suitable))[:_CANDIDATES]
    for label in candidates.tolist():
        component = _largest_component(labels, areas[:, label], label)
        sizes = component.sum(axis=(1, 2))
        rows, columns = _sides(component[int(sizes.argmax())][None])
        cropped = rows.start == 0 or columns.start == 0
        cropped |= rows.stop == height or columns.stop == width
        if cropped and rng.uniform() < 0.9:
            continue
        size = max(rows.stop - rows.start, columns.stop - columns.start)
        if np.count_nonzero(sizes) >= MIN_EXTENT * fine and MIN_SIZE <= size <= MAX_SIZE:
            rows, columns = (
                slice(max(0, side.start - _MARGIN), side.stop + _MARGIN)
                for side in _sides(component)
            )
            box = (slice(0, depth), rows, columns)
            return Target(label, box, component[box])
    return None


def _sides(mask: Mask) -> tuple[slice, slice]:
    """Extent of a non-empty mask in rows and columns."""
    rows = np.flatnonzero(mask.any(axis=(0, 2)))
    columns = np.flatnonzero(mask.any(axis=(0, 1)))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _largest_component(
    labels: npt.NDArray[np.int16], areas: npt.NDArray[np.intp], label: int
) -> Mask:
    """The connected part of a label with the largest share of its largest slice."""
    parts, _ = ndimage.label(labels == label)
    counts = np.bincount(parts[int(np.argmax(areas))].ravel())
    counts[0] = 0
    return np.asarray(parts == counts.argmax())


def shape_target(rng: np.random.Generator, scene: Scene, target: Target, fine: int) -> bool:
    """Shape a target in place: ends, gap, split and trap.

    What it loses becomes in ``scene.labels`` what lies behind it.

    Returns
    -------
    bool
        False where it is too short to end where it was asked to.
    """
    mask = target.mask
    depth = len(mask)
    present = np.flatnonzero(mask.any(axis=(1, 2)))
    start, stop = int(present[0]), int(present[-1]) + 1
    inside = rng.choice(4, p=(0.6, 0.13, 0.13, 0.14))
    cuts = _cuts(rng, start, stop, depth, fine, (inside in (1, 3), inside in (2, 3)))
    if cuts is None:
        return False
    kept = _without_islands(mask)
    if cuts != (start, stop):
        kept = _end_profile(rng, kept, (start, stop), cuts, fine)
        start, stop = cuts
    draw = rng.uniform()
    if draw < 0.05:
        width = int(rng.integers(1, 5)) * fine
        middle = rng.uniform(start + 0.25 * (stop - start), stop - 0.25 * (stop - start))
        kept[int(middle - width / 2) : int(middle - width / 2) + width] = False
    elif draw < 0.10:
        kept &= ~_cleft(rng, kept, start, stop)
    removed = mask & ~kept
    labels, behind = scene.labels[target.box], scene.behind[target.box]
    replacement = np.where(behind == target.label, 0, behind)
    labels[removed] = replacement[removed]
    target.mask = kept
    if rng.uniform() < 0.25:
        target.trap = _trap(rng, kept, removed, fine)
    return True


def _without_islands(mask: Mask) -> Mask:
    """Remove parts of each cross-section that are small compared with its largest part."""
    flat = np.zeros((3, 3, 3), bool)
    flat[1] = True
    parts, count = ndimage.label(mask, flat)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    slices = np.broadcast_to(np.arange(len(mask))[:, None, None], mask.shape)
    home = np.zeros(count + 1, np.intp)
    home[parts[mask]] = slices[mask]
    largest = np.zeros(len(mask), np.intp)
    np.maximum.at(largest, home, sizes)
    return np.asarray((sizes > 0.25 * largest[home])[parts] & mask)


def _cuts(
    rng: np.random.Generator,
    start: int,
    stop: int,
    depth: int,
    fine: int,
    wanted: tuple[bool, bool],
) -> tuple[int, int] | None:
    """New first and last (exclusive) sub-slice; None if there is no space between them."""
    free = EMPTY * fine
    cut_start = wanted[0] and (start < free or rng.uniform() < 0.2)
    cut_stop = wanted[1] and (depth - stop < free or rng.uniform() < 0.2)
    low = max(start, free) if cut_start else start
    high = min(stop, depth - free) if cut_stop else stop
    room = high - low - (MIN_EXTENT + 1) * fine
    if room < 0:
        return None
    low += round(cut_start * rng.uniform(0, 0.5) * room)
    high -= round(cut_stop * rng.uniform(0, 0.5) * room)
    return low, high


def _end_profile(
    rng: np.random.Generator,
    mask: Mask,
    natural: tuple[int, int],
    cuts: tuple[int, int],
    fine: int,
) -> Mask:
    """A mask whose cross-section shrinks to zero at new ends."""
    along = np.arange(len(mask)) + 0.5
    length = cuts[1] - cuts[0]
    profile = np.ones(len(mask))
    for distance, is_cut in (
        (along - cuts[0], cuts[0] != natural[0]),
        (cuts[1] - along, cuts[1] != natural[1]),
    ):
        if not is_cut:
            continue
        kind = rng.choice(["rounded", "blunt", "taper"], p=(0.55, 0.2, 0.25))
        reach = {"rounded": rng.uniform(0.15, 0.5), "blunt": 0.0, "taper": rng.uniform(0.4, 0.9)}
        t = np.clip(distance / max(reach[kind] * length, 0.5 * fine), 0, 1)
        profile *= t if kind == "taper" else np.sqrt(t * (2 - t))
    kept = np.zeros_like(mask)
    kept[profile >= 1] = mask[profile >= 1]
    closing = np.flatnonzero((profile > 0) & (profile < 1) & mask.any(axis=(1, 2)))
    if len(closing):
        inside = np.pad(mask[closing], ((0, 0), (1, 1), (1, 1)))
        # Widely spaced slices: the distance within the slice counts.
        depth = ndimage.distance_transform_edt(inside, sampling=(1e4, 1, 1))[:, 1:-1, 1:-1]
        limit = (1 - profile[closing]) * depth.max(axis=(1, 2))
        kept[closing] = depth > limit[:, None, None]
    return kept


def _cleft(rng: np.random.Generator, mask: Mask, start: int, stop: int) -> Mask:
    """A gap between two halves that opens and closes along the stack."""
    _, y, x = np.nonzero(mask)
    angle = rng.uniform(0, math.pi)
    rows = np.arange(mask.shape[1])[:, None] - y.mean()
    columns = np.arange(mask.shape[2]) - x.mean()
    across = np.abs(math.cos(angle) * rows + math.sin(angle) * columns)
    middle = rng.uniform(start, stop)
    reach = rng.uniform(0.15, 0.6) * (stop - start)
    opening = 1 - ((np.arange(len(mask)) - middle) / reach) ** 2
    return across < (rng.uniform(1.5, 5.0) * opening)[:, None, None]


def _trap(rng: np.random.Generator, kept: Mask, removed: Mask, fine: int) -> Mask | None:
    """An object that continues where the target ends."""
    present = np.flatnonzero(kept.any(axis=(1, 2)))
    start, stop = int(present[0]), int(present[-1]) + 1
    sides = [s for s, room in ((-1, start), (1, len(kept) - stop)) if room >= EMPTY * fine]
    if not sides:
        return None
    side = int(rng.choice(sides))
    beyond = np.zeros(len(kept), bool)
    beyond[slice(stop, None) if side > 0 else slice(0, start)] = True
    trap = removed & beyond[:, None, None]
    if trap.any():
        # The shrinking end of the target lies inside that object.
        half = slice((start + stop) // 2, None) if side > 0 else slice(0, (start + stop) // 2)
        trap[half] |= removed[half]
        return trap
    inner = round(rng.uniform(0.2, 0.4) * (stop - start))
    section = kept[stop - 1 - inner if side > 0 else start + inner]
    section = np.roll(section, rng.integers(-3, 4, 2), axis=(0, 1))
    gap, length = int(rng.integers(0, 2)) * fine, int(rng.integers(2, 9)) * fine
    first = stop + gap if side > 0 else max(0, start - gap - length)
    last = stop + gap + length if side > 0 else start - gap
    trap[first : max(last, 0)] = section
    return trap


def slice_mask(target: Target, shape: tuple[int, ...], fine: int) -> Mask:
    """The target on the grid of the slices: voxels filled by at least half.

    Parameters
    ----------
    target : Target
    shape : tuple of int
        Of the scene, in sub-slices.
    fine : int
        Sub-slices per slice.

    Returns
    -------
    ndarray of bool, shape (D, H, W)
    """
    parts = target.mask.reshape(-1, fine, *target.mask.shape[1:])
    filled: Floats = parts.mean(axis=1, dtype=np.float32)
    filled = ndimage.gaussian_filter(filled, (0, 0.7, 0.7), mode="nearest", truncate=3.0)
    mask = np.zeros((shape[0] // fine, *shape[1:]), bool)
    mask[:, *target.box[1:]] = filled >= 0.5
    return mask


def fits(mask: Mask) -> bool:
    """Whether a target on the grid of the slices has an allowed size."""
    areas = mask.sum(axis=(1, 2))
    present = np.flatnonzero(areas)
    if len(present) < MIN_EXTENT or areas.max() < MIN_AREA:
        return False
    rows, columns = _sides(mask[int(areas.argmax())][None])
    return MIN_SIZE <= max(rows.stop - rows.start, columns.stop - columns.start) <= MAX_SIZE


def surround(mask: Mask) -> Mask:
    """Voxels beside a mask, up to three pixels off, in the same slice."""
    return _shifted(mask, 3, np.logical_or) & ~mask


def _shifted(mask: Mask, reach: int, combine: np.ufunc) -> Mask:
    """Combine a mask with itself shifted up, down, left and right."""
    result = mask.copy()
    for offset in (-reach, reach):
        for axis in (1, 2):
            moved = np.zeros_like(mask)
            ahead = [slice(None)] * 3
            back = [slice(None)] * 3
            ahead[axis] = slice(offset, None) if offset > 0 else slice(None, offset)
            back[axis] = slice(None, -offset) if offset > 0 else slice(-offset, None)
            moved[tuple(ahead)] = mask[tuple(back)]
            result = combine(result, moved)
    return result
