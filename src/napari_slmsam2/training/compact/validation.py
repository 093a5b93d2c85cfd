"""Scores of single steps on held-out clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_slmsam2.engine.compact.cpu_workers import compute_in_parts
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.training.compact.rollout import StepResult, roll_out, true_iou
from napari_slmsam2.training.data.batch import Clips, ClipStore, make_batch

BATCH_SIZE = 32
"""Clips that are scored at once; each core of a CPU computes some of them."""


def validate(network: CompactNetwork, clips: Clips, device: torch.device) -> dict[str, float]:
    """Evaluate a network on clips that it was not trained on, without augmentation.

    Returns
    -------
    dict
        ``dice`` on slices with the object, 0 where it is scored absent; ``dice_known``, the same
        as if the ends were known; ``recall_absent``,
        share of the slices without it that are scored absent; ``recall_present``; ``overrun``,
        pixels found without the object over true pixels; ``iou_error``; and ``dice_known/SET``.
    """
    network.eval()
    names, store = clips["set_names"], ClipStore.from_arrays(clips, device)

    def score(part: Sequence[int]) -> list[dict[str, npt.NDArray[Any]]]:
        indices, scores = np.asarray(part), []
        with torch.no_grad():  # of the thread
            batch = make_batch(store, indices, network.config, generator=None)
            for result in roll_out(network, batch):
                kept = (result.weight > 0).cpu().numpy()
                of = {key: value.cpu().numpy()[kept] for key, value in _step_scores(result).items()}
                scores.append({**of, "set": names[indices][kept]})
        return scores

    scored: list[dict[str, npt.NDArray[Any]]] = []
    for first in range(0, len(names), BATCH_SIZE):
        indices = range(first, min(len(names), first + BATCH_SIZE))
        scored += compute_in_parts(score, indices, device)
    of = {key: np.concatenate([part[key] for part in scored]) for key in scored[0]}
    there = of["present"]
    scores = {
        "dice": _mean(of["dice"][there]),
        "dice_known": _mean(of["dice_known"][there]),
        "recall_present": _mean(of["area"][there] > 0),
        "recall_absent": _mean(of["area"][~there] == 0),
        "overrun": float(of["area"][~there].sum() / max(1, of["size"][there].sum())),
        "iou_error": _mean(of["iou_error"]),
    }
    for name in np.unique(of["set"][there]):
        scores[f"dice_known/{name}"] = _mean(of["dice_known"][there & (of["set"] == name)])
    return scores


def _step_scores(result: StepResult) -> dict[str, Tensor]:
    """The quantities of `validate`, each of shape (B,)."""
    truth, whole = result.target > 0.5, result.output.logits > 0
    found = whole & (result.output.presence > 0)[:, None, None]
    return {
        "present": result.present,
        "area": found.sum((1, 2)),
        "size": truth.sum((1, 2)),
        "dice": _dice(found, truth),
        "dice_known": _dice(whole, truth),
        "iou_error": (torch.sigmoid(result.output.iou) - true_iou(result)).abs(),
    }


def _dice(found: Tensor, truth: Tensor) -> Tensor:
    both = found.sum((1, 2)) + truth.sum((1, 2))
    return 2 * (found & truth).sum((1, 2)) / both.clamp(min=1)


def _mean(values: npt.NDArray[Any]) -> float:
    """NaN where there are none."""
    return float(values.mean()) if len(values) else math.nan
