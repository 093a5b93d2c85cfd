import itertools
import os

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_slmsam2.core.errors import GridMismatchError, OutputError, SlmSam2Warning, VolumeError
from napari_slmsam2.io import read_image, read_labels, write_labels

GRID_FIELDS = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "dim",
)  # fmt: skip
MANY = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_same_grid(image_path, labels_path):
    """Every header field that places the voxels, bit for bit."""
    image, labels = nib.load(image_path), nib.load(labels_path)
    for name in GRID_FIELDS:
        assert image.header[name].tobytes() == labels.header[name].tobytes(), name
    assert image.affine.tobytes() == labels.affine.tobytes()
    assert image.shape == labels.shape
    assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(labels.affine)
    assert labels.dataobj.slope == 1
    assert labels.dataobj.inter == 0


def rotated(orientation, spacing, shear=0.0):
    """An affine of an orientation, turned a little so that no axis is straight."""
    swap = nib.orientations.inv_ornt_aff(
        nib.orientations.axcodes2ornt(tuple(orientation)), (8, 8, 8)
    )
    angle = 0.1
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), shear], [0, 0, 1]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.linalg.inv(swap)[:3, :3] @ np.diag(spacing)
    affine[:3, 3] = -12.5, 33.25, 7.125
    return affine


@pytest.mark.parametrize(("qform_code", "sform_code"), [*itertools.product(range(5), range(5))])
@pytest.mark.filterwarnings("ignore:.*sform:napari_slmsam2.core.errors.SlmSam2Warning")
def test_labels_take_over_both_transforms_and_their_codes(nifti, tmp_path, qform_code, sform_code):
    path = nifti()
    image = nib.load(path)
    image.header.set_qform(rotated("LPS", (0.8, 0.9, 5)), code=max(qform_code, 1))
    image.header.set_sform(rotated("PIR", (0.8, 0.9, 5), shear=0.1), code=max(sform_code, 1))
    image.header["qform_code"], image.header["sform_code"] = qform_code, sform_code
    path = tmp_path / "two_transforms.nii"
    nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(path)
    loaded = read_image(path)
    assert (loaded.volume.affine is None) == (qform_code == sform_code == 0)
    out = write_labels(tmp_path / "labels.nii.gz", np.ones((5, 6, 4), int), loaded)
    assert_same_grid(path, out)
    read_labels(out, loaded)


@pytest.mark.parametrize("unit", ["mm", "micron", "meter", "unknown"])
@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "LAS", "IAR", "PSR"])
def test_orientations_and_units(tmp_path, orientation, unit):
    affine = rotated(orientation, (0.5, 0.75, 2.5))
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), affine)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units(unit, "sec")
    path = tmp_path / "image.nii"
    image.to_filename(path)
    assert nib.load(path).header["pixdim"][0] in (1, -1)
    loaded = read_image(path)
    names = {"mm": "mm", "micron": "um", "meter": "m", "unknown": "pixel"}
    assert loaded.volume.unit == names[unit]
    assert "".join(nib.aff2axcodes(loaded.volume.affine)) == orientation
    out = write_labels(tmp_path / "labels.nii", np.zeros((4, 5, 6), np.uint8), loaded)
    assert_same_grid(path, out)


def test_negative_qfac_and_voxel_sizes(nifti, tmp_path):
    path = nifti("image.nii", affine=np.diag([-0.8, 0.9, 5, 1]))
    raw = bytearray(path.read_bytes())
    raw[80:84] = np.float32(-0.8).tobytes()  # pixdim[1]
    raw[76:80] = np.float32(-1).tobytes()  # qfac
    path.write_bytes(raw)
    loaded = read_image(path)
    assert loaded.volume.spacing == pytest.approx((0.8, 0.9, 5))
    out = write_labels(tmp_path / "labels.nii", np.zeros((5, 6, 4), np.uint8), loaded)
    assert_same_grid(path, out)
    assert nib.load(out).header["pixdim"][0] == -1


def test_the_affine_decides_where_the_header_contradicts_itself(nifti):
    path = nifti(affine=np.diag([1, 1, 4, 1]), pixdim=[1, 1, 1, 1, 0, 0, 0, 0])
    with pytest.warns(SlmSam2Warning, match="1 x 1 x 1, but 1 x 1 x 4 in the affine"):
        image = read_image(path)
    assert image.volume.spacing == pytest.approx((1, 1, 4))


