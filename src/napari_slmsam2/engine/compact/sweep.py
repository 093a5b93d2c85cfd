"""One step of a sweep for a batch of objects: inference and training call the same function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.crop import ObjectCrops
from napari_slmsam2.engine.compact.features import (
    LOGITS_PER_PIXEL,
    MAX_LOGIT,
    in_crops,
    trusted_priors,
)
from napari_slmsam2.engine.compact.network import (
    CompactInput,
    CompactNetwork,
    CompactOutput,
    SeedMemory,
    apply_correction,
)
from napari_slmsam2.engine.compact.presence_evidence import mask_evidence
from napari_slmsam2.engine.compact.presence_gru import N_PRESENCE_FEATURES
from napari_slmsam2.engine.compact.presence_gru import WIDTH as STATE_WIDTH
from napari_slmsam2.engine.compact.ridge_snapping import snap_to_ridge
from napari_slmsam2.engine.compact.seed_crop import SeedCrop, ring_width
from napari_slmsam2.engine.features.appearance import Appearance
from napari_slmsam2.engine.features.contrast import Contrast
from napari_slmsam2.engine.features.distance import refreshed, signed_distances
from napari_slmsam2.engine.features.optical_flow import optical_flow, warp
from napari_slmsam2.engine.features.presence import AppearanceFeatures

NETWORK_SHARE = 0.5
"""Weight of the network against `AppearanceFeatures` in the logit of presence."""

Batch = TypeVar("Batch", bound=tuple[Any, ...])


class SweepSeed(NamedTuple):
    """What sweeps of ``B`` objects know of their seeds; the same on every slice.

    Attributes
    ----------
    contrast : Contrast
    appearance : Appearance
        Of the object in its crop.
    log_likelihood : Tensor, shape (B,)
        Mean log likelihood ratio inside it.
    area : Tensor, shape (B,)
        In pixels of the slice.
    feedback : Tensor, shape (B,)
        Share of a correction that is propagated.
    ridge_strength : Tensor, shape (B,)
        See `SeedCrop`.
    labels : Tensor of int64, shape (B,)
        Label values, for a network that was adapted to some structures.
    """

    contrast: Contrast
    appearance: Appearance
    log_likelihood: Tensor
    area: Tensor
    feedback: Tensor
    ridge_strength: Tensor
    labels: Tensor

    @classmethod
    def measured(cls, crop: SeedCrop, area: int, label: int, config: CompactConfig) -> SweepSeed:
        """Of one object, as a batch of one."""
        feedback = config.feedback * crop.need_of_correction
        return cls(
            crop.contrast,
            crop.appearance,
            crop.log_likelihood,
            area=torch.tensor([float(area)]),
            feedback=torch.tensor([feedback]),
            ridge_strength=torch.tensor([crop.ridge_strength]),
            labels=torch.tensor([label]),
        )


class SweepState(NamedTuple):
    """Sweeps of ``B`` objects that have reached a slice.

    Attributes
    ----------
    crops : ObjectCrops
        Around the objects, for the next slice.
    propagated : Tensor of float32, shape (B, N, N)
        Mask logits in them, as the flow and the feedback of the network's corrections have
        propagated them here from the seed.
    presence : Tensor of float32, shape (B, 32)
        State of `SweepPresence`.
    presence_features : Tensor of float32, shape (B, 35)
        Its input on this slice.
    """

    crops: ObjectCrops
    propagated: Tensor
    presence: Tensor
    presence_features: Tensor

    @classmethod
    def start(cls, crops: ObjectCrops, logits: Tensor) -> SweepState:
        """On the seeds: crops around the objects, and logits of their masks (B, N, N)."""
        n = len(logits)
        return cls(
            crops,
            logits.clamp(-MAX_LOGIT, MAX_LOGIT),
            logits.new_zeros(n, STATE_WIDTH),
            logits.new_zeros(n, N_PRESENCE_FEATURES),
        )


class StepInput(NamedTuple):
    """The next slice of ``B`` sweeps.

    Attributes
    ----------
    previous, current, following : Tensor of float32, shape (S, H, W)
        The slices that the sweeps have reached, the ones to segment, and the ones after them.
    which : Tensor of int64, shape (B,)
        The slice of every object, 0 to S - 1.
    positions : Tensor of float32, shape (B, 9)
        See `position_features`.
    travel : Tensor of float32, shape (B,)
        Distance from the seed, see `AppearanceFeatures`.
    certain : Tensor of bool, shape (B,)
        The object is known to be on the slice.
    prior : Tensor of float32, shape (B, N, N), or None
        Mask logits interpolated from the annotated slices, in the crops; 0 where nothing can be
        interpolated, None where that is so everywhere.
    """

    previous: Tensor
    current: Tensor
    following: Tensor
    which: Tensor
    positions: Tensor
    travel: Tensor
    certain: Tensor
    prior: Tensor | None


class StepOutput(NamedTuple):
    """Masks on a slice, in the crops with which the step began.

    Attributes
    ----------
    crops : ObjectCrops
    logits : Tensor of float32, shape (B, N, N)
    presence : Tensor of float32, shape (B,)
        Probability that the object is on the slice.
    present : Tensor of bool, shape (B,)
        Whether the mask is shown.
    network : CompactOutput
        The network's own output, with its gradient where that is recorded.
    """

    crops: ObjectCrops
    logits: Tensor
    presence: Tensor
    present: Tensor
    network: CompactOutput


def sweep_step(
    network: CompactNetwork,
    memory: SeedMemory,
    seed: SweepSeed,
    state: SweepState,
    step: StepInput,
    *,
    threshold: float = 0.5,
    record_gradient: bool = False,
) -> tuple[StepOutput, SweepState]:
    """Segment the next slice of a batch of sweeps.

    Crops of the slices are matched by optical flow, which warps the masks; the network corrects
    them, the presence of the objects is judged, and the crops follow the objects. Objects do not
    affect each other, whatever their order.

    Parameters
    ----------
    network : CompactNetwork
    memory : SeedMemory
    seed : SweepSeed
    state : SweepState
    step : StepInput
    threshold : float
        Presence below which a mask is not shown and no correction is propagated.
    record_gradient : bool
        Record the gradient through the network; nothing else has one.

    Returns
    -------
    StepOutput
    SweepState
        On the new slice.
    """
    config, device = network.config, state.propagated.device
    exact = torch.autocast(device.type, enabled=False)
    with torch.no_grad(), exact:
        inputs, features = _network_input(seed, state, step, config)
    with torch.set_grad_enabled(record_gradient):
        output = network(inputs, memory)
    with torch.no_grad(), exact:
        found = output.logits.detach().float()
        evidence = _presence_features(features, inputs, output, state.propagated, memory)
        logit, presence_state = network.judge_presence(evidence, state.presence, seed.labels)
        chance = torch.sigmoid(logit)
        presence = torch.where(step.certain, 0.5 + 0.5 * chance, chance)
        highest = found.amax((1, 2))
        # An object that is known to be here keeps at least its most likely pixel.
        raised = torch.where(step.certain & (highest <= 0), 0.5 - highest, 0.0)
        found = found + raised[:, None, None]
        present = (presence >= threshold) & (found > 0).flatten(1).any(1)
        warped = inputs.warped[:, 0]
        corrected = apply_correction(warped, found, seed.feedback[:, None, None])
        propagated = torch.where(present[:, None, None], corrected, warped)
        shape = step.current.shape[1:]
        crops, propagated = follow(propagated, state.crops, shape, config)
    return (
        StepOutput(state.crops, found, presence, present, output),
        SweepState(crops, propagated, presence_state, evidence),
    )


def _network_input(
    seed: SweepSeed, state: SweepState, step: StepInput, config: CompactConfig
) -> tuple[CompactInput, AppearanceFeatures]:
    crops = state.crops
    slices = crops.read((step.previous, step.current, step.following), step.which)
    images = seed.contrast.apply(slices)
    current = images[:, 1]
    flow = optical_flow(current, images[:, 0])
    warped = warp(torch.stack([images[:, 0], state.propagated], 1), flow)
    distances = snap_to_ridge(warped[:, 1] / LOGITS_PER_PIXEL, current, seed.ridge_strength)
    features = AppearanceFeatures.measure(
        current,
        (current - warped[:, 0]).abs(),
        distances,
        appearance=seed.appearance,
        log_likelihood=seed.log_likelihood,
        area=seed.area,
        travel=step.travel,
        zoom=crops.zoom,
        ring=ring_width(config),
    )
    propagated = distances * LOGITS_PER_PIXEL
    prior, positions = step.prior, step.positions
    if prior is None:
        prior = torch.zeros_like(propagated)
    elif config.memory != "long":  # such a network has no other mask
        prior, positions = trusted_priors(prior, propagated, positions)
    inputs = CompactInput(
        images=images,
        aligned=warped[:, :1],
        warped=propagated[:, None],
        prior=prior[:, None],
        positions=in_crops(positions, crops),
        labels=seed.labels,
    )
    return inputs, features


def _presence_features(
    features: AppearanceFeatures,
    inputs: CompactInput,
    output: CompactOutput,
    propagated: Tensor,
    memory: SeedMemory,
) -> Tensor:
    """Input of `SweepPresence`, shape (B, 35)."""
    chance = features.presence().clamp(1e-4, 1 - 1e-4)
    logit = output.presence.detach().float()
    joint = NETWORK_SHARE * logit + (1 - NETWORK_SHARE) * torch.logit(chance)
    iou = torch.sigmoid(output.iou.detach().float())
    own = torch.stack([joint, logit, iou, *features], 1)
    masks = mask_evidence(inputs, output.logits.detach().float(), propagated, memory.ratios)
    return torch.cat([own, inputs.positions, masks], 1).clamp(-10.0, 10.0)


def follow(
    propagated: Tensor, crops: ObjectCrops, shape: Sequence[int], config: CompactConfig
) -> tuple[ObjectCrops, Tensor]:
    """Place the crops around propagated masks.

    Near the outline the logits keep their fraction of a pixel, further away they are measured
    again, so that no blur builds up along a sweep.

    Parameters
    ----------
    propagated : Tensor of float32, shape (B, N, N)
        Mask logits in ``crops``.
    crops : ObjectCrops
    shape : sequence of int
        ``(H, W)`` of the slice.
    config : CompactConfig

    Returns
    -------
    crops : ObjectCrops
        Unchanged where no pixel of the slice is left in the mask.
    propagated : Tensor of float32, shape (B, N, N)
        Mask logits in them.
    """
    mask = propagated > 0
    on_slice = mask & crops.on_slice(shape)
    distances = refreshed(propagated / LOGITS_PER_PIXEL, signed_distances(mask))
    if config.follow == "object":
        there = crops.following(on_slice, config.window_margin)
        moved = (there.side != crops.side) | (there.row != crops.row)
        moved |= there.column != crops.column
        # To ask a device whether any crop has moved takes longer than to resample all.
        if moved.device.type != "cpu" or bool(moved.any()):
            scale = (there.zoom / crops.zoom)[:, None, None]
            resampled = there.seen_from(crops, distances) * scale
            distances = torch.where(moved[:, None, None], resampled, distances)
            crops = there
    logits = (distances * LOGITS_PER_PIXEL).clamp(-MAX_LOGIT, MAX_LOGIT)
    kept = on_slice.flatten(1).any(1)[:, None, None]
    return crops, torch.where(kept, logits, propagated)


def join(parts: Sequence[Batch]) -> Batch:
    """One batch of several, each a (nested) named tuple of tensors with a leading axis."""
    first = parts[0]
    if len(parts) == 1:
        return first
    fields: list[Any] = []
    for values in zip(*parts, strict=True):
        if isinstance(values[0], Tensor):
            fields.append(torch.cat(values))
        else:
            fields.append(join(values) if isinstance(values[0], tuple) else values[0])
    return _like(first, fields)


def select(batch: Batch, chosen: Any) -> Batch:
    """Some objects of a batch, by a slice or by indices."""
    fields: list[Any] = []
    for value in batch:
        if isinstance(value, Tensor):
            fields.append(value[chosen])
        else:
            fields.append(select(value, chosen) if isinstance(value, tuple) else value)
    return _like(batch, fields)


def split(batch: Batch) -> list[Batch]:
    """Batches of one, as views."""
    first: Any = batch
    while not isinstance(first, Tensor):
        first = first[0]
    return [select(batch, slice(i, i + 1)) for i in range(len(first))]


def _like(batch: Batch, fields: Sequence[Any]) -> Batch:
    made: Batch = type(batch)(*fields)
    return made
