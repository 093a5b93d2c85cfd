"""What cannot be read is named; images and labels are told apart; headers that contradict."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_slmsam2.core.errors import SlmSam2Warning, VolumeError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io import read_image, read_label_names, warn_of_few_values, write_label_names
from napari_slmsam2.io.formats import FORMATS
from napari_slmsam2.io.unreadable import FORMATS as UNREADABLE


def mrc(path):
    path.write_bytes(b"\0" * 208 + b"MAP " + b"\0" * 1000)
    return path


def dicom(path):
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 100)
    return path


@pytest.mark.parametrize(
    ("make", "name", "what", "way"),
    [
        (dicom, "IM000001", "contains no DICOM image", "dcm2niix"),
        (dicom, "slice.dcm", "contains no DICOM image", "dcm2niix"),
        (Path.touch, "slice.dcm", "contains no DICOM image", "dcm2niix"),
        (Path.touch, "brain.mha", "is MetaImage", "SimpleITK"),
        (lambda p: p.write_bytes(b"ObjectType = Image\nNDims = 3"), "a.txt", "MetaImage", "Simple"),
        (mrc, "tomogram.mrc", "is MRC", "mrc2tif"),
        (mrc, "tomogram.rec", "is MRC", "mrc2tif"),
        (lambda p: p.write_bytes(b"IMODV1.2xxxx"), "cell.mod", "an IMOD model", "imodmop"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n"), "a.ims", "is HDF5", "h5py"),
        (Path.touch, "a.czi", "a microscope's own format", "bfconvert"),
        (Path.touch, "slice_001.png", "a picture", "Image Sequence"),
        (Path.touch, "a.npz", "archive of arrays", "numpy.save"),
    ],
)
def test_known_formats_are_named_with_a_converter(tmp_path, make, name, what, way):
    path = tmp_path / name
    make(path)
    with pytest.raises(VolumeError) as caught:
        read_image(path)
    assert f"{name}: " in str(caught.value)
    assert what in str(caught.value)
    assert way in str(caught.value)


@pytest.mark.parametrize("inner", ["", "series 1"])
def test_a_folder_of_damaged_dicom_files(tmp_path, inner):
    folder = tmp_path / "scan"
    (folder / inner).mkdir(parents=True)
    for i in range(3):
        dicom(folder / inner / f"I{i}")
    with pytest.raises(VolumeError, match=r"scan: contains no DICOM image.*dcm2niix"):
        read_image(folder)


@pytest.mark.parametrize(
    ("url", "command"),
    [("s3://bucket/a.zarr", "aws s3 cp"), ("https://site.org/a.nii.gz", "curl"),
     ("gs://bucket/a.zarr", "gcloud"), ("S3://bucket/a", "aws")],
)  # fmt: skip
def test_places_on_other_computers(url, command):
    for path in (url, Path(url)):
        with pytest.raises(VolumeError, match=f"{url}: is on another computer.*{command}"):
            read_image(path)


def test_what_is_read_is_not_in_the_other_table():
    readable = {suffix for known in FORMATS for suffix in known.readable}
    assert readable.isdisjoint({s for known in UNREADABLE for s in known.suffixes})


# Two transforms in one header.


def two_transforms(path, shift, codes=(1, 1)):
    affine = np.diag([1.0, 1, 3, 1])
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine)
    moved = affine.copy()
    moved[0, 3] = shift
    image.header.set_sform(affine, codes[0])
    image.header.set_qform(moved, codes[1])
    image.to_filename(path)
    return path


def test_contradicting_transforms_are_reported(tmp_path):
    path = two_transforms(tmp_path / "a.nii", 7.5)
    with pytest.warns(
        SlmSam2Warning,
        match=r"sform \(code 1\) and qform \(code 1\).*7\.5 apart. The sform is used",
    ):
        image = read_image(path)
    assert image.volume.affine[0, 3] == 0


@pytest.mark.parametrize(("shift", "codes"), [(0.01, (1, 1)), (9, (1, 0)), (9, (0, 2))])
def test_transforms_that_agree_are_not(tmp_path, shift, codes):
    read_image(two_transforms(tmp_path / "a.nii", shift, codes))


# Images that are labels.

SHAPE = (12, 40, 40)


def noise(dtype):
    return (np.random.default_rng(0).normal(500, 30, SHAPE)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_labels_given_as_the_image(dtype):
    labels = np.zeros(SHAPE, dtype)
    labels[:, 5:20, 3:9], labels[:, 5:20, 9:12] = 1, 7
    with pytest.warns(SlmSam2Warning, match=r"scan\.nii: it has only [23] different values"):
        warn_of_few_values(Volume(labels, name="scan.nii"))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int16])
def test_images_are_not(dtype):
    warn_of_few_values(Volume(noise(dtype)))


# Label descriptions of ITK-SNAP.


def test_label_names_come_back(tmp_path):
    table = LabelTable({1: 'left "atrium"', 3: "Größe"}, {1: (1.0, 0.0, 0.2, 0.5), 8: (0, 1, 0, 1)})
    path = write_label_names(tmp_path / "names.txt", table)
    found = read_label_names(path)
    assert found.names == {1: "left 'atrium'", 3: "Größe", 8: "Label 8"}
    assert found.colours[1] == (1.0, 0.0, 0.2, 0.5)
    assert 0 not in found.names


def test_label_names_of_itk_snap(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text(
        "# ITK-SnAP Label Description File\n"
        '    0     0    0    0        0  0  0    "Clear Label"\n'
        '    1   255    0    0        1  1  1    "caudate"\n'
        '\n   12     0  128  255     0.25  0  1    "left  putamen"\n'
    )
    found = read_label_names(path)
    assert found.names == {1: "caudate", 12: "left  putamen"}
    assert found.colours[12] == (0, 128 / 255, 1, 0.25)


@pytest.mark.parametrize("line", ["1 liver", "1 255 0 0 1 1 1 liver", '-1 0 0 0 1 1 1 "x"'])
def test_other_text_is_no_label_description(tmp_path, line):
    path = tmp_path / "names.txt"
    path.write_text(f"# names\n{line}\n")
    with pytest.raises(VolumeError, match=r"names\.txt: line 2 describes no label.*found "):
        read_label_names(path)
    with pytest.raises(VolumeError, match="cannot be read as a label description"):
        read_label_names(tmp_path / "missing.txt")
