"""Files with several images: the first is never taken without a word."""

import numpy as np
import pytest
import tifffile
import zarr

from napari_slmsam2.contributions import readers
from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io import read_image, read_labels

SMALL = np.arange(2 * 6 * 5, dtype=np.uint16).reshape(2, 6, 5)
SCAN = np.arange(4 * 6 * 5, dtype=np.uint16).reshape(4, 6, 5) % 7


def ome_tiff(path):
    with tifffile.TiffWriter(path, ome=True) as file:
        sizes = {f"PhysicalSize{a}": 9.0 for a in "ZYX"}
        file.write(SMALL, metadata={"axes": "ZYX", "Name": "overview", **sizes})
        sizes = {f"PhysicalSize{a}": s for a, s in zip("ZYX", (2.0, 0.5, 0.4), strict=True)}
        file.write(SCAN, metadata={"axes": "ZYX", "Name": "the scan", **sizes})
    return path


def plain_tiff(path):
    with tifffile.TiffWriter(path) as file:
        file.write(SMALL, photometric="minisblack", metadata={"axes": "ZYX"})
        file.write(SCAN, photometric="minisblack", metadata={"axes": "ZYX"})
    return path


def multiscale(name, place, spacing=(2.0, 0.5, 0.4)):
    return {
        "version": "0.4", "name": name,
        "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"],
        "datasets": [{"path": place, "coordinateTransformations": [
            {"type": "scale", "scale": list(spacing)}]}],
    }  # fmt: skip


def two_multiscales(path):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name, data in (("small", SMALL), ("large", SCAN)):
        group.create_array(name, shape=data.shape, dtype=data.dtype)[...] = data
    group.attrs["multiscales"] = [
        multiscale("overview", "small", (9.0,) * 3), multiscale("the scan", "large")
    ]  # fmt: skip
    return path


def bioformats2raw(path):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    for number, (name, data) in enumerate((("overview", SMALL), ("the scan", SCAN))):
        image = group.create_group(str(number))
        image.create_array("0", shape=data.shape, dtype=data.dtype)[...] = data
        image.attrs["multiscales"] = [multiscale(name, "0")]
    return path


MAKERS = {
    "a.ome.tif": ome_tiff, "a.tif": plain_tiff, "a.zarr": two_multiscales, "b.zarr": bioformats2raw
}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_one_of_several_images_is_chosen(tmp_path, name):
    path = MAKERS[name](tmp_path / name)
    with pytest.raises(VolumeError, match=r"has 2 images; expected one image: 0 .*, 1 ") as caught:
        read_image(path)
    assert "--image N (image=N in Python)" in str(caught.value)
    second = read_image(path, image=1)
    np.testing.assert_array_equal(np.asarray(second.volume.data[:, :, :]), SCAN)
    if name != "a.tif":
        assert "1 (the scan)" in str(caught.value)
        assert second.volume.spacing == (2.0, 0.5, 0.4)
        assert read_image(path, image="the scan").volume.shape == SCAN.shape
    assert read_image(path, image="0").volume.shape == SMALL.shape
    for wrong in (2, "other", -1):
        with pytest.raises(VolumeError, match="no such image"):
            read_image(path, image=wrong)
    np.testing.assert_array_equal(read_labels(path, second, image=1), SCAN)
    with pytest.raises(VolumeError, match="--seeds-image N"):
        read_labels(path, second, option_prefix="seeds-")


@pytest.mark.parametrize("name", MAKERS)
def test_the_window_opens_all_images(tmp_path, name):
    layers = readers.read(MAKERS[name](tmp_path / name))
    assert [layer[0].shape for layer in layers] == [SMALL.shape, SCAN.shape]
    assert len({layer[1]["name"] for layer in layers}) == 2
    np.testing.assert_array_equal(np.asarray(layers[1][0]), SCAN)


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".nii", ".nrrd", ".zarr"])
def test_a_file_with_one_image(tmp_path, suffix):
    import nibabel as nib
    import nrrd

    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":
        tifffile.imwrite(path, SCAN, photometric="minisblack")
    elif suffix == ".npy":
        np.save(path, SCAN)
    elif suffix == ".nii":
        nib.Nifti1Image(SCAN, np.eye(4)).to_filename(path)
    elif suffix == ".nrrd":
        nrrd.write(str(path), SCAN)
    else:
        zarr.create_array(path, shape=SCAN.shape, dtype=SCAN.dtype)
    assert read_image(path, image=0).volume.shape == SCAN.shape
    with pytest.raises(VolumeError, match="has only one image; found image 1"):
        read_image(path, image=1)
