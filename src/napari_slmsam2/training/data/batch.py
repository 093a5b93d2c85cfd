"""Batches of clips on the training device: drawn, rotated, and augmented."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.crop import ObjectCrops
from napari_slmsam2.engine.compact.features import (
    LOGITS_PER_PIXEL,
    MAX_LOGIT,
    SEED_AREA,
    THICKNESS,
    ZOOM,
)
from napari_slmsam2.engine.compact.seed_crop import ring_width
from napari_slmsam2.engine.compact.sweep import SweepSeed, SweepState
from napari_slmsam2.engine.features.appearance import Appearance
from napari_slmsam2.engine.features.contrast import Contrast
from napari_slmsam2.engine.features.optical_flow import warp

Clips = Mapping[str, npt.NDArray[np.generic]]

GENTLE_TURN = math.radians(25.0)
"""Largest rotation of gentle augmentation, as in SLM-SAM 2's training."""

LABELS_HIDDEN = 0.25
"""Share of the clips without their label, for labels that the network will not know."""

PRIORS_HIDDEN = 0.35
"""Share of the clips without the interpolated shape, so that it is not trusted too much."""

RIM = 8
"""Pixels of the slices beyond the network's crop on each side: room for the crop to move."""


class Batch(NamedTuple):
    """``B`` clips of ``L`` steps, in the network's units: slices of ``R`` pixels, and sweeps.

    Attributes
    ----------
    images : Tensor, shape (B, L + 2, R, R)
    distances : Tensor, shape (B, L + 1, R, R)
        Signed distance to the true outline in pixels of the slice.
    priors : Tensor, shape (B, L, R, R)
        Interpolation of the annotated slices, logits at the resolution of the slice.
    positions : Tensor, shape (B, L, 9)
        See `napari_slmsam2.engine.compact.features.position_features`.
    travel : Tensor, shape (B, L)
    seed_images, seed_logits : Tensor, shape (B, K, N, N)
    seeds_known : Tensor of bool, shape (B, K)
    seed : SweepSeed
    state : SweepState
        On the first slice.
    present : Tensor of bool, shape (B, L)
    weights : Tensor, shape (B, L)
    """

    images: Tensor
    distances: Tensor
    priors: Tensor
    positions: Tensor
    travel: Tensor
    seed_images: Tensor
    seed_logits: Tensor
    seeds_known: Tensor
    seed: SweepSeed
    state: SweepState
    present: Tensor
    weights: Tensor


def sampling_weights(
    set_names: npt.NDArray[np.generic], set_weights: Mapping[str, float]
) -> npt.NDArray[np.float64]:
    """Probability of every clip, so that sets are drawn in proportion to their weights.

    Parameters
    ----------
    set_names : ndarray of str, shape (N,)
    set_weights : mapping of {set name: float}
        1 where it is not given.
    """
    names, inverse, counts = np.unique(set_names, return_inverse=True, return_counts=True)
    weights = np.array([set_weights.get(str(name), 1.0) for name in names]) / counts
    chosen: npt.NDArray[np.float64] = weights[inverse] / weights[inverse].sum()
    return chosen


@dataclass(frozen=True, slots=True)
class ClipStore:
    """Clips on the device on which they are augmented.

    Attributes
    ----------
    fields : dict of str to Tensor
        Of all clips along the first axis, as they are stored; on a CPU they share the memory of the
        arrays.
    device : torch.device
    """

    fields: dict[str, Tensor]
    device: torch.device

    @classmethod
    def from_arrays(cls, clips: Clips, device: torch.device) -> Self:
        """The clips of `napari_slmsam2.training.data.shards.read_shards` on a device."""
        fields = {}
        for name, array in clips.items():
            if array.dtype.kind == "f":  # not all devices have double precision
                array = array.astype(np.float32, copy=False)
            if array.dtype.kind in "biuf":
                fields[name] = torch.from_numpy(np.ascontiguousarray(array)).to(device)
        return cls(fields, device)


