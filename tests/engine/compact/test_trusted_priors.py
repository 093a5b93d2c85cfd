"""Shapes between annotated slices that contradict the sweep are hidden from the network."""

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.features import BETWEEN_SEEDS, NEXT_SEED, trusted_priors
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.training.compact.rollout import roll_out
from napari_slmsam2.training.data.batch import ClipStore, make_batch
from napari_slmsam2.training.data.shards import FIELDS, cut_clips
from napari_slmsam2.training.data.sweep import never_absent
from napari_slmsam2.training.synthetic.stack import make_stack

CONFIG = CompactConfig(window_size=48, widths=(8, 8, 16, 16), memory_dim=16)


def disc(column, radius=6.0, size=48):
    """Logits of a disc in the middle row, shape (1, N, N)."""
    rows, columns = np.indices((size, size))
    distance = radius - np.hypot(rows - size / 2, columns - column)
    return torch.from_numpy(2 * distance.clip(-4, 4)).float()[None]


def positions(way):
    """Of a slice at a fraction of the way to the next annotated one."""
    found = torch.ones(1, 9)
    found[:, NEXT_SEED] = way
    return found


@pytest.mark.parametrize(
    ("column", "way", "hidden"),
    [
        (24, 0.2, False),  # the same place
        (28, 0.2, False),  # half of it overlaps
        (36, 0.2, True),
        (36, 0.0, True),  # a shape that narrows to a marked end
        (36, 0.6, False),  # the next annotated slice is nearer
    ],
)
def test_a_shape_beside_the_propagated_mask_is_hidden(column, way, hidden):
    given = positions(way)
    prior, place = trusted_priors(disc(column), disc(24), given)
    assert torch.equal(prior, torch.zeros_like(prior) if hidden else disc(column))
    assert float(place[0, NEXT_SEED]) == pytest.approx(0.0 if hidden else way)
    assert float(given[0, NEXT_SEED]) == pytest.approx(way), "the input is not changed"


@pytest.mark.parametrize(("radius", "hidden"), [(3.0, True), (6.0, False)])
def test_a_shape_of_quite_another_size_is_hidden(radius, hidden):
    prior, _ = trusted_priors(disc(24, radius), disc(24, 12.0), positions(0.2))
    assert bool(prior.any()) is not hidden


@pytest.mark.parametrize("empty", ["prior", "mask"])
def test_an_empty_mask_contradicts_nothing(empty):
    nothing = torch.full((1, 48, 48), -8.0)
    prior, mask = (nothing, disc(24)) if empty == "prior" else (disc(24), nothing)
    found, _ = trusted_priors(prior, mask, positions(0.2))
    assert torch.equal(found, prior)


def test_objects_are_judged_apart():
    priors = torch.cat([disc(24), disc(36)])
    found, _ = trusted_priors(priors, torch.cat([disc(24)] * 2), positions(0.2).repeat(2, 1))
    assert torch.equal(found[0], priors[0])
    assert not found[1].any()


@pytest.fixture(scope="module")
def sweep():
    """A network that reads everything, and a clip between annotated slices."""
    torch.manual_seed(0)
    network = CompactNetwork(CONFIG)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    rng = np.random.default_rng(0)
    clip = cut_clips(make_stack(rng, (20, 64, 64)), never_absent(network), rng)[0]
    fields = {name: np.stack([getattr(clip, name)]) for name in FIELDS}
    store = ClipStore.from_arrays(fields, torch.device("cpu"))
    batch = make_batch(store, np.array([0]), CONFIG, generator=None)
    batch.positions[..., BETWEEN_SEEDS] = 1.0
    return network, batch


@torch.no_grad()
def first_step(sweep, prior, way):
    network, batch = sweep
    places = batch.positions.clone()
    places[..., NEXT_SEED] = way
    result = next(roll_out(network, batch._replace(priors=prior, positions=places)))
    return result.output.logits


@pytest.mark.parametrize(("way", "equal"), [(0.2, True), (0.7, False)])
def test_a_hidden_shape_has_no_effect_on_a_sweep(sweep, way, equal):
    nothing = torch.zeros_like(sweep[1].priors)
    elsewhere = torch.full_like(nothing, -8.0)
    elsewhere[..., 10:14, 10:14] = 8.0  # in the corner of the crop
    without = first_step(sweep, nothing, 0.0 if equal else way)
    assert torch.equal(first_step(sweep, elsewhere, way), without) is equal
