"""Settings: checked on entry, the same after a round trip, and able to present themselves."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_slmsam2.core.config import ModelConfig, PropagationConfig, sam2_config, slm_sam2_config
from napari_slmsam2.core.errors import ConfigError


@pytest.mark.parametrize("kind", [PropagationConfig, ModelConfig])
def test_every_setting_presents_itself(kind):
    for field in kind.fields():
        assert field.metadata["title"]
        assert field.metadata["help"]
        default, choices = getattr(kind(), field.name), field.metadata["choices"]
        assert choices is None or default in choices


@pytest.mark.parametrize(
    "config",
    [
        PropagationConfig(overlap="keep", stop_after_absent=5),
        sam2_config("large"),
        slm_sam2_config("small", short_memory_slices=7, fusion="gate"),
    ],
)
def test_settings_come_back_from_json(config):
    again = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"overlap": "magic"}, "overlap.*expected highest | keep | overwrite.*'magic'"),
        ({"batch_size": 0}, "batch_size.*at least 1"),
        ({"memory_pooling": 3}, "memory_pooling"),
        ({"stop_after_absent": float("nan")}, "stop_after_absent.*whole number"),
        ({"no_such": 1}, "has no setting 'no_such'"),
        ({"batch_size": "8"}, "batch_size.*expected a whole number.*'8'"),
        ({"batch_size": 1.5}, "batch_size.*expected a whole number.*1.5"),
        ({"stop_after_absent": None}, "stop_after_absent.*expected a whole number"),
        ({"stop_after_absent": True}, "stop_after_absent.*expected a whole number"),
    ],
)
def test_settings_outside_their_range(values, message):
    with pytest.raises(ConfigError, match=message):
        PropagationConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 100}, "multiple of 32"),
        ({"stages": (1, 2, 7)}, "four stages"),
        ({"stages": (1, 2.5, 7, 2)}, "stages"),
        ({"global_attention_blocks": (3,)}, "opens a stage"),
        ({"short_memory_slices": 8}, "longer than the time table"),
        ({"short_memory_slices": 4, "short_time_rows": 3}, "at most 3"),
        ({"model_dim": 96}, "memory_dim"),
        ({"model_dim": 64, "decoder_heads": 6}, "decoder_heads"),
        ({"fuser_layer_scale": float("nan")}, "fuser_layer_scale.*out of range"),
        ({"fusion": "mean"}, "sum | gate"),
    ],
)
def test_networks_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


def test_an_own_time_table_may_be_longer_than_the_long_one():
    assert ModelConfig(short_memory_slices=9, short_time_rows=9).has_short_memory
    assert not sam2_config("tiny").has_short_memory


def test_unknown_trunk():
    with pytest.raises(ConfigError, match=r"tiny \| small"):
        sam2_config("huge")


def test_settings_left_open_cover_whatever_a_run_recorded_for_them():
    given = PropagationConfig(overlap="keep", image_size=512)
    ran = given.replace(batch_size=5)
    assert given.covers(ran)
    assert PropagationConfig(overlap="keep").covers(ran)
    assert given.covers(ran.replace(embedding_disk=7))
    assert not given.covers(ran.replace(image_size=1024))
    assert not given.covers(ran.replace(overlap="highest"))
    assert not given.replace(batch_size=8).covers(ran)


def test_settings_are_frozen_and_checked_when_replaced():
    config = PropagationConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.overlap = "keep"
    assert config.replace(overlap="keep").overlap == "keep"
    with pytest.raises(ConfigError):
        config.replace(overlap="never")


@given(st.integers(-5, 5))
def test_limits_are_inclusive(value):
    if value >= 1:
        assert PropagationConfig(batch_size=value).batch_size == value
    else:
        with pytest.raises(ConfigError):
            PropagationConfig(batch_size=value)
