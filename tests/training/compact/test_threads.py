"""On cores that other programs use, threads that share an operation wait for each other."""

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.training.compact import presence, validation
from napari_slmsam2.training.compact.config import PresenceTrainingConfig
from napari_slmsam2.training.compact.presence_sweeps import sweep_outward
from napari_slmsam2.training.data import shards
from napari_slmsam2.training.data.sweep import never_absent
from napari_slmsam2.training.synthetic.stack import make_stack

CONFIG = CompactConfig(window_size=48, widths=(8, 8, 16, 16), memory_dim=16)
CPU = torch.device("cpu")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return CompactNetwork(CONFIG)


def cut(network):
    rng = np.random.default_rng(0)
    return shards.cut_clips(make_stack(rng, (20, 64, 64)), never_absent(network), rng)


def test_each_clip_is_cut_on_one_core(network, cores):
    used = cores(shards, "cut_clip")
    assert cut(network)
    assert set(used) == {1}


def test_clips_are_validated_on_one_core_each(network, cores):
    """With the scores of one thread."""
    clips = cut(network)
    fields = {name: np.stack([getattr(clip, name) for clip in clips]) for name in shards.FIELDS}
    fields["set_names"] = np.array(["a"] * len(clips))
    used = cores(validation, "roll_out")
    scores = validation.validate(network, fields, CPU)
    assert set(used) == {1}
    torch.set_num_threads(1)
    assert validation.validate(network, fields, CPU) == pytest.approx(scores, nan_ok=True)


def test_presence_is_trained_on_one_core(network, cores):
    stack = make_stack(np.random.default_rng(1), (20, 64, 64))
    largest = int(stack.mask.sum((1, 2)).argmax())
    objects = sweep_outward(network, stack, [[largest]])
    used = cores(presence, "unroll")
    plan = PresenceTrainingConfig(passes=1, batch_size=1)
    presence.train_presence(network, objects, ["a"], plan)
    assert set(used) == {1}
