"""Means with intervals, flat and nested."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_slmsam2.evaluate import bootstrap_interval, nested_interval, nested_mean

NAN = math.nan


def test_bootstrap_interval():
    values = np.random.default_rng(3).normal(0.8, 0.1, 200).tolist()
    low, high = bootstrap_interval(values)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)
    half = 1.96 * np.std(values) / math.sqrt(200)
    assert low == pytest.approx(np.mean(values) - half, abs=0.004)
    assert high == pytest.approx(np.mean(values) + half, abs=0.004)
    assert bootstrap_interval([*values, math.nan]) == (low, high)
    assert all(map(math.isnan, bootstrap_interval([0.5])))
    assert all(map(math.isnan, bootstrap_interval([])))


def half_width(interval: tuple[float, float]) -> float:
    return (interval[1] - interval[0]) / 2


def test_nested_mean_is_the_mean_of_the_means():
    assert nested_mean([[0.0, 1.0], [0.2]]) == pytest.approx(0.35)
    assert nested_mean([[[0.0, 1.0], [0.2]], [[0.75]]]) == pytest.approx(0.55)
    assert nested_mean([[0.4, NAN], [NAN], []]) == 0.4
    assert math.isnan(nested_mean([[NAN], []]))
    assert math.isnan(nested_mean([]))


def test_nested_interval_of_a_flat_list_is_the_plain_one():
    values = np.random.default_rng(0).uniform(size=30).tolist()
    assert nested_interval(values) == pytest.approx(bootstrap_interval(values))


def test_labels_that_agree_within_their_volume_count_as_one():
    volumes = np.random.default_rng(1).normal(0.8, 0.1, 50)
    found = nested_interval([[value] * 20 for value in volumes.tolist()])
    assert half_width(found) == pytest.approx(1.96 * volumes.std() / math.sqrt(50), rel=0.15)


def test_both_levels_add_to_the_interval():
    rng = np.random.default_rng(2)
    volumes = rng.normal(0.5, 0.1, (40, 1)) + rng.normal(0, 0.2, (40, 5))
    between, within = volumes.mean(1).var() / 40, volumes.var(1).mean() / (40 * 5)
    found = nested_interval(volumes.tolist())
    assert half_width(found) == pytest.approx(1.96 * math.sqrt(between + within), rel=0.15)


def test_fixed_groups_are_all_in_every_resample():
    rng = np.random.default_rng(3)
    groups = [rng.normal(mean, 0.05, 40) for mean in (0.2, 0.9)]
    found = nested_interval([[[v] for v in group.tolist()] for group in groups], fixed=1)
    error = math.sqrt(sum(group.var() / 40 for group in groups)) / 2
    assert half_width(found) == pytest.approx(1.96 * error, rel=0.15)
    free = nested_interval([[[v] for v in group.tolist()] for group in groups])
    assert half_width(free) > 10 * half_width(found)


def test_what_is_not_defined_is_left_out():
    with_nan = [[[0.1, NAN, 0.5], [NAN]], [[0.7, 0.9]], []]
    without = [[[0.1, 0.5]], [[0.7, 0.9]]]
    assert nested_interval(with_nan, fixed=1) == nested_interval(without, fixed=1)


@pytest.mark.parametrize("values", [[], [[]], [0.5], [[0.5]], [[NAN, 0.5]], [[[0.1]], [[0.9]]]])
def test_no_interval_where_nothing_can_be_resampled(values):
    assert all(map(math.isnan, nested_interval(values, fixed=1)))


def test_the_same_values_give_the_same_interval():
    values = [[0.1, 0.5, 0.2], [0.7, 0.9]]
    assert nested_interval(values) == nested_interval(values)
    assert nested_interval(values) != nested_interval(values, seed=1)
