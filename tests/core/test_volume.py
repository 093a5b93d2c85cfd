import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.core.volume import Volume, default_axis


class CountingArray:
    """An array that notes how many voxels were read, and which."""

    def __init__(self, array):
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype
        self.keys = []
        self.n_read = 0

    def __getitem__(self, key):
        part = self.array[key]
        self.keys.append(key)
        self.n_read += part.size
        return part

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("the whole array was read")


SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5)


@given(shape=SHAPES, axis=st.integers(0, 2), data=st.data())
def test_take_gives_the_slice_along_the_axis(shape, axis, data):
    array = np.arange(np.prod(shape)).reshape(shape)
    volume = Volume(array, axis, (1.0, 2.0, 3.0))
    index = data.draw(st.integers(0, shape[axis] - 1))
    taken = volume.take(index)
    assert taken.shape == volume.slice_shape
    np.testing.assert_array_equal(taken, np.take(array, index, axis))
    np.testing.assert_array_equal(taken, array[volume.slicer(index)])
    assert volume.n_slices == shape[axis]
    assert volume.slice_spacing[0] == (1.0, 2.0, 3.0)[axis]
    assert sorted(volume.slice_spacing) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_the_slice_asked_for_is_read(axis):
    counting = CountingArray(np.zeros((4, 5, 6), np.int16))
    volume = Volume(counting, axis)
    assert counting.n_read == 0
    volume.take(2)
    assert counting.n_read == np.prod(volume.slice_shape)


def test_dask_computes_only_the_chunk_of_the_slice():
    computed = []

    def block(block_info=None):
        computed.append(block_info[None]["chunk-location"])
        return np.full((1, 4, 4), block_info[None]["chunk-location"][0], np.uint8)

    lazy = da.map_blocks(block, chunks=((1,) * 8, (4,), (4,)), dtype=np.uint8, meta=np.zeros(0))
    volume = Volume(lazy, axis=0)
    computed.clear()
    assert (volume.take(5) == 5).all()
    assert computed == [(5, 0, 0)]


def test_zarr_slices_come_out_as_numpy(tmp_path):
    stored = zarr.create_array(tmp_path / "a.zarr", shape=(6, 4, 5), chunks=(1, 4, 5), dtype="u2")
    stored[3] = 7
    taken = Volume(stored, axis=0).take(3)
    assert isinstance(taken, np.ndarray)
    assert (taken == 7).all()


def test_a_slice_that_cannot_be_read_is_an_error_of_the_volume():
    class Broken:
        shape = (3, 3, 3)
        dtype = np.dtype(np.uint8)

        def __getitem__(self, key):
            raise OSError("the disk is gone")

    with pytest.raises(VolumeError, match=r"scan\.nii: slice 1 .*the disk is gone"):
        Volume(Broken(), axis=2, name="scan.nii").take(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": np.zeros((3, 3))}, "not a 3D volume"),
        ({"data": np.zeros((3, 0, 3))}, "no voxels"),
        ({"data": np.zeros((3, 3, 3)), "axis": 3}, "no such propagation axis"),
        ({"data": np.zeros((3, 3, 3)), "spacing": (1.0, 0.0, 1.0)}, "no usable voxel size"),
        ({"data": np.zeros((3, 3, 3)), "spacing": (1.0, np.nan, 1.0)}, "no usable voxel size"),
    ],
)
def test_what_is_no_volume_is_refused(arguments, message):
    with pytest.raises(VolumeError, match=message):
        Volume(**arguments)


@pytest.mark.parametrize("index", [-1, 3])
def test_slices_outside_the_volume_are_refused(index):
    with pytest.raises(VolumeError, match="expected 0 to 2"):
        Volume(np.zeros((3, 4, 5))).take(index)


@pytest.mark.parametrize(
    ("spacing", "last", "first"),
    [
        ((1, 1, 5), 2, 2),
        ((5, 1, 1), 0, 0),
        ((1, 1, 1), 2, 0),
        ((2, 2, 1), 1, 0),
        ((1, 1, 1.005), 2, 0),
        ((1, 1.02, 1), 1, 1),
    ],
)
def test_default_axis_is_the_coarsest_one(spacing, last, first):
    assert default_axis(spacing) == last
    assert default_axis(spacing, ties="first") == first


@given(st.tuples(*[st.floats(1e-6, 1e6)] * 3))
def test_default_axis_is_never_finer_than_another(spacing):
    for ties in ("first", "last"):
        assert spacing[default_axis(spacing, ties=ties)] >= 0.99 * max(spacing)
