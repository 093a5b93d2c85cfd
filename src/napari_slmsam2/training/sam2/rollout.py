"""A sweep of SAM 2.1 or SLM-SAM 2 over a clip with gradients, and its losses.

Losses, prompt mix and corrections are those of SLM-SAM 2's training (Chen et al.,
arXiv:2505.01854), which are SAM 2's (Ravi et al., arXiv:2408.00714).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.engine.sam2.tensors import ImageEmbedding, MemoryTokens, SliceOutput
from napari_slmsam2.training.sam2.clips import Sam2Clip
from napari_slmsam2.training.sam2.prompts import Clicks, correction, draw_kind, first_clicks

MASK_WEIGHT, DICE_WEIGHT, IOU_WEIGHT, PRESENCE_WEIGHT = 20.0, 1.0, 1.0, 1.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0

_LARGEST_LOGIT = 32.0
"""sam2 writes -1024 where the object is absent."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Decoder output for B labels: all masks, and the one that is selected.

    Attributes
    ----------
    logits : Tensor, shape (B, M, S, S)
        M is 3, or 1 for unambiguous prompts.
    ious : Tensor, shape (B, M)
    output : SliceOutput
    """

    logits: Tensor
    ious: Tensor
    output: SliceOutput


def roll_out(
    segmenter: NetworkSegmenter,
    clip: Sam2Clip,
    generator: torch.Generator,
    *,
    corrections: int,
    save_memory: bool,
) -> Iterator[tuple[Answer, Tensor]]:
    """Prompt the first slice and propagate the masks.

    Parameters
    ----------
    segmenter : NetworkSegmenter
        Its network is in training mode.
    clip : Sam2Clip
    generator : torch.Generator
        Of the prompts, on the CPU.
    corrections : int
        Clicks after a box or a point.
    save_memory : bool
        Recompute activations in the backward pass.

    Yields
    ------
    tuple of (Answer, Tensor)
        Every answer with a loss, and the true masks of shape (B, S, S).
    """
    network = segmenter.network
    call = _again if save_memory else _once
    kind = draw_kind(generator)
    truth = clip.masks[0] > 0.5
    embedding = _encode(network, clip, 0, call)
    if kind == "mask":
        output = network.prompt_mask(embedding, truth[:, None].float())
    else:
        for answer in _click(network, embedding, kind, truth, generator, corrections, call):
            output = answer.output
            yield answer, truth
    banks = [MemoryBank(label) for label in range(1, len(truth) + 1)]
    _remember(segmenter, banks, 0, embedding, output, prompted=True)
    for index in range(1, len(clip.masks)):
        embedding = _encode(network, clip, index, call)
        [(_, memory)] = segmenter.read(banks, index, 1, len(clip.masks), embedding)
        answer = call(_track, network, embedding, *memory)
        yield answer, clip.masks[index] > 0.5
        _remember(segmenter, banks, index, embedding, answer.output, prompted=False)


def clip_loss(answers: Iterator[tuple[Answer, Tensor]]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a clip, summed over its answers, and its parts for the log.

    All on the device: reading a part would wait for it.
    """
    losses: list[Tensor] = []
    sums: dict[str, Tensor] = {}
    for answer, truth in answers:
        found = answer_loss(answer, truth)
        losses.append(torch.stack(list(found.values())).sum())
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value.detach()
    return torch.stack(losses).sum(), sums


