"""Baselines that only the accuracy benchmark knows: no part of the package runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.segmenter import SegmentedSlice, SweepContext
from napari_slmsam2.core.soft_masks import LogitPatch
from napari_slmsam2.engine.classical.interpolation import InterpolationSegmenter
from napari_slmsam2.engine.features.contrast import Contrast
from napari_slmsam2.engine.features.distance import refreshed
from napari_slmsam2.engine.features.interpolation import (
    EDGE_SHARPNESS,
    bounding_window,
    signed_distance,
)
from napari_slmsam2.engine.features.optical_flow import optical_flow, warp
from napari_slmsam2.engine.raw_slice_segmenter import Image, RawSliceSegmenter

MARGIN = 40
"""Pixels around the box of the object in which `PlainFlowSegmenter` computes the flow."""


class CopySegmenter(InterpolationSegmenter):
    """Every slice gets the mask of the nearest annotated one."""

    name = "copy"

    def _remembered(self, image: Image, mask: npt.NDArray[np.bool_]) -> Image:
        return EDGE_SHARPNESS * signed_distance(mask)

    def segment(
        self,
        embedding: Any,
        index: int,
        direction: int,
        banks: Sequence[MemoryBank],
        context: SweepContext,
    ) -> list[SegmentedSlice]:
        """The nearest seed of every bank; of two equally near ones the one before."""
        nearest = [min(bank.seeds, key=lambda i: (abs(i - index), i)) for bank in banks]
        return [
            SegmentedSlice(LogitPatch.cut(bank.seeds[i].content), 1.0, 1.0, 1.0, None)
            for bank, i in zip(banks, nearest, strict=True)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class PlainFlowState:
    """An object on the slice that a sweep has reached.

    Attributes
    ----------
    image, distance : ndarray of float32, shape (H, W)
        The slice, and the signed distance to the outline in pixels, positive inside.
    contrast : Contrast
        Of the seed.
    """

    image: Image
    distance: Image
    contrast: Contrast


class PlainFlowSegmenter(RawSliceSegmenter):
    """TV-L1 flow at the resolution of the slice warps the mask; nothing else changes it.

    Unlike in `flow`, the window around the object has a fixed margin, the intensities do not move
    the outline, nothing tapers, and every mask counts as present until it is empty.
    """

    name = "tvl1"
    reach = 1
    bidirectional = True
    default_merge = "sweeps"

    def _remembered(self, image: Image, mask: npt.NDArray[np.bool_]) -> PlainFlowState:
        distance = signed_distance(mask)
        return PlainFlowState(image, distance, Contrast.measure(image, distance))

    def segment(
        self,
        embedding: Any,
        index: int,
        direction: int,
        banks: Sequence[MemoryBank],
        context: SweepContext,
    ) -> list[SegmentedSlice]:
        """Warp the mask of every bank from the slice before."""
        found = []
        for bank in banks:
            previous = bank.get(index - direction)
            assert previous is not None
            state = self._warped(embedding, previous.content)
            present = bool((state.distance > 0).any())
            logits = EDGE_SHARPNESS * state.distance
            found.append(SegmentedSlice(LogitPatch.cut(logits), float(present), 1.0, 1.0, state))
        return found

    @staticmethod
    def _warped(image: Image, state: PlainFlowState) -> PlainFlowState:
        window = bounding_window([state.distance > 0], MARGIN)
        if window is None:
            return PlainFlowState(image, state.distance, state.contrast)
        slices = torch.from_numpy(np.stack([image[window], state.image[window]]))
        here, before = state.contrast.apply(slices[None])[0]
        field = torch.from_numpy(np.ascontiguousarray(state.distance[window]))
        with torch.inference_mode():
            flow = optical_flow(here[None], before[None])
            values = warp(field[None, None], flow)[:, 0]
            mask = np.zeros(image.shape, bool)
            mask[window] = values[0].numpy() > 0
            distance = signed_distance(mask)
            exact = torch.from_numpy(np.ascontiguousarray(distance[window]))
            distance[window] = refreshed(values, exact[None])[0].numpy()
        return PlainFlowState(image, distance, state.contrast)


BASELINES: Mapping[str, type[RawSliceSegmenter]] = {
    one.name: one for one in (CopySegmenter, PlainFlowSegmenter)
}
