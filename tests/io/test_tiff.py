import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io import _tiff, read_image, read_labels, write_labels

SHAPE = (4, 6, 5)


@pytest.fixture
def stack(rng):
    return rng.integers(0, 1000, SHAPE).astype(np.uint16)


def write_imagej(path, data, spacing=(0.5, 0.13, 0.12), unit="um", **metadata):
    tifffile.imwrite(
        path,
        data,
        imagej=True,
        resolution=(1 / spacing[2], 1 / spacing[1]),
        metadata={"spacing": spacing[0], "unit": unit, "axes": "ZYX", **metadata},
    )
    return path


def write_ome(path, data, axes="ZYX", sizes=(0.5, 0.13, 0.12), unit="µm", **options):
    metadata = {"axes": axes, **options.pop("metadata", {})}
    for axis, size in zip("ZYX", sizes, strict=True):
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    tifffile.imwrite(path, data, ome=True, metadata=metadata, photometric="minisblack", **options)
    return path


def all_slices(volume):
    return np.stack([volume.take(i) for i in range(volume.n_slices)], volume.axis)


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m", "microns"])
def test_imagej_voxel_size(tmp_path, stack, unit):
    loaded = read_image(write_imagej(tmp_path / "a.tif", stack, unit=unit))
    assert loaded.format == "ImageJ TIFF"
    assert loaded.volume.unit == "um"
    assert loaded.volume.spacing == pytest.approx((0.5, 0.13, 0.12))
    assert loaded.volume.axis == 0
    assert "coarsest" in loaded.axis_reason
    np.testing.assert_array_equal(all_slices(loaded.volume), stack)


def resolution_tags(path):
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages[0].tags
        names = ("XResolution", "YResolution", "ResolutionUnit")
        metadata = {k: tif.imagej_metadata.get(k) for k in ("unit", "spacing")}
        return [tags[n].value for n in names], metadata


def test_imagej_labels_keep_the_voxel_size_to_the_last_digit(tmp_path, stack):
    path = write_imagej(tmp_path / "a.tif", stack, spacing=(0.2837184, 0.1267864, 0.1267864))
    loaded = read_image(path)
    for highest in (255, 65535):
        labels = np.zeros(SHAPE, int)
        labels[0, 0, 0] = highest
        out = write_labels(tmp_path / f"{highest}.tif", labels, loaded)
        assert resolution_tags(out) == resolution_tags(path)
        assert read_image(out).volume.spacing == loaded.volume.spacing
        np.testing.assert_array_equal(read_labels(out, loaded), labels)


def test_labels_that_imagej_cannot_hold_become_ome(tmp_path, stack):
    loaded = read_image(write_imagej(tmp_path / "a.tif", stack))
    labels = np.full(SHAPE, 70_000)
    out = write_labels(tmp_path / "labels.tif", labels, loaded)
    back = read_image(out)
    assert back.format == "OME-TIFF"
    assert back.dtype == np.uint32
    assert back.volume.spacing == loaded.volume.spacing
    assert back.volume.unit == "um"
    np.testing.assert_array_equal(read_labels(out, loaded), labels)


@settings(max_examples=20)
@given(
    sizes=st.tuples(*[st.floats(1e-3, 1e3)] * 3),
    unit=st.sampled_from(["µm", "nm", "mm", "m", "pixel"]),
    dtype=st.sampled_from(["u1", "u2", ">u2", "i2", "f4", "u4"]),
    compression=st.sampled_from([None, "zlib"]),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    highest=st.sampled_from([1, 255, 256, 65536]),
)
def test_any_ome_image_round_trips(
    tmp_path_factory, sizes, unit, dtype, compression, shape, highest
):
    folder = tmp_path_factory.mktemp("ome")
    data = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    path = folder / "image.ome.tif"
    write_ome(path, data, sizes=sizes, unit=unit, compression=compression)
    loaded = read_image(path)
    assert loaded.volume.spacing == sizes
    assert loaded.volume.unit == {"µm": "um"}.get(unit, unit)
    np.testing.assert_array_equal(all_slices(loaded.volume), data)
    labels = np.zeros(shape, int)
    labels[-1, -1, -1] = highest
    out = write_labels(folder / "labels.ome.tif", labels, loaded)
    back = read_image(out)
    assert (back.volume.spacing, back.volume.unit) == (sizes, loaded.volume.unit)
    np.testing.assert_array_equal(read_labels(out, loaded), labels)


