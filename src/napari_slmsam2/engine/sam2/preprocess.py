"""From a slice to the network's input, and prompts with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.core.prompts import SlicePrompt

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@lru_cache(maxsize=4)
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of ImageNet, shape (1, 3, 1, 1) each."""
    with torch.inference_mode(mode=False):
        return (
            torch.tensor(_MEAN, device=device).view(1, 3, 1, 1),
            torch.tensor(_STD, device=device).view(1, 3, 1, 1),
        )


@dataclass(frozen=True, slots=True)
class SlicePreprocessor:
    """Resizes slices and their prompts to the network's square input, as SAM 2 does.

    The aspect ratio is not kept: SAM 2 was trained so. Nothing passes through 8 bits.

    Attributes
    ----------
    image_size : int
        Side S of the input.
    device : torch.device
    """

    image_size: int
    device: torch.device

    def image(self, image: npt.NDArray[np.float32]) -> Tensor:
        """A slice of shape (H, W) with values in 0..1 as a tensor of shape (1, 3, S, S)."""
        tensor = self._upload(np.ascontiguousarray(image, dtype=np.float32))[None, None]
        if tensor.shape[-2:] != (self.image_size, self.image_size):
            tensor = F.interpolate(
                tensor,
                size=(self.image_size, self.image_size),
                mode="bicubic",
                align_corners=False,
                antialias=True,
            ).clamp_(0.0, 1.0)
        mean, std = _statistics(self.device)
        return (tensor.expand(-1, 3, -1, -1) - mean) / std

    def _upload(self, array: npt.NDArray[np.float32]) -> Tensor:
        """An array on the device; on CUDA the host does not wait for the copy."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def mask(self, mask: npt.NDArray[np.bool_]) -> Tensor:
        """A mask of shape (H, W) as a tensor of 0 and 1 of shape (1, 1, S, S)."""
        tensor = self._upload(np.array(mask, dtype=np.float32))[None, None]
        if tensor.shape[-2:] == (self.image_size, self.image_size):
            return tensor
        resized = F.interpolate(
            tensor,
            size=(self.image_size, self.image_size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        return (resized >= 0.5).float()

    def points(self, prompt: SlicePrompt, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Clicks and box corners in network pixels.

        Returns
        -------
        coordinates : Tensor, shape (1, P, 2)
            ``(x, y)``.
        labels : Tensor of int32, shape (1, P)
            1 inside, 0 outside, 2 and 3 the corners of the box.
        """
        assert prompt.points is not None
        assert prompt.point_labels is not None
        points, labels = prompt.points, prompt.point_labels
        if prompt.box is not None:
            corners = np.array(prompt.box, dtype=np.float64).reshape(2, 2)
            points = np.concatenate([corners, points])
            labels = np.concatenate([np.array([2, 3], dtype=np.int32), labels])
        xy = torch.from_numpy(points[:, ::-1].astype(np.float32))
        size = torch.tensor([shape[1], shape[0]], dtype=torch.float32)
        coordinates = (xy / size * self.image_size).to(self.device)
        return coordinates[None], torch.from_numpy(labels.copy()).to(self.device)[None]

    @staticmethod
    def to_slice(logits: Tensor, shape: tuple[int, int]) -> Tensor:
        """Low-resolution logits (B, 1, h, w) at the size of the slice, (B, H, W)."""
        return F.interpolate(
            logits.float(), size=tuple(shape), mode="bilinear", align_corners=False
        )[:, 0]
