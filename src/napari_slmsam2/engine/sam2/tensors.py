"""What the SLM-SAM 2 network takes and returns: embeddings, memory tokens, outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class ImageEmbedding:
    """What the image encoder makes of one slice; shared by all labels and sweeps.

    Attributes
    ----------
    feature : Tensor, shape (1, C, h, w)
        Stride-16 feature.
    high_res : tuple of Tensor
        ``(1, C/8, 4h, 4w)`` and ``(1, C/4, 2h, 2w)``, for the mask decoder.
    """

    feature: Tensor
    high_res: tuple[Tensor, Tensor]

    @property
    def nbytes(self) -> int:
        """Memory held by the tensors."""
        return sum(t.numel() * t.element_size() for t in (self.feature, *self.high_res))

    def to(self, device: torch.device) -> ImageEmbedding:
        """A copy on another device."""
        return ImageEmbedding(
            self.feature.to(device), (self.high_res[0].to(device), self.high_res[1].to(device))
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, see `of`."""
        return {"feature": self.feature, "fine": self.high_res[0], "middle": self.high_res[1]}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> ImageEmbedding:
        """The inverse of `tensors`."""
        return cls(tensors["feature"], (tensors["fine"], tensors["middle"]))

    def part(self, chosen: slice | list[int] | Tensor) -> ImageEmbedding:
        """Some slices of a batch; views of them where they are chosen by a slice."""
        fine, middle = self.high_res
        return ImageEmbedding(self.feature[chosen], (fine[chosen], middle[chosen]))

    def split(self) -> list[ImageEmbedding]:
        """Views of the single slices of a batch."""
        return [self.part(slice(k, k + 1)) for k in range(len(self.feature))]

    def clone(self) -> ImageEmbedding:
        """A copy that shares no memory."""
        return ImageEmbedding(
            self.feature.clone(), (self.high_res[0].clone(), self.high_res[1].clone())
        )


@dataclass(slots=True)
class SliceOutput:
    """The output of the mask decoder for B labels on one slice.

    Attributes
    ----------
    low_res_logits : Tensor, shape (B, 1, S/4, S/4)
        Mask logits; -1024 everywhere where the object is absent.
    presence_logit : Tensor, shape (B, 1)
        SAM 2's object score; above 0 the object is there.
    pointer : Tensor, shape (B, C)
        SAM 2's object pointer.
    predicted_iou : Tensor, shape (B,)
    """

    low_res_logits: Tensor
    presence_logit: Tensor
    pointer: Tensor
    predicted_iou: Tensor


@dataclass(slots=True)
class MemoryTokens:
    """Keys and values of one memory attention, for B labels of equal structure.

    Attributes
    ----------
    maps : Tensor, shape (K, B, M, h, w), or None
        None where nothing is remembered.
    rows : tuple of int
        Row of the time table for each of the K maps.
    pointers : Tensor, shape (P, B, C), or None
    distances : Tensor, shape (P, C), or None
        Encoded distances of the pointers, see `encode_distances`.
    """

    maps: Tensor | None = None
    rows: tuple[int, ...] = ()
    pointers: Tensor | None = None
    distances: Tensor | None = None

    def __bool__(self) -> bool:
        return self.maps is not None
