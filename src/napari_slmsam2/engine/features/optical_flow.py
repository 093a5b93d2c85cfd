"""Dense optical flow between small images, batched, and reading images at other positions."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Image = npt.NDArray[np.float32]

ATTACHMENT = 60.0
"""Weight of the intensities against the smoothness of the flow, for a contrast of about 1."""

TIGHTNESS = 0.3
"""Coupling of the two variables of the TV-L1 scheme."""

SCHEDULE = ((3, 10),)
"""Warps of the moving image, and iterations per warp, on the levels of the pyramid, finest first;
the last entry holds for all coarser levels."""

DUAL_STEPS = 2
"""Steps of the dual variable per iteration."""

MIN_SIDE = 16
"""A level is halved only while both halves are longer than this, in pixels."""

_DUAL_STEP_SIZE = 0.25
_FLAT = 1e-6


def optical_flow(reference: Tensor, moving: Tensor) -> Tensor:
    """TV-L1 flow that carries ``moving`` onto ``reference``, for a batch of image pairs.

    Zach, Pock and Bischof 2007, DAGM, coarse to fine on an image pyramid. The pairs do not affect
    each other.

    Parameters
    ----------
    reference, moving : Tensor of float32, shape (B, H, W)
        Finite intensities, scaled so that the contrast of interest is about 1.

    Returns
    -------
    Tensor of float32, shape (B, 2, H, W)
        ``(row, column)`` displacement in pixels: ``reference(x)`` matches
        ``moving(x + flow(x))``. Zero where either image is constant or thinner than 2 pixels.
    """
    n, *shape = reference.shape
    if min(shape) < 2:
        return reference.new_zeros(n, 2, *shape)
    levels = [(reference, moving)]
    while min(levels[-1][0].shape[1:]) > 2 * MIN_SIDE:
        half = _halved(torch.cat(levels[-1]))
        levels.append((half[:n], half[n:]))
    flow = reference.new_zeros(n, 2, *levels[-1][0].shape[1:])
    for level, (fixed, moved) in reversed(list(enumerate(levels))):
        if flow.shape[2:] != fixed.shape[1:]:
            flow = _resized(flow, (fixed.shape[1], fixed.shape[2]))
        flow = _TVL1Level(fixed, moved, flow).solve(*SCHEDULE[min(level, len(SCHEDULE) - 1)])
    flat = [x.flatten(1).amax(1) - x.flatten(1).amin(1) < _FLAT for x in (reference, moving)]
    return torch.where((flat[0] | flat[1])[:, None, None, None], 0.0, flow)


class _TVL1Level:
    """The scheme on one pyramid level, in buffers that all iterations share.

    The views into the buffers are made once: on small images making one takes as long as reading
    the pixels in it.
    """

    def __init__(self, fixed: Tensor, moving: Tensor, flow: Tensor) -> None:
        self.fixed, self.moving, self.flow = fixed, moving[:, None], flow
        self.gradient, self.direction, self.auxiliary, self.product = (
            torch.empty_like(flow) for _ in range(4)
        )
        self.norm, self.residual = torch.empty_like(flow), torch.empty_like(fixed)
        # Along rows and along columns, of both components of the flow.
        self.slope, self.dual = (flow.new_zeros(2, *flow.shape) for _ in range(2))
        self.one = flow.new_ones(())
        self.components = self.direction[:, 0], flow[:, 0], self.direction[:, 1], flow[:, 1]
        self.step = self.residual[:, None]
        self.slopes, self.duals = self.slope.unbind(), self.dual.unbind()
        self.slopes_inside = self.slope[0, :, :, :-1], self.slope[1, ..., :-1]
        self.duals_inside = self.dual[0, :, :, :-1], self.dual[1, ..., :-1]
        self.shifted = flow[:, :, 1:], flow[..., 1:]
        self.neighbours = [
            (field[:, :, 1:], field[:, :, :-1], field[..., 1:], field[..., :-1])
            for field in (self.auxiliary, *[flow] * (DUAL_STEPS - 1))
        ]

    def solve(self, warps: int, iterations: int) -> Tensor:
        """The flow after some warps of the moving image."""
        for _ in range(warps):
            offset = self._linearize()
            for _ in range(iterations):
                self._match_intensities(offset)
                self._smooth()
        return self.flow

    def _linearize(self) -> Tensor:
        """Expand the warped image at the present flow; the residual over the squared gradient."""
        image = warp(self.moving, self.flow)[:, 0]
        gradient, product = self.gradient, self.product
        for axis in (0, 1):
            values, found = image.movedim(1 + axis, 0), gradient[:, axis].movedim(1 + axis, 0)
            torch.sub(values[2:], values[:-2], out=found[1:-1]).mul_(0.5)
            torch.sub(values[1], values[0], out=found[0])
            torch.sub(values[-1], values[-2], out=found[-1])
        torch.mul(gradient, gradient, out=product)
        squared = product[:, 0] + product[:, 1]
        squared.masked_fill_(squared == 0, 1.0)
        torch.div(gradient, squared[:, None], out=self.direction)
        torch.mul(gradient, self.flow, out=product)
        return (image - self.fixed - product[:, 0] - product[:, 1]) / squared

    def _match_intensities(self, offset: Tensor) -> None:
        limit = ATTACHMENT * TIGHTNESS
        direction_rows, rows, direction_columns, columns = self.components
        residual = torch.addcmul(offset, direction_rows, rows, out=self.residual)
        residual.addcmul_(direction_columns, columns).clamp_(-limit, limit)
        torch.addcmul(self.flow, self.gradient, self.step, value=-1, out=self.auxiliary)

    def _smooth(self) -> None:
        """Steps of the dual variable, and the flow from it."""
        slope, dual, norm, flow = self.slope, self.dual, self.norm, self.flow
        slope_rows, slope_columns = self.slopes
        dual_rows, dual_columns = self.duals
        rows, columns = self.slopes_inside
        rows_inside, columns_inside = self.duals_inside
        below, right = self.shifted
        for lower, upper, later, earlier in self.neighbours:
            torch.sub(lower, upper, out=rows)
            torch.sub(later, earlier, out=columns)
            # Faster on a CPU than torch.hypot.
            torch.mul(slope_rows, slope_rows, out=norm)
            norm.addcmul_(slope_columns, slope_columns).sqrt_()
            torch.add(self.one, norm, alpha=_DUAL_STEP_SIZE / TIGHTNESS, out=norm)
            dual.sub_(slope, alpha=_DUAL_STEP_SIZE).div_(norm)
            torch.sub(self.auxiliary, dual_rows, out=flow)
            flow.sub_(dual_columns)
            below.add_(rows_inside)
            right.add_(columns_inside)


def warp(fields: Tensor, flow: Tensor) -> Tensor:
    """Read fields at ``x + flow(x)``, linearly, beyond the border as on the border.

    Parameters
    ----------
    fields : Tensor of float32, shape (B, C, H, W)
    flow : Tensor of float32, shape (B, 2, H, W)
        ``(row, column)`` in pixels.

    Returns
    -------
    Tensor of float32, shape (B, C, H, W)
    """
    height, width = fields.shape[2:]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 0]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, 1]
    # Positions are clamped here because MPS lacks padding_mode="border".
    grid = torch.stack(
        [
            columns.clamp_(0, width - 1).mul_(2 / max(1, width - 1)).sub_(1),
            rows.clamp_(0, height - 1).mul_(2 / max(1, height - 1)).sub_(1),
        ],
        -1,
    )
    return F.grid_sample(fields, grid, padding_mode="zeros", align_corners=True)


def _halved(images: Tensor) -> Tensor:
    """The next level of a Gaussian pyramid: (B, H, W) to half the sides, rounded up."""
    kernel = _pyramid_kernel(images.device)
    reach = len(kernel) // 2
    rows = F.pad(images[:, None], (0, 0, reach, reach), mode="replicate")
    smooth = F.conv2d(rows, kernel[None, None, :, None])
    columns = F.pad(smooth, (reach, reach, 0, 0), mode="replicate")
    smooth = F.conv2d(columns, kernel[None, None, None])
    size = [-(-side // 2) for side in images.shape[1:]]
    return F.interpolate(smooth, size=size, mode="bilinear", align_corners=False)[:, 0]


@lru_cache(maxsize=8)
def _pyramid_kernel(device: torch.device) -> Tensor:
    sigma = 2 * 2 / 6
    weights = torch.exp(-0.5 * (torch.arange(-3.0, 4.0) / sigma) ** 2)
    return (weights / weights.sum()).to(device)


def _resized(flow: Tensor, size: tuple[int, int]) -> Tensor:
    scaled = F.interpolate(flow, size=size, mode="nearest")
    for axis in (0, 1):
        scaled[:, axis].mul_(size[axis] / flow.shape[2 + axis])
    return scaled
