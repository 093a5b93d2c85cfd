"""Pseudo-stacks of one annotated slice, in which the object moves, deforms and ends.

Object and background are separated, warped and composed again (Khoreva et al. 2019, "Lucid data
dreaming for video object segmentation", IJCV), here along the slices and with known ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from napari_slmsam2.engine.features.interpolation import bounding_window, signed_distance
from napari_slmsam2.engine.features.resampling import resample
from napari_slmsam2.training.synthetic.stack import LabelledStack

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

MOST_PIXELS = 64
"""Side of the object from which on the slice is made smaller first."""

SURROUND = 1.5
"""Kept around the object, over its longer side."""

HALF_LENGTHS = (3, 14)
"""Slices from the annotated one to an end."""

EMPTY = 5
"""Slices without the object behind an end."""


_SMOOTHINGS = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Layers:
    """Object and surround, each continued where the other one was, all of shape (H, W)."""

    image: Image
    inside: Image
    outside: Image
    distance: Image
    noise: float

    @property
    def side(self) -> float:
        """Twice the radius of a disc of the object's area, in pixels."""
        return 2 * float(np.sqrt((self.distance > 0).sum() / np.pi))


def make_pseudo_stack(
    rng: np.random.Generator, image: Image, mask: Mask, spacing: tuple[float, float, float]
) -> LabelledStack:
    """Continue an annotated slice to both sides.

    Parameters
    ----------
    rng : numpy.random.Generator
        The same state gives the same stack.
    image : ndarray of float32, shape (H, W)
        0 to 1 in the volume's intensity window.
    mask : ndarray of bool, shape (H, W)
        Not empty.
    spacing : tuple of float
        ``(slice, row, column)`` distance of the voxel centres.

    Returns
    -------
    LabelledStack
        Of kind ``pseudo``; the annotated slice is in it as it is, made smaller if it is large.
    """
    layers, spacing = _take_apart(rng, image, mask, spacing)
    radius = layers.side / 2 * float(np.sqrt(spacing[1] * spacing[2])) / spacing[0]
    distractor = _draw_distractor(rng, layers) if rng.random() < 0.5 else None
    slices: list[tuple[Image, Mask]] = []
    for side in (-1, 1):
        length = int(np.clip(round(radius * np.exp(0.4 * rng.standard_normal())), *HALF_LENGTHS))
        ends = rng.random() < 0.85
        offsets = _draw_offsets(rng, float(layers.distance.max()), length)
        half = _half(rng, layers, offsets if ends else offsets[:length], distractor)
        slices = [*half[::-1], (layers.image, layers.distance > 0)] if side < 0 else slices + half
    return LabelledStack(
        np.stack([s[0] for s in slices]), np.stack([s[1] for s in slices]), spacing, "pseudo"
    )


def _take_apart(
    rng: np.random.Generator, image: Image, mask: Mask, spacing: tuple[float, float, float]
) -> tuple[_Layers, tuple[float, float, float]]:
    box = bounding_window([mask], 0)
    assert box is not None
    side = max(s.stop - s.start for s in box)
    margin = round(SURROUND * side) + 12
    part = tuple(
        slice(max(0, s.start - margin), min(n, s.stop + margin))
        for s, n in zip(box, mask.shape, strict=True)
    )
    image, distance = image[part], signed_distance(mask[part])
    if side > MOST_PIXELS:
        factor = MOST_PIXELS / side
        shape = (round(image.shape[0] * factor), round(image.shape[1] * factor))
        image = resample(image, shape)
        distance = resample(distance, shape) * np.float32(factor)
        spacing = (spacing[0], spacing[1] / factor, spacing[2] / factor)
    inside = distance > 0
    fine = image - ndi.gaussian_filter(image, 1.0)
    noise = 1.4826 * float(np.median(np.abs(fine)))
    smooth = ndi.gaussian_filter(image, 0.6)
    return _Layers(
        image.astype(np.float32),
        _continued(smooth, inside, np.zeros_like(fine)),
        _continued(smooth, ~inside, _texture_from_beside(rng, fine, inside)),
        distance.astype(np.float32),
        noise,
    ), spacing


