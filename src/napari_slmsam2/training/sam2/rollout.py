"""A sweep of SAM 2.1 or SLM-SAM 2 over clips with gradients, and its losses.

Losses, prompt mix and corrections are those of SLM-SAM 2's training (Chen et al.,
arXiv:2505.01854), which are SAM 2's (Ravi et al., arXiv:2408.00714).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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


@dataclass(frozen=True, slots=True, eq=False)
class ClipAnswer:
    """An answer for B labels of one clip or several, and what its loss is measured against.

    Attributes
    ----------
    answer : Answer
    truth : Tensor of bool, shape (B, S, S)
    weights : Tensor, shape (B,)
        Of the labels in the loss: 1 over the labels of their clip.
    """

    answer: Answer
    truth: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class _Prompted:
    """Labels that are prompted in the same way; `generators` are those of their clips."""

    kind: str
    embedding: ImageEmbedding
    truth: Tensor
    generators: list[torch.Generator]


def roll_out(
    segmenter: NetworkSegmenter,
    clips: Sequence[Sam2Clip],
    generators: Sequence[torch.Generator],
    *,
    corrections: int,
    save_memory: bool,
) -> Iterator[ClipAnswer]:
    """Prompt the first slices of several clips and propagate the masks, all labels as one batch.

    Parameters
    ----------
    segmenter : NetworkSegmenter
        Its network is in training mode.
    clips : sequence of Sam2Clip
        Of equal length.
    generators : sequence of torch.Generator
        Of the prompts of each clip, on the CPU.
    corrections : int
        Clicks after a box or a point.
    save_memory : bool
        Recompute activations in the backward pass.

    Yields
    ------
    ClipAnswer
        Every answer with a loss.
    """
    network = segmenter.network
    call = _again if save_memory else _once
    labels = [clip.masks.shape[1] for clip in clips]
    clip_of = [number for number, count in enumerate(labels) for _ in range(count)]
    device = clips[0].masks.device
    owner = torch.tensor(clip_of, device=device)
    weights = torch.tensor([1 / labels[number] for number in clip_of], device=device)
    length = len(clips[0].masks)
    embeddings = _encode(network, clips, owner, call, together=not save_memory)
    embedding, truth = next(embeddings), _truth(clips, 0)
    kinds = [draw_kind(generator) for generator in generators]
    order: list[int] = []
    outputs: list[SliceOutput] = []
    for kind in dict.fromkeys(kinds):
        members = [k for k, number in enumerate(clip_of) if kinds[number] == kind]
        chosen = _Prompted(
            kind,
            _pick(embedding, members),
            truth[members],
            [generators[clip_of[k]] for k in members],
        )
        order += members
        if kind == "mask":
            masks = chosen.truth[:, None].float()
            outputs.append(network.prompt_mask(chosen.embedding, masks))
            continue
        for answer in _click(network, chosen, corrections, call):
            yield ClipAnswer(answer, chosen.truth, weights[members])
        outputs.append(answer.output)
    output = _in_order(outputs, order)
    banks = [MemoryBank(label) for label in range(1, len(owner) + 1)]
    _remember(segmenter, banks, 0, embedding, output, prompted=True)
    for index, embedding in enumerate(embeddings, 1):
        [(_, memory)] = segmenter.read(banks, index, 1, length, embedding)
        answer = call(_track, network, embedding, *memory)
        yield ClipAnswer(answer, _truth(clips, index), weights)
        _remember(segmenter, banks, index, embedding, answer.output, prompted=False)


def clip_loss(answers: Iterable[ClipAnswer]) -> tuple[Tensor, dict[str, Tensor]]:
    """The losses of clips, summed over their answers, and their parts for the log.

    All on the device: reading a part would wait for it.
    """
    losses: list[Tensor] = []
    sums: dict[str, Tensor] = {}
    for one in answers:
        found = answer_loss(one.answer, one.truth, one.weights)
        losses.append(torch.stack(list(found.values())).sum())
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value.detach()
    return torch.stack(losses).sum(), sums


def answer_loss(answer: Answer, truth: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Losses of one answer, each a weighted sum over the labels.

    The mask and Dice losses use the best of the masks, the loss of the predicted overlap all masks;
    the three are 0 on slices without the object. The presence loss is that of all slices.

    Parameters
    ----------
    answer : Answer
    truth : Tensor of bool, shape (B, S, S)
    weights : Tensor, shape (B,)
        1 / B for the mean.
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
    shares = there * weights
    presence = F.binary_cross_entropy_with_logits(
        answer.output.presence_logit[:, 0], there, reduction="none"
    )
    return {
        "mask": MASK_WEIGHT * (focal.gather(1, best)[:, 0] * shares).sum(),
        "dice_loss": DICE_WEIGHT * (dice.gather(1, best)[:, 0] * shares).sum(),
        "iou": IOU_WEIGHT * ((answer.ious.float() - overlap).abs().mean(1) * shares).sum(),
        "presence": PRESENCE_WEIGHT * (presence * weights).sum(),
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


def _encode(
    network: SliceNetwork, clips: Sequence[Sam2Clip], owner: Tensor, call: _Call, *, together: bool
) -> Iterator[ImageEmbedding]:
    """The embeddings of every slice of the sweeps, one per label; one for all labels of one clip.

    Parameters
    ----------
    network : SliceNetwork
    clips : sequence of Sam2Clip
    owner : Tensor of int, shape (B,)
        The clip of each label.
    call : callable
    together : bool
        Encode all slices as one batch, not slice by slice.
    """
    length, count = len(clips[0].masks), len(clips)
    trained = any(p.requires_grad for p in network.image_encoder.parameters())
    step = length if together else 1
    for start in range(0, length, step):
        inputs = [clip.encoder_input(i) for i in range(start, start + step) for clip in clips]
        # Of a frozen encoder nothing is kept; the heads' convolutions of its features are trained.
        encode = call if trained else _once
        encoded: ImageEmbedding = encode(network.encode_image, torch.cat(inputs))
        for first in range(0, step * count, count):
            some = encoded.part(slice(first, first + count))
            yield some if count == 1 else _pick(some, owner)


def _pick(embedding: ImageEmbedding, members: Tensor | list[int]) -> ImageEmbedding:
    """The embeddings of some labels; one that all labels share stays as it is."""
    return embedding if len(embedding.feature) == 1 else embedding.part(members)


def _truth(clips: Sequence[Sam2Clip], index: int) -> Tensor:
    """The true masks of all labels on a slice, shape (B, S, S)."""
    return torch.cat([clip.masks[index] for clip in clips]) > 0.5


def _in_order(outputs: Sequence[SliceOutput], order: Sequence[int]) -> SliceOutput:
    """Outputs of parts of a batch as one, with the labels in ascending order."""
    if len(outputs) == 1:
        return outputs[0]
    places = sorted(range(len(order)), key=order.__getitem__)
    fields = ("low_res_logits", "presence_logit", "pointer", "predicted_iou")
    return SliceOutput(*(torch.cat([getattr(o, name) for o in outputs])[places] for name in fields))


def _track(
    network: SliceNetwork, embedding: ImageEmbedding, long: MemoryTokens, short: MemoryTokens
) -> Answer:
    return _decode(network, embedding, network.condition(embedding, long, short))


def _click(
    network: SliceNetwork, chosen: _Prompted, corrections: int, call: _Call
) -> Iterator[Answer]:
    truth, generators = chosen.truth, chosen.generators
    clicks, previous = first_clicks(chosen.kind, truth, generators), None
    for number in range(corrections + 1):
        answer: Answer = call(_prompt, network, chosen.embedding, clicks, previous)
        yield answer
        if number < corrections:
            size = truth.shape[-2:]
            logits = answer.output.low_res_logits.detach()
            previous = logits.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
            found = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            clicks = clicks.and_then(correction(truth, found[:, 0] > 0, generators))


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
