"""The threshold of the presence head, set on whole sweeps with unknown ends.

Clips are drawn near the ends of objects, so that presence is learned at even odds; along a real
sweep most slices hold the object.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from napari_slmsam2.engine.window_network import WindowNetwork
from napari_slmsam2.engine.window_segmenter import NETWORK_SHARE, WindowSegmenter
from napari_slmsam2.training.chains import never_absent, sweep
from napari_slmsam2.training.synthetic import LabelledStack

STOP_AFTER = 3
"""Absent slices in a row that end a sweep, as in `PropagationConfig`."""

SHIFTS = np.arange(-3.0, 3.01, 0.25)

AS_GOOD = 0.002
"""Of mean Dice: the smallest shift that comes this close to the best one is taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """One sweep to the end of a stack that never stopped.

    Attributes
    ----------
    logits : ndarray of float, shape (S,)
        Presence, in the order of the sweep.
    found, common, true : ndarray of int, shape (S,)
        Pixels of the found mask, of both, and of the true one.
    """

    logits: npt.NDArray[np.float64]
    found: npt.NDArray[np.int64]
    common: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]


def calibrate_presence(network: WindowNetwork, stacks: Iterable[LabelledStack]) -> float:
    """Shift the presence head so that sweeps from the largest slice reach the best Dice.

    Parameters
    ----------
    network : WindowNetwork
        Changed in place: the bias of the presence logit.
    stacks : iterable of LabelledStack
        Objects that the network was not trained on.

    Returns
    -------
    float
        What was added to the bias.
    """
    objects = [sweeps for stack in stacks if (sweeps := _sweep_both_ways(network, stack))]
    if not objects:
        return 0.0
    scores = [np.mean([_dice(sweeps, shift) for sweeps in objects]) for shift in SHIFTS]
    best = float(min(SHIFTS[np.array(scores) > max(scores) - AS_GOOD], key=abs))
    with torch.no_grad():
        last = network.heads[2]
        assert isinstance(last, torch.nn.Linear)
        last.bias[0] += best / NETWORK_SHARE
    return best / NETWORK_SHARE


def _sweep_both_ways(network: WindowNetwork, stack: LabelledStack) -> list[Sweep]:
    areas = stack.mask.sum((1, 2))
    if not areas.any():
        return []
    seed = int(areas.argmax())
    segmenter = never_absent(network)
    ways = (range(seed + 1, len(areas)), range(seed - 1, -1, -1))
    return [_sweep(segmenter, stack, seed, slices) for slices in ways if slices]


def _sweep(segmenter: WindowSegmenter, stack: LabelledStack, seed: int, slices: range) -> Sweep:
    rows: list[tuple[float, int, int, int]] = []
    for index, found in sweep(segmenter, stack, [seed], slices):
        mask, truth = found.logits > 0, stack.mask[index]
        chance = min(max(found.presence, 1e-6), 1 - 1e-6)
        logit = float(np.log(chance / (1 - chance)))
        rows.append((logit, int(mask.sum()), int((mask & truth).sum()), int(truth.sum())))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Sweep(columns[0].astype(float), *columns[1:])


def _dice(sweeps: Sequence[Sweep], shift: float) -> float:
    """3D Dice without the seed if the presence logits were shifted."""
    common = total = 0
    for found in sweeps:
        shown = found.logits + shift > 0
        absent_in_a_row = 0
        for i, is_shown in enumerate(shown):
            absent_in_a_row = 0 if is_shown else absent_in_a_row + 1
            if absent_in_a_row == STOP_AFTER:
                shown[i:] = False
                break
        common += int(found.common[shown].sum())
        total += int(found.found[shown].sum() + found.true.sum())
    return 2 * common / total if total else 1.0