def answer_loss(answer: Answer, truth: Tensor) -> dict[str, Tensor]:
    """Losses of one answer, each a mean over the labels.

    The mask and Dice losses use the best of the masks, the loss of the predicted overlap all masks;
    the three are 0 on slices without the object. The presence loss is that of all slices.

    Parameters
    ----------
    answer : Answer
    truth : Tensor of bool, shape (B, S, S)
    """
    target = truth[:, None].float().expand_as(answer.logits)
    logits = answer.logits.float().clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
    present = truth.flatten(1).any(1)
    focal, dice = _focal(logits, target), _dice(logits, target)
    best = (MASK_WEIGHT * focal + DICE_WEIGHT * dice).argmin(1, keepdim=True)
    seen = logits > 0
    union = (seen | truth[:, None]).sum((2, 3)).clamp(min=1)
    overlap = (seen & truth[:, None]).sum((2, 3)) / union
    there = present.float()
    presence = F.binary_cross_entropy_with_logits(answer.output.presence_logit[:, 0], there)
    return {
        "mask": MASK_WEIGHT * (focal.gather(1, best)[:, 0] * there).mean(),
        "dice_loss": DICE_WEIGHT * (dice.gather(1, best)[:, 0] * there).mean(),
        "iou": IOU_WEIGHT * ((answer.ious.float() - overlap).abs().mean(1) * there).mean(),
        "presence": PRESENCE_WEIGHT * presence,
    }


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017), mean over the pixels, shape (B, M)."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = (torch.sigmoid(logits) - target).abs() ** FOCAL_GAMMA
    alpha = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    return (alpha * missed * entropy).mean((2, 3))


def _dice(logits: Tensor, target: Tensor) -> Tensor:
    chance = torch.sigmoid(logits)
    common = 2 * (chance * target).sum((2, 3)) + 1
    return 1 - common / (chance.sum((2, 3)) + target.sum((2, 3)) + 1)


_Call = Callable[..., Any]


def _once(function: _Call, *args: Any) -> Any:
    return function(*args)


def _again(function: _Call, *args: Any) -> Any:
    return checkpoint(function, *args, use_reentrant=False)


def _encode(network: SliceNetwork, clip: Sam2Clip, index: int, call: _Call) -> ImageEmbedding:
    trained = any(p.requires_grad for p in network.image_encoder.parameters())
    with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
        embedding: ImageEmbedding = call(network.encode_image, clip.encoder_input(index))
    return embedding


def _track(
    network: SliceNetwork, embedding: ImageEmbedding, long: MemoryTokens, short: MemoryTokens
) -> Answer:
    return _decode(network, embedding, network.condition(embedding, long, short))


def _click(
    network: SliceNetwork,
    embedding: ImageEmbedding,
    kind: str,
    truth: Tensor,
    generator: torch.Generator,
    corrections: int,
    call: _Call,
) -> Iterator[Answer]:
    clicks, previous = first_clicks(kind, truth, generator), None
    for number in range(corrections + 1):
        answer: Answer = call(_prompt, network, embedding, clicks, previous)
        yield answer
        if number < corrections:
            size = truth.shape[-2:]
            logits = answer.output.low_res_logits.detach()
            previous = logits.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
            found = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            clicks = clicks.and_then(correction(truth, found[:, 0] > 0, generator))


def _prompt(
    network: SliceNetwork, embedding: ImageEmbedding, clicks: Clicks, previous: Tensor | None
) -> Answer:
    conditioned = network.without_memory(embedding, len(clicks.labels))
    return _decode(network, embedding, conditioned, clicks, previous)


def _decode(
    network: SliceNetwork,
    embedding: ImageEmbedding,
    conditioned: Tensor,
    clicks: Clicks | None = None,
    previous: Tensor | None = None,
) -> Answer:
    points = None
    if clicks is not None:
        points = {"point_coords": clicks.coordinates, "point_labels": clicks.labels}
    _, logits, ious, low_res, _, pointer, presence = network._forward_sam_heads(
        conditioned,
        point_inputs=points,
        mask_inputs=previous,
        high_res_features=[m.expand(len(conditioned), -1, -1, -1) for m in embedding.high_res],
        multimask_output=points is None or network._use_multimask(True, points),
    )
    output = SliceOutput(low_res, presence.float(), pointer, ious.amax(dim=1).float())
    return Answer(logits, ious, output)


def _remember(
    segmenter: NetworkSegmenter,
    banks: list[MemoryBank],
    index: int,
    embedding: ImageEmbedding,
    output: SliceOutput,
    *,
    prompted: bool,
) -> None:
    contents = segmenter.remember(embedding, output, prompted=prompted)
    for bank, content in zip(banks, contents, strict=True):
        bank.add(MemoryEntry(index, prompted, content))
