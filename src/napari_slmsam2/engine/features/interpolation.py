"""Shape-based interpolation between annotated slices; it needs neither weights nor intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from napari_slmsam2.core.errors import PromptError

Mask = npt.NDArray[np.bool_]
Field = npt.NDArray[np.float32]
Point = npt.NDArray[np.float64]

EDGE_SHARPNESS = 4.0
"""Logit per pixel of signed distance: the sigmoid rises from 0.12 to 0.88 within one pixel."""

MARGIN = 8
"""Pixels around a part for which distances are computed."""

MAX_PARTS = 32
"""Masks with more parts are interpolated as a whole, which bounds the cost."""


def signed_distance(mask: npt.ArrayLike) -> Field:
    """Distance to the outline in pixels, positive inside.

    The outline runs midway between object and background pixels, so that the values next to it
    are 0.5 and -0.5.

    Parameters
    ----------
    mask : array_like of bool, shape (H, W)

    Returns
    -------
    ndarray of float32, shape (H, W)
        Where there is no object, minus the diagonal of the slice everywhere; where there is
        nothing else, plus the diagonal.
    """
    inside = np.asarray(mask, dtype=bool)
    diagonal = np.float32(np.hypot(*inside.shape))
    if not inside.any():
        return np.full(inside.shape, -diagonal, np.float32)
    if inside.all():
        return np.full(inside.shape, diagonal, np.float32)
    distance = np.where(
        inside,
        ndi.distance_transform_edt(inside) - 0.5,
        0.5 - ndi.distance_transform_edt(~inside),
    )
    return distance.astype(np.float32)


def bounding_window(masks: Sequence[Mask], margin: int) -> tuple[slice, slice] | None:
    """Joint bounding box of masks with a margin, within the slice; None where all are empty."""
    union = np.logical_or.reduce(masks)
    box = ndi.find_objects(union.astype(np.uint8))
    if not box:
        return None
    rows, columns = (
        slice(max(0, s.start - margin), min(n, s.stop + margin))
        for s, n in zip(box[0], union.shape, strict=True)
    )
    return rows, columns


def interpolate_masks(
    before: npt.ArrayLike, after: npt.ArrayLike, fraction: float, *, is_round: bool = False
) -> Field:
    """The shape between two slices, as signed distance in pixels.

    Shape-based interpolation of signed distances (Raya and Udupa 1990, IEEE TMI 9:32-42). Parts
    that overlap, or else lie nearest to each other, are brought to a common centroid first, so
    that the shape in between is not lost where they do not overlap. A part without a partner, and
    an object that is absent on one of the two slices, shrinks towards its centre like an
    ellipsoid.

    Parameters
    ----------
    before, after : array_like of bool, shape (H, W)
        An empty mask says that the object is absent.
    fraction : float
        Position between them: 0 on ``before``, 1 on ``after``.
    is_round : bool
        The area of a part that is on both slices is the mean of a linear change and of half an
        ellipsoid with its equator on the slice with the larger area. Default: the distances
        change linearly, as in a cone.

    Returns
    -------
    ndarray of float32, shape (H, W)
        Positive inside. On the two slices themselves, the sign of their masks.
    """
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    field = np.full(first.shape, -np.float32(np.hypot(*first.shape)), np.float32)
    window = bounding_window([first, second], MARGIN)
    if window is None:
        return field
    if fraction <= 0.0 or fraction >= 1.0:
        return signed_distance(first if fraction <= 0.0 else second)
    cropped = np.full_like(field[window], field.min())
    for pair in _paired_parts(first[window], second[window]):
        part_window = bounding_window([part for part in pair if part is not None], MARGIN)
        assert part_window is not None
        part_first, part_second = (None if part is None else part[part_window] for part in pair)
        view = cropped[part_window]
        part = _interpolate_part(part_first, part_second, fraction, is_round)
        np.maximum(view, part, out=view)
    field[window] = cropped
    return field


def _paired_parts(first: Mask, second: Mask) -> list[tuple[Mask | None, Mask | None]]:
    """Parts that overlap belong together; the others are paired by distance, as far as possible."""
    regions, count = ndi.label(first | second, structure=np.ones((3, 3)))
    if count > MAX_PARTS:
        return [(first if first.any() else None, second if second.any() else None)]
    pairs: list[tuple[Mask | None, Mask | None]] = []
    lonely: tuple[list[Mask], list[Mask]] = ([], [])
    for number in range(1, count + 1):
        region = regions == number
        part_first, part_second = first & region, second & region
        if part_first.any() and part_second.any():
            pairs.append((part_first, part_second))
        else:
            lonely[0 if part_first.any() else 1].append(region)
    taken: tuple[set[int], set[int]] = (set(), set())
    for distance, i, j in _distances(*lonely):
        reach = _radius(lonely[0][i]) + _radius(lonely[1][j])
        near = distance <= 2.0 * reach or not pairs
        if near and i not in taken[0] and j not in taken[1]:
            pairs.append((lonely[0][i], lonely[1][j]))
            taken[0].add(i)
            taken[1].add(j)
    pairs += [(part, None) for i, part in enumerate(lonely[0]) if i not in taken[0]]
    pairs += [(None, part) for j, part in enumerate(lonely[1]) if j not in taken[1]]
    return pairs


def _distances(first: list[Mask], second: list[Mask]) -> list[tuple[float, int, int]]:
    """Distances of the centroids of all pairs, shortest first."""
    centroids = [_centroid(p) for p in first], [_centroid(q) for q in second]
    return sorted(
        (float(np.linalg.norm(p - q)), i, j)
        for i, p in enumerate(centroids[0])
        for j, q in enumerate(centroids[1])
    )


def _interpolate_part(
    first: Mask | None, second: Mask | None, fraction: float, is_round: bool
) -> Field:
    if first is None:
        assert second is not None
        return _shrunk(second, 1.0 - fraction)
    if second is None:
        return _shrunk(first, fraction)
    start, end = _centroid(first), _centroid(second)
    here = (1.0 - fraction) * start + fraction * end
    aligned = (1.0 - fraction) * _moved(first, here - start)
    aligned += fraction * _moved(second, here - end)
    field: Field = aligned.astype(np.float32)
    if not is_round:
        return field
    return resized(field, _roundness(first, second, fraction) * int((field > 0).sum()))


def _roundness(first: Mask, second: Mask, fraction: float) -> float:
    """Area of a round part between two slices over that of a cone."""
    areas = int(first.sum()), int(second.sum())
    way = fraction if areas[0] >= areas[1] else 1.0 - fraction
    area = max(areas) - (max(areas) - min(areas)) * (way + way**2) / 2
    of_cone = (1.0 - fraction) * _radius(first) + fraction * _radius(second)
    return float(np.sqrt(area / np.pi) / of_cone) ** 2


def _shrunk(mask: Mask, fraction: float) -> Field:
    """Level set of the distance map that loses area like an ellipsoid towards its pole."""
    distance = signed_distance(mask)
    return distance - np.float32(distance.max() * (1.0 - np.sqrt(1.0 - fraction**2)))


def _moved(mask: Mask, offset: Point) -> Field:
    """Signed distance of the mask after a translation by ``offset`` pixels."""
    pad = int(np.ceil(np.abs(offset).max())) + 1
    distance = signed_distance(np.pad(mask, pad))
    moved = ndi.shift(distance, offset, order=1, mode="nearest")
    return np.asarray(moved[pad:-pad, pad:-pad], np.float32)


def _centroid(mask: Mask) -> Point:
    return np.argwhere(mask).mean(axis=0)


def _radius(mask: Mask) -> float:
    return float(np.sqrt(mask.sum() / np.pi))


def interpolated_logits(masks: Mapping[int, npt.ArrayLike], index: int) -> Field:
    """Mask logits of a slice from the annotated slices around it.

    The shape comes from the two neighbouring annotated slices (`interpolate_masks`), its size
    from all slices that are annotated without an absent one between them, so that the object is
    round along the stack, not a double cone: the radius of the disc of equal area follows a
    monotone cubic (Fritsch and Carlson 1980) through three or more of them. With two, the size of
    each part is that of a round object.

    Parameters
    ----------
    masks : mapping of slice index to array_like of bool, shape (H, W)
        The annotated slices of one label; an empty mask says that the object is absent.
    index : int
        Slice to fill.

    Returns
    -------
    ndarray of float32, shape (H, W)
        Positive inside; the sigmoid of the logits has a soft edge about one pixel wide. Beyond
        the outermost annotated slices all logits are negative.

    Raises
    ------
    PromptError
        ``masks`` is empty.
    """
    if not masks:
        raise PromptError("seeds", "interpolation needs an annotated slice", found="none")
    before = max((i for i in masks if i <= index), default=None)
    after = min((i for i in masks if i >= index), default=None)
    if before is None or after is None:
        shape = np.shape(next(iter(masks.values())))
        return np.full(shape, -EDGE_SHARPNESS * np.hypot(*shape), np.float32)
    fraction = 0.0 if before == after else (index - before) / (after - before)
    areas = {i: int(np.count_nonzero(m)) for i, m in masks.items()}
    knots = _knots(areas, index)
    distance = interpolate_masks(masks[before], masks[after], fraction, is_round=len(knots) == 2)
    if 0.0 < fraction < 1.0:
        distance = resized(distance, _growth(areas, knots, index) * int((distance > 0).sum()))
    return np.asarray(EDGE_SHARPNESS * distance, np.float32)


def _knots(areas: Mapping[int, int], index: int) -> list[int]:
    """The seeds around a slice that no slice without the object separates from it."""
    absent = [i for i, area in areas.items() if not area]
    start = max((i for i in absent if i < index), default=min(areas) - 1)
    stop = min((i for i in absent if i > index), default=max(areas) + 1)
    return [i for i in sorted(areas) if start < i < stop]


def _growth(areas: Mapping[int, int], knots: Sequence[int], index: int) -> float:
    """Area among three or more seeds over what it were if the radius changed linearly."""
    if len(knots) < 3 or not knots[0] < index < knots[-1]:
        return 1.0
    from scipy.interpolate import PchipInterpolator  # a quarter of a second at the start

    radii = np.sqrt([areas[i] for i in knots])
    cubic, linear = PchipInterpolator(knots, radii)(index), np.interp(index, knots, radii)
    return float(np.clip(cubic / linear, 0.5, 2.0) ** 2)


def resized(distance: Field, area: float) -> Field:
    """The level set with another area, in pixels: at least 1, and the slice not filled."""
    wanted = min(max(1, round(area)), distance.size - 1)
    if wanted == int((distance > 0).sum()):
        return distance
    inner, outer = -np.partition(-distance, (wanted - 1, wanted), axis=None)[
        wanted - 1 : wanted + 1
    ]
    return distance - np.float32(0.5 * (inner + outer))


def expected_iou(masks: Mapping[int, Mask], index: int) -> float:
    """Intersection over union with the true mask that interpolation can be expected to reach.

    1 on the seeds; with the distance to the nearer one it falls towards the overlap of the two.
    The length of 10 slices was fitted on the training volumes (see ``docs/flow.md``).

    Parameters
    ----------
    masks : mapping of slice index to ndarray of bool, shape (H, W)
    index : int
        A slice between two of them.
    """
    before = max(i for i in masks if i <= index)
    after = min(i for i in masks if i >= index)
    first, second = masks[before], masks[after]
    overlap = int((first & second).sum()) / max(1, int((first | second).sum()))
    distance = min(index - before, after - index)
    return float(1.0 - (1.0 - overlap) * (1.0 - np.exp(-distance / 10.0)))


def mask_stability(distance: Field) -> float:
    """Area of a mask shrunk by a quarter of a pixel over its area grown by as much.

    The counterpart, in pixels, of SAM's stability score. 0 where the mask is empty.
    """
    outer = int((distance > -0.25).sum())
    return float((distance > 0.25).sum() / outer) if outer else 0.0