@MANY
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    spacing=st.tuples(*[st.floats(0.01, 50)] * 3),
    dtype=st.sampled_from(["u1", "i2", ">i2", "u2", "i4", "f4", "f8", "i8"]),
    suffix=st.sampled_from([".nii", ".nii.gz", ".img"]),
    highest=st.sampled_from([0, 1, 255, 256, 65535, 65536, 2**32 - 1]),
    axis=st.integers(0, 2),
    seed=st.integers(0, 100),
)
def test_any_image_round_trips(
    tmp_path_factory, shape, spacing, dtype, suffix, highest, axis, seed
):
    folder = tmp_path_factory.mktemp("round")
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 100, shape).astype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    path = folder / f"image{suffix}"
    cls = nib.Nifti1Pair if suffix == ".img" else nib.Nifti1Image
    cls(data, np.diag([*spacing, 1]), header, dtype=dtype).to_filename(path)
    loaded = read_image(path, axis=axis)
    for index in range(loaded.volume.n_slices):
        np.testing.assert_array_equal(loaded.volume.take(index), data.take(index, axis))
    labels = rng.integers(0, highest, shape, endpoint=True)
    labels.flat[0] = highest
    out = write_labels(folder / f"labels{suffix}", labels, loaded)
    assert_same_grid(path, out)
    back = read_labels(out, loaded)
    np.testing.assert_array_equal(back, labels)
    assert back.dtype.itemsize == (1 if highest < 256 else 2 if highest < 65536 else 4)
    assert back.dtype.kind == "u"
    assert nib.load(out).get_data_dtype().itemsize == back.dtype.itemsize


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_scaled_intensities_mean_the_same(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    image = nib.Nifti1Image(np.arange(-60, 60, dtype=np.int16).reshape(4, 5, 6), np.eye(4))
    image.header.set_slope_inter(0.37, -1024)
    image.to_filename(path)
    with nib.openers.ImageOpener(path) as file:
        raw = bytearray(file.read())
    raw[112:116] = np.float32(0.37).tobytes()
    raw[116:120] = np.float32(-1024).tobytes()
    with nib.openers.ImageOpener(path, "wb") as file:
        file.write(bytes(raw))
    loaded = read_image(path, axis=1)
    expected = nib.load(path).get_fdata()
    np.testing.assert_array_equal(loaded.volume.take(3), expected[:, 3])
    assert loaded.dtype == np.int16
    out = write_labels(tmp_path / f"labels{suffix}", np.ones((4, 5, 6), np.uint8), loaded)
    assert_same_grid(path, out)
    assert (np.asarray(nib.load(out).dataobj) == 1).all()


def test_compressed_data_stay_in_their_dtype(nifti):
    assert read_image(nifti(dtype=np.int16)).volume.data.dtype == np.int16


def test_a_single_time_point_is_a_volume(nifti, tmp_path):
    loaded = read_image(nifti(shape=(5, 6, 4, 1)))
    assert loaded.volume.shape == (5, 6, 4)
    out = write_labels(tmp_path / "labels.nii.gz", np.zeros((5, 6, 4), np.uint8), loaded)
    assert nib.load(out).shape == (5, 6, 4)
    read_labels(out, loaded)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_time_point_is_picked(nifti, tmp_path, suffix):
    path = nifti(f"image{suffix}", shape=(5, 6, 4, 3))
    with pytest.raises(VolumeError, match="has 3 time points; expected one time: 0 to 2"):
        read_image(path)
    with pytest.raises(VolumeError, match="no such time; expected 0 to 2; found 3"):
        read_image(path, time=3)
    loaded = read_image(path, time=1)
    expected = np.asarray(nib.load(path).dataobj)[..., 1]
    np.testing.assert_array_equal(loaded.volume.take(2), expected[:, :, 2])
    out = write_labels(tmp_path / "labels.nii.gz", np.zeros((5, 6, 4), np.uint8), loaded)
    assert nib.load(out).shape == (5, 6, 4)
    assert nib.load(out).affine.tobytes() == nib.load(path).affine.tobytes()


def test_vectors_and_colours_are_channels(tmp_path):
    path = tmp_path / "vectors.nii"
    data = np.arange(2 * 3 * 4 * 3, dtype=np.float32).reshape(2, 3, 4, 1, 3)
    nib.Nifti1Image(data, np.eye(4)).to_filename(path)
    with pytest.raises(VolumeError, match="has 3 channels"):
        read_image(path)
    np.testing.assert_array_equal(read_image(path, channel=2).volume.take(1), data[:, :, 1, 0, 2])
    rgb = np.zeros((2, 3, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["G"] = 9
    path = tmp_path / "rgb.nii.gz"
    nib.Nifti1Image(rgb, np.eye(4)).to_filename(path)
    with pytest.raises(VolumeError, match=r"0 \(R\), 1 \(G\), 2 \(B\)"):
        read_image(path)
    for channel in ("G", 1, "1"):
        loaded = read_image(path, channel=channel)
        assert (loaded.volume.take(0) == 9).all()
    with pytest.raises(VolumeError, match="no such channel"):
        read_image(path, channel="alpha")
    out = write_labels(tmp_path / "labels.nii.gz", np.ones((2, 3, 4), bool), loaded)
    assert nib.load(out).get_data_dtype() == np.uint8


def test_options_for_what_an_image_does_not_have(nifti):
    path = nifti()
    assert read_image(path, channel=0, time=0).volume.shape == (5, 6, 4)
    with pytest.raises(VolumeError, match="only one channel"):
        read_image(path, channel=1)
    with pytest.raises(VolumeError, match="only one time"):
        read_image(path, time=1)


def test_a_single_plane_is_no_volume(nifti):
    with pytest.raises(VolumeError, match="not a 3D volume"):
        read_image(nifti(shape=(5, 6)))


def test_complex_images_are_refused(nifti):
    with pytest.raises(VolumeError, match="real numbers"):
        read_image(nifti(dtype=np.complex64))


def test_nifti_2_stays_nifti_2(tmp_path):
    path = tmp_path / "image.nii.gz"
    nib.Nifti2Image(np.zeros((3, 4, 5), np.uint8), rotated("LPS", (1, 1, 2))).to_filename(path)
    loaded = read_image(path)
    out = write_labels(tmp_path / "labels.nii.gz", np.zeros((3, 4, 5), np.uint8), loaded)
    assert type(nib.load(out)) is nib.Nifti2Image
    assert_same_grid(path, out)


def test_extensions_and_display_range_of_the_image_are_left_out(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 1000))
    image.header["cal_max"] = 900
    path = tmp_path / "image.nii"
    image.to_filename(path)
    loaded = read_image(path)
    out = nib.load(write_labels(tmp_path / "labels.nii", np.ones((3, 4, 5), np.uint8), loaded))
    assert len(out.header.extensions) == 0
    assert out.header["cal_max"] == 0
    assert (np.asarray(out.dataobj) == 1).all()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img", ".hdr"])
def test_nothing_else_is_left_in_the_folder(nifti, tmp_path, suffix):
    loaded = read_image(nifti("image.nii"))
    folder = tmp_path / "out"
    folder.mkdir()
    write_labels(folder / f"labels{suffix}", np.zeros((5, 6, 4), np.uint8), loaded)
    expected = [".hdr", ".img"] if suffix in (".img", ".hdr") else [suffix]
    assert sorted(os.listdir(folder)) == [f"labels{s}" for s in expected]


def test_labels_that_cannot_be_written(nifti, tmp_path):
    loaded = read_image(nifti())
    zeros = np.zeros((5, 6, 4), np.uint8)
    path = write_labels(tmp_path / "labels.nii.gz", zeros, loaded)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        write_labels(path, zeros, loaded)
    assert path.read_bytes() == before
    write_labels(path, zeros + 1, loaded, overwrite=True)
    assert path.read_bytes() != before
    with pytest.raises(OutputError, match=r"labels\.png.*\.nii\.gz"):
        write_labels(tmp_path / "labels.png", zeros, loaded)
    with pytest.raises(GridMismatchError, match=r"expected \(5, 6, 4\); found \(6, 5, 4\)"):
        write_labels(tmp_path / "x.nii", np.zeros((6, 5, 4), np.uint8), loaded)
    with pytest.raises(VolumeError, match=r"found -1 at voxel \(0, 0, 0\)"):
        write_labels(tmp_path / "x.nii", zeros.astype(int) - 1, loaded)
    with pytest.raises(VolumeError, match=r"found 0\.5 at voxel"):
        write_labels(tmp_path / "x.nii", zeros + 0.5, loaded)
    assert not (tmp_path / "x.nii").exists()
