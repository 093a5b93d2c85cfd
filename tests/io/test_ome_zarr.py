"""Labels as OME-Zarr: values, dtype and placement come back exactly; nothing is half-written."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import zarr

from napari_slmsam2.core.errors import GridMismatchError, OutputError, SlmSam2Warning
from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.io import (
    check_same_grid,
    read_image,
    read_label_map,
    read_labels,
    write_labels,
)
from napari_slmsam2.io.units import IN_MM, NGFF_NAMES

SHAPE = (5, 6, 4)
SCALE = (1 / 3, 0.1, 1e-7)
TRANSLATION = (-4.1, 2 / 7, 1e6)
OBLIQUE = np.array([[0, -0.9, 0, 12], [-0.8, 0, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1.0]])
MIRRORED = np.diag([-0.8, -0.9, 3.0, 1.0])
STRAIGHT = np.array([[0.5, 0, 0, -120.25], [0, 0.5, 0, 80], [0, 0, 2, 0.125], [0, 0, 0, 1]])


def image_store(path, version="0.4", unit="micrometer", translation=TRANSLATION, shape=SHAPE):
    """An OME-Zarr image as other programs write it."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("full", shape=shape, dtype="u2", chunks=shape)
    group["full"][...] = np.arange(np.prod(shape)).reshape(shape)
    placement = [{"type": "scale", "scale": list(SCALE)}]
    if translation is not None:
        placement.append({"type": "translation", "translation": list(translation)})
    image = {
        "axes": [{"name": a, "type": "space"} | ({"unit": unit} if unit else {}) for a in "zyx"],
        "datasets": [{"path": "full", "coordinateTransformations": placement}],
    }
    if version == "0.4":
        group.attrs["multiscales"] = [{"version": version, **image}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    return path


def label_array(highest=3):
    labels = np.zeros(SHAPE, np.int64)
    labels[1:3, 2:5, 1:] = np.arange(18).reshape(2, 3, 3) % 4
    labels[2, 3, 1] = highest
    return labels


def attributes(path):
    found = dict(zarr.open_group(path, mode="r").attrs)
    return found.get("ome", found)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("highest", "dtype"), [(3, np.uint8), (300, np.uint16), (2**32 - 1, np.uint32)]
)
def test_labels_come_back_exactly(tmp_path, version, highest, dtype):
    image = read_image(image_store(tmp_path / "image.zarr", version))
    labels = label_array(highest)
    out = write_labels(tmp_path / "organ.ome.zarr", labels, image)
    again = read_labels(out, image)
    assert again.dtype == dtype
    np.testing.assert_array_equal(again, labels)
    written = read_image(out)
    assert written.dtype == dtype
    for geometry in (image.geometry, written.geometry):
        assert (geometry.spacing, geometry.origin, geometry.unit) == (SCALE, TRANSLATION, "um")
    assert written.format == "OME-Zarr"
    assert sorted(os.listdir(tmp_path)) == ["image.zarr", "organ.ome.zarr"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_metadata_are_those_of_the_specification(tmp_path, version):
    """The version of the image is kept; other programs must find axes, placement and labels."""
    image = read_image(image_store(tmp_path / "image.zarr", version))
    out = write_labels(tmp_path / "organ.ome.zarr", label_array(), image)
    group = zarr.open_group(out, mode="r")
    assert group.metadata.zarr_format == (2 if version == "0.4" else 3)
    found = attributes(out)
    assert "image-label" in found
    [multiscale] = found["multiscales"]
    assert multiscale["axes"] == [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
    [level] = multiscale["datasets"]
    assert level["coordinateTransformations"] == [
        {"type": "scale", "scale": list(SCALE)},
        {"type": "translation", "translation": list(TRANSLATION)},
    ]
    assert multiscale["name"] == "organ"
    where = multiscale if version == "0.4" else found
    assert where["version"] == version
    chunk = "0/0/0/0" if version == "0.4" else "0/c/0/0/0"
    assert (out / chunk).is_file()


@pytest.mark.parametrize("unit", [*IN_MM, None])
def test_units_come_back(tmp_path, unit):
    long = NGFF_NAMES.get(unit)
    image = read_image(image_store(tmp_path / "image.zarr", unit=long))
    out = write_labels(tmp_path / "organ.zarr", label_array(), image)
    kept = "inch" if unit == "line" else unit
    assert read_image(out).geometry.unit == (kept or "pixel")
    assert attributes(out)["multiscales"][0]["axes"][0].get("unit") == NGFF_NAMES.get(kept)


def test_without_a_translation_none_is_made_up(tmp_path):
    image = read_image(image_store(tmp_path / "image.zarr", translation=None))
    assert image.geometry.origin is None
    out = write_labels(tmp_path / "organ.zarr", label_array(), image)
    [level] = attributes(out)["multiscales"][0]["datasets"]
    assert [step["type"] for step in level["coordinateTransformations"]] == ["scale"]


def test_placement_of_level_and_image_is_chained(tmp_path):
    path = image_store(tmp_path / "image.zarr")
    group = zarr.open_group(path)
    [image] = group.attrs["multiscales"]
    image["coordinateTransformations"] = [
        {"type": "scale", "scale": [10, 10, 10]},
        {"type": "translation", "translation": [1, 2, 3]},
    ]
    group.attrs["multiscales"] = [image]
    geometry = read_image(path).geometry
    np.testing.assert_allclose(geometry.spacing, np.multiply(SCALE, 10))
    np.testing.assert_allclose(geometry.origin, np.add(np.multiply(TRANSLATION, 10), (1, 2, 3)))


def test_axes_in_several_units_get_one(tmp_path):
    path = image_store(tmp_path / "image.zarr")
    group = zarr.open_group(path)
    [image] = group.attrs["multiscales"]
    image["axes"][0]["unit"] = "millimeter"
    group.attrs["multiscales"] = [image]
    geometry = read_image(path).geometry
    assert geometry.unit == "um"
    np.testing.assert_allclose(geometry.spacing, (SCALE[0] * 1000, *SCALE[1:]))
    np.testing.assert_allclose(geometry.origin, (TRANSLATION[0] * 1000, *TRANSLATION[1:]))


def test_a_scan_along_the_axes_of_the_world_keeps_its_place(tmp_path, nifti):
    scan = read_image(nifti(affine=STRAIGHT))
    labels = label_array()
    out = write_labels(tmp_path / "organ.ome.zarr", labels, scan)
    written = read_image(out).geometry
    assert (written.spacing, written.unit) == ((2.0, 0.5, 0.5), "mm")
    assert written.origin == (0.125, 80, -120.25)
    np.testing.assert_array_equal(zarr.open_array(out / "0", mode="r")[...], labels.T)
    np.testing.assert_array_equal(read_labels(out, scan), labels)


@pytest.mark.parametrize("affine", [OBLIQUE, MIRRORED])
def test_a_place_that_it_cannot_hold_is_said(tmp_path, nifti, affine):
    scan = read_image(nifti(affine=affine))
    with pytest.warns(SlmSam2Warning, match=r"organ\.ome\.zarr: .* not its rotation or reflection"
                      r".*Write \.nii\.gz"):  # fmt: skip
        out = write_labels(tmp_path / "organ.ome.zarr", label_array(), scan)
    written = read_image(out)
    assert written.geometry.origin is None
    np.testing.assert_allclose(written.geometry.spacing, (3, 0.9, 0.8), rtol=1e-6)
    np.testing.assert_array_equal(read_labels(out, scan), label_array())


def test_labels_elsewhere_are_refused(tmp_path):
    image = read_image(image_store(tmp_path / "image.zarr", translation=(0, 0, 0)))
    moved = read_image(image_store(tmp_path / "moved.zarr", translation=(0.2, 0, 0)))
    close = read_image(image_store(tmp_path / "close.zarr", translation=(0.01, 0, 0)))
    check_same_grid(image, close)
    with pytest.raises(GridMismatchError, match=r"the first voxels lie 0\.6 voxels apart"):
        check_same_grid(image, moved)


# Coarser levels, and colours.


def ball(shape, dtype=np.uint8):
    grid = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    return (sum(g**2 for g in grid) < 0.6).astype(dtype)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_large_volume_gets_levels_that_lie_in_the_same_place(tmp_path, version):
    shape = (7, 600, 301)
    path = image_store(tmp_path / "image.zarr", version, shape=shape)
    group = zarr.open_group(path)
    found = group.attrs.asdict()
    image = (found["multiscales"] if version == "0.4" else found["ome"]["multiscales"])[0]
    image["datasets"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": [3.0, 1.0, 0.9]},
        {"type": "translation", "translation": [10.0, -4.0, 2.0]},
    ]
    group.attrs.update(found)
    image = read_image(path)
    labels = 3 * ball(shape)
    out = write_labels(tmp_path / "organ.zarr", labels, image)
    np.testing.assert_array_equal(read_labels(out, image), labels)
    [multiscale] = attributes(out)["multiscales"]
    assert [level["path"] for level in multiscale["datasets"]] == ["0", "1", "2"]
    assert multiscale["type"] == "mode"
    factors = [(1, 1, 1), (1, 2, 2), (2, 4, 4)]
    shapes = [shape, (7, 300, 151), (4, 150, 76)]
    for level, factor, expected in zip(multiscale["datasets"], factors, shapes, strict=True):
        array = zarr.open_array(out / level["path"], mode="r")
        assert (array.shape, array.dtype) == (expected, np.uint8)
        scale, translation = level["coordinateTransformations"]
        np.testing.assert_allclose(scale["scale"], np.multiply(factor, (3, 1, 0.9)))
        # The centre of mass stays where it is, to a fifth of a fine voxel.
        places = [
            np.add(s["translation"], np.multiply(z["scale"], np.argwhere(a).mean(axis=0)))
            for a, (z, s) in (
                (labels, multiscale["datasets"][0]["coordinateTransformations"]),
                (array[...], (scale, translation)),
            )
        ]
        np.testing.assert_allclose(*places, atol=0.2 * 0.9)
        assert set(np.unique(array[...])) == {0, 3}


def test_levels_of_an_image_without_a_place_start_beside_its_first_voxel(tmp_path):
    image = read_image(image_store(tmp_path / "image.zarr", translation=None, shape=(1, 1, 300)))
    labels = np.zeros((1, 1, 300), np.uint8)
    labels[..., 100:] = 1
    out = write_labels(tmp_path / "organ.zarr", labels, image)
    first, second = attributes(out)["multiscales"][0]["datasets"]
    assert [step["type"] for step in first["coordinateTransformations"]] == ["scale"]
    scale, translation = second["coordinateTransformations"]
    assert scale["scale"] == [*SCALE[:2], 2 * SCALE[2]]
    assert translation["translation"] == [0, 0, SCALE[2] / 2]
    assert read_image(out).geometry.origin is None


def test_a_coarser_voxel_has_the_commonest_label_and_no_object_vanishes_by_half(tmp_path):
    image = read_image(image_store(tmp_path / "image.zarr", shape=(1, 2, 300)))
    labels = np.zeros((1, 2, 300), np.uint16)
    labels[0, :, 0:2] = [[4, 4], [4, 300]]
    labels[0, :, 2:4] = [[0, 5], [0, 5]]
    labels[0, :, 4:6] = [[0, 0], [0, 6]]
    labels[0, :, 6:8] = [[7, 8], [8, 8]]
    out = write_labels(tmp_path / "organ.zarr", labels, image)
    coarse = zarr.open_array(out / "1", mode="r")
    # The third axis is the shortest one by far: it alone is halved.
    assert coarse.shape == (1, 2, 150)
    np.testing.assert_array_equal(coarse[0, :, :4], [[4, 5, 0, 7], [4, 5, 6, 8]])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_colours_are_kept(tmp_path, version):
    def colours(labels):
        return np.stack([labels / 4, labels * 0, labels * 0 + 0.5, labels * 0 + 1], axis=1)

    image = read_image(image_store(tmp_path / "image.zarr", version))
    out = write_labels(tmp_path / "organ.zarr", label_array(), image, colours=colours)
    found = attributes(out)["image-label"]
    assert found["colors"] == [
        {"label-value": label, "rgba": [round(255 * label / 4), 0, 128, 255]} for label in (1, 2, 3)
    ]
    assert found.get("version") == ("0.4" if version == "0.4" else None)
    np.testing.assert_array_equal(read_labels(out, image), label_array())


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_names_are_kept(tmp_path, version):
    image = read_image(image_store(tmp_path / "image.zarr", version))
    table = LabelTable({1: "Größe", 9: "not drawn"}, {2: (1.0, 0.0, 0.2, 0.4)})
    out = write_labels(tmp_path / "organ.zarr", label_array(), image, table=table)
    assert attributes(out)["image-label"]["properties"] == [
        {"label-value": 1, "name": "Größe"}, {"label-value": 9, "name": "not drawn"}
    ]  # fmt: skip
    found = read_label_map(out, image)
    assert found.table == table
    np.testing.assert_array_equal(found.array, label_array())


def test_nothing_is_left_where_a_coarser_level_cannot_be_written(tmp_path, monkeypatch):
    shape = (2, 3, 700)
    image = read_image(image_store(tmp_path / "image.zarr", shape=shape))
    create = zarr.Group.create_array

    def fail(self, name, **options):
        if name == "2":
            raise OSError(28, "No space left on device")
        return create(self, name, **options)

    monkeypatch.setattr(zarr.Group, "create_array", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_labels(tmp_path / "organ.zarr", np.ones(shape, np.uint8), image)
    assert os.listdir(tmp_path) == ["image.zarr"]


# Replacing.


def test_labels_are_replaced_when_asked_for(tmp_path):
    image = read_image(image_store(tmp_path / "image.zarr"))
    out = write_labels(tmp_path / "organ.zarr", label_array(), image)
    with pytest.raises(OutputError, match=r"organ\.zarr: exists already"):
        write_labels(out, label_array(9), image)
    np.testing.assert_array_equal(read_labels(out, image), label_array())
    write_labels(out, np.zeros(SHAPE, int), image, overwrite=True)
    assert not read_labels(out, image).any()
    assert not (out / "0" / "0" / "0" / "0").exists(), "a chunk of the old labels"
    assert sorted(os.listdir(tmp_path)) == ["image.zarr", "organ.zarr"]


def test_an_image_or_a_folder_is_never_replaced(tmp_path):
    path = image_store(tmp_path / "image.zarr")
    image = read_image(path)
    with pytest.raises(OutputError, match=r"image\.zarr: is a folder.*an OME-Zarr of labels"):
        write_labels(path, label_array(), image, overwrite=True)
    (tmp_path / "thesis.zarr").mkdir()
    (tmp_path / "thesis.zarr" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.zarr: is a folder"):
        write_labels(tmp_path / "thesis.zarr", label_array(), image, overwrite=True)
    out = write_labels(tmp_path / "organ.zarr", label_array(), image)
    for damage in (b"", b"[]", b"null", b'{"multiscales": 3}', b"\xff"):
        (out / ".zattrs").write_bytes(damage)
        with pytest.raises(OutputError, match=r"organ\.zarr: is a folder"):
            write_labels(out, label_array(), image, overwrite=True)
    np.testing.assert_array_equal(read_image(path).volume.take(0), image.volume.take(0))
    assert (tmp_path / "thesis.zarr" / "thesis.tex").read_text() == "years of work"


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    image = read_image(image_store(tmp_path / "image.zarr"))
    (tmp_path / "organ.zarr").write_text("not mine")
    with pytest.raises(OutputError, match=r"organ\.zarr: cannot be written"):
        write_labels(tmp_path / "organ.zarr", label_array(), image, overwrite=True)
    assert (tmp_path / "organ.zarr").read_text() == "not mine"
    assert sorted(os.listdir(tmp_path)) == ["image.zarr", "organ.zarr"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", ["chunks", "swap"])
def test_labels_that_could_not_be_replaced_are_still_there(tmp_path, monkeypatch, error, when):
    image = read_image(image_store(tmp_path / "image.zarr"))
    out = write_labels(tmp_path / "organ.zarr", label_array(), image)
    before = sorted(tmp_path.rglob("*"))
    replace = os.replace

    def flush(descriptor):
        raise error

    def swap(source, target):
        if target == out and source.parent.suffix == ".tmp":
            raise error
        replace(source, target)

    name, function = ("fsync", flush) if when == "chunks" else ("replace", swap)
    monkeypatch.setattr(os, name, function)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        write_labels(out, label_array(9), image, overwrite=True)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_labels(out, image), label_array())
    assert sorted(tmp_path.rglob("*")) == before


def test_the_sample_of_real_scans_goes_through(shared, tmp_path):
    folders = sorted(f for f in (shared / "volumes").iterdir() if f.is_dir())[:4]
    if not folders:
        pytest.skip("no volumes")
    for folder in folders:
        image = read_image(folder / "image.nii.gz")
        labels = read_labels(folder / "labels.nii.gz", image)
        out = tmp_path / "labels.ome.zarr"
        if image.geometry.origin_along("xyz") is None:
            with pytest.warns(SlmSam2Warning):
                write_labels(out, labels, image)
        else:
            write_labels(out, labels, image)
        again = read_labels(out, image)
        assert again.dtype == labels.dtype
        np.testing.assert_array_equal(again, labels)
        assert read_image(out).geometry.spacing == image.geometry.spacing[::-1]
        shutil.rmtree(out)
