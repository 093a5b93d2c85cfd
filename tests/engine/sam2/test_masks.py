"""Masks are measured on the device as numpy measures them, and read with one transfer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.core import quality
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.quality import SliceQuality
from napari_slmsam2.core.segmenter import SegmentedSlice
from napari_slmsam2.core.soft_masks import LogitPatch, pack_logits
from napari_slmsam2.engine.device import computing
from napari_slmsam2.engine.sam2 import masks
from napari_slmsam2.engine.sam2.masks import (
    MeasuredMasks,
    copy_masks,
    measure_masks,
    pack_bytes,
    pack_on_device,
    read_masks,
    stability_score,
    unpack_bytes,
)
from napari_slmsam2.engine.sam2.preprocess import SlicePreprocessor
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.engine.sam2.tensors import SliceOutput

from ...fakes import prompts_of, run
from .test_segmenter import KEEP_GOING, SHAPE, cut, disc, logits_of, seed


def outputs(labels: int, side: int = 16, seed: int = 0) -> SliceOutput:
    """Smooth logits; the last label is empty."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(labels, 1, 4, 4, generator=generator) * 4
    logits = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear") - 3
    logits[-1] = -1024
    presence = torch.linspace(3, -3, labels)[:, None]
    return SliceOutput(logits, presence, torch.zeros(labels, 8), torch.rand(labels))


def measured(output: SliceOutput, shape: tuple[int, int]) -> MeasuredMasks:
    scores = output.presence_logit, output.predicted_iou
    return measure_masks(shape, output.low_res_logits, *scores)


class InFloat(NetworkSegmenter):
    """The same segmenter without 8 bits: whole slices in float32, measured by the compositor."""

    def segment(self, embedding, index, direction, banks, context):
        found = {}
        with computing(self.device, self.dtype):
            for members, memory in self.read(banks, index, direction, context.n_slices, embedding):
                output = self.track(embedding, *memory)
                contents = self.remember(embedding, output, prompted=False)
                logits = SlicePreprocessor.to_slice(output.low_res_logits, context.shape).numpy()
                for k, member in enumerate(members):
                    found[member] = SegmentedSlice(
                        LogitPatch.cut(logits[k]),
                        float(torch.sigmoid(output.presence_logit[k, 0])),
                        float(output.predicted_iou[k]),
                        float(stability_score(output.low_res_logits[k : k + 1])),
                        contents[k],
                    )
        return [found[k] for k in range(len(banks))]


SEEDS = [
    seed(2),
    seed(17),
    seed(4, 2, disc(2, 2, 6)),
    seed(20, 2, disc(34, 28, 6)),
    seed(3, 3, disc(9, 25, 4)),
    SlicePrompt.absent_at(3, 15),
    seed(6, 4, disc(30, 4, 3)),
]


def both_ways(network, volume, **options):
    """A run with masks in 8 bits and one with masks in float32, of the same network."""
    config = KEEP_GOING.replace(**options)
    made = (
        kind(network, name="tiny", device=torch.device("cpu"))
        for kind in (NetworkSegmenter, InFloat)
    )
    return [run(one, volume, prompts_of(*SEEDS), config=config) for one in made]


@pytest.fixture
def wavering(tiny_network, make_segmenter, textured):
    """The tiny network with its presence shifted, so that objects come and go."""
    drive = run(make_segmenter(), cut(textured, 24), prompts_of(*SEEDS), config=KEEP_GOING)
    scores = [one.presence for slices in drive.result.scores.values() for one in slices.values()]
    network = copy.deepcopy(tiny_network)
    bias = network.sam_mask_decoder.pred_obj_score_head.layers[2].bias
    bias.data -= torch.logit(torch.tensor(float(np.median(scores))))
    return network


@pytest.mark.parametrize(
    ("merge", "direction"),
    [("sweeps", "both"), ("sweeps", "forward"), ("interpolation", "both")],
)
def test_masks_in_8_bits_give_the_run_of_masks_in_float(wavering, textured, merge, direction):
    """Labels, soft masks and scores of labels at the border, in gaps, and beyond an absent seed."""
    packed, plain = both_ways(wavering, cut(textured, 24), merge=merge, direction=direction)
    np.testing.assert_array_equal(packed.labels, plain.labels)
    found, expected = logits_of(packed), logits_of(plain)
    assert found.keys() == expected.keys()
    for key, logits in expected.items():
        np.testing.assert_array_equal(found[key], logits)
    assert packed.result.scores == plain.result.scores
    areas = [one.area for slices in packed.result.scores.values() for one in slices.values()]
    assert areas.count(0) > 5
    assert np.count_nonzero(areas) > 5
    assert packed.labels[:, [0, -1]].any()
    assert packed.labels[:, :, [0, -1]].any()
    assert len(np.unique(packed.labels)) == 5


def test_interpolated_shapes_meet_single_sweeps_as_they_are_stored(tiny_network, textured):
    """The only masks that 8 bits change: by two of their steps, an eighth of a logit."""
    packed, plain = both_ways(
        tiny_network, cut(textured, 24), merge="interpolation", direction="forward"
    )
    found, expected = logits_of(packed), logits_of(plain)
    assert found.keys() == expected.keys()
    for key, logits in expected.items():
        steps = np.abs(pack_logits(found[key]).astype(int) - pack_logits(logits))
        assert steps.max() <= 2


