"""Means with bootstrap intervals, over labels and over labels within volumes within groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Nested: TypeAlias = "float | Sequence[Nested]"
"""One value, or groups of groups of ... of values; NaN stands for a value that is not defined."""

_LEVEL = 0.95


def bootstrap_interval(
    values: Sequence[float], n: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean (Efron 1979).

    Parameters
    ----------
    values : sequence of float
        One per label or per volume. NaN is left out.
    n : int
        Resamples.
    seed : int
        Of the random generator: the same values give the same interval.

    Returns
    -------
    low, high : float
        NaN for fewer than two values.
    """
    # Slow to import.
    from scipy.stats import bootstrap

    sample = np.asarray(values, float)
    sample = sample[~np.isnan(sample)]
    if sample.size < 2:
        return math.nan, math.nan
    found = bootstrap(
        (sample,),
        np.mean,
        n_resamples=n,
        confidence_level=_LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return float(low), float(high)


def nested_mean(values: Nested) -> float:
    """Mean of the means of the parts, level by level.

    Parameters
    ----------
    values : nested sequences of float
        For example labels within volumes within groups. NaN and empty parts are left out.

    Returns
    -------
    float
        NaN where no value is defined.
    """
    if not isinstance(values, Sequence):
        return float(values)
    means = [mean for part in values if not math.isnan(mean := nested_mean(part))]
    return float(np.mean(means)) if means else math.nan


def nested_interval(
    values: Nested, *, fixed: int = 0, n: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of `nested_mean`.

    Every level is resampled within the part that was drawn (hierarchical bootstrap, Davison and
    Hinkley 1997, section 3.8): labels of one volume are no independent observations. Own code,
    because `scipy.stats.bootstrap` resamples one level only.

    Parameters
    ----------
    values : nested sequences of float
        NaN and empty parts are left out.
    fixed : int
        Outer levels that are not resampled. 1 for the mean over imaging modalities, none of which
        may be missing.
    n : int
        Resamples.
    seed : int
        Of the random generator.

    Returns
    -------
    low, high : float
        NaN where nothing can be resampled: no level below the fixed ones has two parts.
    """
    kept = _defined(values)
    if not _can_vary(kept, fixed):
        return math.nan, math.nan
    means = _resampled(kept, fixed, n, np.random.default_rng(seed))
    low, high = np.percentile(means, (50 - 50 * _LEVEL, 50 + 50 * _LEVEL))
    return float(low), float(high)


def _defined(values: Nested) -> Nested:
    if not isinstance(values, Sequence):
        return values
    return [_defined(part) for part in values if not math.isnan(nested_mean(part))]


def _can_vary(values: Nested, fixed: int) -> bool:
    if not isinstance(values, Sequence):
        return False
    return (fixed <= 0 and len(values) > 1) or any(_can_vary(part, fixed - 1) for part in values)


def _resampled(
    values: Nested, fixed: int, n: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """The mean in every resample, shape (n,)."""
    if not isinstance(values, Sequence):
        return np.full(n, values)
    size = len(values)
    if fixed > 0:
        return np.mean([_resampled(part, fixed - 1, n, rng) for part in values], axis=0)
    picks = rng.integers(size, size=(n, size))
    if not any(isinstance(part, Sequence) for part in values):
        return np.asarray(values, float)[picks].mean(axis=1)
    total, rows = np.zeros(n), np.arange(n)
    # A part that is drawn twice is resampled twice.
    for drawn in picks.T:
        total += np.stack([_resampled(part, 0, n, rng) for part in values])[drawn, rows]
    return total / size
