"""Shape-based interpolation as a `SliceSegmenter`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.segmenter import SegmentedSlice, SweepContext
from napari_slmsam2.core.soft_masks import LogitPatch
from napari_slmsam2.engine.features.interpolation import (
    EDGE_SHARPNESS,
    expected_iou,
    interpolated_logits,
    mask_stability,
)
from napari_slmsam2.engine.raw_slice_segmenter import Image, RawSliceSegmenter


class InterpolationSegmenter(RawSliceSegmenter):
    """Interpolation between the seeds as a `SliceSegmenter`.

    Intensities matter only where a seed consists of clicks.
    """

    name = "interpolation"
    reach = 0
    bidirectional = False
    default_merge = "sweeps"

    def _remembered(self, image: Image, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return mask

    def segment(
        self,
        embedding: Any,
        index: int,
        direction: int,
        banks: Sequence[MemoryBank],
        context: SweepContext,
    ) -> list[SegmentedSlice]:
        """Interpolate between the seeds of every bank; absent outside of the outermost ones."""
        return [self._segment_one(index, bank) for bank in banks]

    @staticmethod
    def _segment_one(index: int, bank: MemoryBank) -> SegmentedSlice:
        masks = {i: entry.content for i, entry in bank.seeds.items()}
        logits = interpolated_logits(masks, index)
        present = bool((logits > 0).any())
        return SegmentedSlice(
            patch=LogitPatch.cut(logits),
            presence=float(present),
            predicted_iou=expected_iou(masks, index) if present else 0.0,
            stability=mask_stability(logits / np.float32(EDGE_SHARPNESS)),
            content=None,
        )