def test_stacks_without_voxel_size_are_sliced_along_their_pages(tmp_path, stack):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack")
    loaded = read_image(path)
    assert loaded.volume.axis == 0
    assert loaded.volume.unit == "pixel"
    assert loaded.volume.spacing == (1, 1, 1)
    assert "along which the file stacks slices" in loaded.axis_reason


def test_a_series_of_pages_and_a_time_series_are_stacks(tmp_path, stack):
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as tif:
        for page in stack:
            tif.write(page, contiguous=False, metadata=None)
    assert read_image(path).volume.shape == SHAPE
    path = tmp_path / "time.tif"
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "TYX"})
    np.testing.assert_array_equal(all_slices(read_image(path).volume), stack)


def test_an_imagej_stack_with_one_directory_only(tmp_path, stack):
    path = tmp_path / "large.tif"
    metadata = {"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    tifffile.imwrite(path, stack, imagej=True, truncate=True, metadata=metadata)
    loaded = read_image(path)
    np.testing.assert_array_equal(all_slices(loaded.volume), stack)
    assert loaded.volume.spacing[0] == 2


def test_a_single_slice_is_a_volume(tmp_path):
    data = np.arange(30, dtype=np.uint8).reshape(1, 6, 5)
    loaded = read_image(write_imagej(tmp_path / "a.tif", data))
    np.testing.assert_array_equal(all_slices(loaded.volume), data)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_channels_and_times_are_picked(tmp_path, rng, compression):
    data = rng.integers(0, 255, (2, 4, 3, 6, 5)).astype(np.uint8)
    path = write_ome(
        tmp_path / "a.ome.tif", data, axes="TZCYX", compression=compression,
        metadata={"Channel": {"Name": ["DAPI", "GFP", "RFP"]}},
    )  # fmt: skip
    with pytest.raises(VolumeError, match="time points"):
        read_image(path, channel=0)
    with pytest.raises(VolumeError, match=r"0 \(DAPI\), 1 \(GFP\), 2 \(RFP\)"):
        read_image(path, time=0)
    for channel in (1, "GFP"):
        loaded = read_image(path, time=1, channel=channel)
        assert loaded.volume.spacing == (0.5, 0.13, 0.12)
        np.testing.assert_array_equal(all_slices(loaded.volume), data[1, :, 1])
    out = write_labels(tmp_path / "labels.tif", np.ones((4, 6, 5), np.uint8), loaded)
    assert read_image(out).volume.spacing == (0.5, 0.13, 0.12)


def test_colours_are_channels(tmp_path, rng):
    data = rng.integers(0, 255, (4, 6, 5, 3)).astype(np.uint8)
    path = tmp_path / "rgb.tif"
    tifffile.imwrite(path, data, imagej=True, photometric="rgb", metadata={"axes": "ZYXS"})
    with pytest.raises(VolumeError, match="has 3 channels; expected one channel: 0 to 2"):
        read_image(path)
    np.testing.assert_array_equal(all_slices(read_image(path, channel=2).volume), data[..., 2])


def test_a_single_plane_is_no_volume(tmp_path):
    path = tmp_path / "plane.tif"
    for shape, problem in (((6, 5), "not a 3D volume"), ((6, 5, 3), "has one slice and 3 chan")):
        tifffile.imwrite(path, np.zeros(shape, np.uint8))
        with pytest.raises(VolumeError, match=problem):
            read_image(path)


def test_narrow_labels_are_not_taken_for_colours(tmp_path):
    data = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    loaded = read_image(write_ome(tmp_path / "a.ome.tif", data))
    for name in ("a.tif", "b.ome.tif"):
        out = write_labels(tmp_path / f"labels_{name}", data, loaded)
        np.testing.assert_array_equal(read_labels(out, loaded), data)


def test_large_compressed_stacks_are_decoded_page_by_page(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(_tiff, "MAX_IN_MEMORY", 0)
    data = rng.integers(0, 255, (2, 7, 6, 5)).astype(np.uint8)
    path = write_ome(tmp_path / "a.ome.tif", data, axes="CZYX", compression="zlib")
    decoded = []
    original = _tiff.PageStack._page
    monkeypatch.setattr(
        _tiff.PageStack, "_page", lambda self, i: decoded.append(i) or original(self, i)
    )
    volume = read_image(path, channel=1).volume
    np.testing.assert_array_equal(volume.take(3), data[1, 3])
    assert decoded == [7 + 3]
    for axis in (1, 2):
        np.testing.assert_array_equal(volume.with_axis(axis).take(4), np.take(data[1], 4, axis))
