"""Chunked arrays behave like numpy arrays, with few chunks in memory, and lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from napari_slmsam2.io.chunked_array import ChunkedArray, compressed_labels, label_chunks

SHAPE = (7, 6, 5)
parts = st.one_of(
    st.integers(-5, 4),
    st.builds(slice, st.integers(-6, 6) | st.none(), st.integers(-6, 6) | st.none()),
)
keys = st.one_of(
    st.tuples(parts, parts, parts),
    st.tuples(parts),
    st.tuples(st.just(...), parts),
    st.tuples(parts, st.just(...)),
    st.just(...),
    parts,
)


def stored(chunks=(2, 3, 4), shape=SHAPE):
    array = zarr.create_array(
        zarr.storage.MemoryStore(), shape=shape, dtype=np.uint8, chunks=chunks, fill_value=0
    )
    array[...] = np.arange(np.prod(shape)).reshape(shape) % 251
    return array


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@given(key=keys, step=st.integers(1, 3))
def test_reading_is_that_of_numpy(axes, key, step):
    zarr_array = stored()
    array, plain = ChunkedArray(zarr_array, axes), zarr_array[...].transpose(axes)
    np.testing.assert_array_equal(array[key], plain[key])
    np.testing.assert_array_equal(array[1, ::step], plain[1, ::step])
    assert array[key].dtype == plain.dtype


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@given(writes=st.lists(st.tuples(keys, st.integers(0, 9)), max_size=12))
def test_writing_is_that_of_numpy_and_reaches_the_store(axes, writes):
    zarr_array = stored()
    array, plain = ChunkedArray(zarr_array, axes), zarr_array[...].transpose(axes)
    for key, value in writes:
        part = plain[key]
        values = (np.arange(part.size).reshape(part.shape) % 7 + value).astype(np.uint8)
        plain[key] = array[key] = values
        np.testing.assert_array_equal(array[...], plain)
    array.flush()
    np.testing.assert_array_equal(ChunkedArray(zarr_array, axes)[...], plain)
    wider = array.astype(np.uint32)
    assert wider.dtype == np.uint32
    np.testing.assert_array_equal(wider[...], plain)


def test_slices_in_order_decode_every_chunk_once_and_few_stay_in_memory():
    zarr_array = stored((4, 8, 8), (64, 16, 16))
    reads = []

    class Counting:
        ndim, shape, chunks, dtype = 3, zarr_array.shape, zarr_array.chunks, zarr_array.dtype

        def __getitem__(self, key):
            reads.append(key)
            return zarr_array[key]

    array = ChunkedArray(Counting())
    for index in range(64):
        array[index]
        assert array._nbytes <= 2 * 4 * 16 * 16
    assert len(reads) == 64 // 4 * 4


def test_slices_from_both_ends_decode_large_slabs_once():
    """Two sweeps side by side read slabs of 136 MiB in turn."""
    reads = []

    class Slabs:
        ndim, shape, chunks, dtype = 3, (68, 2048, 2048), (34, 2048, 2048), np.dtype(np.uint8)

        def __getitem__(self, key):
            reads.append(key[0].start)
            return np.broadcast_to(np.uint8(1), self.chunks)

    array = ChunkedArray(Slabs())
    for index in range(3):
        array[index, ...]
        array[67 - index, ...]
    assert reads == [0, 34]


@pytest.mark.parametrize("key", [7, (0, 6), (slice(None), slice(None), -6)])
def test_an_index_beyond_the_end_is_refused(key):
    with pytest.raises(IndexError):
        ChunkedArray(stored())[key]


def test_chunks_that_a_full_disk_refuses_stay_in_memory():
    full = True

    class Disk:
        ndim, shape, chunks, dtype = 3, (8, 4, 4), (1, 4, 4), np.dtype(np.uint8)
        content = np.zeros(shape, dtype)

        def __getitem__(self, key):
            return self.content[key]

        def __setitem__(self, key, values):
            if full:
                raise OSError(28, "No space left on device")
            self.content[key] = values

    disk = Disk()
    array = ChunkedArray(disk)
    for index in range(8):
        array[index] = index
    np.testing.assert_array_equal(array[:, 0, 0], range(8))
    with pytest.raises(OSError, match="No space left"):
        array.flush()
    np.testing.assert_array_equal(array[:, 0, 0], range(8))
    full = False
    array.flush()
    np.testing.assert_array_equal(disk.content[:, 0, 0], range(8))


def test_compressed_labels_hold_what_is_written():
    labels = compressed_labels((300, 40, 50), np.uint16, 0)
    assert not labels[123].any()
    labels[200, 3:5, 6] = 400
    for index in range(300):
        assert labels[index].any() == (index == 200)
    assert labels[200, 4, 6] == 400


@pytest.mark.parametrize(
    ("shape", "axis", "chunks"),
    [
        ((1000, 512, 512), 0, (32, 256, 256)),
        ((512, 512, 1000), 2, (256, 256, 32)),
        ((2000, 20_000, 20_000), 0, (1, 1024, 1024)),
        ((3, 5, 4), 1, (3, 5, 4)),
    ],
)
def test_a_slab_of_chunks_fits_into_memory(shape, axis, chunks):
    assert label_chunks(shape, axis) == chunks
