"""DICOM series, multi-frame images and segmentations."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1, RLELossless, generate_uid
from tests.dicom_files import (
    AXIAL,
    SAGITTAL,
    oblique,
    place_of,
    reread,
    save_multi_frame,
    save_series,
)

from napari_slmsam2.core.errors import OutputError, SlmSam2Warning, VolumeError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.io import read_image, read_label_map, read_labels, write_labels
from napari_slmsam2.io.geometry import TimeAxis

SPACING = (0.8, 0.6)
REVERSED = [5, 4, 3, 2, 1, 0]
SHUFFLED = [3, 0, 5, 1, 4, 2]


def assert_places(image, stored, positions, orientation, spacing=SPACING):
    """Every voxel has the value and the place that the standard gives it."""
    data = np.asarray(image.volume.data)
    assert data.shape == stored.shape
    affine = image.geometry.affine
    # By the value of the first pixel: which slice of the file is slice 0 of the image?
    found = [int(np.flatnonzero((stored == plane).all(axis=(1, 2)))[0]) for plane in data]
    assert sorted(found) == list(range(len(stored)))
    for k, source in enumerate(found):
        for row, column in ((0, 0), (0, data.shape[2] - 1), (data.shape[1] - 1, 3)):
            place = affine @ np.array([k, row, column, 1.0])
            expected = place_of((source, row, column), positions, orientation, spacing)
            np.testing.assert_allclose(place[:3], expected, atol=1e-4)


@pytest.mark.parametrize("order", [None, REVERSED, SHUFFLED])
@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, oblique(), oblique((1.2, 0.7, -2.0))])
def test_every_voxel_of_a_series_has_its_place(tmp_path, orientation, order):
    stored, positions = save_series(tmp_path / "ct", orientation=orientation, order=order)
    image = read_image(tmp_path / "ct")
    assert (image.format, image.order) == ("DICOM", "zyx")
    np.testing.assert_allclose(image.geometry.spacing, (2.5, 0.8, 0.6))
    assert image.geometry.unit == "mm"
    assert_places(image, stored, positions, orientation)


def test_a_series_is_found_by_one_of_its_files(tmp_path):
    stored, _ = save_series(tmp_path, name="{:03d}.dcm")
    save_series(tmp_path, name="other{:03d}.dcm", seed=4)
    for path in (tmp_path / "000.dcm", tmp_path / "004.dcm"):
        np.testing.assert_array_equal(read_image(path).volume.data, stored)


def test_a_list_of_files_is_a_series(tmp_path):
    stored, _ = save_series(tmp_path, leave_out=[4])
    image = read_image([tmp_path / f"IM{i:04d}" for i in (3, 1, 2)])
    np.testing.assert_array_equal(image.volume.data, stored[1:4])
    (tmp_path / "notes.tif").write_bytes(b"x")
    with pytest.raises(VolumeError, match="not one of several DICOM files"):
        read_image([tmp_path / "IM0001", tmp_path / "notes.tif"])


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, -1024, np.int16), (2, 100, np.int16), (0.5, 3.25, np.float32), (1, 40000, np.uint16)],
)
def test_intensities_are_rescaled(tmp_path, slope, intercept, dtype):
    stored, _ = save_series(tmp_path, slope=slope, intercept=intercept)
    data = np.asarray(read_image(tmp_path).volume.data)
    assert data.dtype == dtype
    np.testing.assert_allclose(data, stored.astype(np.float64) * slope + intercept)


def test_each_slice_has_its_own_slope(tmp_path):
    slopes = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    stored, _ = save_series(tmp_path, RescaleSlope=[str(s) for s in slopes])
    data = np.asarray(read_image(tmp_path).volume.data)
    expected = stored.astype(np.float64) * np.array(slopes)[:, None, None]
    np.testing.assert_allclose(data, expected, rtol=1e-6)


def test_missing_slices_are_named(tmp_path):
    save_series(tmp_path, leave_out=[2, 3])
    with pytest.raises(VolumeError, match=r"2 of its slices are missing") as error:
        read_image(tmp_path)
    for part in ("every 2.5 mm", "7.5 mm between IM0001, IM0004", "Copy all files"):
        assert part in str(error.value)


def test_unequal_distances_are_refused(tmp_path):
    positions = [["-20", "30", str(z)] for z in (0, 2.5, 5, 8.3, 11.6, 14.9)]
    save_series(tmp_path, ImagePositionPatient=positions)
    with pytest.raises(VolumeError, match=r"unequal distances.*from 2\.5 to 3\.3 mm"):
        read_image(tmp_path)


def test_small_differences_of_distances_are_reported(tmp_path):
    positions = [["-20", "30", str(z)] for z in (0, 2.5, 5, 7.55, 10, 12.5)]
    save_series(tmp_path, ImagePositionPatient=positions)
    with pytest.warns(SlmSam2Warning, match=r"distances from 2\.45 to 2\.55 mm"):
        image = read_image(tmp_path)
    assert image.geometry.spacing[0] == pytest.approx(2.5)


def test_slices_shifted_sideways_are_refused(tmp_path):
    positions = [[str(x), "30", str(z)] for x, z in zip((0, 0, 5, 0, 0, 0), range(6), strict=True)]
    save_series(tmp_path, ImagePositionPatient=positions)
    with pytest.raises(VolumeError, match="shifted against each other"):
        read_image(tmp_path)


def test_a_tilted_gantry_is_reported_and_every_voxel_has_its_place(tmp_path):
    tilt = np.radians(15)
    step = 2.5 * np.array([0, -np.tan(tilt), 1.0])
    stored, positions = save_series(tmp_path, step=step, GantryDetectorTilt="15")
    with pytest.warns(SlmSam2Warning, match="tilted by 15 degrees"):
        image = read_image(tmp_path)
    assert_places(image, stored, positions, AXIAL)
    assert image.geometry.spacing[0] == pytest.approx(np.linalg.norm(step))


def test_files_that_are_there_twice_count_once(tmp_path):
    stored, _ = save_series(tmp_path)
    shutil.copy(tmp_path / "IM0002", tmp_path / "IM0002 (copy)")
    with pytest.warns(SlmSam2Warning, match="1 slices are there twice"):
        image = read_image(tmp_path)
    np.testing.assert_array_equal(image.volume.data, stored)


def test_two_slices_at_one_place_are_named(tmp_path):
    series = generate_uid()
    save_series(tmp_path, series=series)
    save_series(tmp_path, series=series, name="b{:04d}", leave_out=[0, 1, 3, 4, 5])
    with pytest.raises(VolumeError, match="several slices lie at the same place") as error:
        read_image(tmp_path)
    assert "IM0002, b0002" in str(error.value)


def test_several_series_are_listed_for_a_choice(tmp_path):
    first, _ = save_series(tmp_path / "study" / "a", SeriesNumber=2, SeriesDescription="Liver")
    second, _ = save_series(
        tmp_path / "study" / "b", SeriesNumber=7, SeriesDescription="Bone", seed=3
    )
    (tmp_path / "study" / "readme.txt").write_text("no image")
    with pytest.raises(VolumeError, match="has 2 images") as error:
        read_image(tmp_path / "study")
    assert "0 (2 Liver CT, 6 x 5 x 7), 1 (7 Bone CT, 6 x 5 x 7)" in str(error.value)
    assert "--image N" in str(error.value)
    np.testing.assert_array_equal(read_image(tmp_path / "study", image=0).volume.data, first)
    np.testing.assert_array_equal(read_image(tmp_path / "study", image=1).volume.data, second)
    by_name = read_image(tmp_path / "study", image="7 Bone CT, 6 x 5 x 7")
    np.testing.assert_array_equal(by_name.volume.data, second)


def test_scouts_and_echoes_of_a_series_are_images_of_their_own(tmp_path):
    series = generate_uid()
    first, _ = save_series(tmp_path, series=series, EchoTime="4.6", name="a{:03d}")
    second, _ = save_series(tmp_path, series=series, EchoTime="9.2", name="b{:03d}", seed=1)
    save_series(tmp_path, series=series, shape=(1, 5, 7), orientation=SAGITTAL, name="scout{}")
    with pytest.raises(VolumeError, match="has 3 images"):
        read_image(tmp_path)
    found = [np.asarray(read_image(tmp_path, image=i).volume.data) for i in range(3)]
    assert any(np.array_equal(data, first) for data in found)
    assert any(np.array_equal(data, second) for data in found)
    np.testing.assert_array_equal(read_image(tmp_path / "b002").volume.data, second)


def test_several_images_at_the_same_places_are_time_points(tmp_path):
    series = generate_uid()
    stacks = [
        save_series(tmp_path, series=series, name=f"t{t}_{{}}", seed=t, TriggerTime=str(40 * t))[0]
        for t in (2, 0, 1)
    ]
    for t, stored in zip((2, 0, 1), stacks, strict=True):
        image = read_image(tmp_path, time=t)
        assert image.n_times == 3
        np.testing.assert_array_equal(image.volume.data, stored)
        assert image.geometry.time == TimeAxis(40, "ms")


@pytest.mark.parametrize("orientation", [AXIAL, oblique()])
def test_an_enhanced_multi_frame_image(tmp_path, orientation):
    stored, positions = save_multi_frame(
        tmp_path / "mr.dcm", orientation=orientation, order=SHUFFLED, slope=2, intercept=-5
    )
    image = read_image(tmp_path / "mr.dcm")
    np.testing.assert_allclose(image.geometry.spacing, (3, 0.8, 0.6))
    scaled = 2 * stored[0] - 5
    assert_places(image, scaled, positions, orientation)


def test_an_enhanced_time_series(tmp_path):
    stored, positions = save_multi_frame(tmp_path / "mr.dcm", n_times=3, order=REVERSED)
    for t in range(3):
        image = read_image(tmp_path / "mr.dcm", time=t)
        assert image.n_times == 3
        assert_places(image, stored[t], positions, AXIAL)


def test_slices_without_a_place_are_read_in_the_order_of_their_numbers(tmp_path):
    stored, _ = save_series(tmp_path, order=SHUFFLED)
    for file in tmp_path.iterdir():
        dataset = reread(file)
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
        dataset.save_as(file)
    with pytest.warns(SlmSam2Warning, match="nothing specifies where its slices lie"):
        image = read_image(tmp_path)
    np.testing.assert_array_equal(image.volume.data, stored[np.argsort(SHUFFLED)])
    assert image.geometry.affine is None
    np.testing.assert_allclose(image.geometry.spacing, (2.5, 0.8, 0.6))


def test_a_missing_decoder_is_named_with_its_package(tmp_path):
    save_series(tmp_path)
    for file in tmp_path.iterdir():
        dataset = reread(file)
        dataset.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(file)
    with pytest.raises(VolumeError, match="pip install pylibjpeg pylibjpeg-libjpeg") as error:
        read_image(tmp_path)
    assert "JPEG Lossless" in str(error.value)


def test_run_length_encoded_slices(tmp_path):
    stored, _ = save_series(tmp_path)
    for file in tmp_path.iterdir():
        dataset = reread(file)
        dataset.compress(RLELossless)
        dataset.save_as(file)
    np.testing.assert_array_equal(read_image(tmp_path).volume.data, stored)


def test_truncated_pixels_are_named(tmp_path):
    save_series(tmp_path)
    file = tmp_path / "IM0003"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(VolumeError, match=r"IM0003.*cannot be decoded"):
        read_image(tmp_path)


@pytest.mark.parametrize("name", ["rtplan.dcm", "SC_rgb_rle.dcm"])
def test_what_is_no_grey_image_is_named(tmp_path, name):
    shutil.copy(get_testdata_file(name), tmp_path / name)
    with pytest.raises(VolumeError, match=f"contains no DICOM image.*{name.split('.')[0]}"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm",
             "MR_small_jpeg_ls_lossless.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"]
)  # fmt: skip
def test_files_of_pydicom(tmp_path, name):
    shutil.copy(get_testdata_file(name), tmp_path / name)
    dataset = pydicom.dcmread(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.volume.shape == (1, dataset.Rows, dataset.Columns)
    expected = dataset.pixel_array.astype(float) * float(dataset.get("RescaleSlope", 1))
    expected += float(dataset.get("RescaleIntercept", 0))
    np.testing.assert_array_equal(np.asarray(image.volume.data)[0], expected)
    place = (image.geometry.affine @ [0, 0, 0, 1])[:3]
    np.testing.assert_allclose(place * [-1, -1, 1], dataset.ImagePositionPatient)


@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_dose_grid_of_pydicom(tmp_path, is_absolute):
    dataset = pydicom.dcmread(get_testdata_file("rtdose.dcm"))
    offset = float(dataset.GridFrameOffsetVector[3])
    if is_absolute:  # places along the third axis of the patient
        start = dataset.ImagePositionPatient[2]
        dataset.GridFrameOffsetVector = [start + o for o in dataset.GridFrameOffsetVector]
    dataset.save_as(tmp_path / "rtdose.dcm")
    image = read_image(tmp_path / "rtdose.dcm")
    data = dataset.pixel_array * float(dataset.DoseGridScaling)
    np.testing.assert_allclose(image.volume.data, data, rtol=1e-6)
    place = (image.geometry.affine @ [3, 0, 0, 1])[:3] * [-1, -1, 1]
    expected = np.add(np.array(dataset.ImagePositionPatient, float), (0, 0, offset))
    np.testing.assert_allclose(place, expected, atol=1e-6)


def test_real_series_of_pydicom(tmp_path):
    folder = Path(get_testdata_file("DICOMDIR")).parent
    with pytest.raises(VolumeError, match="images") as error:
        read_image(folder)
    assert "CT" in str(error.value)


# Labels.


def labels_of(image):
    labels = np.zeros(image.volume.shape, np.uint8)
    labels[1:3, 1:3, 2:5] = 2
    labels[3:5, 2:5, 0:2] = 7
    return labels


TABLE = LabelTable({2: "liver", 7: "lésion"}, {2: (0.8, 0.2, 0.1, 1.0), 7: (0.0, 0.5, 1.0, 1.0)})


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, oblique()])
def test_labels_as_nifti_lie_on_the_voxels_of_the_series(tmp_path, orientation):
    save_series(tmp_path / "ct", orientation=orientation, order=REVERSED)
    image = read_image(tmp_path / "ct")
    labels = labels_of(image)
    path = write_labels(tmp_path / "out.nii.gz", labels, image)
    np.testing.assert_array_equal(read_labels(path, image), labels)
    written = nib.load(path)
    voxels = np.asarray(written.dataobj)
    for column, row, k in np.argwhere(voxels == 7):
        place = written.affine @ [column, row, k, 1]
        ours = image.geometry.affine @ [k, row, column, 1]
        np.testing.assert_allclose(place, ours, atol=1e-4)


def make_image(tmp_path, make, orientation):
    if make == "series":
        return save_series(tmp_path / "ct", orientation=orientation, order=SHUFFLED)
    return save_multi_frame(tmp_path / "ct" / "mr.dcm", orientation=orientation, order=SHUFFLED)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, oblique()])
@pytest.mark.parametrize("make", ["series", "multi-frame"])
def test_labels_as_dicom_segmentation(tmp_path, make, orientation):
    make_image(tmp_path, make, orientation)
    image = read_image(tmp_path / "ct")
    labels = labels_of(image)
    path = write_labels(tmp_path / "ct" / "labels.dcm", labels, image, table=TABLE)
    found = read_label_map(path, image)
    np.testing.assert_array_equal(found.array, labels)
    assert found.table.names == TABLE.names
    for label, colour in TABLE.colours.items():
        np.testing.assert_allclose(found.table.colours[label], colour, atol=0.02)

    segmentation = reread(path)
    assert segmentation.Modality == "SEG"
    assert (
        segmentation.StudyInstanceUID == reread(next((tmp_path / "ct").iterdir())).StudyInstanceUID
    )
    assert [s.SegmentNumber for s in segmentation.SegmentSequence] == [1, 2]
    again = read_image(tmp_path / "ct")  # the segmentation beside it is no second image
    np.testing.assert_array_equal(again.volume.data, image.volume.data)


def test_a_segmentation_of_a_time_point_refers_to_the_files_of_that_one(tmp_path):
    series = generate_uid()
    for t in range(2):
        save_series(tmp_path, series=series, name=f"t{t}_{{}}.dcm", seed=t, TriggerTime=str(40 * t))
    image = read_image(tmp_path, time=1)
    path = write_labels(tmp_path / "labels.dcm", labels_of(image), image)
    [referenced] = reread(path).ReferencedSeriesSequence
    found = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert found <= {reread(tmp_path / f"t1_{k}.dcm").SOPInstanceUID for k in range(6)}
    np.testing.assert_array_equal(read_labels(path, image), labels_of(image))


def test_a_segmentation_places_its_voxels_as_highdicom_does(tmp_path):
    """An independent reader of the written file."""
    import highdicom as hd

    save_series(tmp_path / "ct", orientation=oblique(), order=REVERSED)
    image = read_image(tmp_path / "ct")
    labels = labels_of(image)
    path = write_labels(tmp_path / "labels.dcm", labels, image)
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    theirs = np.argwhere(volume.array == 2) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    affine = image.geometry.affine
    ours = np.argwhere(labels == 7) @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(
        np.sort(theirs * [-1, -1, 1], axis=0), np.sort(ours, axis=0), atol=1e-3
    )


def test_overlapping_segments_of_others_are_layers(tmp_path):
    import highdicom as hd
    from pydicom.sr.codedict import codes

    save_series(tmp_path / "ct")
    image = read_image(tmp_path / "ct")
    files = sorted((tmp_path / "ct").iterdir())
    masks = np.zeros((6, 5, 7, 2), np.uint8)
    masks[1:4, 1:3, 1:4, 0] = 1
    masks[2:5, 2:4, 2:6, 1] = 1
    segments = [
        hd.seg.SegmentDescription(i + 1, name, codes.SCT.Tissue, codes.SCT.Tissue, "MANUAL")
        for i, name in enumerate(["organ", "tumour"])
    ]
    sources = [reread(file) for file in files]
    for source in sources:
        source.PatientName = "Phantom^"
        for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                        "AccessionNumber", "ReferringPhysicianName"):  # fmt: skip
            setattr(source, keyword, "")
    segmentation = hd.seg.Segmentation(
        sources, masks, "BINARY", segments, generate_uid(), 9,
        generate_uid(), 1, "x", "x", "1", "0",
    )  # fmt: skip
    segmentation.save_as(tmp_path / "seg.dcm")
    with pytest.raises(VolumeError, match=r"has 2 channels.*organ.*tumour"):
        read_labels(tmp_path / "seg.dcm", image)
    found = read_label_map(tmp_path / "seg.dcm", image, channel="tumour")
    np.testing.assert_array_equal(found.array, 2 * masks[..., 1])
    assert found.table.names == {2: "tumour"}


def test_a_segmentation_needs_a_dicom_image(tmp_path):
    nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)).to_filename(tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    with pytest.raises(OutputError, match="refers to the DICOM files of its image"):
        write_labels(tmp_path / "out.dcm", np.ones((4, 5, 6), np.uint8), image)
    assert not (tmp_path / "out.dcm").exists()


def test_an_empty_segmentation_is_refused(tmp_path):
    save_series(tmp_path / "ct")
    image = read_image(tmp_path / "ct")
    with pytest.raises(OutputError, match="only background"):
        write_labels(tmp_path / "out.dcm", np.zeros((6, 5, 7), np.uint8), image)
