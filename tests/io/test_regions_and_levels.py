"""Resolution levels and parts of images: every label voxel lies where it does in the image."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import tifffile
import zarr

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io import LabelStream, read_image, read_label_map, read_labels, write_labels

SHAPE = (12, 40, 36)
OBLIQUE = np.array([[0, -0.9, 0, 12], [-0.8, 0, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def pyramid(path, translated=True):
    """An OME-Zarr of three levels; the slices are not halved."""
    rng = np.random.default_rng(0)
    group = zarr.open_group(path, mode="w", zarr_format=2)
    datasets = []
    for level in range(3):
        f = 2**level
        data = rng.integers(0, 999, (12, 40 // f, 36 // f)).astype(np.uint16)
        group.create_array(f"s{level}", data=data, chunks=(4, 8, 8))
        steps = [{"type": "scale", "scale": [5.0, 0.5 * f, 0.4 * f]}]
        if translated:
            start = [100.0, 7 + 0.5 * (f - 1) / 2, 3 + 0.4 * (f - 1) / 2]
            steps.append({"type": "translation", "translation": start})
        datasets.append({"path": f"s{level}", "coordinateTransformations": steps})
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return path


def scan(tmp_path):
    """A NIfTI image with an oblique affine whose codes differ."""
    data = np.random.default_rng(1).integers(0, 999, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(data, OBLIQUE)
    image.header.set_xyzt_units("mm")
    image.set_sform(OBLIQUE, 4)
    image.set_qform(OBLIQUE, 1)
    image.to_filename(tmp_path / "scan.nii")
    return tmp_path / "scan.nii", data


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_of_ome_zarr_and_its_labels(tmp_path, level):
    path = pyramid(tmp_path / "image.zarr")
    image = read_image(path, level=level)
    array = zarr.open_array(path / f"s{level}", mode="r")[...]
    np.testing.assert_array_equal(np.asarray(image.volume.data[...]), array)
    f = 2**level
    assert image.volume.spacing == pytest.approx((5, 0.5 * f, 0.4 * f))
    labels = (array > 500).astype(np.uint8)
    written = read_image(write_labels(tmp_path / "out.ome.zarr", labels, image))
    assert written.geometry.spacing == image.geometry.spacing
    assert written.geometry.origin == image.geometry.origin
    np.testing.assert_array_equal(read_labels(written.path, image), labels)


def test_seeds_with_levels_are_read_at_that_of_the_image(tmp_path):
    image = read_image(pyramid(tmp_path / "image.zarr"), level=1)
    seeds = pyramid(tmp_path / "seeds.zarr")
    found = read_label_map(seeds, like=image, compressed=True).array
    np.testing.assert_array_equal(np.asarray(found), zarr.open_array(seeds / "s1", mode="r")[...])


def test_a_level_of_a_pyramidal_tiff(tmp_path):
    data = np.arange(8 * 41 * 36, dtype=np.uint16).reshape(8, 41, 36)
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as tif:
        sizes = {"PhysicalSizeZ": 4.0, "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.25}
        tif.write(data, subifds=1, metadata={"axes": "ZYX", **sizes}, photometric="minisblack")
        tif.write(data[:, ::2, ::2], subfiletype=1, photometric="minisblack")
    image = read_image(path, level=1)
    np.testing.assert_array_equal(np.asarray(image.volume.data[...]), data[:, ::2, ::2])
    assert image.volume.spacing == (4.0, 1.0, 0.5)
    labels = (data[:, ::2, ::2] % 3).astype(np.uint8)
    out = write_labels(tmp_path / "out.ome.tif", labels, image)
    np.testing.assert_array_equal(read_labels(out, image), labels)
    assert read_image(out).volume.spacing == (4.0, 1.0, 0.5)


def test_a_level_that_is_missing_is_named(tmp_path):
    with pytest.raises(VolumeError, match=r"0 \(12 x 40 x 36\).*2 \(12 x 10 x 9\); found level 3"):
        read_image(pyramid(tmp_path / "image.zarr"), level=3)
    path, _ = scan(tmp_path)
    with pytest.raises(VolumeError, match=r"has one resolution level.*found level 1"):
        read_image(path, level=1)


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mgz", "ome.zarr", "tif"])
@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.filterwarnings("ignore:.*OME-Zarr keeps")
def test_labels_of_a_part_lie_at_their_place(tmp_path, suffix, crop):
    path, data = scan(tmp_path)
    whole = read_image(path, axis=2)
    image = read_image(path, axis=2, roi=np.s_[2:9, :, 10:30])
    assert (image.volume.shape, image.volume.first_slice) == ((7, 40, 20), 10)
    np.testing.assert_array_equal(image.volume.take(3), data[2:9, :, 13])
    full = (data > 500).astype(np.uint8)
    labels = full[2:9, :, 10:30]
    out = write_labels(tmp_path / f"out.{suffix}", labels, image, crop=crop)
    expected = np.zeros_like(full)
    expected[2:9, :, 10:30] = labels
    written = read_image(out)
    if not crop:
        np.testing.assert_array_equal(read_labels(out, whole), expected)
        np.testing.assert_array_equal(read_labels(out, image), labels)
        return
    np.testing.assert_array_equal(read_labels(out, image), labels)
    if suffix not in ("ome.zarr", "tif"):
        place = OBLIQUE @ [2, 0, 10, 1]
        np.testing.assert_allclose(written.volume.affine[:, 3], place, rtol=1e-6)
        np.testing.assert_allclose(written.volume.affine[:3, :3], OBLIQUE[:3, :3], atol=1e-6)
    if suffix == "nii.gz":
        header = nib.load(out).header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 1)
        np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)


@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("translated", [False, True])
def test_a_part_of_a_level_is_streamed_to_its_place(tmp_path, crop, translated):
    path = pyramid(tmp_path / "image.zarr", translated)
    roi = np.s_[3:9, 4:, :10]
    image, whole = read_image(path, level=1, roi=roi), read_image(path, level=1)
    with LabelStream(tmp_path / "out.ome.zarr", image, highest=9, crop=crop) as stream:
        for index in range(6):
            stream.labels[index] = index + 1
        out = stream.finish()
    written = read_image(out)
    origin = np.array(whole.geometry.origin or (0, 0, 0))
    if crop:
        np.testing.assert_allclose(written.geometry.origin, np.add(origin, (15, 4, 0)))
    else:
        assert written.geometry.origin == whole.geometry.origin
    expected = np.zeros(whole.volume.shape, np.uint8)
    expected[roi] = np.arange(1, 7)[:, None, None]
    found = read_labels(out, image if crop else whole)
    np.testing.assert_array_equal(found, expected[roi] if crop else expected)


def test_seeds_beside_the_part_are_left_out(tmp_path):
    path, data = scan(tmp_path)
    seeds = (data % 5).astype(np.uint8)
    nib.Nifti1Image(seeds, OBLIQUE).to_filename(tmp_path / "seeds.nii")
    image = read_image(path, axis=2, roi=np.s_[2:9, 5:6, 10:30])
    for compressed in (False, True):
        found = read_label_map(tmp_path / "seeds.nii", like=image, compressed=compressed).array
        np.testing.assert_array_equal(np.asarray(found), seeds[2:9, 5:6, 10:30])


@pytest.mark.parametrize(
    "roi", [np.s_[5:5, :, :], np.s_[:, 9:3, :], np.s_[:, :, 30:37], np.s_[-3:, :, :]]
)
def test_a_part_that_is_empty_or_outside_is_refused(tmp_path, roi):
    path, _ = scan(tmp_path)
    with pytest.raises(
        VolumeError, match=r"does not hold the region.*x 0:12, y 0:40, z 0:36; found"
    ):
        read_image(path, roi=roi)


def test_each_transform_of_a_header_keeps_its_place(tmp_path):
    path, data = scan(tmp_path)
    scanner = np.diag([-1.0, -1.0, 1.0, 1.0] * np.linalg.norm(OBLIQUE[:, :4], axis=0))
    scanner[:, 3] = 50, 60, 70, 1
    image = nib.Nifti1Image(data, OBLIQUE)
    image.set_sform(OBLIQUE, 4)
    image.set_qform(scanner, 1)
    image.to_filename(path)
    with pytest.warns(UserWarning, match="place the voxels"):
        part = read_image(path, roi=np.s_[2:9, 4:, 10:30])
    labels = np.ones(part.volume.shape, np.uint8)
    header = nib.load(write_labels(tmp_path / "out.nii", labels, part, crop=True)).header
    for affine, found in ((OBLIQUE, header.get_sform()), (scanner, header.get_qform())):
        np.testing.assert_allclose(found[:3, 3], (affine @ [2, 4, 10, 1])[:3], rtol=1e-5)
        np.testing.assert_allclose(found[:3, :3], affine[:3, :3], atol=1e-5)


def test_labels_that_are_not_exact_are_rounded_in_a_part(tmp_path):
    image = read_image(pyramid(tmp_path / "image.zarr"), roi=np.s_[3:9, 4:, :10])
    out = write_labels(tmp_path / "out.ome.zarr", np.full(image.volume.shape, 2.9995), image)
    assert set(np.unique(read_labels(out, image))) == {3}


@pytest.mark.parametrize("trust_voxels", [False, True])
@pytest.mark.filterwarnings("ignore:.*its axes have no names")
def test_seeds_without_axes_may_have_the_order_of_the_part(tmp_path, trust_voxels):
    path, data = scan(tmp_path)
    image = read_image(path, roi=np.s_[2:9, :, 10:30])
    seeds = (data[2:9, :, 10:30] > 500).astype(np.uint8)
    np.save(tmp_path / "seeds.npy", seeds)
    found = read_labels(tmp_path / "seeds.npy", image, trust_voxels=trust_voxels)
    np.testing.assert_array_equal(found, seeds)
