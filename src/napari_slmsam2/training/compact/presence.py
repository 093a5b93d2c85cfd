"""Presence training on whole sweeps with unknown ends.

Clips are short and drawn near the ends of objects: they train presence with balanced classes and
slice by slice. Along a real sweep most slices hold the object, and the cost of an error depends on
the pixels that it shows or hides.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.engine.compact.cpu_workers import compute_on_one_core
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.presence_gru import WIDTH
from napari_slmsam2.training.compact.config import PresenceTrainingConfig
from napari_slmsam2.training.compact.presence_sweeps import WholeSweep, dice_if_shown
from napari_slmsam2.training.optimizer import make_adamw

WORTH_SHOWING = 0.4
"""Share of true pixels from which showing a mask raises a Dice of 0.8, which is twice this."""

MOST_AT_STAKE = 4.0
"""Largest weight of a slice in the cross entropy, relative to the others of its object."""

ENTROPY_SHARE = 0.2
"""Weight of the cross entropy in the loss; the other part is the Dice of whole objects."""

SHIFTS = np.arange(-3.0, 3.01, 0.25)

AS_GOOD = 0.002
"""Difference of mean Dice up to which the smallest shift is preferred to the best one."""

Objects = Sequence[Sequence[WholeSweep]]


def train_presence(
    network: CompactNetwork,
    objects: Objects,
    kinds: Sequence[str],
    plan: PresenceTrainingConfig | None = None,
    *,
    advanced: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Fit `SweepPresence` of a network; the rest of it stays.

    Parameters
    ----------
    network : CompactNetwork
        Changed in place.
    objects : sequence of sequence of WholeSweep
        Of `napari_slmsam2.training.compact.presence_sweeps.sweep_outward` with this network.
    kinds : sequence of str
        Kind of every object; kinds are drawn in proportion to the root of their number of objects.
    plan : PresenceTrainingConfig, optional
    advanced : callable
        Called with the number of steps done and of all steps.
    """
    plan = plan or PresenceTrainingConfig()
    ends = network.ends.requires_grad_(True)
    counts = Counter(kinds)
    chances = np.array([counts[kind] ** -0.5 for kind in kinds])
    clues = np.concatenate([one.clues for sweeps in objects for one in sweeps])
    ends.centre.copy_(torch.from_numpy(clues.mean(0)))
    ends.scale.copy_(torch.from_numpy(np.maximum(clues.std(0), 0.1)))
    drawn = np.random.default_rng(plan.seed)
    device = network.carried_weight.device
    steps = plan.passes * math.ceil(len(objects) / plan.batch_size)
    optimizer = make_adamw(ends.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.learning_rate, total_steps=steps)
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        ends.train()
        for step in range(steps):
            picked = drawn.choice(len(objects), plan.batch_size, p=chances / chances.sum())
            chosen = [objects[i] for i in picked]
            compute_on_one_core(partial(_fit, network, chosen, optimizer), device)
            schedule.step()
            advanced(step + 1, steps)
        ends.eval()


def _fit(network: CompactNetwork, objects: Objects, optimizer: torch.optim.Optimizer) -> None:
    """One optimiser step."""
    optimizer.zero_grad()
    torch.autograd.backward(_loss(network, objects))
    torch.nn.utils.clip_grad_norm_(network.ends.parameters(), 1.0)
    optimizer.step()


