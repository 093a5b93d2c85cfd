"""NRRD: where the data begin, several data files, and segmentations of 3D Slicer."""

import bz2
import gzip
import re

import nibabel as nib
import nrrd
import numpy as np
import pytest

from napari_slmsam2.contributions import readers
from napari_slmsam2.core.errors import GridMismatchError, SlmSam2Warning, VolumeError
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.io import read_image, read_label_map, read_labels, write_labels

DATA = np.arange(5 * 6 * 4, dtype="<i2").reshape(5, 6, 4)
VOXELS = DATA.tobytes("F")
BASE = (
    "NRRD0004\ntype: int16\ndimension: 3\nsizes: 5 6 4\nendian: little\nspacings: 1 1 3\n"
)  # fmt: skip
PACK = {"raw": lambda b: b, "gzip": gzip.compress, "bzip2": bz2.compress}


def voxels(path):
    return np.asarray(read_image(path).volume.data[:, :, :])


def write_detached(folder, content, encoding, fields="", name="a.raw"):
    (folder / name).write_bytes(content)
    path = folder / "a.nhdr"
    path.write_text(f"{BASE}encoding: {encoding}\n{fields}data file: {name}\n")
    return path


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize(
    ("before", "after", "skip"), [(b"", b"", 0), (b"12345", b"", 5), (b"12345", b"", -1),
                                  (b"1234", b"678", -4)]
)  # fmt: skip
def test_bytes_are_skipped(tmp_path, encoding, before, after, skip):
    """In a compressed file they are skipped after decompression."""
    packed = PACK[encoding](before + VOXELS + after)
    path = write_detached(tmp_path, packed, encoding, f"byte skip: {skip}\n")
    np.testing.assert_array_equal(voxels(path), DATA)


@pytest.mark.parametrize("encoding", PACK)
def test_lines_are_skipped_in_the_file_as_it_is(tmp_path, encoding):
    content = b"first\nsecond\n" + PACK[encoding](b"xy" + VOXELS)
    path = write_detached(tmp_path, content, encoding, "line skip: 2\nbyte skip: 2\n")
    np.testing.assert_array_equal(voxels(path), DATA)


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("attached", [True, False])
def test_surplus_data_are_reported(tmp_path, encoding, attached):
    packed = PACK[encoding](VOXELS + b"more")
    path = write_detached(tmp_path, packed, encoding)
    if attached:
        path = tmp_path / "a.nrrd"
        path.write_bytes(f"{BASE}encoding: {encoding}\n\n".encode() + packed)
    with pytest.warns(SlmSam2Warning, match=r"a\.(raw|nrrd): 4 bytes follow the voxels"):
        np.testing.assert_array_equal(voxels(path), DATA)


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("skip", [0, 5, -1, -9])
def test_too_few_data_are_refused(tmp_path, encoding, skip):
    packed = PACK[encoding](VOXELS[:-8])
    path = write_detached(tmp_path, packed, encoding, f"byte skip: {skip}\n")
    with pytest.raises(VolumeError, match=r"a\.raw"):
        voxels(path)


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("per_file", [1, 2])
@pytest.mark.parametrize("kind", ["LIST", "pattern", "falling"])
def test_one_data_file_per_slab(tmp_path, encoding, per_file, kind):
    n = 4 // per_file
    for i in range(n):
        part = DATA[:, :, i * per_file : (i + 1) * per_file].tobytes("F")
        name = f"s{n - 1 - i if kind == 'falling' else i:02d}.raw"
        (tmp_path / name).write_bytes(PACK[encoding](part))
    field = {
        "LIST": "LIST\n" + "".join(f"s{i:02d}.raw\n" for i in range(n)),
        "pattern": f"s%02d.raw 0 {n - 1} 1\n",
        "falling": f"s%02d.raw {n - 1} 0 -1\n",
    }[kind]
    path = tmp_path / "a.nhdr"
    path.write_text(f"{BASE}encoding: {encoding}\ndata file: {field}")
    volume = read_image(path).volume
    np.testing.assert_array_equal(np.asarray(volume.data[:, :, :]), DATA)
    for axis in range(3):
        np.testing.assert_array_equal(volume.with_axis(axis).take(2), DATA.take(2, axis))
    (tmp_path / "s01.raw").unlink()
    with pytest.raises(VolumeError, match=r"its data file is missing; expected .*s01\.raw"):
        read_image(path)