def make_batch(
    clips: ClipStore,
    indices: npt.NDArray[np.integer],
    config: CompactConfig,
    *,
    generator: torch.Generator | None,
    gentle: bool = False,
) -> Batch:
    """Clips as sweeps of the network.

    Parameters
    ----------
    clips : ClipStore
    indices : ndarray of int, shape (B,)
    config : CompactConfig
    generator : torch.Generator or None
        For the augmentation. None: the clips as they are.
    gentle : bool
        Keep about to the orientation and the contrast of the volumes.
    """
    device = clips.device
    chosen = torch.from_numpy(np.asarray(indices, np.int64)).to(device, non_blocking=True)

    def load(name: str) -> Tensor:
        return clips.fields[name].index_select(0, chosen)

    size, wide = config.window_size, config.window_size + 2 * RIM
    inner = slice(RIM, -RIM)
    images = load("images").float() / 85.0 - 1.0
    distances = load("distances").float() / 8.0
    priors = load("priors").float() / 15.0
    starts = load("start").float()[:, None] / 15.0
    seed_images = load("seed_images").float() / 85.0 - 1.0
    seed_distances = load("seed_distances").float() / 8.0
    positions, labels = load("positions"), load("label")
    ridges = load("ridge_strength").float()
    n = len(images)
    turn, scale, shift = _draw_view(n, generator, device, gentle)
    room = images.shape[-1]
    grid = _grid(turn / scale[:, None, None], shift, room, wide)
    still = _grid(turn / scale[:, None, None], torch.zeros_like(shift), room, wide)
    by = scale[:, None, None, None]
    images, seed_images = _seen(images, grid), _seen(seed_images, still)
    distances = _seen(distances, grid) * by
    priors = (_seen(priors, grid) * by).clamp(-MAX_LOGIT, MAX_LOGIT)
    seed_logits = _seen(seed_distances, still)[..., inner, inner] * by * LOGITS_PER_PIXEL
    positions[..., SEED_AREA] *= scale[:, None] ** 2
    positions[..., THICKNESS] *= scale[:, None]
    positions[..., ZOOM] += torch.log2(scale)[:, None] / 2
    start = (_seen(starts, grid) * by)[:, 0]
    if generator is not None:
        images, seed_images, inverted = _disturb(images, seed_images, generator, gentle)
        ridges = torch.where(inverted, -ridges, ridges)
        drifted = load("drifted")[:, None, None]
        start = torch.where(drifted, start, _drifted(distances[:, 0], generator) * LOGITS_PER_PIXEL)
        keep = _rand(n, generator, device)[:, None, None, None] > PRIORS_HIDDEN
        priors = priors * keep
        labels = labels * (_rand(n, generator, device) > LABELS_HIDDEN)
    seed_images = seed_images[..., inner, inner]
    middle = torch.full((n,), (wide - 1) / 2, device=device)
    crops = ObjectCrops(middle, middle, torch.full((n,), float(size), device=device), size)
    return Batch(
        images=images,
        distances=distances,
        priors=priors,
        positions=positions,
        travel=load("travel"),
        seed_images=seed_images,
        seed_logits=seed_logits,
        seeds_known=load("seeds_known"),
        seed=_sweep_seed(
            config,
            seed_images[:, 0],
            seed_logits[:, 0],
            area=positions[:, 0, SEED_AREA],
            feedback=config.feedback * load("feedback").float(),
            ridge_strength=ridges,
            labels=labels,
        ),
        state=SweepState.start(crops, start[:, inner, inner]),
        present=load("present"),
        weights=load("weights"),
    )


def _sweep_seed(
    config: CompactConfig,
    images: Tensor,
    logits: Tensor,
    *,
    area: Tensor,
    feedback: Tensor,
    ridge_strength: Tensor,
    labels: Tensor,
) -> SweepSeed:
    """The seeds from which the sweeps come: images that have their contrast, and logits."""
    appearance = Appearance.measure(images, logits / LOGITS_PER_PIXEL, ring_width(config))
    return SweepSeed(
        contrast=Contrast(torch.zeros_like(area), torch.ones_like(area)),
        appearance=appearance,
        log_likelihood=appearance.mean_log_ratio(images, logits > 0),
        area=area,
        feedback=feedback,
        ridge_strength=ridge_strength,
        labels=labels,
    )


