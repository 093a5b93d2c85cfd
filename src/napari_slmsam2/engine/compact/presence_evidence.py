"""What the masks of a step show of the presence of their objects: input of `SweepPresence`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.engine.compact.intensity_prior import lookup
from napari_slmsam2.engine.compact.network import CompactInput

CONTRAST_SCALE = 20.0
"""Differences of intensity are about this much smaller than the other features."""

SURROUND, OUTLINE = 6, 2
"""Width in pixels of the crop of the surround of an object, and of the bands along its outline."""


def mask_evidence(
    inputs: CompactInput, logits: Tensor, propagated: Tensor, ratios: Tensor
) -> Tensor:
    """Measure how well the found masks match the warped ones, their surround and the next slice.

    Parameters
    ----------
    inputs : CompactInput
    logits : Tensor of float32, shape (B, N, N)
        Of the found masks.
    propagated : Tensor of float32, shape (B, N, N)
        Mask logits on the slice before.
    ratios : Tensor, shape (B, 2, 32)
        See `napari_slmsam2.engine.compact.network.SeedMemory`.

    Returns
    -------
    Tensor of float32, shape (B, 14)
        Overlap of the found with the warped mask, as logit; log of the ratio of their areas; mean
        confidence in the found mask; movement of the mask by the flow, and by the correction;
        residual of the flow in the surround, and in the object minus that; change from the slice
        before, and to the next one; likelihood ratio in the object, in its surround, and at the
        place of the object on the next slice; growth by the flow; contrast along the outline.
    """
    before, current, following = inputs.images.unbind(1)
    found, warped = torch.sigmoid(logits), torch.sigmoid(inputs.warped[:, 0])
    earlier = torch.sigmoid(propagated)
    area, warped_area, earlier_area = (x.sum((1, 2)) for x in (found, warped, earlier))
    common = (found * warped).sum((1, 2))
    overlap = (common + 1.0) / (area + warped_area - common + 1.0)
    surround = _grown(found, SURROUND) - found
    inner = found + _grown(-found, OUTLINE)
    outer = _grown(found, OUTLINE) - found
    residual = (current - inputs.aligned[:, 0]).abs()
    likely, likely_next = (
        lookup(image[:, None], ratios[:, 0])[:, 0] for image in (current, following)
    )
    centres = [_centre(x) for x in (earlier, warped, found)]
    size = torch.sqrt(warped_area + 4.0)
    moved, shifted = (
        10.0 * torch.linalg.vector_norm(b - a, dim=1) / size for a, b in pairwise(centres)
    )
    outside = _mean(residual, surround)
    features = [
        torch.logit(overlap.clamp(0.01, 0.99)),
        torch.log((area + 1.0) / (warped_area + 1.0)),
        _mean((logits.abs() / 4.0).clamp(max=2.0), found),
        moved,
        shifted,
        CONTRAST_SCALE * outside,
        CONTRAST_SCALE * (_mean(residual, found) - outside),
        CONTRAST_SCALE * _mean((current - before).abs(), warped),
        CONTRAST_SCALE * _mean((following - current).abs(), warped),
        3.0 * _mean(likely, found),
        3.0 * _mean(likely, surround),
        3.0 * _mean(likely_next, found),
        5.0 * torch.log((warped_area + 1.0) / (earlier_area + 1.0)),
        10.0 * (_mean(current, inner) - _mean(current, outer)).abs(),
    ]
    return torch.stack(features, 1)


def _grown(mask: Tensor, by: int) -> Tensor:
    """The largest value within ``by`` pixels along rows and columns.

    As `max_pool2d`, which takes twenty times as long on a CPU.
    """
    width = 2 * by + 1
    for axis, pad in ((1, (0, 0, by, by)), (2, (by, by))):
        mask = F.pad(mask, pad, value=-torch.inf)
        reach = 1
        while reach < width:
            step = min(reach, width - reach)
            n = mask.shape[axis] - step
            mask = torch.maximum(mask.narrow(axis, 0, n), mask.narrow(axis, step, n))
            reach += step
    return mask


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum((1, 2)) / (weights.sum((1, 2)) + 1.0)


def _centre(mask: Tensor) -> Tensor:
    """Centre of gravity in pixels of the crop, shape (B, 2)."""
    places = torch.arange(mask.shape[-1], dtype=mask.dtype, device=mask.device)
    total = mask.sum((1, 2)).clamp(min=1e-3)[:, None]
    return torch.stack([(mask.sum(dim) * places).sum(1) for dim in (2, 1)], 1) / total
