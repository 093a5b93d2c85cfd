"""Sweeps over a batch of clips, by the step that inference uses, and their loss."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.engine.compact.crop import ObjectCrops
from napari_slmsam2.engine.compact.features import (
    BETWEEN_SEEDS,
    END_MARKED,
    LOGITS_PER_PIXEL,
    MAX_LOGIT,
    read_logits,
)
from napari_slmsam2.engine.compact.network import CompactNetwork, CompactOutput
from napari_slmsam2.engine.compact.sweep import StepInput, StepOutput, sweep_step
from napari_slmsam2.training.compact.config import LossWeights
from napari_slmsam2.training.data.batch import Batch
from napari_slmsam2.training.distributed import DistributedContext


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """One step of the roll-out.

    Attributes
    ----------
    step : StepOutput
    target : Tensor, shape (B, N, N)
        Share of every pixel of the crops that the object covers.
    present : Tensor of bool, shape (B,)
    weight : Tensor, shape (B,)
    """

    step: StepOutput
    target: Tensor
    present: Tensor
    weight: Tensor

    @property
    def output(self) -> CompactOutput:
        """Output of the network, with its gradient."""
        return self.step.network


def roll_out(
    network: CompactNetwork,
    batch: Batch,
    steps: Collection[int] | None = None,
    *,
    threshold: float = 0.5,
) -> Iterator[StepResult]:
    """Sweep over a batch of clips with `sweep_step`.

    Masks are propagated from step to step without gradient.

    Parameters
    ----------
    network : CompactNetwork
    batch : Batch
    steps : collection of int, optional
        Those that are returned, with the gradient of the network where gradients are enabled.
        Default: all.
    threshold : float
        See `sweep_step`.
    """
    memory = network.read_seeds(batch.seed_images, batch.seed_logits, batch.seeds_known)
    state, length = batch.state, batch.positions.shape[1]
    for step in range(length if steps is None else max(steps, default=-1) + 1):
        asked = steps is None or step in steps
        output, state = sweep_step(
            network,
            memory,
            batch.seed,
            state,
            _step_input(batch, step, state.crops),
            threshold=threshold,
            record_gradient=asked and torch.is_grad_enabled(),
        )
        if asked:
            yield StepResult(
                output,
                _target(batch, step, output),
                batch.present[:, step],
                batch.weights[:, step],
            )


@torch.no_grad()
def _step_input(batch: Batch, step: int, crops: ObjectCrops) -> StepInput:
    previous, current, following = batch.images[:, step : step + 3].unbind(1)
    positions = batch.positions[:, step]
    prior = read_logits(batch.priors[:, step] / LOGITS_PER_PIXEL, crops)
    return StepInput(
        previous,
        current,
        following,
        which=torch.arange(len(positions), device=positions.device),
        positions=positions,
        travel=batch.travel[:, step],
        certain=(positions[:, [END_MARKED, BETWEEN_SEEDS]] > 0).any(1),
        prior=prior.clamp_(-MAX_LOGIT, MAX_LOGIT),
    )


@torch.no_grad()
def _target(batch: Batch, step: int, output: StepOutput) -> Tensor:
    distances = batch.distances[:, step + 1]
    return (read_logits(distances, output.crops) / LOGITS_PER_PIXEL + 0.5).clamp_(0.0, 1.0)


class StepTotals(NamedTuple):
    """What the terms of the loss of a step are divided by: weights over the whole batch.

    Attributes
    ----------
    weight, present, absent : Tensor, shape ()
        Of all clips, of those with the object on the slice, and of those without it; at least 1.
    """

    weight: Tensor
    present: Tensor
    absent: Tensor

    @classmethod
    def of(
        cls, weight: Tensor, present: Tensor, distributed: DistributedContext | None = None
    ) -> StepTotals:
        """Of a step with weights and presence of shape (B,), over all processes."""
        there = present.float()
        sums = torch.stack([weight.sum(), (there * weight).sum(), ((1 - there) * weight).sum()])
        total = (distributed or DistributedContext()).total(sums).clamp(min=1.0)
        return cls(*total.unbind())


def step_loss(
    result: StepResult, weights: LossWeights, totals: StepTotals | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one step and its parts for the log, each of shape ().

    Of a part of a batch, its share of the loss of the batch. The parts have no gradient.

    Parameters
    ----------
    result : StepResult
    weights : LossWeights
    totals : StepTotals, optional
        Of the whole batch. Default: the result is of all of it.
    """
    totals = totals or StepTotals.of(result.weight, result.present)
    logits, target, present = result.output.logits, result.target, result.present

    def mean(values: Tensor) -> Tensor:
        return (values * result.weight).sum() / totals.weight

    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2))
    chance = torch.sigmoid(logits)
    overlap = 2 * (chance * target).sum((1, 2)) + 1.0
    dice = 1.0 - overlap / (chance.sum((1, 2)) + target.sum((1, 2)) + 1.0)
    there = present.float()
    parts = {
        "mask": weights.mask * mean(entropy * there),
        "dice_loss": weights.dice * mean(dice * there),
        "empty": weights.empty * mean(entropy * (1 - there)),
        "presence": weights.presence * _presence_loss(result, totals),
        "iou": weights.iou * mean((torch.sigmoid(result.output.iou) - true_iou(result)).abs()),
    }
    loss = torch.stack(list(parts.values())).sum()
    return loss, {name: value.detach() for name, value in parts.items()}


def true_iou(result: StepResult) -> Tensor:
    """Intersection over union of the found and the true mask, shape (B,); 0 without the object."""
    found, truth = result.output.logits.detach() > 0, result.target > 0.5
    union = (found | truth).sum((1, 2))
    return (found & truth).sum((1, 2)) / union.clamp(min=1) * result.present


def _presence_loss(result: StepResult, totals: StepTotals) -> Tensor:
    """Cross entropy, presence and absence weighted equally."""
    there = result.present.float()
    entropy = F.binary_cross_entropy_with_logits(result.output.presence, there, reduction="none")
    entropy = entropy * result.weight
    on, off = (entropy * there).sum(), (entropy * (1 - there)).sum()
    return 0.5 * (on / totals.present + off / totals.absent)
