import signal
import sys

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_slmsam2.core.errors import GridMismatchError, OutputError, VolumeError
from napari_slmsam2.io import check_same_grid, describe, read_image, read_labels, write_labels

AFFINE = np.array([[0, -0.9, 0, 12], [-0.8, 0, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def save(path, data, affine=AFFINE, unit="mm"):
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.header.set_xyzt_units(unit)
    image.to_filename(path)
    return path


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u4", "i8"])
def test_whole_numbers_of_any_dtype_are_labels(tmp_path, dtype):
    data = np.zeros((3, 4, 5), dtype)
    data[1, 2, 3] = 300
    labels = read_labels(save(tmp_path / "a.nii", data))
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, data)


@pytest.mark.parametrize(
    ("dtype", "value", "found"),
    [
        ("f4", 1.5, "1.5"),
        ("f4", np.nan, "nan"),
        ("f8", np.inf, "inf"),
        ("f4", -2, "-2.0"),
        ("i2", -7, "-7"),
        ("f8", 2**32, "4294967296.0"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_no_label_is_named_with_its_place(tmp_path, dtype, value, found, suffix):
    data = np.zeros((3, 4, 5), dtype)
    data[1, 2, 3] = data[2, 0, 1] = value
    with pytest.raises(VolumeError) as caught:
        read_labels(save(tmp_path / f"seeds{suffix}", data))
    message = str(caught.value)
    assert f"seeds{suffix}: does not hold labels" in message
    assert f"found {found} at voxel (2, 0, 1)" in message, "the first one in the file"


@settings(max_examples=30)
@given(
    data=hnp.arrays(
        st.sampled_from(["f4", "f8", "i1", "i4", "i8", "u2"]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=4),
    )
)
def test_labels_are_read_exactly_or_refused(tmp_path_factory, data):
    path = save(tmp_path_factory.mktemp("any") / "a.nii", data)
    with np.errstate(invalid="ignore"):
        valid = np.isfinite(data) & (np.abs(data - np.rint(data)) <= 1e-3)
    valid &= (np.rint(data) >= 0) & ((data < 2**32) | (data.dtype.kind != "f"))
    try:
        labels = read_labels(path)
    except VolumeError:
        assert not valid.all()
    else:
        assert valid.all()
        np.testing.assert_array_equal(labels, np.rint(data))


def test_labels_that_were_scaled_on_the_way_are_rounded(tmp_path):
    image = nib.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), AFFINE)
    image.set_data_dtype(np.int16)
    image.to_filename(tmp_path / "a.nii")
    assert nib.load(tmp_path / "a.nii").dataobj.slope != 1
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii"), np.arange(60).reshape(3, 4, 5))


@pytest.mark.filterwarnings("ignore::napari_slmsam2.core.errors.SlmSam2Warning")
@pytest.mark.parametrize(
    "suffix", [".nii", ".nii.gz", ".img", ".nrrd", ".seg.nrrd", ".tif", ".npy", ".zarr"]
)
@pytest.mark.parametrize("source", [".nii", ".tif"])
def test_ids_of_64_bits(tmp_path, suffix, source):
    """Instances of connectomics."""
    ids = np.zeros((3, 4, 5), np.uint64)
    ids[1, 2, 3], ids[0, 0, 1] = 2**64 - 1, 2**56 + 5
    path = save(tmp_path / "image.nii", np.zeros((3, 4, 5), np.uint8))
    image = read_image(path)
    if source == ".tif":
        path = write_labels(tmp_path / "image.ome.tif", np.zeros((3, 4, 5), int), image)
        image, ids = read_image(path), ids.T
    out = write_labels(tmp_path / f"out{suffix}", ids, image)
    found = read_labels(out, image)
    assert found.dtype == np.uint64
    np.testing.assert_array_equal(found, ids)
    if suffix != ".npy":
        np.testing.assert_allclose(
            sorted(read_image(out).volume.spacing), sorted(image.volume.spacing), rtol=1e-6
        )


@pytest.mark.parametrize("name", ["out.mgz", "out.ome.tif"])
def test_formats_without_64_bits_are_named(tmp_path, name):
    image = read_image(save(tmp_path / "image.nii", np.zeros((3, 4, 5), np.uint8)))
    with pytest.raises(OutputError, match="cannot hold these labels"):
        write_labels(tmp_path / name, np.full((3, 4, 5), 2**40), image)
    assert not (tmp_path / name).exists()


def moved(rows, columns, shift):
    affine = AFFINE.copy()
    affine[rows, columns] += shift
    return affine


@pytest.mark.parametrize("affine", [AFFINE, moved(0, 3, 0.01), moved(0, 0, 1e-6)])
def test_grids_that_agree(tmp_path, affine):
    zeros = np.zeros((3, 4, 5), np.uint8)
    image = read_image(save(tmp_path / "image.nii", zeros))
    labels = save(tmp_path / "labels.nii", zeros, affine)
    assert read_labels(labels, image).shape == (3, 4, 5)


@pytest.mark.parametrize(
    "affine",
    [
        moved(0, 3, 0.1),
        moved(2, 2, 0.05),
        moved(1, 1, 0.1),
        np.diag([1, -1, 1, 1]) @ AFFINE,
        AFFINE[[1, 0, 2, 3]],
    ],
)
def test_grids_that_do_not_agree(tmp_path, affine):
    zeros = np.zeros((3, 4, 5), np.uint8)
    image = read_image(save(tmp_path / "image.nii", zeros))
    path = save(tmp_path / "labels.nii", zeros, affine)
    with pytest.raises(GridMismatchError, match=r"labels\.nii on .*image\.nii: the affines differ "
                       r"by up to .* voxels; expected affine \[\[.*found affine \[\["):  # fmt: skip
        read_labels(path, image)
    with pytest.raises(GridMismatchError):
        check_same_grid(image, read_image(path))


def test_units_count(tmp_path):
    zeros = np.zeros((3, 4, 5), np.uint8)
    image = read_image(save(tmp_path / "image.nii", zeros))
    micrometres = np.diag([1000, 1000, 1000, 1]) @ AFFINE
    read_labels(save(tmp_path / "same.nii", zeros, micrometres, unit="micron"), image)
    read_labels(save(tmp_path / "unknown.nii", zeros, unit="unknown"), image)
    with pytest.raises(GridMismatchError):
        read_labels(save(tmp_path / "other.nii", zeros, unit="micron"), image)


def test_voxel_sizes_count_where_there_is_no_affine(tmp_path):
    tifffile = pytest.importorskip("tifffile")

    def write(name, z):
        metadata = {"axes": "ZYX"}
        for axis, size in zip("ZYX", (z, 0.2, 0.2), strict=True):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
        path = tmp_path / name
        tifffile.imwrite(path, np.zeros((3, 4, 5), np.uint8), ome=True, metadata=metadata)
        return path

    image = read_image(write("image.ome.tif", 0.5))
    read_labels(write("same.ome.tif", 0.5000001), image)
    with pytest.raises(GridMismatchError, match="the voxel sizes differ"):
        read_labels(write("other.ome.tif", 0.6), image)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_description(tmp_path, suffix):
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    data[0, 0, 0] = np.nan
    path = save(tmp_path / f"image{suffix}", data)
    description = describe(read_image(path))
    window = description.pop("window")
    assert window["source"] == "0.5-99.5%"
    assert (window["low"], window["high"]) == pytest.approx((1.29, 58.71))
    assert description.pop("spacing") == pytest.approx([0.8, 0.9, 3])
    assert description == {
        "path": str(path),
        "format": "NIfTI-1",
        "shape": [3, 4, 5],
        "dtype": "float32",
        "unit": "mm",
        "orientation": "PLS",
        "axis": 2,
        "axis_reason": "Axis 2 has the coarsest spacing (3 mm).",
        "slices": 5,
        "slice_shape": [3, 4],
        "intensity_range": [1, 59],
        "intensity_sampled": False,
    }


@pytest.mark.parametrize(
    ("affine", "axis", "reason"),
    [
        (np.diag([1, 1, 1, 1]), 2, "All axes have the same coarsest spacing (1 mm); axis 2"),
        (np.diag([2, 2, 1, 1]), 1, "Axes 0 and 1 have the same coarsest spacing (2 mm); axis 1"),
        (np.diag([1, 7, 2, 1]), 1, "Axis 1 has the coarsest spacing (7 mm)."),
    ],
)
def test_the_axis_is_chosen_and_explained(tmp_path, affine, axis, reason):
    path = save(tmp_path / "a.nii", np.zeros((3, 4, 5), np.uint8), affine)
    loaded = read_image(path)
    assert loaded.volume.axis == axis
    assert loaded.axis_reason.startswith(reason)
    chosen = read_image(path, axis=0)
    assert (chosen.volume.axis, chosen.axis_reason) == (0, "Chosen by the user.")
    with pytest.raises(VolumeError, match=r"a\.nii: has no such propagation axis.*found 3"):
        read_image(path, axis=3)


def test_a_description_of_nothing_but_nan(tmp_path):
    path = save(tmp_path / "a.nii", np.full((3, 4, 5), np.nan, np.float32))
    assert describe(read_image(path))["intensity_range"] is None


# nibabel leaves the handle of a file it cannot write to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
@pytest.mark.parametrize(
    "suffix", [".nii", ".nii.gz", ".img", ".mgz", ".nrrd", ".tif", ".npy", ".zarr"]
)
@pytest.mark.filterwarnings("ignore::napari_slmsam2.core.errors.SlmSam2Warning")
def test_a_full_disk_leaves_no_half_written_labels(tmp_path, suffix):
    import resource

    labels = np.random.default_rng(0).integers(0, 60_000, (30, 20, 10))
    image = read_image(save(tmp_path / "image.nii", np.zeros((30, 20, 10), np.uint8)))
    folder = tmp_path / "out"
    folder.mkdir()
    write_labels(folder / f"first{suffix}", labels, image)
    complete = sorted(folder.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OutputError, match=rf"labels\{suffix}: cannot be written"):
            write_labels(folder / f"labels{suffix}", labels, image)
        with pytest.raises(OutputError, match=rf"first\{suffix}: cannot be written"):
            write_labels(folder / f"first{suffix}", labels + 1, image, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(folder.iterdir()) == complete
    np.testing.assert_array_equal(read_labels(folder / f"first{suffix}", image), labels)
