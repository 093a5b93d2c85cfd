"""How likely intensities are in the object, against its surround on the annotated slices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.engine.compact.features import LOGITS_PER_PIXEL

N_BINS = 32
RING = 0.15
"""Width of the surround whose intensities are measured, over the side of the crop."""


def smoothed(image: Tensor) -> Tensor:
    """Mean of 5 x 5 pixels."""
    return F.avg_pool2d(image, 5, 1, 2, count_include_pad=False)


def _bins(image: Tensor) -> Tensor:
    return ((image + 0.25) * (N_BINS / 1.5)).long().clamp(0, N_BINS - 1)


def log_ratios(images: Tensor, logits: Tensor, known: Tensor) -> Tensor:
    """Log likelihood ratio of object against surround for every bin, over all seeds.

    Parameters
    ----------
    images, logits : Tensor, shape (B, K, N, N)
        Annotated slices, and their masks in `LOGITS_PER_PIXEL`.
    known : Tensor of bool, shape (B, K)

    Returns
    -------
    Tensor, shape (B, 32)
        Weighted by how well they separate both.
    """
    bins = _bins(images).flatten(2)
    inside = (logits > 0) & known[..., None, None]
    ring = RING * images.shape[-1] * LOGITS_PER_PIXEL
    outside = (logits <= 0) & (logits > -ring) & known[..., None, None]
    densities = []
    for region in (inside, outside):
        counts = torch.zeros((*bins.shape[:2], N_BINS), device=images.device)
        counts = counts.scatter_add(2, bins, region.flatten(2).float()).sum(1)
        counts = F.conv1d(F.pad(counts[:, None], (2, 2), "replicate"), _kernel(counts))[:, 0]
        counts = counts + 5e-3 * counts.sum(1, keepdim=True) + 1e-6
        densities.append(counts / counts.sum(1, keepdim=True))
    separability = 0.5 * (densities[0] - densities[1]).abs().sum(1, keepdim=True)
    return (densities[0] / densities[1]).log().clamp(-3.0, 3.0) / 3.0 * separability


def _kernel(like: Tensor) -> Tensor:
    weights = torch.tensor([0.1, 0.24, 0.32, 0.24, 0.1], device=like.device)
    return weights[None, None]


def lookup(image: Tensor, ratios: Tensor) -> Tensor:
    """The ratio of every pixel's intensity.

    Parameters
    ----------
    image : Tensor, shape (B, 1, N, N)
    ratios : Tensor, shape (B, 32)
    """
    bins = _bins(image)
    return ratios.gather(1, bins.flatten(1)).reshape(image.shape)
