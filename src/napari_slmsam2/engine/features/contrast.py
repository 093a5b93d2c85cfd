"""Range of the intensities of objects and their surrounds."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_slmsam2.engine.features.interpolation import bounding_window

Image = npt.NDArray[np.float32]


class Contrast(NamedTuple):
    """Range of the intensities of ``B`` objects and their surrounds on their seeds.

    Attributes
    ----------
    low, high : Tensor of float32, shape (B,)
    """

    low: Tensor
    high: Tensor

    @classmethod
    def measure(cls, image: Image, distance: Image) -> Self:
        """From one annotated slice, as a batch of one.

        Parameters
        ----------
        image : ndarray of float32, shape (H, W)
        distance : ndarray of float32, shape (H, W)
            Signed distance to the outline of the object in pixels, positive inside.
        """
        box = bounding_window([distance > 0], 0)
        near = distance > -surround_width(0 if box is None else longest_side(box))
        low, high = np.percentile(image[near] if near.any() else image, (1, 99))
        return cls(*(torch.tensor([float(v)]) for v in (low, max(high, low + 1e-4))))

    def apply(self, images: Tensor) -> Tensor:
        """Scale the range to 0 to 1; values far outside are bounded by -1 and 2.

        Parameters
        ----------
        images : Tensor of float32, shape (B, C, H, W)
        """
        low, high = (x[:, None, None, None] for x in self)
        return ((images - low) / (high - low)).clamp_(-1.0, 2.0)


def longest_side(box: tuple[slice, slice]) -> int:
    """The longer side of a box, in pixels."""
    return int(max(s.stop - s.start for s in box))


def surround_width(side: float) -> float:
    """Width in pixels of the surround that is compared with an object of a longest side."""
    return max(4.0, 0.3 * side)
