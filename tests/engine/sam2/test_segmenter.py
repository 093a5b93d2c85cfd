"""A real network, tiny and of random weights, in whole runs."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import DeviceMemoryError
from napari_slmsam2.core.events import FellBack, SliceSegmented
from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.plan import find_gaps, gaps_beside
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.segmenter import SweepContext
from napari_slmsam2.core.soft_masks import pack_logits
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter

from ...fakes import Drive, prompts_of, run, stop_after, whole_slice

SHAPE = (36, 30)


def disc(row: float, column: float, radius: float) -> np.ndarray:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return (y - row) ** 2 + (x - column) ** 2 < radius**2


def seed(index: int, label: int = 1, mask: np.ndarray | None = None) -> SlicePrompt:
    return SlicePrompt.from_mask(label, index, disc(18, 15, 7) if mask is None else mask)


def cut(volume: Volume, n: int) -> Volume:
    return replace(volume, data=volume.data[:n])


def logits_of(drive: Drive) -> dict[tuple[int, int], np.ndarray]:
    return {key: drive.result.soft.get(*key) for key in drive.result.soft}


def soft(drive: Drive) -> np.ndarray:
    """Logits of label 1 on every slice; -8 where there are none."""
    volume = drive.volume
    missing = np.full(volume.slice_shape, -8, np.float32)
    found = (drive.result.soft.get(1, i) for i in range(volume.n_slices))
    return np.stack([missing if f is None else f for f in found])


KEEP_GOING = PropagationConfig(stop_after_absent=1000)


def test_the_bounded_bank_gives_what_the_unbounded_one_gives(make_segmenter, textured):
    """Over 22 slices each way from a seed, and between two seeds."""
    bounded, unbounded = make_segmenter(), make_segmenter()
    unbounded.reach = 10**6
    assert bounded.reach == 15
    for prompts in (prompts_of(seed(22)), prompts_of(seed(1), seed(40))):
        drives = [
            run(segmenter, textured, prompts, config=KEEP_GOING)
            for segmenter in (bounded, unbounded)
        ]
        assert logits_of(drives[0]).keys() == logits_of(drives[1]).keys()
        np.testing.assert_array_equal(soft(drives[0]), soft(drives[1]))
        np.testing.assert_array_equal(drives[0].labels, drives[1].labels)
        assert (drives[0].labels.any((1, 2))).sum() > 30
    short = make_segmenter()
    short.reach = 4
    drive = run(short, textured, prompts_of(seed(22)), config=KEEP_GOING)
    expected = run(bounded, textured, prompts_of(seed(22)), config=KEEP_GOING)
    assert drive.result.quality != expected.result.quality


def test_memory_is_bounded_over_a_hundred_slices(make_segmenter):
    rng = np.random.default_rng(0)
    volume = Volume(rng.uniform(0.3, 0.7, (100, *SHAPE)).astype(np.float32))
    segmenter = make_segmenter()
    lengths, held = [], []
    segment = segmenter.segment

    def watched(embedding, index, direction, banks, context):
        lengths.append(max(len(bank.visited) for bank in banks))
        entries = [e for bank in banks for e in (*bank.visited.values(), *bank.seeds.values())]
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for e in entries
            for t in (e.content.map, e.content.pointer)
        }
        held.append(sum(storages.values()))
        return segment(embedding, index, direction, banks, context)

    segmenter.segment = watched
    run(segmenter, volume, prompts_of(seed(0)), config=KEEP_GOING)
    assert len(lengths) == 99
    assert max(lengths) == segmenter.reach == 15
    assert max(held[20:]) == held[20] == 16 * (64 * 4 * 4 * 2 + 256 * 4)


def test_seeds_are_exact_and_both_sweeps_are_merged(make_segmenter, textured):
    prompts = prompts_of(seed(3), seed(12, mask=disc(20, 14, 8)), seed(7, 2, disc(9, 8, 4)))
    drive = run(make_segmenter(), cut(textured, 18), prompts)
    for prompt in prompts:
        np.testing.assert_array_equal(drive.labels[prompt.index] == prompt.label, prompt.mask)
    between = drive.result.quality[1]
    assert all(between[i].agreement is not None for i in range(4, 12))
    assert between[14].agreement is None
    for quality in between.values():
        assert 0 <= quality.confidence <= 1


def test_one_batch_or_several_give_the_same_masks(make_segmenter, textured):
    volume = cut(textured, 12)
    prompts = prompts_of(
        *(seed(5, label, disc(6 + 6 * label, 15, 4)) for label in range(1, 5)),
        seed(2, 5, disc(18, 4, 3)),
    )
    drives = [
        run(make_segmenter(), volume, prompts, config=PropagationConfig(batch_size=size))
        for size in (1, 2, 8)
    ]
    first = logits_of(drives[0])
    assert len(first) > 20
    for drive in drives[1:]:
        for key, logits in logits_of(drive).items():
            np.testing.assert_allclose(logits, first[key], atol=0.15)
        assert (drive.labels != drives[0].labels).mean() < 1e-3


def test_a_gap_run_again_encodes_nothing_and_changes_nothing_else(make_segmenter, textured):
    volume = cut(textured, 20)
    prompts = prompts_of(seed(3), seed(15))
    drive = run(make_segmenter(), volume, prompts)
    assert drive.store.encoded == 20
    before = drive.labels.copy()
    drive.prompts = prompts.with_prompt(seed(9, mask=disc(22, 18, 5)))
    drive.labels[9] = drive.prompts.get(1, 9).mask
    drive.events.clear()
    drive.plan(gaps_beside(find_gaps(drive.prompts, 20), {(1, 9)})).go()
    assert drive.store.encoded == 20
    assert {e.index for e in drive.of(SliceSegmented)} == {*range(4, 9), *range(10, 15)}
    np.testing.assert_array_equal(drive.labels[:4], before[:4])
    np.testing.assert_array_equal(drive.labels[15:], before[15:])
    np.testing.assert_array_equal(drive.labels[9] == 1, disc(22, 18, 5))
    whole = run(make_segmenter(), volume, drive.prompts)
    np.testing.assert_array_equal(drive.labels[4:15], whole.labels[4:15])


def test_stopped_and_resumed_is_bit_identical(make_segmenter, textured):
    volume, prompts = cut(textured, 16), prompts_of(seed(3), seed(11), seed(6, 2, disc(9, 8, 4)))
    whole = run(make_segmenter(), volume, prompts)
    drive = Drive(make_segmenter(), volume, prompts).plan()
    for steps in (2, 6, 9):
        drive.go(stop_after(steps))
    drive.go()
    np.testing.assert_array_equal(drive.labels, whole.labels)
    assert drive.result.quality == whole.result.quality
    for key, logits in logits_of(whole).items():
        np.testing.assert_array_equal(drive.result.soft.get(*key), logits)


POINT = SlicePrompt.from_points(1, 5, [(18, 15), (2, 2)], [1, 0])


@pytest.mark.parametrize(
    "prompt",
    [
        POINT,
        SlicePrompt.from_box(1, 5, (9, 8, 28, 22)),
        SlicePrompt.from_points(1, 5, [(18, 15)], box=(9, 8, 28, 22)),
        POINT.refine([(25, 15)], [1]),
        SlicePrompt.from_lasso(1, 5, [(9, 8), (9, 22), (28, 22), (28, 8)]),
        SlicePrompt.from_scribble(1, 5, [(18, 14), (18, 15), (2, 2)], [1, 1, 0]),
    ],
)
def test_points_boxes_and_drawings_give_a_mask_on_their_slice(make_segmenter, textured, prompt):
    drive = run(make_segmenter(), cut(textured, 10), prompts_of(prompt))
    answer = drive.result.seed_masks[1, 5]
    assert answer.any()
    np.testing.assert_array_equal(drive.labels[5] == 1, answer)
    seed_events = [e for e in drive.of(SliceSegmented) if e.index == 5]
    assert len(seed_events) == 1
    assert drive.labels[6].any()


def test_a_refined_seed_differs_from_all_points_at_once(make_segmenter, textured):
    """The mask so far is fed back."""
    segmenter = make_segmenter()
    embedding = segmenter.encode_image(textured.take(5))
    refined = segmenter.encode_seed(embedding, POINT.refine([(25, 15)]), SHAPE)
    at_once = SlicePrompt.from_points(1, 5, [(18, 15), (2, 2), (25, 15)], [1, 0, 1])
    plain = segmenter.encode_seed(embedding, at_once, SHAPE)
    logits = [whole_slice(one.patch, SHAPE) for one in (refined, plain)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_a_mask_seed_keeps_every_pixel_of_its_sign(make_segmenter, textured):
    segmenter = make_segmenter()
    speckle = np.random.default_rng(1).random(SHAPE) < 0.3
    embedding = segmenter.encode_image(textured.take(5))
    output = segmenter.encode_seed(embedding, seed(5, mask=speckle), SHAPE)
    np.testing.assert_array_equal(output.patch.mask(SHAPE), speckle)
    absent = segmenter.encode_seed(embedding, SlicePrompt.absent_at(1, 5), SHAPE)
    assert not absent.patch.mask(SHAPE).any()
    assert absent.presence < 0.5


def test_nothing_leaks_into_the_consumer(make_segmenter, textured):
    drive = Drive(make_segmenter(), cut(textured, 6), prompts_of(seed(2))).plan()
    for event in drive.propagator.propagate():
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        weight = torch.ones(1, requires_grad=True)
        (2 * weight).backward()
        assert event is not None


def test_all_work_is_done_on_one_thread(make_segmenter, textured, monkeypatch):
    segmenter = make_segmenter()
    threads = set()
    for name in ("encode_image", "track", "prompt_mask"):
        method = getattr(segmenter.network, name)

        def watched(*args, method=method, **options):
            threads.add(threading.get_ident())
            return method(*args, **options)

        monkeypatch.setattr(segmenter.network, name, watched)
    results = []
    for _ in range(2):
        worker = threading.Thread(
            target=lambda: results.append(run(segmenter, cut(textured, 5), prompts_of(seed(2))))
        )
        worker.start()
        worker.join()
    run(segmenter, cut(textured, 5), prompts_of(seed(2)))
    assert len(results) == 2
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_out_of_memory_in_the_network_makes_smaller_batches(make_segmenter, textured, monkeypatch):
    prompts = prompts_of(*(seed(2, label, disc(6 + 6 * label, 15, 4)) for label in (1, 2, 3, 4)))
    volume = cut(textured, 6)
    expected = run(make_segmenter(), volume, prompts)
    segmenter = make_segmenter()
    track = segmenter.network.track

    def crowded(embedding, long, short):
        if long.maps.shape[1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return track(embedding, long, short)

    monkeypatch.setattr(segmenter.network, "track", crowded)
    drive = run(segmenter, volume, prompts)
    assert [e.message for e in drive.of(FellBack)] == ["memory is short: 2 labels at a time now"]
    assert (drive.labels != expected.labels).mean() < 1e-3


def test_out_of_memory_for_one_label_on_the_cpu_is_an_error(make_segmenter, textured, monkeypatch):
    segmenter = make_segmenter()

    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr(segmenter.network, "track", full)
    drive = Drive(segmenter, cut(textured, 6), prompts_of(seed(2))).plan()
    with pytest.raises(DeviceMemoryError, match="device cpu: ran out of memory"):
        drive.go()
    others = [i for i in range(6) if i != 2]
    assert not drive.labels[others].any()


def test_memory_is_relieved_in_two_steps(make_segmenter, monkeypatch):
    """Stored features leave the device, then the computation does."""
    emptied = []
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append(True))

    class Accelerator(NetworkSegmenter):
        """The CPU under another name."""

        def _use_device(self, device):
            super()._use_device(torch.device("cpu"))
            self.device = device

    segmenter = make_segmenter()
    segmenter.__class__ = Accelerator
    segmenter.device = segmenter._storage = torch.device("mps")
    segmenter.dtype = torch.bfloat16
    first = segmenter.free_memory()
    assert "moved off" in first
    assert segmenter.device.type == "mps"
    second = segmenter.free_memory()
    assert "on the CPU" in second
    assert segmenter.device.type == "cpu"
    assert segmenter.dtype == torch.float32
    assert segmenter.free_memory() is None
    assert len(emptied) == 2


def test_labels_of_different_memory_are_answered_in_their_order(make_segmenter, textured):
    segmenter = make_segmenter()
    embeddings = [segmenter.encode_image(textured.take(i)) for i in range(4)]
    context = SweepContext(46, SHAPE, (1.0, 1.0, 1.0))
    banks = []
    for label, (index, mask) in enumerate(
        [(2, disc(18, 15, 7)), (1, disc(9, 9, 5)), (2, disc(27, 20, 5))], 1
    ):
        content = segmenter.encode_seed(embeddings[index], seed(index, label, mask), SHAPE).content
        bank = MemoryBank(label)
        bank.add(MemoryEntry(index, is_seed=True, content=content))
        if index == 1:
            [visit] = segmenter.segment(embeddings[2], 2, 1, [bank], context)
            bank.add(MemoryEntry(2, is_seed=False, content=visit.content))
        banks.append(bank)
    together = segmenter.segment(embeddings[3], 3, 1, banks, context)
    for bank, result in zip(banks, together, strict=True):
        [alone] = segmenter.segment(embeddings[3], 3, 1, [bank], context)
        steps = [pack_logits(whole_slice(one.patch, SHAPE)).astype(int) for one in (result, alone)]
        assert np.abs(steps[0] - steps[1]).max() <= 1  # of logits that differ by 1e-3 at most
        assert (steps[0] != steps[1]).mean() < 0.02
        assert result.presence == pytest.approx(alone.presence, abs=1e-4)
    logits = [whole_slice(one.patch, SHAPE) for one in together]
    assert np.abs(logits[0] - logits[2]).max() > 0.1


def test_results_hold_only_their_own_memory(make_segmenter, textured):
    """A stored map or pointer must not keep its whole batch alive."""
    segmenter = make_segmenter()
    prompts = prompts_of(seed(1), seed(1, 2, disc(9, 9, 5)), seed(1, 3, disc(27, 20, 5)))
    found = []
    segment = segmenter.segment
    segmenter.segment = lambda *args: found.append(segment(*args)) or found[-1]
    run(segmenter, cut(textured, 3), prompts)
    for outputs in found:
        for output in outputs:
            for tensor in (output.content.map, output.content.pointer):
                assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
