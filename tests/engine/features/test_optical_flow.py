"""Optical flow: it finds movements, on any shape, and the pairs of a batch do not mix."""

import numpy as np
import pytest
import torch
from scipy import ndimage as ndi
from skimage.registration import optical_flow_tvl1

from napari_slmsam2.engine.features.optical_flow import optical_flow, warp
from napari_slmsam2.engine.features.resampling import resample


def texture(shape, seed=0):
    rng = np.random.default_rng(seed)
    image = ndi.gaussian_filter(rng.standard_normal(shape), 3).astype(np.float32)
    return (image - image.min()) / np.ptp(image)


def pair(shape, shift, seed=0):
    moving = texture(shape, seed)
    reference = ndi.shift(moving, shift, order=3, mode="nearest").astype(np.float32)
    return torch.from_numpy(reference), torch.from_numpy(moving)


def batch(pairs):
    return [torch.stack(images) for images in zip(*pairs, strict=True)]


def test_a_translation_is_found_and_the_warp_undoes_it():
    reference, moving = pair((60, 70), (2, -3))
    flow = optical_flow(reference[None], moving[None])
    np.testing.assert_allclose(
        flow[0, :, 12:-12, 12:-12].median(2)[0].median(1)[0], (-2, 3), atol=0.3
    )
    inner = (0, slice(12, -12), slice(12, -12))
    left = (warp(moving[None, None], flow)[:, 0] - reference)[inner].abs().mean()
    assert left < 0.1 * (moving - reference)[None][inner].abs().mean()


def test_it_is_the_flow_of_scikit_image():
    reference, moving = pair((80, 80), (1.5, -1))
    expected = optical_flow_tvl1(
        reference.numpy(), moving.numpy(), attachment=60, num_warp=3, num_iter=10, dtype=np.float32
    )
    found = optical_flow(reference[None], moving[None])[0].numpy()
    assert np.abs(found - expected)[:, 5:-5, 5:-5].mean() < 0.02


def test_pairs_of_a_batch_do_not_affect_each_other():
    pairs = [pair((80, 80), (k, 1 - k), seed=k) for k in range(5)]
    together = optical_flow(*batch(pairs))
    for one, flow in zip(pairs, together, strict=True):
        torch.testing.assert_close(optical_flow(*batch([one]))[0], flow, atol=1e-4, rtol=0)
    turned = optical_flow(*batch(pairs[::-1]))
    torch.testing.assert_close(turned.flip(0), together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(1, 7), (2, 3), (9, 40), (33, 34), (128, 40)])
def test_any_shape_is_accepted_and_constant_images_have_no_flow(shape):
    reference, moving = (torch.from_numpy(texture(shape, seed)) for seed in (0, 1))
    flat = torch.full(shape, 0.3)
    flow = optical_flow(
        torch.stack([reference, flat, reference]), torch.stack([moving, moving, flat])
    )
    assert flow.shape == (3, 2, *shape)
    assert torch.isfinite(flow).all()
    assert not flow[1:].any()


def test_warp_reads_the_border_beyond_the_border():
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 9
    torch.testing.assert_close(warp(image, flow), image[:, :, 2:].expand(1, 1, 3, 4))
    flow[:, 0], flow[:, 1] = 0, 0.5
    expected = torch.tensor([0.5, 1.5, 2.5, 3.0])
    torch.testing.assert_close(warp(image, flow)[0, 0, 0], expected)


@pytest.mark.parametrize("shape", [(10, 9), (40, 36), (7, 50)])
def test_resample_keeps_the_position_of_a_ramp(shape):
    rows, columns = np.indices((20, 18), dtype=np.float32)
    ramp = (rows + 0.5) / 20 + (columns + 0.5) / 18
    rows, columns = np.indices(shape, dtype=np.float32)
    expected = (rows + 0.5) / shape[0] + (columns + 0.5) / shape[1]
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(resample(ramp, shape)[inner], expected[inner], atol=0.03)
