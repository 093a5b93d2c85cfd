"""The presence threshold: what is set on whole sweeps makes whole sweeps better."""

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import WindowConfig
from napari_slmsam2.engine.window_network import WindowNetwork
from napari_slmsam2.engine.window_segmenter import NETWORK_SHARE
from napari_slmsam2.training.calibrate import SHIFTS, calibrate_presence
from napari_slmsam2.training.synthetic import LabelledStack

CONFIG = WindowConfig(window_size=48, widths=(8, 8, 16, 16), memory_dim=16)


def stack(n_slices, n_empty):
    """A cylinder with empty slices on both sides."""
    mask = np.zeros((n_slices + 2 * n_empty, 40, 40), bool)
    rows, columns = np.indices((40, 40))
    mask[n_empty : n_empty + n_slices] = (rows - 20) ** 2 + (columns - 20) ** 2 < 80
    noise = np.random.default_rng(0).random(mask.shape)
    image = (0.3 + 0.4 * mask + 0.1 * noise).astype(np.float32)
    return LabelledStack(image, mask, (1.0, 1.0, 1.0), "test")


def network(bias):
    torch.manual_seed(0)
    net = WindowNetwork(CONFIG).eval()
    torch.nn.init.zeros_(net.heads[2].weight)
    net.heads[2].bias.data = torch.tensor([bias, 0.0])
    return net


@pytest.mark.parametrize(("bias", "sizes", "present"), [(-6.0, (4, 0), True), (4.0, (1, 3), False)])
def test_a_blind_head_is_moved_to_what_most_slices_are(bias, sizes, present):
    net = network(bias)
    added = calibrate_presence(net, [stack(*sizes)] * 2)
    assert net.heads[2].bias[0].item() == pytest.approx(bias + added)
    assert (added > 0) == present
    assert SHIFTS.min() <= added * NETWORK_SHARE <= SHIFTS.max()


def test_without_objects_nothing_is_moved():
    net = network(0.3)
    empty = LabelledStack(
        np.zeros((5, 20, 20), np.float32), np.zeros((5, 20, 20), bool), (1.0, 1.0, 1.0), "test"
    )
    assert calibrate_presence(net, [empty]) == 0.0
    assert net.heads[2].bias[0].item() == pytest.approx(0.3)