def _loss(network: CompactNetwork, objects: Objects) -> Tensor:
    """One minus the Dice of objects shown with these probabilities, and some cross entropy."""
    device = network.carried_weight.device
    sweeps = [(number, one) for number, found in enumerate(objects) for one in found]
    owner = torch.tensor([number for number, _ in sweeps], device=device)
    true = torch.tensor(
        [sum(int(one.true.sum()) for one in found) for found in objects], device=device
    ).clamp(min=1)

    def padded(name: str) -> Tensor:
        parts = [torch.from_numpy(getattr(one, name)).to(device).float() for _, one in sweeps]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def of_objects(values: Tensor) -> Tensor:
        return torch.zeros(len(objects), device=device).index_add(0, owner, values.sum(1))

    found, common = padded("found"), padded("common")
    lengths = torch.tensor([len(one.found) for _, one in sweeps], device=device)[:, None]
    labels = torch.tensor([one.label for _, one in sweeps], device=device)
    logits = unroll(network, padded("clues"), labels)
    shown = torch.sigmoid(logits)
    dice = 2 * of_objects(shown * common) / (of_objects(shown * found) + true)
    gain = common - WORTH_SHOWING * found
    stake = (2 * gain.abs() * lengths / true[owner, None]).clamp(max=MOST_AT_STAKE) / lengths
    entropy = F.binary_cross_entropy_with_logits(logits, (gain > 0).float(), reduction="none")
    return (1 - dice).mean() + ENTROPY_SHARE * (entropy * stake).sum(1).mean()


def unroll(network: CompactNetwork, clues: Tensor, labels: Tensor) -> Tensor:
    """Presence logits along sweeps.

    Parameters
    ----------
    network : CompactNetwork
    clues : Tensor, shape (B, S, 35)
    labels : Tensor of int, shape (B,)

    Returns
    -------
    Tensor, shape (B, S)
    """
    state = torch.zeros(len(clues), WIDTH, device=clues.device)
    logits = []
    for seen in clues.unbind(1):
        logit, state = network.judge_presence(seen, state, labels)
        logits.append(logit)
    return torch.stack(logits, 1)


def calibrate_presence(network: CompactNetwork, objects: Objects) -> float:
    """Shift presence to the best Dice of the sweeps: of all labels, then of each class embedding.

    Parameters
    ----------
    network : CompactNetwork
        Changed in place.
    objects : sequence of sequence of WholeSweep
        Both sweeps of every object.

    Returns
    -------
    float
        Shift that was added to all logits.
    """
    rated: dict[int, list[_Rated]] = {}
    for sweeps in objects:
        if sweeps:
            logits = [presence_along(network, one) for one in sweeps]
            rated.setdefault(sweeps[0].label, []).append((sweeps, logits))
    if not rated:
        return 0.0
    shift = _best_shift([one for found in rated.values() for one in found])
    network.shift_presence(shift)
    for label in rated.keys() & set(network.config.structures):
        network.shift_presence(_best_shift(rated[label], shift) - shift, label)
    return shift


_Rated = tuple[Sequence[WholeSweep], Sequence[npt.NDArray[np.float64]]]


def presence_along(network: CompactNetwork, one: WholeSweep) -> npt.NDArray[np.float64]:
    """Presence logits of a sweep, shape (S,)."""
    device = network.carried_weight.device
    with torch.inference_mode():
        clues = torch.from_numpy(one.clues)[None].to(device)
        logits = unroll(network, clues, torch.tensor([one.label], device=device))
    return logits[0].cpu().numpy().astype(np.float64)


def _best_shift(rated: Collection[_Rated], start: float = 0.0) -> float:
    """The shift next to ``start`` among those whose Dice is within `AS_GOOD` of the best one."""
    scores = np.array([mean_dice(rated, shift) for shift in SHIFTS])
    good = SHIFTS[scores > scores.max() - AS_GOOD]
    return float(min(good, key=lambda shift: abs(shift - start)))


def dice_of_sweeps(network: CompactNetwork, objects: Objects) -> float:
    """Mean 3D Dice of objects without their seeds, ends unknown."""
    return mean_dice(
        [(found, [presence_along(network, one) for one in found]) for found in objects]
    )


def mean_dice(rated: Collection[_Rated], shift: float = 0.0) -> float:
    """Mean 3D Dice of objects, if all logits were shifted."""
    return float(
        np.mean(
            [dice_if_shown(sweeps, [lg + shift > 0 for lg in logits]) for sweeps, logits in rated]
        )
    )
