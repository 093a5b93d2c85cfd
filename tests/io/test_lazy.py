import gzip
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile

from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io import read_image, read_label_map

PROCESS_IO = Path("/proc/self/io")
SHAPE = (64, 64, 200)
SLACK = 50_000
"""Bytes read besides the voxels: buffers, headers, the counter itself."""

counts_reads = pytest.mark.skipif(not PROCESS_IO.exists(), reason="needs Linux's counter of reads")


def bytes_read():
    """All bytes that this process has read so far."""
    return int(PROCESS_IO.read_text().split()[1])


def write_nifti(path):
    data = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)
    nib.Nifti1Image(data, np.diag([1, 1, 2, 1])).to_filename(path)
    return data


def write_nrrd(path):
    nrrd = pytest.importorskip("nrrd")
    data = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)
    nrrd.write(str(path), data, {"encoding": "raw"})
    return data


@counts_reads
@pytest.mark.parametrize(("name", "write"), [("a.nii", write_nifti), ("a.nrrd", write_nrrd)])
def test_an_uncompressed_file_is_read_slice_by_slice(tmp_path, name, write):
    data = write(tmp_path / name)
    read_image(tmp_path / name)  # What is imported is read once.
    before = bytes_read()
    volume = read_image(tmp_path / name, axis=2).volume
    assert bytes_read() - before <= SLACK
    for index in (0, 131, 199):
        before = bytes_read()
        taken = volume.take(index)
        assert taken.nbytes <= bytes_read() - before <= taken.nbytes + SLACK < data.nbytes / 10
        np.testing.assert_array_equal(taken, data[:, :, index])


@counts_reads
@pytest.mark.parametrize("compressed", [False, True])
def test_a_label_file_is_read_once(tmp_path, compressed):
    data = np.zeros(SHAPE, np.uint8)
    data[10:20, 30:40, 50:60] = 3
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "labels.nii")
    read_label_map(tmp_path / "labels.nii")
    before = bytes_read()
    labels = read_label_map(tmp_path / "labels.nii", compressed=compressed).array
    assert bytes_read() - before <= data.nbytes + 3 * SLACK
    np.testing.assert_array_equal(np.asarray(labels), data)


@counts_reads
def test_a_time_point_is_read_alone(tmp_path):
    data = np.arange(64 * 64 * 12 * 20, dtype=np.int32).reshape(64, 64, 12, 20)
    nib.Nifti1Image(data, np.eye(4)).to_filename(tmp_path / "a.nii")
    volume = read_image(tmp_path / "a.nii", axis=2, time=13).volume
    volume.take(0)
    before = bytes_read()
    taken = volume.take(5)
    assert taken.nbytes <= bytes_read() - before <= taken.nbytes + SLACK < data.nbytes / 10
    np.testing.assert_array_equal(taken, data[:, :, 5, 13])


@counts_reads
def test_an_uncompressed_tiff_is_read_slice_by_slice(tmp_path):
    data = np.arange(200 * 64 * 64, dtype=np.uint16).reshape(200, 64, 64)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="minisblack")
    volume = read_image(tmp_path / "a.tif").volume
    volume.take(0)
    before = bytes_read()
    taken = volume.take(7)
    assert taken.nbytes <= bytes_read() - before <= taken.nbytes + SLACK < data.nbytes / 10
    np.testing.assert_array_equal(taken, data[7])


def test_compressed_data_are_held_once_in_their_dtype(tmp_path):
    write_nifti(tmp_path / "a.nii.gz")
    volume = read_image(tmp_path / "a.nii.gz").volume
    assert isinstance(volume.data, np.ndarray)
    assert volume.data.dtype == np.int32
    assert np.shares_memory(volume.take(3), volume.data)


def test_nothing_is_copied_out_of_an_array_in_memory():
    data = np.zeros(SHAPE, np.int16)
    assert np.shares_memory(Volume(data).take(3), data)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("compressed", [False, True])
def test_a_header_that_claims_a_huge_volume_takes_no_memory(tmp_path, compressed):
    import resource

    from napari_slmsam2.core.errors import VolumeError

    header = nib.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((30000, 30000, 30000))
    header["magic"], header["vox_offset"] = b"n+1", 352
    content = header.binaryblock + bytes(2**20)
    path = tmp_path / ("a.nii.gz" if compressed else "a.nii")
    path.write_bytes(gzip.compress(content) if compressed else content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VolumeError, match="shorter than its header says"):
        read_image(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000 * (1024 if sys.platform == "darwin" else 1)