@pytest.mark.parametrize("field", ["LIST\n", "s%02d.raw 0 2 1\n", "s%02d.raw 0 x 1\n"])
def test_lists_that_cannot_be_used(tmp_path, field):
    for i in range(3):
        (tmp_path / f"s{i:02d}.raw").write_bytes(VOXELS)
    (tmp_path / "a.nhdr").write_text(f"{BASE}encoding: raw\ndata file: {field}")
    with pytest.raises(VolumeError, match=r"a\.nhdr: .*data files"):
        read_image(tmp_path / "a.nhdr")


@pytest.mark.parametrize("name", ["../secret.raw", "{absolute}", "sub/../../secret.raw",
                                  "C:\\\\secret.raw", "..\\\\secret.raw"])  # fmt: skip
def test_data_files_elsewhere_are_refused(tmp_path, name):
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.raw").write_bytes(VOXELS)
    name = name.format(absolute=tmp_path / "secret.raw")
    (folder / "a.nhdr").write_text(f"{BASE}encoding: raw\ndata file: {name}\n")
    with pytest.raises(VolumeError, match="not beside or below it"):
        read_image(folder / "a.nhdr")
    (folder / "sub" / "b.raw").write_bytes(VOXELS)
    for below in ("sub/b.raw", "./sub/b.raw", str(folder / "sub" / "b.raw")):
        (folder / "a.nhdr").write_text(f"{BASE}encoding: raw\ndata file: {below}\n")
        np.testing.assert_array_equal(voxels(folder / "a.nhdr"), DATA)


# Segmentations of 3D Slicer.

SHAPE = (9, 8, 7)
CORNER = np.array([3, 2, 1])


def slicer_file(path, layers, segments, corner=CORNER):
    """A cropped segmentation as 3D Slicer writes it, in LPS."""
    shape = layers.shape[-3:]
    directions = np.diag([-0.5, -0.6, 2.0])
    origin = np.array([10.0, 20, -30]) + directions @ corner
    rows = list(directions)
    kinds = ["domain"] * 3
    if layers.ndim == 4:
        rows, kinds = [None, *rows], ["list", *kinds]
    header = {
        "space": "left-posterior-superior", "kinds": kinds,
        "space directions": np.array([[np.nan] * 3 if r is None else r for r in rows]),
        "space origin": origin,
        "Segmentation_ReferenceImageExtentOffset": " ".join(map(str, corner)),
        "Segmentation_MasterRepresentation": "Binary labelmap",
    }  # fmt: skip
    for number, (layer, value, name, colour) in enumerate(segments):
        header |= {
            f"Segment{number}_ID": f"Segment_{number + 1}", f"Segment{number}_Name": name,
            f"Segment{number}_Color": colour, f"Segment{number}_Layer": str(layer),
            f"Segment{number}_LabelValue": str(value),
            f"Segment{number}_Extent": " ".join(f"0 {n - 1}" for n in shape),
        }  # fmt: skip
    nrrd.write(str(path), layers, header)
    return path


def slicer_scan(path):
    affine = np.diag([0.5, 0.6, 2.0, 1])
    affine[:3, 3] = -10, -20, -30
    image = nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return read_image(path)


def part(seed=0):
    return np.random.default_rng(seed).integers(0, 3, (4, 5, 6)).astype(np.uint8)


@pytest.mark.filterwarnings("ignore:.*brought onto it exactly")
def test_a_cropped_segmentation_lies_in_its_image(tmp_path):
    path = slicer_file(tmp_path / "s.seg.nrrd", part(), [
        (0, 1, "liver", "1 0.5 0"), (0, 2, "left kidney", "0 0 1")])  # fmt: skip
    image = slicer_scan(tmp_path / "scan.nii")
    found = read_label_map(path, image)
    expected = np.zeros(SHAPE, np.uint8)
    expected[3:7, 2:7, 1:7] = part()
    np.testing.assert_array_equal(found.array, expected)
    assert found.table.names == {1: "liver", 2: "left kidney"}
    assert found.table.colours[1] == (1, 0.5, 0, 1)


