"""Time series: labels of every time point, with the time axis of their image."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import tifffile
import zarr

from napari_slmsam2.core.errors import GridMismatchError, OutputError
from napari_slmsam2.io import read_image, read_labels, write_labels
from napari_slmsam2.io.geometry import TimeAxis
from napari_slmsam2.io.units import IN_MM

AFFINE = np.array([[0, -0.9, 0, 12], [0.8, 0, 0, -7], [0, 0, 5, 3], [0, 0, 0, 1.0]])
N_TIMES = 3


def nifti_series(path):
    data = np.random.default_rng(3).integers(0, 900, (5, 6, 4, N_TIMES)).astype(np.int16)
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 2500
    image.header["toffset"] = 125
    image.to_filename(path)


def ome_zarr_series(path):
    group = zarr.open_group(path, mode="w")
    data = np.random.default_rng(3).integers(0, 900, (N_TIMES, 4, 6, 5)).astype(np.int16)
    group.create_array("0", data=data)
    steps = [
        {"type": "scale", "scale": [0.5, 5.0, 0.9, 0.8]},
        {"type": "translation", "translation": [7.0, 1.0, 2.0, 3.0]},
    ]
    axes = [{"name": "t", "type": "time", "unit": "minute"}]
    axes += [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


def tiff_series(path):
    data = np.random.default_rng(3).integers(0, 900, (N_TIMES, 4, 6, 5)).astype(np.uint16)
    sizes = {"PhysicalSizeZ": 5.0, "PhysicalSizeY": 0.9, "PhysicalSizeX": 0.8}
    metadata = {"axes": "TZYX", "TimeIncrement": 40.0, "TimeIncrementUnit": "ms", **sizes}
    tifffile.imwrite(path, data, ome=True, metadata=metadata)


def imagej_series(path):
    data = np.random.default_rng(3).integers(0, 900, (N_TIMES, 4, 6, 5)).astype(np.uint16)
    metadata = {"axes": "TZYX", "spacing": 5.0, "unit": "um", "finterval": 12.5, "tunit": "sec"}
    tifffile.imwrite(path, data, imagej=True, resolution=(2, 2), metadata=metadata)


IMAGES = {
    "image.nii.gz": (nifti_series, TimeAxis(2500, "ms", 125)),
    "image.ome.zarr": (ome_zarr_series, TimeAxis(0.5, "min", 7)),
    "image.ome.tif": (tiff_series, TimeAxis(40, "ms")),
    "image.tif": (imagej_series, TimeAxis(12.5, "s")),
}
SECONDS = {"ms": 1e-3, "s": 1, "min": 60}


@pytest.mark.parametrize(
    "name", ["out.nii.gz", "out.nii", "out.img", "out.nrrd", "out.nhdr", "out.tif", "out.ome.tif",
             "out.ome.zarr", "out.npy", "out.mgz"]
)  # fmt: skip
@pytest.mark.parametrize("image_name", IMAGES)
@pytest.mark.filterwarnings("ignore:.*OME-Zarr keeps:napari_slmsam2.core.errors.SlmSam2Warning")
@pytest.mark.filterwarnings("ignore:.*its axes have no names:UserWarning")
def test_every_time_point_is_written(tmp_path, image_name, name):
    make, time = IMAGES[image_name]
    make(tmp_path / image_name)
    image = read_image(tmp_path / image_name, time=1)
    assert image.geometry.time == time
    labels = np.random.default_rng(4).integers(0, 9, (N_TIMES, *image.volume.shape))
    path = write_labels(tmp_path / name, labels, image)
    for t in range(N_TIMES):
        found = read_labels(path, read_image(tmp_path / image_name, time=t), time=t)
        np.testing.assert_array_equal(found, labels[t])
    again = read_image(path, time=0)
    assert again.n_times == N_TIMES
    if name == "out.npy":
        return
    kept = again.geometry.time
    assert kept.step * SECONDS[kept.unit] == pytest.approx(time.step * SECONDS[time.unit])
    can_start = name.endswith((".nii.gz", ".nii", ".img", ".nrrd", ".nhdr", ".zarr"))
    if can_start:
        assert kept.start * SECONDS[kept.unit] == pytest.approx(time.start * SECONDS[time.unit])
    ours = again.geometry.reordered(again.order, image.order)
    size = np.array(ours.spacing) * IN_MM[ours.unit]
    np.testing.assert_allclose(
        size, np.array(image.geometry.spacing) * IN_MM[image.geometry.unit], rtol=1e-6
    )
    if image.geometry.affine is not None and ours.affine is not None:
        np.testing.assert_allclose(ours.affine, image.geometry.affine, atol=1e-5)


def test_a_series_keeps_the_header_of_a_nifti_series(tmp_path):
    nifti_series(tmp_path / "image.nii.gz")
    image = read_image(tmp_path / "image.nii.gz", time=0)
    write_labels(tmp_path / "out.nii.gz", np.zeros((N_TIMES, 5, 6, 4), int), image)
    ours, theirs = (nib.load(tmp_path / n).header for n in ("out.nii.gz", "image.nii.gz"))
    for key in (
        "dim",
        "pixdim",
        "xyzt_units",
        "toffset",
        "srow_x",
        "srow_y",
        "srow_z",
        "qform_code",
    ):
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


@pytest.mark.parametrize("lead", ["c", "tc", "ct"])
@pytest.mark.parametrize("name", ["out.nii.gz", "out.nrrd", "out.ome.tif", "out.ome.zarr"])
@pytest.mark.filterwarnings("ignore:.*OME-Zarr keeps:napari_slmsam2.core.errors.SlmSam2Warning")
def test_channels_are_written_too(tmp_path, name, lead):
    nifti_series(tmp_path / "image.nii.gz")
    image = read_image(tmp_path / "image.nii.gz", time=0)
    sizes = {"t": N_TIMES, "c": 2}
    shape = (*(sizes[x] for x in lead), *image.volume.shape)
    labels = np.random.default_rng(4).integers(0, 9, shape)
    path = write_labels(tmp_path / name, labels, image, lead=lead)
    for place in np.ndindex(shape[:-3]):
        chosen = dict(zip(lead, place, strict=True))
        found = read_labels(path, image, time=chosen.get("t"), channel=chosen["c"])
        np.testing.assert_array_equal(found, labels[place])


@pytest.mark.parametrize(("name", "lead"), [("out.seg.nrrd", "t"), ("out.mgz", "c")])
def test_a_format_without_room_for_a_series_is_refused_with_one_that_has(tmp_path, name, lead):
    nifti_series(tmp_path / "image.nii.gz")
    image = read_image(tmp_path / "image.nii.gz", time=0)
    with pytest.raises(OutputError, match=r"\.nii\.gz, \.nrrd, \.ome\.tif") as error:
        write_labels(tmp_path / name, np.zeros((2, 5, 6, 4), int), image, lead=lead)
    assert name in str(error.value)
    assert not (tmp_path / name).exists()


def test_too_many_axes_are_refused(tmp_path):
    nifti_series(tmp_path / "image.nii.gz")
    image = read_image(tmp_path / "image.nii.gz", time=0)
    with pytest.raises(GridMismatchError, match="too many axes"):
        write_labels(tmp_path / "a.nii", np.zeros((2, 2, 2, 5, 6, 4), int), image)