def _continued(image: Image, known: Mask, texture: Image) -> Image:
    """The image where it is known, elsewhere what lies around, with a texture."""
    if not known.any():
        return image
    weights, found = known.astype(np.float32), np.zeros_like(image)
    left = ~known
    for sigma in (2.0, 6.0, 18.0, 54.0):
        weight = ndi.gaussian_filter(weights, sigma)
        use = left & (weight > 0.02)
        found[use] = ndi.gaussian_filter(image * weights, sigma)[use] / weight[use]
        left &= ~use
    found[left] = image[known].mean()
    for _ in range(_SMOOTHINGS):
        found = ndi.gaussian_filter(np.where(known, image, found), 3.0)
    return np.asarray(np.where(known, image, found + texture), np.float32)


def _texture_from_beside(rng: np.random.Generator, fine: Image, inside: Mask) -> Image:
    rows, columns = np.nonzero(inside)
    reach = 1.1 * max(np.ptp(rows) + 1, np.ptp(columns) + 1)
    angle = 2 * np.pi * rng.random()
    shift = np.array([np.sin(angle), np.cos(angle)]) * reach
    return np.asarray(ndi.shift(fine, shift, order=1, mode="reflect"), np.float32)


def _draw_distractor(rng: np.random.Generator, layers: _Layers) -> npt.NDArray[np.floating]:
    """Displacement of a distractor from the object."""
    angle = 2 * np.pi * rng.random()
    away = layers.side * rng.uniform(1.1, 2.0)
    return np.array([np.sin(angle), np.cos(angle)]) * away


def _draw_offsets(rng: np.random.Generator, radius: float, length: int) -> list[float | None]:
    """By how much the outline has moved inwards on every slice; None without the object."""
    part = np.arange(1, length + 1) / (length + 0.5)
    kind = rng.random()
    if kind < 0.5:
        size = np.sqrt(1 - part**2)
    elif kind < 0.8:
        size = 1 - rng.uniform(0.1, 0.5) * part
    else:
        size = 1 - 0.9 * part
    size = size * (1 + rng.uniform(-0.1, 0.25) * np.sin(np.pi * part))
    return [*(radius * (1 - size)).tolist(), *([None] * EMPTY)]


def _half(
    rng: np.random.Generator,
    layers: _Layers,
    offsets: list[float | None],
    distractor: npt.NDArray[np.floating] | None,
) -> list[tuple[Image, Mask]]:
    """The slices on one side of the annotated one, nearest first."""
    shape, side = layers.image.shape, layers.side
    grid = np.indices(shape).astype(np.float32)
    moved = np.zeros_like(grid)
    drift = rng.standard_normal(2) * 0.02 * side
    wobble = rng.uniform(0.005, 0.04) * side
    first, last = sorted(rng.integers(0, len(offsets) + 1, 2))
    slices = []
    for number, offset in enumerate(offsets):
        coarse = rng.standard_normal((2, 5, 5))
        moved += np.stack([resample(c.astype(np.float32), shape) for c in coarse]) * wobble
        moved += drift[:, None, None].astype(np.float32)
        inside, outside, distance = (
            ndi.map_coordinates(layer, grid + moved, order=1, mode="nearest")
            for layer in (layers.inside, layers.outside, layers.distance)
        )
        if distractor is not None and first <= number < last:
            beside, there = (
                ndi.shift(layer, distractor, order=1, mode="nearest")
                for layer in (inside, distance)
            )
            outside = _composed(beside, outside, there)
        image = outside
        mask = np.zeros(shape, bool)
        if offset is not None:
            image = _composed(inside, outside, distance - offset)
            mask = distance > offset
        noise = layers.noise * rng.standard_normal(shape)
        slices.append((np.clip(image + noise, 0, 1).astype(np.float32), mask))
    return slices


def _composed(inside: Image, outside: Image, distance: Image) -> Image:
    share = np.clip(distance + 0.5, 0, 1)
    return np.asarray(share * inside + (1 - share) * outside, np.float32)
