"""The mask of clicks and a box by geodesic level sets, for models without a prompt encoder.

Geodesic distances start at the clicks and grow across edges and with the difference from the
clicked intensities (Criminisi, Sharp and Blake 2008, ECCV; minimal paths by scikit-image's
``MCP_Geometric``). The level sets of the distance are nested regions around the clicks. Each is
weighted by the contrast along its outline and by the similarity of its rim and its core.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.engine.clicks.correction import correct_mask
from napari_slmsam2.engine.clicks.geodesic import (
    UNLIKE,
    distance_from,
    gradient_cost,
    intensity_cost,
)
from napari_slmsam2.engine.clicks.level_sets import LevelSets
from napari_slmsam2.engine.features.resampling import resample

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int64]

WORK_PIXELS = 192 * 192
"""Larger slices are segmented on a coarser grid first, which bounds the time."""

BOX_CORE, BOX_MARGIN, BOX_AREA, BOX_AREA_SPREAD = 0.5, 0.3, 0.68, 0.15
"""For a box: the ellipse that counts as object and the margin around the box, as fractions of its
size; the expected area of the object as a fraction of the box, and the spread of its logarithm."""

CORRECTED = 0.5
"""A click outside keeps at least the levels up to this fraction of its own distance."""

JOINED = 1.5
"""Levels are considered up to this multiple of the one that connects the clicks."""

_BINS = 24


@dataclass(frozen=True, slots=True)
class _Hints:
    """Clicks and box in pixels of an image.

    Attributes
    ----------
    inside, outside : ndarray of int, shape (N, 2)
        Clicked pixels.
    box : ndarray of float, shape (4,), or None
        ``(row_min, column_min, row_max, column_max)``, with the clicks inside the object.
    """

    inside: Pixels
    outside: Pixels
    box: Field | None


def seed_mask(prompt: SlicePrompt, image: Image) -> Mask:
    """The mask of a seed: as drawn or answered, empty if absent, else computed from the clicks.

    Parameters
    ----------
    prompt : SlicePrompt
    image : ndarray of float32, shape (H, W)
        Intensities of its slice, 0 to 1.

    Raises
    ------
    PromptError
        See `mask_from_prompt`.
    """
    if prompt.kind is PromptKind.ABSENT:
        return np.zeros(image.shape, bool)
    return mask_from_prompt(image, prompt) if prompt.mask is None else prompt.mask


def mask_from_prompt(image: Image, prompt: SlicePrompt) -> Mask:
    """The mask of the object at the clicks or in the box.

    Parameters
    ----------
    image : ndarray of float32, shape (H, W)
        Intensities, 0 to 1.
    prompt : SlicePrompt
        With points, a box, or both, in pixels of the slice.

    Returns
    -------
    ndarray of bool, shape (H, W)
        Contains every pixel that was clicked as inside and none that was clicked as outside.

    Raises
    ------
    PromptError
        There is no click inside and no box, or a pixel is marked as inside and outside.
    """
    assert prompt.points is not None
    assert prompt.point_labels is not None
    rim = np.array(image.shape) - 1
    pixels = np.clip(np.rint(prompt.points), 0, rim).astype(np.int64)
    signs = prompt.point_labels == 1
    _check(prompt, pixels[signs], pixels[~signs])
    # The first mask, then click by click: each corrects the mask before it.
    start = 0 if prompt.box is not None else int(np.argmax(signs)) + 1
    mask = _answer(image, pixels[:start], signs[:start], prompt.box)
    for n in range(start, len(pixels)):
        mask = _corrected(image, mask, pixels[: n + 1], signs[: n + 1], prompt.box)
    return mask


def _corrected(
    image: Image, mask: Mask, pixels: Pixels, signs: Mask, box: tuple[float, ...] | None
) -> Mask:
    """The mask after the last of these clicks."""
    row, column = (int(v) for v in pixels[-1])
    found = correct_mask(image, mask, (row, column), inside=bool(signs[-1]))
    if found is None:
        return _answer(image, pixels, signs, box)
    found[tuple(pixels.T)] = signs
    return found


def _answer(image: Image, pixels: Pixels, signs: Mask, drawn: tuple[float, ...] | None) -> Mask:
    """The mask for all clicks and the box together."""
    inside, outside, box = pixels[signs], pixels[~signs], None
    if drawn is not None:
        rim = np.tile(np.array(image.shape) - 0.5, 2)
        box = np.clip(np.array(drawn), -0.5, rim)
        for row, column in inside:
            here = (row - 0.5, column - 0.5, row + 0.5, column + 0.5)
            box = np.r_[np.minimum(box[:2], here[:2]), np.maximum(box[2:], here[2:])]
    window = _around(box, image.shape) if box is not None else _all(image.shape)
    mask = _answer_in(image, window, _Hints(inside, outside, box))
    closer = _smaller_window(mask, window, inside)
    if closer is not None:
        mask = _answer_in(image, closer, _Hints(inside, outside, box))
    mask[tuple(pixels.T)] = signs
    return mask


def _check(prompt: SlicePrompt, inside: Pixels, outside: Pixels) -> None:
    where = f"clicks of label {prompt.label} on slice {prompt.index}"
    if prompt.box is None and not len(inside):
        raise PromptError(
            where,
            "are all outside the object",
            expected="a click inside the object, or a box around it",
            found=f"{len(outside)} clicks outside",
        )
    both = {tuple(p) for p in inside.tolist()} & {tuple(p) for p in outside.tolist()}
    if both:
        raise PromptError(where, "mark the same pixel as inside and outside", found=sorted(both))


Window = tuple[slice, slice]


def _all(shape: tuple[int, ...]) -> Window:
    return slice(0, shape[0]), slice(0, shape[1])


def _around(box: Field, shape: tuple[int, ...]) -> Window:
    margin = max(4.0, BOX_MARGIN * float(max(box[2:] - box[:2])))
    low = np.maximum(0, np.floor(box[:2] - margin)).astype(int)
    high = np.minimum(shape, np.ceil(box[2:] + margin) + 1).astype(int)
    return slice(low[0], high[0]), slice(low[1], high[1])


def _size(window: Window) -> tuple[int, int]:
    rows, columns = window
    return rows.stop - rows.start, columns.stop - columns.start


def _smaller_window(mask: Mask, window: Window, inside: Pixels) -> Window | None:
    """A smaller window for a second pass at full resolution; None if it is not much smaller."""
    if np.prod(_size(window)) <= WORK_PIXELS:
        return None
    found = np.concatenate([np.argwhere(mask), inside])
    low, high = found.min(0), found.max(0)
    margin = np.maximum(16, high - low + 1)
    low = np.maximum(np.maximum(0, low - margin), [w.start for w in window])
    high = np.minimum(high + margin + 1, [w.stop for w in window])
    closer = slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))
    return closer if np.prod(_size(closer)) < 0.5 * np.prod(_size(window)) else None


def _answer_in(image: Image, window: Window, hints: _Hints) -> Mask:
    """The mask inside a window, computed on at most `WORK_PIXELS` pixels."""
    size = np.array(_size(window))
    start = np.array([window[0].start, window[1].start])
    zoom = min(1.0, float(np.sqrt(WORK_PIXELS / np.prod(size))))
    rows, columns = np.maximum(1, np.rint(size * zoom)).astype(int)
    scale = np.array([rows, columns]) / size

    def scaled(places: npt.NDArray[np.generic]) -> Field:
        return np.asarray((places - start + 0.5) * scale - 0.5)

    def pixels(places: Pixels) -> Pixels:
        return np.clip(np.rint(scaled(places)), 0, [rows - 1, columns - 1]).astype(np.int64)

    seen = ((hints.outside >= start) & (hints.outside < start + size)).all(1)
    outside = pixels(hints.outside[seen])
    inside = pixels(hints.inside)
    # On a coarse grid a pixel may be both: clicks inside have priority.
    outside = outside[~(outside[:, None] == inside[None]).all(2).any(1)]
    box = None
    if hints.box is not None:
        box = np.concatenate([scaled(hints.box[:2]), scaled(hints.box[2:])])
    field = _field(resample(image[window], (rows, columns)), _Hints(inside, outside, box))
    mask = np.zeros(image.shape, bool)
    mask[window] = resample(field.astype(np.float32), _size(window)) > 0
    return mask


def _field(image: Image, hints: _Hints) -> Field:
    """Positive inside the object, shape (H, W)."""
    centre = hints.inside[0] if hints.box is None else None
    smooth, cost, unit = gradient_cost(image, centre)
    if hints.box is not None:
        distance = _box_distance(cost, smooth, hints)
        levels = LevelSets.measure(distance, image)
        height, width = hints.box[2:] - hints.box[:2]
        share = np.log(levels.areas / (height * width)) - np.log(BOX_AREA)
        weights = levels.weights(-0.5 * (share / BOX_AREA_SPREAD) ** 2)
        return _tidy(_bounded(levels, weights, distance, hints) - distance, hints)
    distance = distance_from(cost + intensity_cost(smooth, hints.inside) / unit, hints.inside)
    rim = np.full(distance.shape, np.inf)
    if len(hints.outside):
        away = distance_from(cost + intensity_cost(smooth, hints.outside) / unit, hints.outside)
        rim = away - distance
    levels = LevelSets.measure(np.where(rim < 0, distance.max(), distance), image)
    level = _bounded(levels, levels.weights(), distance, hints)
    return _tidy(np.minimum(level - distance, rim), hints)


def _bounded(
    levels: LevelSets, weights: npt.NDArray[np.float64], distance: Field, hints: _Hints
) -> float:
    """The most probable level among those that agree with the clicks."""
    free = levels.median(weights)
    low = levels.joining(distance, hints.inside) if hints.box is None else 0.0
    high = min((float(distance[tuple(p)]) for p in hints.outside), default=np.inf)
    if high <= free:
        # The click removed something: the outline is probably nearer to it than to the object.
        low = max(low, CORRECTED * high)
    allowed = (levels.values >= low) & (levels.values < high)
    if not allowed.any() and low < high:
        return 0.5 * (low + high)
    if not allowed.any():
        allowed = (levels.values >= low) & (levels.values <= JOINED * low)
    return levels.median(np.where(allowed, weights, 0.0)) if allowed.any() else low


def _tidy(field: Field, hints: _Hints) -> Field:
    """The field without holes and without parts that contain no click."""
    mask = field > 0
    holes, n = ndi.label(ndi.binary_fill_holes(mask) & ~mask)
    kept = np.unique(holes[tuple(hints.outside.T)])
    mask |= (holes > 0) & ~np.isin(holes, kept)
    parts, n = ndi.label(mask)
    if n > 1:
        wanted = np.unique(parts[tuple(hints.inside.T)]) if len(hints.inside) else np.empty(0, int)
        largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
        chosen = wanted[wanted > 0] if (wanted > 0).any() else [largest]
        mask = np.isin(parts, chosen)
    size = np.abs(field) + 1e-9
    return np.where(mask, size, -size)


def _box_distance(cost: Field, smooth: Field, hints: _Hints) -> Field:
    """0 in the centre of the box, 1 outside of it."""
    assert hints.box is not None
    low, high = hints.box[:2], hints.box[2:]
    rows, columns = np.indices(cost.shape)
    # -1 to 1 along both sides of the box.
    down, right = (
        (places - (a + b) / 2) / ((b - a) / 2)
        for places, a, b in zip((rows, columns), low, high, strict=True)
    )
    within = (np.abs(down) <= 1) & (np.abs(right) <= 1)
    radius = np.hypot(down, right)
    core = within & (radius <= max(BOX_CORE, float(radius.min())))
    for row, column in hints.outside:
        core[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = False
    core[tuple(hints.inside.T)] = True
    if not core.any():
        core = within & (radius == radius[within].min())
    beyond = ~within
    beyond[tuple(hints.outside.T)] = True
    beyond &= ~core
    if not beyond.any():
        return np.where(within, 0.0, 1.0)
    foreign = _background(smooth, core | (within & (radius <= 0.7)), beyond)
    inner = distance_from(cost + UNLIKE * foreign, np.argwhere(core))
    outer = distance_from(
        cost + UNLIKE * (1 - foreign), np.argwhere(beyond & ndi.binary_dilation(~beyond))
    )
    ratio = inner / (inner + outer + 1e-12)
    return np.where(beyond, 1.0, ratio)


def _background(smooth: Field, inside: Mask, outside: Mask) -> Field:
    """Probability that an intensity belongs to the outside, from two histograms."""
    low, high = np.percentile(smooth, (2, 98))
    bins = np.clip((smooth - low) / max(high - low, 0.02) * _BINS, 0, _BINS - 1).astype(int)
    shares = []
    for mask in (inside, outside):
        counts = np.bincount(bins[mask], minlength=_BINS).astype(np.float64)
        counts = ndi.gaussian_filter1d(counts, 1.5, mode="nearest") + 0.02
        shares.append(counts / counts.sum())
    return np.asarray((shares[1] / (shares[0] + shares[1]))[bins])
