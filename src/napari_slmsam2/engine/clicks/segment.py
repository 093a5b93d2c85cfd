"""The mask of clicks, boxes, lassos and scribbles by geodesic level sets.

For models without a prompt encoder.

Geodesic distances start at the clicks and grow across edges and with the difference from the
clicked intensities (Criminisi, Sharp and Blake 2008, ECCV; minimal paths by scikit-image's
``MCP_Geometric``). The level sets of the distance are nested regions around the clicks. Each is
weighted by the contrast along its outline and by the similarity of its rim and its core.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.engine.clicks.correction import correct_mask
from napari_slmsam2.engine.clicks.geodesic import distance_from, gradient_cost, intensity_cost
from napari_slmsam2.engine.clicks.hints import STROKE_AREA_SPREAD, Hints, Window
from napari_slmsam2.engine.clicks.level_sets import LevelSets
from napari_slmsam2.engine.clicks.region import BOX_MARGIN, region_distance
from napari_slmsam2.engine.features.resampling import resample

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int64]

WORK_PIXELS = 192 * 192
"""Larger slices are segmented on a coarser grid first, which bounds the time."""

CORRECTED = 0.5
"""A click outside keeps at least the levels up to this fraction of its own distance."""

JOINED = 1.5
"""Levels are considered up to this multiple of the one that connects the clicks."""


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
    """The mask of the object at the clicks, or in what was drawn.

    Parameters
    ----------
    image : ndarray of float32, shape (H, W)
        Intensities, 0 to 1.
    prompt : SlicePrompt
        With points, box, lasso or scribble, in pixels of the slice.

    Returns
    -------
    ndarray of bool, shape (H, W)
        Contains every pixel that was marked as inside and none that was marked as outside.

    Raises
    ------
    PromptError
        Nothing marks the inside, or a pixel is marked as inside and outside.
    """
    assert prompt.points is not None
    assert prompt.point_labels is not None
    rim = np.array(image.shape) - 1
    pixels = np.clip(np.rint(prompt.points), 0, rim).astype(np.int64)
    signs = prompt.point_labels == 1
    drawn = Hints.drawn_by(prompt, image.shape)
    _check(prompt, pixels[signs], pixels[~signs], drawn)
    # The first mask, then click by click: each corrects the mask before it.
    start = 0 if drawn.marks_inside else int(np.argmax(signs)) + 1
    mask = _answer(image, pixels[:start], signs[:start], drawn)
    for n in range(start, len(pixels)):
        mask = _corrected(image, mask, pixels[: n + 1], signs[: n + 1], drawn)
    return mask


def _corrected(image: Image, mask: Mask, pixels: Pixels, signs: Mask, drawn: Hints) -> Mask:
    """The mask after the last of these clicks."""
    row, column = (int(v) for v in pixels[-1])
    inside = bool(signs[-1])
    if drawn.lasso is not None:
        # Elsewhere the answer without the click is the better one: it changes its own part only.
        found = _answer(image, pixels, signs, drawn)
        found = mask ^ _part_at((row, column), found & ~mask if inside else mask & ~found)
    else:
        corrected = correct_mask(image, mask, (row, column), inside=inside)
        if corrected is None:
            return _answer(image, pixels, signs, drawn)
        found = corrected
    found[tuple(pixels.T)] = signs
    return found


def _part_at(place: tuple[int, int], mask: Mask) -> Mask:
    """The connected part of a mask that contains a pixel of it; shape (H, W)."""
    parts, _ = ndi.label(mask)
    return mask & (parts == parts[place])


def _answer(image: Image, pixels: Pixels, signs: Mask, drawn: Hints) -> Mask:
    """The mask for all clicks and drawings together."""
    hints = drawn.with_clicks(pixels, signs)
    window = _all(image.shape)
    if hints.extent is not None:
        window = _around(hints.extent, image.shape)
    mask = _answer_in(image, window, hints)
    closer = _smaller_window(mask, window, hints.inside)
    if closer is not None:
        mask = _answer_in(image, closer, hints)
    mask[tuple(hints.inside.T)] = True
    mask[tuple(hints.outside.T)] = False
    return mask


def _check(prompt: SlicePrompt, inside: Pixels, outside: Pixels, drawn: Hints) -> None:
    where = f"clicks of label {prompt.label} on slice {prompt.index}"
    if not drawn.marks_inside and not len(inside):
        raise PromptError(
            where,
            "are all outside the object",
            expected="a click or stroke inside the object, or a box or lasso around it",
            found=f"{len(outside)} clicks outside",
        )
    both = {tuple(p) for p in inside.tolist()} & {tuple(p) for p in outside.tolist()}
    if both:
        raise PromptError(where, "mark the same pixel as inside and outside", found=sorted(both))


def _all(shape: tuple[int, ...]) -> Window:
    return slice(0, shape[0]), slice(0, shape[1])


def _around(extent: Field, shape: tuple[int, ...]) -> Window:
    margin = max(4.0, BOX_MARGIN * float(max(extent[2:] - extent[:2])))
    low = np.maximum(0, np.floor(extent[:2] - margin)).astype(int)
    high = np.minimum(shape, np.ceil(extent[2:] + margin) + 1).astype(int)
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


def _answer_in(image: Image, window: Window, hints: Hints) -> Mask:
    """The mask inside a window, computed on at most `WORK_PIXELS` pixels."""
    size = np.array(_size(window))
    zoom = min(1.0, float(np.sqrt(WORK_PIXELS / np.prod(size))))
    rows, columns = np.maximum(1, np.rint(size * zoom)).astype(int)
    shape = int(rows), int(columns)
    field = _field(resample(image[window], shape), hints.on_grid(window, shape))
    mask = np.zeros(image.shape, bool)
    mask[window] = resample(field.astype(np.float32), _size(window)) > 0
    return mask


def _field(image: Image, hints: Hints) -> Field:
    """Positive inside the object, shape (H, W)."""
    centre = hints.inside[0] if hints.extent is None else None
    smooth, cost, unit = gradient_cost(image, centre)
    if hints.extent is not None:
        region = hints.region(cost.shape)
        distance = region_distance(cost, smooth, region)
        levels = LevelSets.measure(distance, image)
        share = np.log(levels.areas / region.area)
        weights = levels.weights(-0.5 * (share / region.spread) ** 2)
        return _tidy(_bounded(levels, weights, distance, hints) - distance, hints)
    distance = distance_from(cost + intensity_cost(smooth, hints.inside) / unit, hints.inside)
    rim = np.full(distance.shape, np.inf)
    if len(hints.outside):
        away = distance_from(cost + intensity_cost(smooth, hints.outside) / unit, hints.outside)
        rim = away - distance
    levels = LevelSets.measure(np.where(rim < 0, distance.max(), distance), image)
    prior = None
    if hints.stroke_area is not None:
        share = np.log(levels.areas / hints.stroke_area)
        prior = -0.5 * (share / STROKE_AREA_SPREAD) ** 2
    level = _bounded(levels, levels.weights(prior), distance, hints)
    return _tidy(np.minimum(level - distance, rim), hints)


def _bounded(
    levels: LevelSets, weights: npt.NDArray[np.float64], distance: Field, hints: Hints
) -> float:
    """The most probable level among those that agree with the clicks."""
    free = levels.median(weights)
    low = levels.joining(distance, hints.inside) if hints.extent is None else 0.0
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


def _tidy(field: Field, hints: Hints) -> Field:
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