EDGES = [0.0, -0.0, 1e-45, -1e-45, 8.0, -8.0, 8.01, -1024.0, 1024.0, -4.0, 3.9999, 1 / 15.875]


@given(hnp.arrays(np.float32, (4, 9), elements=st.floats(-1024, 1024, width=32)))
@example(np.array([EDGES, np.negative(EDGES)], np.float32))
@example((np.arange(-127, 128, dtype=np.float32) / np.float32(15.875))[None])
def test_the_device_rounds_as_numpy_rounds(logits):
    packed = pack_on_device(torch.from_numpy(logits))
    np.testing.assert_array_equal(packed.numpy(), pack_logits(logits))


def placed(shape: tuple[int, int], *masks: tuple[slice, slice]) -> SliceOutput:
    """Outputs whose masks are rectangles."""
    logits = torch.full((len(masks), 1, *shape), -1024.0)
    for k, box in enumerate(masks):
        logits[k, 0][box] = 0.3 * (k + 1)
    return SliceOutput(logits, torch.ones(len(masks), 1), torch.zeros(1), torch.ones(len(masks)))


@pytest.mark.parametrize("scale", [1, 2])
def test_masks_anywhere_on_the_slice_come_in_their_boxes(scale):
    boxes = np.s_[0:3, 0:2], np.s_[13:16, 17:20], np.s_[7:8, 9:10], np.s_[0:0, 0:0], np.s_[:, :]
    output, shape = placed((16, 20), *boxes), (16 * scale, 20 * scale)
    found = read_masks(copy_masks([measured(output, shape)]), list(range(5)))
    for k, one in enumerate(found):
        logits = SlicePreprocessor.to_slice(output.low_res_logits, shape)[k].numpy()
        expected = LogitPatch.cut(logits).as_stored()
        assert one.patch.box == expected.box
        np.testing.assert_array_equal(one.patch.logits, expected.logits)
        np.testing.assert_array_equal(one.patch.mask(shape), logits > 0)


@pytest.mark.parametrize("shape", [(16, 16), (33, 47), (128, 96)])
def test_extents_and_scores_are_those_that_numpy_finds(shape):
    output = outputs(6)
    found = read_masks(copy_masks([measured(output, shape)]), list(range(6)))
    for k, one in enumerate(found):
        rows, columns = one.patch.box
        origin = rows.start, columns.start
        plain = quality.measured(SliceQuality(0, 0, 0), one.patch.logits, origin)
        assert one.area == plain.area
        assert one.centroid == plain.centroid
        assert one.presence == pytest.approx(float(torch.sigmoid(output.presence_logit[k, 0])))
        assert one.predicted_iou == float(output.predicted_iou[k])
        assert one.content == k
    assert found[0].area > 0
    assert found[-1].centroid is None


def test_several_batches_are_read_in_their_order():
    first, second = outputs(2, seed=1), outputs(3, seed=2)
    measured_masks = [measured(output, (20, 30)) for output in (first, second)]
    together = read_masks(copy_masks(measured_masks), list("abcde"))
    alone = read_masks(copy_masks(measured_masks[1:]), list("cde"))
    for one, expected in zip(together[2:], alone, strict=True):
        np.testing.assert_array_equal(one.patch.logits, expected.patch.logits)
        assert one.patch.box == expected.patch.box
        assert (one.area, one.centroid) == (expected.area, expected.centroid)
        assert one.content == expected.content


def test_packed_bytes_come_back_as_they_were():
    tensors = [*measured(outputs(3), (11, 7))]
    sizes = [tensor.element_size() for tensor in tensors]
    assert sizes == sorted(sizes, reverse=True)  # every array is aligned
    for tensor, array in zip(tensors, unpack_bytes(pack_bytes(tensors), tensors), strict=True):
        assert array.dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(array, tensor.numpy())


def test_a_batch_is_one_transfer_of_a_byte_per_pixel(make_segmenter, textured, monkeypatch):
    """Labels of different memory are computed apart, and read together."""
    transfers, sizes, host_copy = [], [], masks.HostCopy

    def counted(*tensors):
        transfers.append(len(tensors[0]))
        sizes.append(sum(tensor.nbytes for tensor in tensors))
        return host_copy(*tensors)

    monkeypatch.setattr(masks, "HostCopy", counted)
    segmenter = make_segmenter()
    batches, segment = [], segmenter.segment
    segmenter.segment = lambda *args: batches.append(len(args[3])) or segment(*args)
    prompts = prompts_of(seed(1), seed(2, 2, disc(9, 9, 5)), seed(2, 3, disc(27, 20, 5)))
    run(segmenter, cut(textured, 7), prompts, config=KEEP_GOING)
    assert max(batches) == 3
    assert transfers == [1, 1, 1, *batches]
    per_label = SHAPE[0] * SHAPE[1] + sum(SHAPE) + 36  # the sides of the box, and six numbers
    assert sizes == [per_label * labels for labels in transfers]


def test_stability():
    logits = torch.tensor([[[[2.0, 0.5, -0.5, -2.0]]], [[[-5.0, -5.0, -5.0, -5.0]]]])
    assert stability_score(logits).tolist() == pytest.approx([1 / 3, 1.0])
    assert stability_score(torch.full((1, 1, 3, 3), 4.0)).tolist() == [1.0]
