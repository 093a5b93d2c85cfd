"""Labels in another arrangement than their image: reordered where that is exact, else refused."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from napari_slmsam2.core.errors import GridMismatchError, SlmSam2Warning
from napari_slmsam2.io import read_image, read_labels
from napari_slmsam2.io.alignment import Alignment
from napari_slmsam2.io.chunked_array import ChunkedArray, _CompressedChunks

SHAPE = (5, 6, 4)
AFFINE = np.array([[0, -0.9, 0, 12], [-0.8, 0, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1.0]])
LABELS = np.random.default_rng(3).integers(0, 5, SHAPE).astype(np.uint8)
TURNS = [
    (axes, signs)
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
    if (axes, signs) != ((0, 1, 2), (1, 1, 1))
]


def save(path, data, affine=AFFINE):
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


@pytest.fixture
def image(tmp_path):
    return read_image(save(tmp_path / "image.nii", np.zeros(SHAPE, np.int16)))


@pytest.mark.parametrize(("axes", "signs"), TURNS)
def test_turned_and_flipped_labels_are_reordered(tmp_path, image, axes, signs):
    """As programs store them that prefer another orientation, with the affine that says so."""
    orientation = np.array([[axis, sign] for axis, sign in zip(axes, signs, strict=True)])
    turned = nib.Nifti1Image(LABELS, AFFINE).as_reoriented(orientation)
    path = save(tmp_path / "labels.nii", np.asarray(turned.dataobj), turned.affine)
    with pytest.warns(SlmSam2Warning, match="brought onto it exactly"):
        np.testing.assert_array_equal(read_labels(path, image), LABELS)


def test_a_part_of_the_grid_is_refused_with_its_place(tmp_path, image):
    """But for segmentations of 3D Slicer, which are cropped (see test_nrrd)."""
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [1, 2, 1, 1])[:3]
    path = save(tmp_path / "part.nii", LABELS[1:4, 2:6, 1:3], affine)
    with pytest.raises(GridMismatchError, match=r"begins at voxel \(1, 2, 1\).*pad it with zeros"):
        read_labels(path, image)
    affine[:3, 3] = (AFFINE @ [50, 2, 1, 1])[:3]
    with pytest.raises(GridMismatchError, match="lie outside the image"):
        read_labels(save(path, LABELS[1:4, 2:6, 1:3], affine), image)
    affine[:3, 3] = (AFFINE @ [1.3, 2, 1, 1])[:3]
    with pytest.raises(GridMismatchError, match=r"the affines differ.*Resample the labels"):
        read_labels(save(path, LABELS[1:4, 2:6, 1:3], affine), image)


def test_a_shifted_grid_of_the_same_size_is_a_mismatch(tmp_path, image):
    affine = AFFINE.copy()
    affine[:3, 3] = (AFFINE @ [1, 0, 0, 1])[:3]
    path = save(tmp_path / "labels.nii", LABELS, affine)
    with pytest.raises(GridMismatchError, match=r"use --trust-voxels \(trust_voxels=True"):
        read_labels(path, image)
    np.testing.assert_array_equal(read_labels(path, image, trust_voxels=True), LABELS)


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-1, -1, 1, 1]) @ AFFINE])
def test_voxels_are_trusted_where_the_user_says_so(tmp_path, image, affine):
    path = save(tmp_path / "labels.nii", LABELS, affine)
    with pytest.raises(GridMismatchError, match="--trust-voxels"):
        read_labels(path, image)
    np.testing.assert_array_equal(read_labels(path, image, trust_voxels=True), LABELS)
    with pytest.raises(GridMismatchError, match="the shapes differ"):
        read_labels(save(path, LABELS[1:], affine), image, trust_voxels=True)


def test_another_voxel_size_is_trusted_too(tmp_path):
    for name, z in (("image", 2.0), ("labels", 3.0)):
        sizes = {f"PhysicalSize{a}": s for a, s in zip("ZYX", (z, 1, 1), strict=True)}
        tifffile.imwrite(
            tmp_path / f"{name}.ome.tif", LABELS, metadata={"axes": "ZYX", **sizes},
            photometric="minisblack",
        )  # fmt: skip
    image = read_image(tmp_path / "image.ome.tif")
    with pytest.raises(GridMismatchError, match=r"the voxel sizes differ.*--trust-voxels"):
        read_labels(tmp_path / "labels.ome.tif", image)
    found = read_labels(tmp_path / "labels.ome.tif", image, trust_voxels=True)
    np.testing.assert_array_equal(found, LABELS)


# Arrays without names of their axes.


def test_an_array_takes_the_only_order_that_fits(tmp_path, image):
    np.save(tmp_path / "as_is.npy", LABELS)
    np.save(tmp_path / "turned.npy", LABELS.T)
    with pytest.warns(SlmSam2Warning, match=r"by its shape they are those of image\.nii"):
        np.testing.assert_array_equal(read_labels(tmp_path / "as_is.npy", image), LABELS)
    np.testing.assert_array_equal(read_labels(tmp_path / "turned.npy", image), LABELS)
    np.save(tmp_path / "other.npy", LABELS.transpose(0, 2, 1))
    with pytest.raises(GridMismatchError, match="in another order: transpose the array first"):
        read_labels(tmp_path / "other.npy", image)


def test_an_array_that_fits_twice_is_reported(tmp_path):
    cube = np.random.default_rng(0).integers(0, 3, (5, 4, 5)).astype(np.uint8)
    image = read_image(save(tmp_path / "image.nii", np.zeros(cube.shape, np.int16)))
    np.save(tmp_path / "cube.npy", cube)
    with pytest.warns(SlmSam2Warning, match=r"taken as zyx, which are reversed.*--trust-voxels"):
        np.testing.assert_array_equal(read_labels(tmp_path / "cube.npy", image), cube.T)
    found = read_labels(tmp_path / "cube.npy", image, trust_voxels=True)
    np.testing.assert_array_equal(found, cube)


def test_a_tiff_in_the_order_of_the_image_needs_a_word(tmp_path, image):
    tifffile.imwrite(tmp_path / "labels.tif", LABELS, imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(GridMismatchError, match=r"taken as they are.*use --trust-voxels"):
        read_labels(tmp_path / "labels.tif", image)
    found = read_labels(tmp_path / "labels.tif", image, trust_voxels=True)
    np.testing.assert_array_equal(found, LABELS)


@given(data=st.data())
def test_labels_in_chunks_are_aligned_like_an_array(data):
    """Also where they are turned, flipped, and a part of the image or more than it."""
    source = tuple(data.draw(st.tuples(*[st.integers(1, 9)] * 3)))
    axes = tuple(data.draw(st.permutations([0, 1, 2])))
    flipped = data.draw(st.tuples(*[st.booleans()] * 3))
    offset = data.draw(st.tuples(*[st.integers(-4, 4)] * 3))
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    if data.draw(st.booleans()):
        shape, offset = tuple(source[a] for a in axes), (0, 0, 0)
    alignment = Alignment(axes, flipped, offset, shape)
    labels = np.zeros(source, np.uint8)
    voxels = data.draw(st.lists(st.tuples(*[st.integers(0, n - 1) for n in source]), max_size=4))
    for number, voxel in enumerate(voxels):
        labels[voxel] = number + 1
    chunked = ChunkedArray(_CompressedChunks(source, np.uint8, (2, 3, 4)))
    chunked[...] = labels
    results = []
    for array in (labels, chunked):
        try:
            results.append(np.asarray(alignment.apply(array, "labels")).tolist())
        except GridMismatchError as error:
            results.append(str(error))
    assert results[0] == results[1]
