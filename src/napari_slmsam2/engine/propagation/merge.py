"""Merging of the two sweeps between two seeds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_EPSILON = 1e-4


def merge_logits(
    weighted_logits: Iterable[tuple[npt.NDArray[np.floating], float]],
) -> npt.NDArray[np.float32]:
    """Weighted mean of probabilities, as logits.

    Parameters
    ----------
    weighted_logits : iterable of (ndarray, float)
        Logits of shape (H, W) with their weights.

    Returns
    -------
    ndarray of float32, shape (H, W)
    """
    logits, weights = zip(*weighted_logits, strict=True)
    total = sum(share * sigmoid(one) for one, share in zip(logits, weights, strict=True))
    probability = np.clip(total / max(sum(weights), _EPSILON), _EPSILON, 1 - _EPSILON)
    return np.log(probability / (1 - probability)).astype(np.float32)


def sweep_weights(
    index: int, before: int, after: int, confidence_before: float, confidence_after: float
) -> tuple[float, float]:
    """Weights of the forward and the backward sweep on a slice between two seeds.

    Each weight is the confidence times the closeness to the seed of the sweep, so that the result
    agrees with both seeds.
    """
    length = after - before
    forward = max(confidence_before, _EPSILON) * (after - index) / length
    backward = max(confidence_after, _EPSILON) * (index - before) / length
    return forward, backward


def dice(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Overlap of two masks, 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 1.0 if total == 0 else 2.0 * int((first & second).sum()) / total


def sigmoid(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Logistic function, safe at both ends."""
    return (0.5 * (1 + np.tanh(0.5 * np.asarray(logits, dtype=np.float32)))).astype(np.float32)
