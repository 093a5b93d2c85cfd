"""A sweep over a clip as inference makes it, and what it is judged by."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.engine.compact.network import (
    CompactInput,
    CompactNetwork,
    CompactOutput,
    apply_correction,
)
from napari_slmsam2.training.data.batch import Batch, warp
from napari_slmsam2.training.distributed import DistributedContext


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the parts of the loss.

    Attributes
    ----------
    mask, dice : float
        Cross entropy and Dice of the mask on slices with the object.
    empty : float
        Cross entropy of the mask on slices without it; 0 leaves them to the presence head, as
        SLM-SAM 2 does.
    presence, iou : float
        Of the two heads.
    """

    mask: float = 2.0
    dice: float = 1.0
    empty: float = 1.0
    presence: float = 0.3
    iou: float = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """One step of the rollout.

    Attributes
    ----------
    output : CompactOutput
    target : Tensor, shape (B, N, N)
        Share of every pixel that the object covers.
    present : Tensor of bool, shape (B,)
    weight : Tensor, shape (B,)
    """

    output: CompactOutput
    target: Tensor
    present: Tensor
    weight: Tensor


def roll_out(
    network: CompactNetwork, batch: Batch, steps: Collection[int] | None = None
) -> Iterator[StepResult]:
    """Carry the masks of a batch along and ask the network on every step.

    With feedback, a part of its corrections is carried on, without gradient.

    Parameters
    ----------
    network : CompactNetwork
    batch : Batch
    steps : collection of int, optional
        Those that are given back. Default: all.
    """
    memory = network.read_seeds(batch.seed_images, batch.seed_logits, batch.seeds_known)
    carried, feedback = batch.start, network.config.feedback
    for step in range(batch.flows.shape[1]):
        fields = torch.stack([carried, batch.images[:, step]], 1)
        moved = warp(fields, batch.flows[:, step])
        carried = moved[:, 0]
        asked = steps is None or step in steps
        if not asked and not feedback:
            continue
        inputs = CompactInput(
            images=batch.images[:, step : step + 3],
            aligned=moved[:, 1:],
            carried=moved[:, :1],
            prior=batch.priors[:, step, None],
            cues=batch.cues[:, step],
            labels=batch.labels,
        )
        with torch.set_grad_enabled(asked and torch.is_grad_enabled()):
            output = network(inputs, memory)
        if feedback:
            seen = (output.presence > 0) & (output.logits > 0).any(2).any(1)
            onward = apply_correction(carried, output.logits.detach(), feedback * batch.feedback)
            carried = torch.where(seen[:, None, None], onward, carried)
        if asked:
            yield StepResult(
                output,
                (batch.distances[:, step + 1] + 0.5).clamp(0.0, 1.0),
                batch.present[:, step],
                batch.weights[:, step],
            )


def step_loss(
    result: StepResult, weights: LossWeights, distributed: DistributedContext | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one step, and its parts for the log; of a crew, this process's share of them."""
    distributed = distributed or DistributedContext()
    logits, target, present = result.output.logits, result.target, result.present
    total_weight = distributed.total(result.weight.sum()).clamp(min=1.0)

    def mean(values: Tensor) -> Tensor:
        return (values * result.weight).sum() / total_weight

    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2))
    chance = torch.sigmoid(logits)
    overlap = 2 * (chance * target).sum((1, 2)) + 1.0
    dice = 1.0 - overlap / (chance.sum((1, 2)) + target.sum((1, 2)) + 1.0)
    there = present.float()
    parts = {
        "mask": weights.mask * mean(entropy * there),
        "dice_loss": weights.dice * mean(dice * there),
        "empty": weights.empty * mean(entropy * (1 - there)),
        "presence": weights.presence * _presence_loss(result, distributed),
        "iou": weights.iou * mean((torch.sigmoid(result.output.iou) - true_iou(result)).abs()),
    }
    loss = torch.stack(list(parts.values())).sum()
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def true_iou(result: StepResult) -> Tensor:
    """Intersection over union of the found and the true mask, shape (B,); 0 without the object."""
    found, truth = result.output.logits.detach() > 0, result.target > 0.5
    union = (found | truth).sum((1, 2))
    return (found & truth).sum((1, 2)) / union.clamp(min=1) * result.present


def _presence_loss(result: StepResult, distributed: DistributedContext) -> Tensor:
    """Cross entropy with both answers counted alike."""
    there = result.present.float()
    entropy = F.binary_cross_entropy_with_logits(result.output.presence, there, reduction="none")
    halves = []
    for chosen in (there, 1 - there):
        weight = chosen * result.weight
        halves.append((entropy * weight).sum() / distributed.total(weight.sum()).clamp(min=1.0))
    return 0.5 * (halves[0] + halves[1])
