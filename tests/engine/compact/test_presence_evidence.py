"""What the masks of a step show of the presence of an object."""

import pytest
import torch

from napari_slmsam2.engine.compact.network import CompactInput
from napari_slmsam2.engine.compact.presence_evidence import _grown, mask_evidence
from napari_slmsam2.engine.compact.presence_gru import N_MASK_FEATURES

SIZE = 40
NAMES = (
    "overlap", "area", "confidence", "moved", "shifted", "surround", "residual", "from_before",
    "to_next", "likely", "likely_around", "likely_next", "growth", "contrast",
)  # fmt: skip


def disc(column=20.0, radius=8.0):
    """Logits of a disc, 2 per pixel."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return 2.0 * (radius - torch.hypot(rows - 20.0, columns - column))


def evidence(found=None, warped=None, before=None, **images):
    """The features of one object by name; everything is the same disc unless it is given."""
    found, warped, before = (disc() if x is None else x for x in (found, warped, before))
    scene = 0.2 + 0.6 * (disc() > 0)
    previous, current, following = (
        images.get(name, scene) for name in ("previous", "current", "following")
    )
    inputs = CompactInput(
        images=torch.stack([previous, current, following])[None],
        aligned=images.get("aligned", current)[None, None],
        warped=warped[None, None],
        prior=torch.zeros(1, 1, SIZE, SIZE),
        positions=torch.zeros(1, 9),
        labels=torch.ones(1, dtype=torch.int64),
    )
    # Bright pixels are likely in the object, dark ones are not.
    ratios = torch.linspace(-1.0, 1.0, 32).expand(1, 2, 32)
    features = mask_evidence(inputs, found[None], before[None], ratios)
    assert features.shape == (1, N_MASK_FEATURES)
    return dict(zip(NAMES, features[0].tolist(), strict=True))


def test_an_object_that_stays_as_it_is():
    found = evidence()
    assert found["overlap"] > 1
    for name in ("area", "moved", "shifted", "growth", "residual", "surround", "to_next"):
        assert found[name] == pytest.approx(0, abs=1e-3)
    assert found["likely"] == pytest.approx(found["likely_next"])
    assert found["likely"] > 0 > found["likely_around"]
    assert found["contrast"] > 3


def test_a_mask_that_jumps_is_not_the_one_that_was_warped():
    there = evidence()
    jumped = evidence(found=disc(column=26.0))
    assert jumped["overlap"] < there["overlap"] - 1.5
    assert jumped["shifted"] == pytest.approx(10 * 6 / 14.3, rel=0.05)
    assert jumped["moved"] == pytest.approx(0, abs=1e-3)
    carried = evidence(found=disc(column=26.0), warped=disc(column=26.0))
    assert carried["moved"] == pytest.approx(jumped["shifted"], rel=1e-3)
    assert carried["shifted"] == pytest.approx(0, abs=1e-3)


def test_growth_by_the_flow_and_by_the_correction():
    assert evidence(found=disc(radius=11.0))["area"] > 0.5
    assert evidence(found=disc(radius=5.0))["area"] < -0.5
    assert evidence(before=disc(radius=5.0))["growth"] > 2


def test_an_object_that_fades_on_the_next_slice():
    empty = torch.full((SIZE, SIZE), 0.2)
    fading = evidence(following=empty)
    assert fading["likely_next"] < 0 < fading["likely"]
    assert fading["to_next"] > 5
    gone = evidence(current=empty, aligned=0.2 + 0.6 * (disc() > 0))
    assert gone["residual"] > 5
    assert gone["contrast"] == pytest.approx(0, abs=1e-2)


def test_an_empty_mask_has_finite_features():
    empty = torch.full((SIZE, SIZE), -8.0)
    found = evidence(found=empty, warped=empty, before=empty)
    assert torch.isfinite(torch.tensor(list(found.values()))).all()


@pytest.mark.parametrize("by", [2, 6])
def test_a_mask_grows_as_by_a_filter_of_its_largest_values(by):
    mask = torch.rand(3, 20, 13, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = torch.nn.functional.max_pool2d(mask[:, None], 2 * by + 1, 1, by)[:, 0]
    torch.testing.assert_close(_grown(mask, by), expected, rtol=0, atol=0)
