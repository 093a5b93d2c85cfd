"""Axes are mapped by name and order; slices may be saved as time points or channels."""

import itertools

import nibabel as nib
import nrrd
import numpy as np
import pytest
import tifffile
import zarr

from napari_slmsam2.core.errors import SlmSam2Warning, VolumeError
from napari_slmsam2.io import read_image, read_labels, write_labels

SHAPE = {"x": 5, "y": 6, "z": 4}
SIZE = {"x": 0.2, "y": 0.3, "z": 2.0}
ORDERS = ["".join(order) for order in itertools.permutations("xyz")]


def scan(order):
    """The same voxels with axes in some order."""
    data = np.arange(5 * 6 * 4, dtype=np.uint16).reshape(5, 6, 4)
    return data.transpose(["xyz".index(axis) for axis in order])


def seeds(order):
    labels = np.zeros((5, 6, 4), np.uint8)
    labels[1:4, 2, 1] = 1
    labels[2, 3:5, 2] = 2
    return labels.transpose(["xyz".index(axis) for axis in order])


def ome_zarr(path, order, version="0.4", names=None, data=None):
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    data = scan(order) if data is None else data
    group.create_array("0", shape=data.shape, dtype=data.dtype)[...] = data
    image = {
        "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in names or order],
        "datasets": [{"path": "0", "coordinateTransformations": [
            {"type": "scale", "scale": [SIZE[a] for a in order]}]}],
    }  # fmt: skip
    if version == "0.4":
        group.attrs["multiscales"] = [{"version": version, **image}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    return path


def ome_tiff_seeds(path):
    sizes = {f"PhysicalSize{a.upper()}": s for a, s in SIZE.items()}
    tifffile.imwrite(path, seeds("zyx"), ome=True, metadata={"axes": "ZYX", **sizes})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("order", ORDERS)
def test_ome_zarr_axes_have_names(tmp_path, order, version):
    image = read_image(ome_zarr(tmp_path / "a.zarr", order, version))
    assert image.order == order
    assert image.volume.axis == order.index("z")
    assert image.volume.spacing == tuple(SIZE[a] for a in order)
    labels = read_labels(ome_tiff_seeds(tmp_path / "seeds.ome.tif"), image)
    np.testing.assert_array_equal(labels, seeds(order))
    out = write_labels(tmp_path / "out.zarr", labels, image)
    attributes = zarr.open_group(out, mode="r").attrs
    [written] = attributes.get("ome", attributes)["multiscales"]
    assert [axis["name"] for axis in written["axes"]] == list(order)
    assert read_image(out).volume.spacing == image.volume.spacing
    np.testing.assert_array_equal(read_labels(out, image), labels)
    if version == "0.5":
        assert zarr.open_group(out, mode="r")["0"].metadata.dimension_names == tuple(order)
    for suffix, canonical in ((".tif", "zyx"), (".nii.gz", "xyz"), (".nrrd", "xyz")):
        other = write_labels(tmp_path / f"out{suffix}", labels, image)
        stored = read_image(other)
        assert stored.order == canonical
        np.testing.assert_allclose(stored.volume.spacing, [SIZE[a] for a in canonical], rtol=1e-6)
        np.testing.assert_array_equal(read_labels(other), seeds(canonical))
        np.testing.assert_array_equal(read_labels(other, image), labels)


def test_axes_of_other_names_keep_them(tmp_path):
    image = read_image(ome_zarr(tmp_path / "a.zarr", "zyx", names=["depth", "row", "column"]))
    assert image.order == "zyx"
    out = write_labels(tmp_path / "out.zarr", seeds("zyx"), image)
    [written] = zarr.open_group(out, mode="r").attrs["multiscales"]
    assert [axis["name"] for axis in written["axes"]] == ["depth", "row", "column"]


@pytest.mark.parametrize("order", ORDERS)
def test_tiff_axes_have_names(tmp_path, order):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, scan(order), photometric="minisblack",
                     metadata={"axes": order.upper()})  # fmt: skip
    image = read_image(path)
    assert image.order == order
    np.testing.assert_array_equal(np.asarray(image.volume.data[:, :, :]), scan(order))
    assert image.volume.axis == order.index("z")
    np.save(tmp_path / "seeds.npy", seeds("zyx"))
    np.testing.assert_array_equal(
        read_labels(ome_tiff_seeds(tmp_path / "s.ome.tif"), image), seeds(order)
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_zarr_with_names(tmp_path, order, zarr_format):
    data = scan(order)
    names = list(order) if zarr_format == 3 else None
    array = zarr.create_array(tmp_path / "a.zarr", shape=data.shape, dtype=data.dtype,
                              zarr_format=zarr_format, dimension_names=names)  # fmt: skip
    array[...] = data
    if zarr_format == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = list(order)
    assert read_image(tmp_path / "a.zarr").order == order


def test_nrrd_labels_name_its_axes(tmp_path):
    path = tmp_path / "a.nrrd"
    data = np.stack([scan("zyx")] * 2)
    header = {"labels": ["time", "z", "y", "x"], "spacings": np.array([1, 2.0, 0.3, 0.2])}
    nrrd.write(str(path), data, header)
    image = read_image(path, time=1)
    assert (image.order, image.volume.spacing) == ("zyx", (2.0, 0.3, 0.2))
    out = write_labels(tmp_path / "out.nrrd", seeds("zyx"), image)
    written = nrrd.read_header(str(out))
    assert list(written["labels"]) == ["z", "y", "x"]
    np.testing.assert_array_equal(written["spacings"], (2.0, 0.3, 0.2))
    np.testing.assert_array_equal(read_labels(out, image), seeds("zyx"))


def test_versions_without_axes_are_five_dimensional(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    data = np.stack([scan("zyx"), scan("zyx") + 1])[None]
    group.create_array("0", shape=data.shape, dtype=data.dtype)[...] = data
    group.attrs["multiscales"] = [{"version": "0.1", "datasets": [{"path": "0"}]}]
    with pytest.raises(VolumeError, match=r"2 channels.*--channel N"):
        read_image(tmp_path / "a.zarr")
    image = read_image(tmp_path / "a.zarr", channel=1)
    np.testing.assert_array_equal(image.volume.take(2), scan("zyx")[2] + 1)


# Slices in the place of time or channels.


def flat_file(folder, kind, data):
    """Slices (z, y, x) saved as time points or channels."""
    if kind == "nifti":
        path = folder / "a.nii"
        nib.Nifti1Image(data.T[:, :, None, :], np.diag([0.2, 0.3, 2, 1])).to_filename(path)
        return path, "time"
    if kind == "ome-tiff":
        path = folder / "a.ome.tif"
        tifffile.imwrite(path, data, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
        return path, "channel"
    if kind == "imagej":
        path = folder / "a.tif"
        tifffile.imwrite(path, data[None], imagej=True, metadata={"axes": "ZCYX"})
        return path, "channel"
    path = folder / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", shape=data.shape, dtype=data.dtype)[...] = data
    group.attrs["multiscales"] = [{"version": "0.4", "axes": [
        {"name": "t", "type": "time"}, *({"name": n, "type": "space"} for n in "yx")],
        "datasets": [{"path": "0", "coordinateTransformations": [
            {"type": "scale", "scale": [1, 0.3, 0.2]}]}]}]  # fmt: skip
    return path, "time"


@pytest.mark.parametrize("kind", ["nifti", "ome-tiff", "imagej", "zarr"])
def test_slices_in_the_place_of_another_axis(tmp_path, kind):
    (tmp_path / "seeds").mkdir()
    path, option = flat_file(tmp_path, kind, scan("zyx"))
    with pytest.raises(VolumeError) as caught:
        read_image(path)
    message = str(caught.value)
    assert f"--stack {option} (stack='{option}' in Python)" in message
    assert "--time N" not in message
    assert "--channel N" not in message
    image = read_image(path, stack=option)
    assert image.volume.axis == image.order.index("z")
    np.testing.assert_array_equal(
        image.volume.take(2), scan(image.order).take(2, image.volume.axis)
    )
    beside, _ = flat_file(tmp_path / "seeds", kind, seeds("zyx"))
    labels = read_labels(beside, image)
    np.testing.assert_array_equal(labels, seeds(image.order))
    for suffix in (".nii.gz", ".tif", ".zarr"):
        out = write_labels(tmp_path / f"out{suffix}", labels, image)
        np.testing.assert_array_equal(read_labels(out, image), labels)
    with pytest.raises(VolumeError, match=r"has no slices along"):
        read_image(path, stack="channel" if option == "time" else "time")


def test_a_stack_is_not_restacked(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", scan("zyx"), imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(VolumeError, match=r"no slices along time.*Leave --stack out"):
        read_image(tmp_path / "a.tif", stack="time")


def test_labels_of_a_time_series_follow_the_image(tmp_path):
    series = np.stack([scan("zyx")] * 3)
    marks = np.zeros(series.shape, np.uint8)
    marks[1] = seeds("zyx")
    marks[2, 0] = 9
    for name, data in (("scan", series), ("seeds", marks), ("short", marks[:2])):
        tifffile.imwrite(tmp_path / f"{name}.tif", data, imagej=True, metadata={"axes": "TZYX"})
    image = read_image(tmp_path / "scan.tif", time=1)
    with pytest.warns(SlmSam2Warning, match=r"time point 1, that of the image.*--seeds-time N"):
        labels = read_labels(tmp_path / "seeds.tif", image, option_prefix="seeds-")
    np.testing.assert_array_equal(labels, seeds("zyx"))
    assert (read_labels(tmp_path / "seeds.tif", image, time=2)[0] == 9).all()
    with pytest.raises(VolumeError, match=r"2 time points.*--seeds-time N"):
        read_labels(tmp_path / "short.tif", image, option_prefix="seeds-")
