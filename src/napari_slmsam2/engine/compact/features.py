"""What is measured, without a network, for the network that sees a window around the object.

Training and inference share these functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.crop import ObjectCrop
from napari_slmsam2.engine.features.interpolation import (
    EDGE_SHARPNESS,
    bounding_window,
    interpolated_logits,
    signed_distance,
)
from napari_slmsam2.engine.features.taper import find_taper

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

LOGITS_PER_PIXEL = 2.0
"""Mask logit of a pixel of the window, one pixel inside the outline."""

MAX_LOGIT = 8.0
"""Logits are carried from slice to slice within this bound."""

N_CUES = 9
AREA_CUE = 5


@dataclass(frozen=True, slots=True)
class Contrast:
    """Range of the intensities of an object and its surround on its seed."""

    low: float
    high: float

    @classmethod
    def measure(cls, image: Image, distance: Image) -> Contrast:
        """From the annotated slice.

        Parameters
        ----------
        image : ndarray of float32, shape (H, W)
        distance : ndarray of float32, shape (H, W)
            Signed distance to the outline of the object in pixels, positive inside.
        """
        box = bounding_window([distance > 0], 0)
        side = 0 if box is None else max(s.stop - s.start for s in box)
        near = distance > -max(4.0, 0.3 * side)
        low, high = (float(v) for v in np.percentile(image[near] if near.any() else image, (1, 99)))
        return cls(low, max(high, low + 1e-4))

    def apply(self, image: Image) -> Image:
        """Scale the range to 0 to 1; values far outside are bounded by -1 and 2."""
        scaled = (image - np.float32(self.low)) / np.float32(self.high - self.low)
        return np.clip(scaled, -1.0, 2.0)


def window_for(mask: Mask, config: CompactConfig) -> ObjectCrop | None:
    """The window of a network around an object; None where the mask is empty.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
    config : CompactConfig
    """
    if config.follow == "object":
        return ObjectCrop.around(mask, config.window_size, config.window_margin)
    height, width = mask.shape
    side = float(max(height, width))
    return ObjectCrop((height - 1) / 2, (width - 1) / 2, side, config.window_size)


def follow(
    carried: Image, window: ObjectCrop, shape: tuple[int, ...], config: CompactConfig
) -> tuple[ObjectCrop, Image]:
    """Place the window anew around a carried mask.

    Near the outline the logits keep their fraction of a pixel, further away they are measured
    anew, so that no blur builds up along a sweep.

    Parameters
    ----------
    carried : ndarray of float32, shape (N, N)
        Mask logits in ``window``.
    window : ObjectCrop
    shape : tuple of int
        ``(H, W)`` of the slice.
    config : CompactConfig

    Returns
    -------
    window : ObjectCrop
        The old one where no pixel of the slice is left in the mask.
    carried : ndarray of float32, shape (N, N)
        Mask logits in it.
    """
    mask = carried > 0
    seen = mask & window.on_slice(shape)
    if not seen.any():
        return window, carried
    exact = signed_distance(mask)
    fine = np.clip(carried / np.float32(LOGITS_PER_PIXEL), exact - 1, exact + 1)
    distance = np.where(np.abs(exact) <= 1.5, fine, exact)
    if config.follow == "object":
        there = window.following(seen, config.window_margin)
        if there is not window:
            scale = np.float32(there.zoom / window.zoom)
            window, distance = there, there.seen_from(window, distance) * scale
    return window, np.clip(distance * np.float32(LOGITS_PER_PIXEL), -MAX_LOGIT, MAX_LOGIT)


def read_logits(distance: Image, window: ObjectCrop) -> Image:
    """Logits of a mask in a window, from its signed distance in pixels of the slice."""
    return window.read(distance) * np.float32(window.zoom * LOGITS_PER_PIXEL)


def interpolated_prior(masks: Mapping[int, Mask], index: int, window: ObjectCrop) -> Image:
    """What the annotated slices say of a slice between two of them.

    Parameters
    ----------
    masks : mapping of slice index to ndarray of bool, shape (H, W)
        Empty where the object is known to be absent.
    index : int
    window : ObjectCrop

    Returns
    -------
    ndarray of float32, shape (N, N)
        Mask logits within plus and minus `MAX_LOGIT`; 0 where ``index`` is not between two.
    """
    if not (min(masks) <= index <= max(masks)):
        return np.zeros((window.size, window.size), np.float32)
    box = bounding_window(list(masks.values()), 12)
    assert box is not None
    logits = interpolated_logits({i: m[box] for i, m in masks.items()}, index)
    inner = ObjectCrop(
        window.row - box[0].start, window.column - box[1].start, window.side, window.size
    )
    found = read_logits(logits / np.float32(EDGE_SHARPNESS), inner)
    return np.clip(found, -MAX_LOGIT, MAX_LOGIT)


def known_masks(masks: Mapping[int, Mask], extent: tuple[int, int] | None) -> dict[int, Mask]:
    """The annotated masks, and empty ones just beyond the ends that were marked."""
    known = dict(masks)
    if extent is not None:
        nothing = np.zeros_like(next(iter(masks.values())))
        known.setdefault(extent[0] - 1, nothing)
        known.setdefault(extent[1] + 1, nothing)
    return known


def chosen_seeds(areas: Mapping[int, int], index: int, direction: int, n: int) -> list[int]:
    """The seeds that the long-term memory reads for a slice, most telling first.

    The nearest one behind, the nearest one ahead, then the largest ones.
    """
    present = [i for i, area in areas.items() if area]
    behind = [i for i in present if (index - i) * direction > 0]
    ahead = [i for i in present if (i - index) * direction > 0]
    order = [*sorted(behind, key=lambda i: abs(index - i))[:1]]
    order += sorted(ahead, key=lambda i: abs(index - i))[:1]
    order += sorted((i for i in present if i not in order), key=lambda i: -areas[i])
    return order[:n]


def position_features(
    areas: Mapping[int, int],
    index: int,
    direction: int,
    extent: tuple[int, int] | None,
    spacing: tuple[float, float, float],
    window: ObjectCrop,
) -> npt.NDArray[np.float32]:
    """What the network is told of the way from the seed.

    Parameters
    ----------
    areas : mapping of slice index to int
        Area of each seed in pixels, 0 where the object is absent.
    index : int
    direction : {+1, -1}
    extent : tuple of int or None
        First and last slice of the object, if the person marked them.
    spacing : tuple of float
        ``(slice, row, column)`` distance of the voxel centres.
    window : ObjectCrop

    Returns
    -------
    ndarray of float32, shape (9,)
        Way from the seed over the half length of the object (open ends); log of the slices from
        the seed; whether the end is marked; part of the way to it; whether another seed lies
        ahead; log of the seed's area in pixels of the window (the network puts the growth since
        then in its place); part of the way to the seed ahead; log of a slice's thickness over
        the side of the window; log of the zoom.
    """
    taper = find_taper(areas, index, direction, extent, spacing)
    behind = [i for i, area in areas.items() if (index - i) * direction > 0 and area]
    source = max(behind, key=lambda i: i * direction)
    ahead = [abs(i - source) for i in areas if (i - index) * direction > 0]
    way, marked = abs(index - source), taper.end is not None
    pixel = float(np.sqrt(spacing[1] * spacing[2]))
    return np.array(
        [
            0.0 if marked or taper.between else min(4.0, taper.travel(index)),
            np.log1p(way) / 3.0,
            float(marked),
            min(1.5, taper.travel(index)) if marked else 0.0,
            float(taper.between),
            np.log(areas[source] * window.zoom**2 + 1.0),
            way / min(ahead) if taper.between else 0.0,
            np.clip(np.log(spacing[0] / (pixel * window.side)) / 2.0, -3.0, 3.0),
            np.log2(window.zoom) / 2.0,
        ],
        np.float32,
    )
