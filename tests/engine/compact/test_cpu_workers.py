"""Parts of a batch on the cores of a CPU: all items once, in order, equal on any of them."""

import threading
import time

import numpy as np
import pytest
import torch

from napari_slmsam2.core.memory import MemoryBank, MemoryEntry
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.segmenter import SweepContext
from napari_slmsam2.engine.compact.cpu_workers import PART, compute_in_parts
from napari_slmsam2.engine.loading import make_segmenter

from ...fakes import whole_slice

CPU = torch.device("cpu")


@pytest.fixture
def use_threads():
    """Sets the number of threads of torch; restored after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize("n", [1, PART, PART + 1, 5 * PART])
def test_results_keep_the_order_of_the_items(n, n_threads, use_threads):
    use_threads(n_threads)
    found = compute_in_parts(lambda part: [10 * i for i in part], range(n), CPU)
    assert found == [10 * i for i in range(n)]


def test_parts_are_equal_on_any_number_of_threads_and_use_one_core_each(use_threads):
    sizes = []
    for n_threads in (1, 2, 3):
        use_threads(n_threads)
        running, most, cores, lock = set(), [], [], threading.Lock()

        def compute(part, running=running, most=most, cores=cores, lock=lock):
            with lock:
                running.add(part[0])
                most.append(len(running))
                cores.append(torch.get_num_threads())
            time.sleep(0.02)
            with lock:
                running.remove(part[0])
            return [len(part)] * len(part)

        sizes.append(compute_in_parts(compute, range(4 * PART + 3), CPU))
        assert max(most) == n_threads
        assert set(cores) == {1}
        assert torch.get_num_threads() == n_threads
    assert sizes[0] == sizes[1] == sizes[2]
    assert PART - 3 <= min(sizes[0]) <= max(sizes[0]) <= PART


@pytest.mark.parametrize(
    ("n", "parts"), [(0, []), (1, [1]), (3, [3]), (4, [2, 2]), (9, [4, 5]), (17, [4, 4, 4, 5])]
)
def test_two_cores_share_the_items_evenly(n, parts):
    sizes = []
    compute_in_parts(lambda part: sizes.append(len(part)) or [0] * len(part), range(n), CPU)
    assert sorted(sizes) == parts


def test_parts_hold_as_many_items_as_asked():
    sizes = compute_in_parts(lambda part: [len(part)] * len(part), range(16), CPU, most=4)
    assert sizes == [4] * 16


def test_other_threads_keep_their_number_of_cores(use_threads):
    use_threads(2)
    compute_in_parts(list, range(2 * PART), CPU)
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [2]


def test_an_error_of_a_part_is_raised_when_no_part_runs_any_more(use_threads):
    use_threads(2)
    finished = []

    def compute(part):
        if part[0] == 0:
            raise ValueError("first part")
        time.sleep(0.2)
        finished.append(part[0])
        return list(part)

    with pytest.raises(ValueError, match="first part"):
        compute_in_parts(compute, range(8 * PART), CPU)
    after = list(finished)
    time.sleep(0.5)
    assert finished == after
    # Parts that had not begun are not computed.
    assert len(finished) < 7


def test_other_devices_compute_the_batch_at_once():
    sizes = []
    compute_in_parts(lambda part: sizes.append(len(part)) or [], range(64), torch.device("meta"))
    assert sizes == [64]


def test_the_default_model_gives_equal_results_on_any_number_of_threads(use_threads):
    """Bit by bit, for more labels than one part holds."""
    rng = np.random.default_rng(0)
    z, y, x = np.indices((4, 96, 144))
    masks = {
        1 + label: (y - 14 - 24 * (label // 6) - z) ** 2 + (x - 14 - 23 * (label % 6)) ** 2
        < (6 + label % 4) ** 2
        for label in range(PART + 3)
    }
    image = 0.3 + 0.5 * np.any(list(masks.values()), axis=0) + rng.normal(0, 0.04, z.shape)

    def swept(n_threads):
        use_threads(n_threads)
        segmenter = make_segmenter("compact", device="cpu").segmenter
        slices = [segmenter.encode_image(one) for one in image.astype(np.float32)]
        shape = image[0].shape
        context = SweepContext(len(image), shape, (1.0, 1.0, 1.0), {}, lambda i: slices[i])
        banks = []
        for label, mask in masks.items():
            prompt = SlicePrompt.from_mask(label, 0, mask[0])
            content = segmenter.encode_seed(slices[0], prompt, shape).content
            banks.append(MemoryBank(label))
            banks[-1].add(MemoryEntry(0, True, content))
        found = []
        for index in (1, 2, 3):
            results = segmenter.segment(slices[index], index, 1, banks, context)
            for bank, result in zip(banks, results, strict=True):
                bank.add(MemoryEntry(index, False, result.content))
            found += [
                (whole_slice(r.patch, shape), r.presence, r.predicted_iou, r.stability)
                for r in results
            ]
        return found

    first = swept(1)
    assert all((logits > 0).any() for logits, *_ in first)
    for n_threads in (2, 3):
        for one, other in zip(first, swept(n_threads), strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            assert one[1:] == other[1:]
