"""Logits in little memory: masks come back exactly, logits nearly."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.core.soft_masks import LogitPatch, SoftMasks, pack_logits, unpack_logits
from napari_slmsam2.core.spilled_bytes import ByteStore

logit_slices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-1024, 1024, width=32) | st.floats(-0.0625, 0.0625, width=32),
)


def put(soft: SoftMasks, label: int, index: int, logits: np.ndarray) -> None:
    soft.put(label, index, LogitPatch.cut(logits), logits.shape)


@given(logits=logit_slices)
def test_signs_are_exact_and_logits_close(logits):
    soft = SoftMasks()
    put(soft, 1, 4, logits)
    back = soft.get(1, 4)
    if back is None:
        assert not (logits > -4).any()
        return
    assert back.shape == logits.shape
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back > 0, logits > 0)
    near = np.abs(logits) < 4
    assert np.abs(back - logits)[near].max(initial=0) <= 1 / 15


@given(logits=logit_slices)
def test_what_came_back_goes_in_unchanged(logits):
    soft = SoftMasks()
    put(soft, 1, 0, logits)
    once = soft.get(1, 0)
    if once is not None:
        put(soft, 1, 0, once)
        np.testing.assert_array_equal(soft.get(1, 0), once)


def test_eight_bits_come_back_as_they_were():
    packed = np.arange(-127, 128, dtype=np.int8)
    np.testing.assert_array_equal(pack_logits(unpack_logits(packed)), packed)


@given(logits=logit_slices, place=st.tuples(st.integers(0, 5), st.integers(0, 5)))
def test_a_patch_is_the_same_from_a_part_of_the_slice(logits, place):
    whole = np.full((16, 16), -9, np.float32)
    box = tuple(slice(n, n + size) for n, size in zip(place, logits.shape, strict=True))
    whole[box] = logits
    part, patch = LogitPatch.cut(logits, box), LogitPatch.cut(whole)
    np.testing.assert_array_equal(part.logits, patch.logits)
    np.testing.assert_array_equal(patch.mask(whole.shape), whole > 0)
    if patch.logits.size:
        assert part.box == patch.box
        assert patch.logits.max() > -4
    mask = LogitPatch.of_mask(whole > 0)
    np.testing.assert_array_equal(mask.mask(whole.shape), whole > 0)


def test_labels_and_slices_are_kept_apart():
    soft = SoftMasks()
    one, two = np.full((3, 4), 2.0), np.full((3, 4), -1.0)
    put(soft, 1, 5, one)
    put(soft, 2, 5, two)
    put(soft, 1, 6, two)
    assert list(soft.on_slice(5)) == [1, 2]
    assert set(soft) == {(1, 5), (2, 5), (1, 6)}
    twin = soft.copy()
    soft.discard(1, 5)
    soft.discard(9, 9)
    assert soft.get(1, 5) is None
    assert soft.get(2, 5) is not None
    assert twin.get(1, 5) is not None
    put(soft, 2, 5, np.full((3, 4), -9.0))
    assert soft.get(2, 5) is None
    assert soft.get(3, 7) is None
    assert soft.on_slice(7) == {}


def test_memory_is_a_small_part_of_the_logits():
    y, x = np.mgrid[:512, :512]
    logits = (10 - np.hypot(y - 200, x - 300) / 4).astype(np.float32)
    soft = SoftMasks()
    for index in range(10):
        put(soft, 1, index, logits)
    assert soft.nbytes < 10 * logits.nbytes / 25
    for index in range(10):
        soft.discard(1, index)
    assert soft.nbytes == 0


def random_masks(count):
    rng = np.random.default_rng(0)
    return {(1, i): rng.uniform(-8, 8, (40, 40)).astype(np.float32) for i in range(count)}


def test_beyond_the_budget_logits_are_in_a_file_and_come_back_the_same():
    limited, unlimited = SoftMasks(budget=20_000), SoftMasks()
    masks = random_masks(100)
    for key, logits in masks.items():
        put(limited, *key, logits)
        put(unlimited, *key, logits)
        assert limited.nbytes <= 20_000
    assert unlimited.nbytes > 100_000
    twin = limited.copy()
    for key in masks:
        for soft in (limited, twin):
            np.testing.assert_array_equal(soft.get(*key), unlimited.get(*key))
    for key in list(masks)[:50]:
        put(limited, *key, -masks[key])
    assert limited.nbytes + twin.nbytes <= 2 * 20_000
    np.testing.assert_array_equal(twin.get(1, 3), unlimited.get(1, 3))
    restored = SoftMasks.__new__(SoftMasks)
    restored.__setstate__(limited.__getstate__())
    for key in masks:
        np.testing.assert_array_equal(restored.get(*key), limited.get(*key))


def test_what_is_forgotten_makes_room():
    soft = SoftMasks(budget=20_000)
    for index, logits in enumerate(random_masks(200).values()):
        put(soft, 1, index, logits)
        soft.discard(1, index - 1)
    assert soft._store._file is None


def test_where_the_disk_is_full_logits_stay_in_memory(monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ByteStore, "append", full)
    soft, masks = SoftMasks(budget=10_000), random_masks(30)
    for key, logits in masks.items():
        put(soft, *key, logits)
    for key, logits in masks.items():
        np.testing.assert_array_equal(soft.get(*key) > 0, logits > 0)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of the size of files")
def test_what_is_in_the_file_is_read_also_when_the_disk_is_full():
    import resource

    store, contents = ByteStore(budget=100), [bytes([i]) * 60 for i in range(6)]
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
    try:
        held = [store.put(content) for content in contents]
        found = [one.read() for one in held]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert found == contents
    assert [one.is_spilled for one in held] == [True, True, False, False, False, False]
