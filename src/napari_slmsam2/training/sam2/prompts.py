"""Simulated prompts made from true masks: masks, boxes, points, corrections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MASK_CHANCE, BOX_CHANCE = 0.5, 0.25
"""Else a point. SLM-SAM 2's mix (Chen et al., arXiv:2505.01854)."""

BOX_NOISE = 0.1
"""Standard deviation of a corner, over the side of the box."""

MOST_BOX_NOISE = 20.0
"""Pixels."""

BLIND = 0.1
"""Share of the corrections that are drawn from the true mask, not from the error."""


@dataclass(frozen=True, slots=True, eq=False)
class Clicks:
    """Points and corners of boxes of B labels, in pixels of the network's input.

    Attributes
    ----------
    coordinates : Tensor, shape (B, P, 2)
        ``(x, y)``.
    labels : Tensor of int32, shape (B, P)
        1 inside, 0 outside, 2 and 3 the corners of a box.
    """

    coordinates: Tensor
    labels: Tensor

    def and_then(self, other: Clicks) -> Clicks:
        """These clicks and the others after them."""
        return Clicks(
            torch.cat([self.coordinates, other.coordinates], 1),
            torch.cat([self.labels, other.labels], 1),
        )


def draw_kind(generator: torch.Generator) -> str:
    """``mask``, ``box`` or ``point``."""
    chance = float(torch.rand((), generator=generator))
    if chance < MASK_CHANCE:
        return "mask"
    return "box" if chance < MASK_CHANCE + BOX_CHANCE else "point"


def first_clicks(kind: str, truth: Tensor, generators: Sequence[torch.Generator]) -> Clicks:
    """A box around every mask, or a point in it.

    Parameters
    ----------
    kind : {"box", "point"}
    truth : Tensor of bool, shape (B, S, S)
        None is empty.
    generators : sequence of torch.Generator
        Of each label, on the CPU; labels of one clip share theirs.
    """
    if kind == "point":
        return _points(truth, truth, generators)
    corners = torch.stack([_box(mask) for mask in truth.cpu()])
    sides = (corners[:, 1] - corners[:, 0])[:, None]
    drawn = torch.stack([torch.randn(2, 2, generator=generator) for generator in generators])
    noise = (drawn * BOX_NOISE * sides).clamp(-MOST_BOX_NOISE, MOST_BOX_NOISE)
    corners = (corners + noise).clamp(0, truth.shape[-1] - 1)
    labels = torch.tensor([2, 3], dtype=torch.int32).expand(len(truth), -1)
    return Clicks(corners.to(truth.device), labels.to(truth.device))


def correction(truth: Tensor, found: Tensor, generators: Sequence[torch.Generator]) -> Clicks:
    """One click per label where the found mask is wrong; sometimes anywhere in the true one.

    Parameters
    ----------
    truth, found : Tensor of bool, shape (B, S, S)
    generators : sequence of torch.Generator
        Of each label, on the CPU; labels of one clip share theirs.
    """
    blind = {
        generator: bool(torch.rand((), generator=generator) < BLIND)
        for generator in dict.fromkeys(generators)
    }
    is_blind = torch.tensor([blind[generator] for generator in generators], device=truth.device)
    wrong = (truth != found) & ~is_blind[:, None, None]
    nowhere = ~wrong.flatten(1).any(1)
    return _points(torch.where(nowhere[:, None, None], truth, wrong), truth, generators)


def _points(where: Tensor, truth: Tensor, generators: Sequence[torch.Generator]) -> Clicks:
    chosen = []
    for mask, generator in zip(where.cpu(), generators, strict=True):
        pixels = mask.nonzero()
        chosen.append(pixels[int(torch.randint(len(pixels), (), generator=generator))])
    place = torch.stack(chosen).to(truth.device)
    inside = truth[torch.arange(len(truth), device=truth.device), place[:, 0], place[:, 1]]
    return Clicks(place.flip(1).float()[:, None], inside.to(torch.int32)[:, None])


def _box(mask: Tensor) -> Tensor:
    """First and last corner, shape (2, 2)."""
    pixels = mask.nonzero()
    return torch.stack([pixels.amin(0), pixels.amax(0)]).flip(1).float()
