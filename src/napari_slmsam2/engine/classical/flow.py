"""The object follows the dense optical flow from slice to slice: a model without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.segmenter import SegmentedSlice, SweepContext
from napari_slmsam2.engine.features.appearance import Appearance
from napari_slmsam2.engine.features.interpolation import (
    EDGE_SHARPNESS,
    bounding_window,
    mask_stability,
    signed_distance,
)
from napari_slmsam2.engine.features.optical_flow import dense_flow, resample, warp
from napari_slmsam2.engine.features.presence import AppearanceFeatures
from napari_slmsam2.engine.features.taper import Taper, find_taper
from napari_slmsam2.engine.raw_slice_segmenter import Image, RawSliceSegmenter

Window = tuple[slice, slice]

WORK_SIDE = 44.0
"""Side in pixels to which the object is scaled before the flow is computed."""

MAX_ZOOM, MIN_ZOOM = 3.0, 1 / 16

LIKELIHOOD_STEP = 3.0
"""Largest shift of the outline by the intensities, in pixels of the scaled window."""


@dataclass(frozen=True, slots=True, eq=False)
class FlowSeed:
    """What a sweep keeps of the seed that it comes from.

    Attributes
    ----------
    area : int
        In pixels; 0 where the object is absent.
    low, high : float
        Range of the intensities of the object and its surround.
    appearance : Appearance or None
    fit : float
        Mean log likelihood ratio inside the mask.
    """

    area: int
    low: float = 0.0
    high: float = 1.0
    appearance: Appearance | None = None
    fit: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class FlowState:
    """The object on one slice, inside a window around it.

    Attributes
    ----------
    window : tuple of slice
        Rows and columns in the slice.
    image : ndarray of float32, shape (h, w)
        Intensities inside the window.
    distance : ndarray of float32, shape (h, w)
        Signed distance to the outline in pixels, positive inside.
    seed : FlowSeed
        Where the sweep comes from.
    """

    window: Window
    image: Image
    distance: Image
    seed: FlowSeed


class FlowSegmenter(RawSliceSegmenter):
    """Dense optical flow as a `SliceSegmenter`.

    A window around the object is scaled to one size and matched to the same window of the next
    slice (TV-L1 flow); the signed distance to the outline is carried along. What is carried is
    the flow's result alone; what is shown is also moved by the intensities where object and
    surround differ clearly, and tapers towards an end. Presence and expected overlap are judged
    by `AppearanceFeatures`.
    """

    name = "flow"
    reach = 1
    bidirectional = True
    default_merge = "interpolation"

    def _remembered(self, image: Image, mask: npt.NDArray[np.bool_]) -> FlowState:
        return _start(image, mask)

    def segment(
        self,
        embedding: Any,
        index: int,
        direction: int,
        banks: Sequence[MemoryBank],
        context: SweepContext,
    ) -> list[SegmentedSlice]:
        """Carry the mask of every bank over from the slice before."""
        return [self._segment_one(embedding, index, direction, bank, context) for bank in banks]

    @staticmethod
    def _segment_one(
        image: Image, index: int, direction: int, bank: MemoryBank, context: SweepContext
    ) -> SegmentedSlice:
        previous = bank.get(index - direction)
        assert previous is not None
        state: FlowState = previous.content
        areas = {i: entry.content.seed.area for i, entry in bank.seeds.items()}
        extent = context.extents.get(bank.label)
        taper = find_taper(areas, index, direction, extent, context.spacing)
        logits = np.full(image.shape, -EDGE_SHARPNESS * np.hypot(*image.shape), np.float32)
        carried, shown, cues = _carry(image[state.window], state, index, taper)
        if not (carried > 0).any():
            return SegmentedSlice(logits, 0.0, 0.0, 0.0, state)
        presence = cues.presence()
        if taper.between or (extent is not None and extent[0] <= index <= extent[1]):
            presence = 0.5 + 0.5 * presence
        if presence >= 0.5:
            logits[state.window] = EDGE_SHARPNESS * shown
        return SegmentedSlice(
            logits=logits,
            presence=presence,
            predicted_iou=cues.predicted_iou(),
            stability=mask_stability(shown),
            content=_moved_on(image, state, carried),
        )


def _start(image: Image, mask: npt.NDArray[np.bool_]) -> FlowState:
    box = bounding_window([mask], 0)
    if box is None:
        nothing = np.empty((0, 0), np.float32)
        return FlowState((slice(0, 0), slice(0, 0)), nothing, nothing, FlowSeed(0))
    window = _window(box, mask.shape)
    distance = signed_distance(mask[window])
    crop = image[window].copy()
    ring = _ring(_side(box))
    low, high = (float(v) for v in np.percentile(crop[distance > -ring], (1, 99)))
    high = max(high, low + 1e-4)
    scaled, level = _scaled(FlowState(window, crop, distance, FlowSeed(0, low, high)), crop)
    appearance = Appearance.measure(scaled, level, ring * _zoom(_side(box)))
    fit = float(appearance.log_ratio(scaled)[level > 0].mean()) if (level > 0).any() else 0.0
    return FlowState(window, crop, distance, FlowSeed(int(mask.sum()), low, high, appearance, fit))


def _carry(
    crop: Image, state: FlowState, index: int, taper: Taper
) -> tuple[Image, Image, AppearanceFeatures]:
    """The signed distance on the next slice: as carried on, as shown, and what was met there."""
    look = state.seed.appearance
    assert look is not None
    here, level = _scaled(state, crop)
    before, _ = _scaled(state, state.image)
    flow = dense_flow(here, before)
    moved = warp(level, flow)
    zoom = level.shape[0] / state.distance.shape[0]
    cues = _cues(here, np.abs(here - warp(before, flow)), moved, state, taper.travel(index), zoom)
    ratio = ndi.gaussian_filter(look.log_ratio(here), 1.0, mode="nearest")
    near = np.exp(-0.5 * (moved / 4.0) ** 2)
    refined = moved + np.float32(LIKELIHOOD_STEP * look.separability**4) * ratio * near
    carried, shown = (
        resample(field.astype(np.float32), crop.shape) / np.float32(zoom)
        for field in (moved, refined)
    )
    return carried, taper.shape(shown, index), cues


def _cues(
    here: Image, residual: Image, moved: Image, state: FlowState, travel: float, zoom: float
) -> AppearanceFeatures:
    seed, look = state.seed, state.seed.appearance
    assert look is not None
    return AppearanceFeatures.measure(
        here,
        residual,
        moved,
        look=look,
        fit=seed.fit,
        area=seed.area,
        travel=travel,
        zoom=zoom,
        ring=_ring(_side_of(state)) * zoom,
    )


def _moved_on(image: Image, state: FlowState, carried: Image) -> FlowState:
    """The state on the new slice, in a window around the new mask."""
    field = np.full(image.shape, -1.5, np.float32)
    field[state.window] = np.clip(carried, -1.5, 1.5)
    box = bounding_window([field > 0], 0)
    assert box is not None
    window = _window(box, image.shape)
    exact = signed_distance(field[window] > 0)
    distance = np.where(np.abs(exact) <= 1.5, field[window], exact)
    return FlowState(window, image[window].copy(), distance, state.seed)


def _scaled(state: FlowState, crop: Image) -> tuple[Image, Image]:
    """A crop with the seed's contrast, and the signed distance, at the size for the flow."""
    zoom = _zoom(_side_of(state))
    height, width = (max(4, round(zoom * n)) for n in crop.shape)
    shape = (height, width)
    seed = state.seed
    contrast = np.clip((crop - seed.low) / np.float32(seed.high - seed.low), -1.0, 2.0)
    actual = np.float32(height / crop.shape[0])
    return resample(contrast, shape), resample(state.distance, shape) * actual


def _side_of(state: FlowState) -> int:
    box = bounding_window([state.distance > 0], 0)
    assert box is not None
    return _side(box)


def _side(box: Window) -> int:
    return int(max(s.stop - s.start for s in box))


def _zoom(side: int) -> float:
    return float(np.clip(WORK_SIDE / side, MIN_ZOOM, MAX_ZOOM))


def _ring(side: int) -> float:
    return max(4.0, 0.3 * side)


def _window(box: Window, shape: tuple[int, ...]) -> Window:
    margin = max(8, _side(box) // 2)
    rows, columns = (
        slice(max(0, s.start - margin), min(n, s.stop + margin))
        for s, n in zip(box, shape, strict=True)
    )
    return rows, columns
