"""What models have in common that look at the slice itself, not at what a network made of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.core.segmenter import SegmentedSlice
from napari_slmsam2.core.soft_masks import LogitPatch
from napari_slmsam2.engine.clicks.segment import seed_mask

Image = npt.NDArray[np.float32]


class RawSliceSegmenter(ABC):
    """The part of a `SliceSegmenter` whose embeddings are slices and whose seeds are masks."""

    most_stored: int | None = 2**26
    """Bytes of embeddings to store: a slice is read again as fast, and needs no place."""
    prompt_kinds = frozenset(PromptKind)
    neighbours = 0

    def encode_image(self, image: npt.NDArray[np.float32]) -> Any:
        """The slice itself, with values that are not finite set to 0."""
        finite = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        return np.asarray(finite, np.float32)

    def encode_seed(
        self, embedding: Any, prompt: SlicePrompt, shape: tuple[int, int]
    ) -> SegmentedSlice:
        """The mask of the seed, see `seed_mask`."""
        mask = seed_mask(prompt, embedding)
        return SegmentedSlice(
            patch=LogitPatch.of_mask(mask),
            presence=float(mask.any()),
            predicted_iou=1.0,
            stability=1.0,
            content=self._remembered(embedding, mask),
        )

    @abstractmethod
    def _remembered(self, image: Image, mask: npt.NDArray[np.bool_]) -> Any:
        """What the memory bank keeps of a seed."""

    def free_memory(self) -> str | None:
        """There is nothing to free."""
        return None
