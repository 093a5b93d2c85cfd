"""Labels of one batch follow from the memory that is free and what a label takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from napari_slmsam2.core.config import PropagationConfig, sam2_config
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.segmenter import SweepContext
from napari_slmsam2.engine.sam2 import segmenter as segmenters
from napari_slmsam2.engine.sam2.label_memory import bytes_per_label, labels_that_fit
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter, SliceMemory

from ...fakes import prompts_of, run
from ...random_weights import randomise
from ..conftest import TINY
from .test_segmenter import cut, disc, logits_of, seed

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize(
    ("free", "per_label", "device", "labels"),
    [
        (16 * GIB, 160 * MIB, CUDA, 51),
        (80 * GIB, 160 * MIB, CUDA, 64),
        (16 * GIB, 160 * MIB, CPU, 8),
        (1 * GIB, 160 * MIB, CUDA, 3),
        (1 * GIB, 160 * MIB, torch.device("mps"), 3),
        (100 * MIB, 160 * MIB, CUDA, 1),
        (0, 160 * MIB, CPU, 1),
    ],
)
def test_labels_that_fit_into_given_memory(free, per_label, device, labels):
    assert labels_that_fit(free, per_label, device) == labels


def test_a_label_takes_more_with_the_input_the_slice_and_the_seeds():
    config = sam2_config("tiny")
    usual = bytes_per_label(config, (256, 256), 1)
    assert 140 * MIB < usual < 180 * MIB
    assert bytes_per_label(config.replace(image_size=512), (256, 256), 1) < usual / 3
    assert bytes_per_label(config, (4096, 4096), 1) > 2 * usual
    assert bytes_per_label(config, (256, 256), 20) > 3 * usual


@pytest.mark.parametrize(("size", "seeds", "shape"), [(192, 1, (96, 96)), (192, 6, (96, 96)),
                                                       (64, 1, (512, 512))])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_covers_the_measured_peak_and_is_close(size, seeds, shape, dtype):
    network = SliceNetwork(TINY.replace(image_size=size))
    randomise(network, 0)
    segmenter = NetworkSegmenter(network, name="x", device=CPU, dtype=dtype)
    embedding = segmenter.encode_image(np.zeros(shape, np.float32))
    context = SweepContext(40, shape, (1.0, 1.0, 1.0))

    def peak(labels: int) -> int:
        banks = [bank_of(label, seeds, size // 16) for label in range(labels)]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            segmenter.segment(embedding, 20, 1, banks, context)
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        sizes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())]
        return int(np.cumsum(sizes).max())

    measured = (peak(4) - peak(2)) / 2
    estimated = bytes_per_label(network.config, shape, seeds)
    assert measured <= estimated < 2.5 * measured


def bank_of(label: int, seeds: int, grid: int) -> MemoryBank:
    """A bank with full memory before slice 20."""
    bank = MemoryBank(label)
    for index in range(20):
        content = SliceMemory(torch.randn(64, grid, grid).bfloat16(), torch.randn(256))
        bank.add(MemoryEntry(index, index < seeds, content))
    return bank


def test_a_run_takes_as_many_labels_as_fit_and_its_masks_do_not_depend_on_it(
    make_segmenter, textured, monkeypatch
):
    volume = cut(textured, 10)
    prompts = prompts_of(*(seed(4, k, disc(6 + 4 * k, 4 + 4 * k, 4)) for k in range(1, 6)))
    per_label = bytes_per_label(TINY, volume.slice_shape, 1)
    drives, batches = [], []

    def run_with(labels: int) -> None:
        free = 2**30 + 2 * labels * per_label  # beside the budget of the embeddings
        monkeypatch.setattr(segmenters, "free_memory", lambda device: free)
        segmenter, seen = make_segmenter(), set()
        segment = segmenter.segment
        segmenter.segment = lambda *a: seen.add(len(a[3])) or segment(*a)
        drives.append(run(segmenter, volume, prompts))
        batches.append(seen)

    for labels in (1, 2, 5):
        run_with(labels)
    assert batches == [{1}, {1, 2}, {5}]
    assert [drive.propagator.config.batch_size for drive in drives] == [1, 2, 5]
    first = logits_of(drives[0])
    for drive in drives[1:]:
        for key, logits in logits_of(drive).items():
            np.testing.assert_allclose(logits, first[key], atol=0.15)
        assert (drive.labels != drives[0].labels).mean() < 1e-3


def test_a_number_of_labels_that_is_set_is_kept(make_segmenter, textured, monkeypatch):
    monkeypatch.setattr(segmenters, "free_memory", lambda device: 0)
    config = PropagationConfig(batch_size=3)
    drive = run(make_segmenter(), cut(textured, 6), prompts_of(seed(2)), config=config)
    assert drive.propagator.config.batch_size == 3
