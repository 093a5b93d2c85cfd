"""Dense optical flow warps the mask from slice to slice: a model without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage as ndi
from torch import Tensor

from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.segmenter import SegmentedSlice, SweepContext
from napari_slmsam2.core.soft_masks import LogitPatch
from napari_slmsam2.engine.features.appearance import Appearance
from napari_slmsam2.engine.features.contrast import Contrast, longest_side, surround_width
from napari_slmsam2.engine.features.distance import refreshed
from napari_slmsam2.engine.features.interpolation import (
    EDGE_SHARPNESS,
    bounding_window,
    mask_stability,
    signed_distance,
)
from napari_slmsam2.engine.features.optical_flow import optical_flow, warp
from napari_slmsam2.engine.features.presence import AppearanceFeatures
from napari_slmsam2.engine.features.resampling import resample
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
    """The seed that a sweep comes from.

    Attributes
    ----------
    area : int
        In pixels; 0 where the object is absent.
    contrast : Contrast
    appearance : Appearance
    log_likelihood : Tensor, shape (1,)
        Mean log likelihood ratio inside the mask.
    """

    area: int
    contrast: Contrast
    appearance: Appearance
    log_likelihood: Tensor


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
    seed : FlowSeed or None
        Where the sweep comes from; None where the object is absent.
    """

    window: Window
    image: Image
    distance: Image
    seed: FlowSeed | None

    @property
    def area(self) -> int:
        """Area of the seed in pixels, 0 where the object is absent."""
        return 0 if self.seed is None else self.seed.area


class FlowSegmenter(RawSliceSegmenter):
    """Dense optical flow as a `SliceSegmenter`.

    A window around the object is scaled to one size and matched to the same window of the next
    slice (TV-L1 flow), which warps the signed distance to the outline. The next slice starts from
    the warped distance; the mask that is shown is also moved by the intensities where object and
    surround differ clearly, and tapers towards an end. Presence and expected overlap come from
    `AppearanceFeatures`.
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
        """Propagate the mask of every bank from the slice before."""
        return [self._segment_one(embedding, index, direction, bank, context) for bank in banks]

    @staticmethod
    def _segment_one(
        image: Image, index: int, direction: int, bank: MemoryBank, context: SweepContext
    ) -> SegmentedSlice:
        previous = bank.get(index - direction)
        assert previous is not None
        state: FlowState = previous.content
        areas = {i: entry.content.area for i, entry in bank.seeds.items()}
        extent = context.extents.get(bank.label)
        taper = find_taper(areas, index, direction, extent, context.spacing)
        warped, shown, features = _propagated(image[state.window], state, index, taper)
        if not (warped > 0).any():
            return SegmentedSlice(LogitPatch.empty(), 0.0, 0.0, 0.0, state)
        presence = float(features.presence())
        if taper.between or (extent is not None and extent[0] <= index <= extent[1]):
            presence = 0.5 + 0.5 * presence
        return SegmentedSlice(
            patch=LogitPatch.cut(EDGE_SHARPNESS * shown, state.window)
            if presence >= 0.5
            else LogitPatch.empty(),
            presence=presence,
            predicted_iou=float(features.predicted_iou()),
            stability=mask_stability(shown),
            content=_next_state(image, state, warped),
        )


def _start(image: Image, mask: npt.NDArray[np.bool_]) -> FlowState:
    box = bounding_window([mask], 0)
    if box is None:
        nothing = np.empty((0, 0), np.float32)
        return FlowState((slice(0, 0), slice(0, 0)), nothing, nothing, None)
    window = _window(box, mask.shape)
    distance = signed_distance(mask[window])
    crop = image[window].copy()
    contrast = Contrast.measure(crop, distance)
    scaled, level = _scaled(crop, distance, contrast)
    ring = surround_width(longest_side(box)) * _zoom(longest_side(box))
    appearance = Appearance.measure(scaled, level, ring)
    log_likelihood = appearance.mean_log_ratio(scaled, level > 0)
    seed = FlowSeed(int(mask.sum()), contrast, appearance, log_likelihood)
    return FlowState(window, crop, distance, seed)


def _propagated(
    crop: Image, state: FlowState, index: int, taper: Taper
) -> tuple[Image, Image, AppearanceFeatures]:
    """The signed distance on the next slice, as warped and as shown, and the features there."""
    seed, side = state.seed, _side_of(state)
    assert seed is not None
    here, level = _scaled(crop, state.distance, seed.contrast)
    before, _ = _scaled(state.image, state.distance, seed.contrast)
    with torch.inference_mode():
        fields = torch.stack([before, level], 1)
        warped_image, warped = warp(fields, optical_flow(here, before)).unbind(1)
        zoom = level.shape[1] / crop.shape[0]
        features = AppearanceFeatures.measure(
            here,
            (here - warped_image).abs(),
            warped,
            appearance=seed.appearance,
            log_likelihood=seed.log_likelihood,
            area=torch.tensor([float(seed.area)]),
            travel=torch.tensor([taper.travel(index)]),
            zoom=torch.tensor([zoom]),
            ring=surround_width(side) * zoom,
        )
        ratio = seed.appearance.log_ratio(here)[0].numpy()
        weight = LIKELIHOOD_STEP * float(seed.appearance.separability) ** 4
    distance = warped[0].numpy()
    near = np.exp(-0.5 * (distance / 4.0) ** 2)
    ratio = ndi.gaussian_filter(ratio, 1.0, mode="nearest")
    refined = distance + np.float32(weight) * ratio * near
    shape = (crop.shape[0], crop.shape[1])
    propagated, shown = (
        resample(field.astype(np.float32), shape) / np.float32(zoom)
        for field in (distance, refined)
    )
    return propagated, taper.shape(shown, index), features


def _next_state(image: Image, state: FlowState, warped: Image) -> FlowState:
    """The state on the new slice, in a window around the new mask."""
    field = np.full(image.shape, -1.5, np.float32)
    field[state.window] = warped
    box = bounding_window([field > 0], 0)
    assert box is not None
    window = _window(box, image.shape)
    values, exact = (
        torch.from_numpy(np.ascontiguousarray(v))[None]
        for v in (field[window], signed_distance(field[window] > 0))
    )
    return FlowState(window, image[window].copy(), refreshed(values, exact)[0].numpy(), state.seed)


def _scaled(crop: Image, distance: Image, contrast: Contrast) -> tuple[Tensor, Tensor]:
    """A crop with the seed's contrast, and the signed distance, at the size for the flow.

    Both of shape (1, h, w).
    """
    box = bounding_window([distance > 0], 0)
    assert box is not None
    zoom = _zoom(longest_side(box))
    height, width = (max(4, round(zoom * n)) for n in crop.shape)
    images = contrast.apply(torch.from_numpy(crop)[None, None])[0, 0].numpy()
    level = resample(distance, (height, width)) * np.float32(height / crop.shape[0])
    return (
        torch.from_numpy(resample(images, (height, width)))[None],
        torch.from_numpy(level)[None],
    )


def _side_of(state: FlowState) -> int:
    box = bounding_window([state.distance > 0], 0)
    assert box is not None
    return longest_side(box)


def _zoom(side: int) -> float:
    return float(np.clip(WORK_SIDE / side, MIN_ZOOM, MAX_ZOOM))


def _window(box: Window, shape: tuple[int, ...]) -> Window:
    margin = max(8, longest_side(box) // 2)
    rows, columns = (
        slice(max(0, s.start - margin), min(n, s.stop + margin))
        for s, n in zip(box, shape, strict=True)
    )
    return rows, columns