def test_a_segmentation_beyond_its_image_is_cut_only_where_it_is_empty(tmp_path):
    image = slicer_scan(tmp_path / "scan.nii")
    large = np.zeros((11, 10, 9), np.uint8)
    large[1:-1, 1:-1, 1:-1] = 1
    path = slicer_file(tmp_path / "s.seg.nrrd", large, [(0, 1, "a", "1 0 0")], [-1, -1, -1])
    with pytest.warns(SlmSam2Warning, match=r"from voxel \(-1, -1, -1\)"):
        assert (read_labels(path, image) == 1).all()
    large[0, 4:6, 4] = 1
    slicer_file(path, large, [(0, 1, "a", "1 0 0")], [-1, -1, -1])
    with (
        pytest.warns(SlmSam2Warning),
        pytest.raises(GridMismatchError, match="2 labelled voxels lie outside the image"),
    ):
        read_labels(path, image)


@pytest.mark.filterwarnings("ignore:.*brought onto it exactly")
def test_overlapping_segments_are_in_layers_of_which_one_is_chosen(tmp_path):
    layers = np.stack([part(1), part(2)])
    path = slicer_file(tmp_path / "s.seg.nrrd", layers, [
        (0, 1, "liver", "1 0 0"), (0, 2, "kidney", "0 1 0"), (1, 1, "tumour", "0 0 1")
    ])  # fmt: skip
    image = slicer_scan(tmp_path / "scan.nii")
    with pytest.raises(
        VolumeError,
        match=r"has 2 channels; expected one channel: 0 \(liver, kidney\), "
        r"1 \(tumour\).*--seeds-channel N",
    ):
        read_labels(path, image, option_prefix="seeds-")
    for channel in (1, "1", "tumour"):
        found = read_label_map(path, image, channel=channel)
        np.testing.assert_array_equal(found.array[3:7, 2:7, 1:7], part(2))
        assert found.table.names == {1: "tumour"}
    assert read_label_map(path, image, channel="kidney").table.names[2] == "kidney"
    opened = readers.read(path)
    assert [kind for _, _, kind in opened] == ["labels", "labels"]
    np.testing.assert_array_equal(opened[1][0], part(2))
    assert opened[1][1]["features"] == {"index": [0, 1], "label_name": ["background", "tumour"]}


def test_segments_are_written(tmp_path):
    image = slicer_scan(tmp_path / "scan.nii")
    labels = np.zeros(SHAPE, np.uint16)
    labels[2:5, 3, 2] = 1
    labels[4, 4, 3] = 300
    table = LabelTable({1: "Größe: a\nb", 7: "not drawn"}, {300: (0.2, 0.4, 0.6, 1.0)})
    out = write_labels(tmp_path / "out.seg.nrrd", labels, image, table=table)
    found = read_label_map(out, image)
    np.testing.assert_array_equal(found.array, labels)
    assert found.table.names == {1: "Größe: a b", 7: "not drawn", 300: "Segment_300"}
    assert found.table.colours[300] == (0.2, 0.4, 0.6, 1.0)
    assert len({*found.table.colours.values()}) == 3
    text = out.read_bytes().partition(b"\n\n")[0].decode()
    assert re.search(r"^Segment2_LabelValue:=300$", text, re.MULTILINE)
    assert re.search(r"^Segment2_Extent:=0 8 0 7 0 6$", text, re.MULTILINE)
    assert re.search(r"^Segmentation_ReferenceImageExtentOffset:=0 0 0$", text, re.MULTILINE)
    plain = write_labels(tmp_path / "out.nrrd", labels, image, table=table)
    assert b"Segment" not in plain.read_bytes().partition(b"\n\n")[0]
