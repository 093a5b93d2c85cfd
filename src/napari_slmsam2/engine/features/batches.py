"""Operators whose last digits would depend on how many objects are computed together.

On a CPU, the number of rows selects the order in which libraries sum the product of a matrix, and
PyTorch leaves the convolution of one small image to another library than that of several. Attention
is computed for every object by itself where the default model uses it. Its other operators compute
each object of a batch alike, up to `napari_slmsam2.engine.compact.cpu_workers.PART` objects.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

SMALL_IMAGE = 20480
"""Values up to which one image is convolved in another way than several."""


def multiply_rows(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear` for some rows, without a gradient equal for any number of them.

    Parameters
    ----------
    rows : Tensor, shape (B, I)
    weight : Tensor, shape (O, I)
    bias : Tensor, shape (O,), optional

    Returns
    -------
    Tensor, shape (B, O)
    """
    if rows.device.type != "cpu" or torch.is_grad_enabled():
        return F.linear(rows, weight, bias)
    products = (rows[:, None] * weight).sum(2)
    return products if bias is None else products + bias


def convolve_images(convolve: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The result of ``convolve(images)``, for one image equal to that among several.

    Parameters
    ----------
    convolve : callable
    images : Tensor, shape (B, C, H, W)

    Returns
    -------
    Tensor, shape (B, ...)
    """
    if images.device.type != "cpu" or len(images) != 1 or images.numel() > SMALL_IMAGE:
        return convolve(images)
    return convolve(F.pad(images, (0, 0, 0, 0, 0, 0, 0, 1)))[:1]
