"""Captured calls: recorded operators on static tensors give what the network computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from napari_slmsam2.engine.device import computing
from napari_slmsam2.engine.sam2.network import encode_distances
from napari_slmsam2.engine.sam2.repeated import MOST_GRAPHS, REPEATS, CapturedCall, RepeatedCall
from napari_slmsam2.engine.sam2.tensors import ImageEmbedding, MemoryTokens

from ...fakes import Drive, prompts_of, run
from .test_segmenter import KEEP_GOING, cut, disc, logits_of, seed


def record(compute, tensors):
    """As a CUDA graph does: all that is not a tensor is fixed when the call is recorded."""
    places = [k for k, tensor in enumerate(tensors) if tensor is not None]

    def on_tensors(*given):
        arguments = [None] * len(tensors)
        for k, tensor in zip(places, given, strict=True):
            arguments[k] = tensor
        return compute(*arguments)

    with torch.inference_mode(mode=False), torch.no_grad():
        given = [tensors[k].clone() for k in places]
        module = make_fx(on_tensors)(*given)
    return lambda: module(*(tensors[k] for k in places))


@pytest.mark.parametrize("prompts", [(seed(1),), (seed(0), seed(0, 2, disc(9, 9, 5)), seed(30))])
def test_a_run_of_recorded_calls_is_the_run_of_the_network(make_segmenter, textured, prompts):
    """So nothing in a call depends on Python values that change from slice to slice."""
    volume = cut(textured, 34)
    expected = run(make_segmenter(), volume, prompts_of(*prompts), config=KEEP_GOING)
    segmenter = make_segmenter()
    calls = []
    segmenter.use_calls(lambda compute: calls.append(CapturedCall(compute, record)) or calls[-1])
    drive = run(segmenter, volume, prompts_of(*prompts), config=KEEP_GOING)
    found = logits_of(drive)
    assert found.keys() == logits_of(expected).keys()
    for key, logits in logits_of(expected).items():
        np.testing.assert_array_equal(found[key], logits)
    np.testing.assert_array_equal(drive.labels, expected.labels)
    assert all(call.summary()["captured"] for call in calls)
    assert segmenter.captured_calls()["not captured"] == 0


def test_calls_are_captured_after_they_have_repeated_and_told_apart_by_shape_and_key():
    recorded = []

    def capture(compute, tensors):
        recorded.append(tensors[0].shape)
        return lambda: compute(*tensors)

    call = CapturedCall(lambda key, x, y: (key * x if y is None else x + y,), capture)
    with torch.inference_mode():
        for step in range(REPEATS + 3):
            x = torch.full((3,), float(step))
            assert call(2, x, None)[0].tolist() == [2.0 * step] * 3
            assert call(3, x, None)[0].tolist() == [3.0 * step] * 3
            assert call(3, x, x)[0].tolist() == [2.0 * step] * 3
            assert len(recorded) == (3 if step >= REPEATS - 1 else 0)
        kept = call(2, torch.ones(3), None)[0]
        call(2, torch.zeros(3), None)
        assert kept.tolist() == [2.0] * 3  # not overwritten by the next call
        for size in range(10, 10 + 2 * MOST_GRAPHS):
            for _ in range(REPEATS):
                call(1, torch.ones(size), None)
    assert call.summary() == {"captured": MOST_GRAPHS, "not captured": 0}


def test_what_cannot_be_captured_is_computed_as_before_and_counted():
    def capture(compute, tensors):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    call = CapturedCall(lambda _, x: (x + 1,), capture)
    with torch.inference_mode():
        for step in range(2 * REPEATS):
            assert call(None, torch.tensor([step]))[0].item() == step + 1
    assert call.summary() == {"captured": 0, "not captured": 1}


def test_training_is_never_captured():
    call = CapturedCall(lambda _, x: (2 * x,), lambda compute, tensors: pytest.fail("captured"))
    for _ in range(2 * REPEATS):
        call(None, torch.ones(1, requires_grad=True))[0].backward()


def test_there_are_no_captured_calls_on_a_cpu(make_segmenter):
    segmenter = make_segmenter()
    assert type(segmenter._track) is RepeatedCall
    assert segmenter.captured_calls() == {}
    assert segmenter.ahead == 0


def test_labels_of_one_batch_do_not_influence_each_other(tiny_network):
    """Ten labels in one attention, and each alone."""
    generator = torch.Generator().manual_seed(0)
    c = tiny_network.config
    grid = c.image_size // 16
    maps = torch.randn(7, 10, c.memory_dim, grid, grid, generator=generator)
    pointers = torch.randn(16, 10, c.model_dim, generator=generator)
    distances = encode_distances(range(16), 15, c.model_dim, maps.device)
    image = torch.randn(1, 3, c.image_size, c.image_size, generator=generator)

    def track(embedding: ImageEmbedding, labels: slice):
        long = MemoryTokens(maps[:, labels], (6, 5, 4, 3, 2, 1, 0), pointers[:, labels], distances)
        short = MemoryTokens(maps[-2:, labels], (1, 0), pointers[1:3, labels], distances[1:3])
        return tiny_network.track(embedding, long, short)

    with computing(torch.device("cpu"), torch.float32):
        embedding = tiny_network.encode_image(image)
        together = track(embedding, slice(0, 10))
        for k in range(10):
            alone = track(embedding, slice(k, k + 1))
            for name in ("low_res_logits", "presence_logit", "pointer", "predicted_iou"):
                batched, single = getattr(together, name)[k], getattr(alone, name)[0]
                assert (batched - single).abs().max() <= 1e-5 * getattr(together, name).abs().max()
    assert (together.low_res_logits[0] - together.low_res_logits[1]).abs().max() > 0.1


def test_slices_that_are_encoded_ahead_give_the_same_run(make_segmenter, textured):
    volume, prompts = cut(textured, 18), prompts_of(seed(8), seed(8, 2, disc(9, 9, 5)))
    expected = run(make_segmenter(), volume, prompts, config=KEEP_GOING)
    segmenter = make_segmenter()
    segmenter.ahead = 4
    batches, encode = [], segmenter.encode_images
    segmenter.encode_images = lambda images: batches.append(len(images)) or encode(images)
    drive = run(segmenter, volume, prompts, config=KEEP_GOING)
    assert sum(batches) == drive.store.encoded == 18
    assert batches.count(4) >= 3
    for key, logits in logits_of(expected).items():
        np.testing.assert_allclose(logits_of(drive)[key], logits, atol=0.15)
    assert (drive.labels != expected.labels).mean() < 1e-3


def test_nothing_is_encoded_ahead_that_would_not_be_kept(make_segmenter, textured):
    segmenter = make_segmenter()
    segmenter.ahead = 4
    batches, encode = [], segmenter.encode_images
    segmenter.encode_images = lambda images: batches.append(len(images)) or encode(images)
    drive = Drive(segmenter, cut(textured, 9), prompts_of(seed(2)), config=KEEP_GOING)
    drive.store.budget = 10**5  # bytes: three embeddings
    drive.plan().go()
    assert len(drive.store) <= 3
    assert set(batches) == {1}
