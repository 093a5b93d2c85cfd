"""Masks are measured on the device as numpy measures them, and read with one transfer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_slmsam2.core.quality import SliceQuality, measured
from napari_slmsam2.core.soft_masks import BACKGROUND, find_box
from napari_slmsam2.engine.sam2 import masks
from napari_slmsam2.engine.sam2.masks import (
    copy_masks,
    measure_masks,
    pack_bytes,
    read_masks,
    stability_score,
    unpack_bytes,
)
from napari_slmsam2.engine.sam2.tensors import SliceOutput

from ...fakes import prompts_of, run
from .test_segmenter import KEEP_GOING, cut, disc, seed


def outputs(labels: int, side: int = 16, seed: int = 0) -> SliceOutput:
    """Smooth logits; the last label is empty."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(labels, 1, 4, 4, generator=generator) * 4
    logits = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear") - 3
    logits[-1] = -1024
    presence = torch.linspace(3, -3, labels)[:, None]
    return SliceOutput(logits, presence, torch.zeros(labels, 8), torch.rand(labels))


@pytest.mark.parametrize("shape", [(16, 16), (33, 47), (128, 96)])
def test_extents_and_scores_are_those_that_numpy_finds(shape):
    output = outputs(6)
    found = read_masks(copy_masks([measure_masks(output, shape)]), list(range(6)))
    for k, one in enumerate(found):
        box = find_box(one.logits > BACKGROUND)
        plain = measured(SliceQuality(0, 0, 0), one.logits[box], (box[0].start, box[1].start))
        assert one.extent.box == box
        assert one.extent.area == plain.area
        assert one.extent.centroid == plain.centroid
        assert one.presence == pytest.approx(float(torch.sigmoid(output.presence_logit[k, 0])))
        assert one.predicted_iou == float(output.predicted_iou[k])
        assert one.content == k
    assert found[0].extent.area > 0
    assert found[-1].extent.centroid is None


def test_several_batches_are_read_in_their_order():
    first, second = outputs(2, seed=1), outputs(3, seed=2)
    measured_masks = [measure_masks(output, (20, 30)) for output in (first, second)]
    together = read_masks(copy_masks(measured_masks), list("abcde"))
    alone = read_masks(copy_masks(measured_masks[1:]), list("cde"))
    for one, expected in zip(together[2:], alone, strict=True):
        np.testing.assert_array_equal(one.logits, expected.logits)
        assert (one.extent, one.content) == (expected.extent, expected.content)


def test_packed_bytes_come_back_as_they_were():
    tensors = [*measure_masks(outputs(3), (11, 7))]
    sizes = [tensor.element_size() for tensor in tensors]
    assert sizes == sorted(sizes, reverse=True)  # every array is aligned
    for tensor, array in zip(tensors, unpack_bytes(pack_bytes(tensors), tensors), strict=True):
        assert array.dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(array, tensor.numpy())


def test_a_batch_is_one_transfer(make_segmenter, textured, monkeypatch):
    """Labels of different memory are computed apart, and read together."""
    transfers, host_copy = [], masks.HostCopy
    monkeypatch.setattr(masks, "HostCopy", lambda *t: transfers.append(len(t[0])) or host_copy(*t))
    segmenter = make_segmenter()
    batches, segment = [], segmenter.segment
    segmenter.segment = lambda *args: batches.append(len(args[3])) or segment(*args)
    prompts = prompts_of(seed(1), seed(2, 2, disc(9, 9, 5)), seed(2, 3, disc(27, 20, 5)))
    run(segmenter, cut(textured, 7), prompts, config=KEEP_GOING)
    assert max(batches) == 3
    assert transfers == [1, 1, 1, *batches]


def test_stability():
    logits = torch.tensor([[[[2.0, 0.5, -0.5, -2.0]]], [[[-5.0, -5.0, -5.0, -5.0]]]])
    assert stability_score(logits).tolist() == pytest.approx([1 / 3, 1.0])
    assert stability_score(torch.full((1, 1, 3, 3), 4.0)).tolist() == [1.0]