def _draw_view(
    n: int, generator: torch.Generator | None, device: torch.device, gentle: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation or reflection (B, 2, 2), scale (B,), and shift (B, 2) in pixels."""
    if generator is None:
        eye = torch.eye(2, device=device).expand(n, 2, 2)
        return eye, torch.ones(n, device=device), torch.zeros(n, 2, device=device)
    angle = _rand(n, generator, device) * 2 * math.pi
    if gentle:
        angle = (angle / math.pi - 1) * GENTLE_TURN
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([cos, -sin, sin, cos], -1).reshape(n, 2, 2)
    flip = torch.where(_rand(n, generator, device) < 0.5, -1.0, 1.0)
    turn = turn * torch.stack([flip, torch.ones_like(flip)], -1)[:, None]
    scale = torch.exp(0.18 * _randn((n,), generator, device)).clamp(0.68, 1.4)
    return turn, scale, 2.5 * _randn((n, 2), generator, device)


def _grid(matrix: Tensor, shift: Tensor, room: int, size: int) -> Tensor:
    """Positions of ``size`` x ``size`` pixels in the stored clip, for `grid_sample`."""
    places = torch.arange(size, device=matrix.device, dtype=torch.float32) - (size - 1) / 2
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    where = torch.einsum("bij,hwj->bhwi", matrix, torch.stack([columns, rows], -1))
    return (where + shift[:, None, None]) * (2.0 / room)


def _seen(fields: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(fields, grid, padding_mode="border", align_corners=False)


def _disturb(
    images: Tensor, seeds: Tensor, generator: torch.Generator, gentle: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Other contrast, flicker, noise and blur; the next slice is missing now and then.

    The last result: which clips (B,) were inverted.
    """
    device, n, slices = images.device, len(images), images.shape[1]
    both = torch.cat([images, seeds], 1)

    def per_clip(low: float, high: float) -> Tensor:
        return low + (high - low) * _rand(n, generator, device)[:, None, None, None]

    def now_and_then(share: float) -> Tensor:
        return _rand(n, generator, device)[:, None, None, None] < share

    inverted = now_and_then(0.0 if gentle else 0.3)
    both = torch.where(inverted, 1.0 - both, both)
    bend = per_clip(-0.25, 0.25) * torch.sin(math.pi * both.clamp(0.0, 1.0))
    both = both + bend * now_and_then(0.5)
    both = both * per_clip(0.85, 1.15) + per_clip(-0.1, 0.1)
    flicker = _randn((2, n, both.shape[1]), generator, device)[..., None, None]
    flicker = flicker * now_and_then(0.3)
    both = both * (1 + 0.05 * flicker[0]) + 0.04 * flicker[1]
    blurred = F.avg_pool2d(both, 3, 1, 1, count_include_pad=False)
    both = torch.where(now_and_then(0.15), blurred, both)
    noise = per_clip(0.0, 0.1) * now_and_then(0.35)
    both = both + noise * _randn(both.shape, generator, device)
    images, seeds = both[:, :slices].clamp(-1.0, 2.0), both[:, slices:].clamp(-1.0, 2.0)
    missing = now_and_then(0.08)
    images = torch.cat([images[:, :-1], torch.where(missing, images[:, -2:-1], images[:, -1:])], 1)
    return images, seeds, inverted.flatten()


def _drifted(distance: Tensor, generator: torch.Generator) -> Tensor:
    """The true outline with the errors of a sweep; a third stays as it is.

    It is bent, grown or shrunk; now and then a disc on it is added or removed, as where the mask
    has leaked into a neighbour or lost a part.
    """
    n, size = distance.shape[:2]
    device = distance.device

    def smooth(channels: int) -> Tensor:
        coarse = _randn((n, channels, 6, 6), generator, device)
        return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)

    amount = _rand(n, generator, device)[:, None, None, None]
    moved = warp(distance[:, None], smooth(2) * 2.0 * amount)[:, 0]
    grown = 1.5 * _randn((n, 1, 1), generator, device) * amount[:, 0]
    moved = moved + smooth(1)[:, 0] * 2.0 * amount[:, 0] + grown
    places = torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2
    centre = 0.3 * size * _randn((n, 2), generator, device)
    rows, columns = (places[None] - centre[:, i, None] for i in (0, 1))
    radius = size * (0.05 + 0.12 * _rand(n, generator, device))[:, None, None]
    disc = radius - torch.hypot(rows[:, :, None], columns[:, None])
    kind = _rand(n, generator, device)[:, None, None]
    moved = torch.where(kind < 0.12, torch.maximum(moved, disc), moved)
    moved = torch.where(kind > 0.9, torch.minimum(moved, -disc), moved)
    exact = _rand(n, generator, device)[:, None, None] < 0.33
    return torch.where(exact, distance, moved)


def _rand(n: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(n, generator=generator, device=device)


def _randn(
    shape: tuple[int, ...] | torch.Size, generator: torch.Generator, device: torch.device
) -> Tensor:
    return torch.randn(shape, generator=generator, device=device)
