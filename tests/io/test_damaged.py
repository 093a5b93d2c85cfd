"""Damaged files: always a `VolumeError` that names the file."""

import gzip
import shutil
import warnings

import nibabel as nib
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.io import read_image

nrrd = pytest.importorskip("nrrd")
# nibabel leaves handles of files it cannot read to the garbage collector.
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SHAPE = (9, 10, 8)
SUFFIXES = (
    ".nii", ".nii.gz", ".img", ".mgh", ".mgz", ".nrrd", ".nhdr", ".tif", ".ome.tif", ".npy",
    ".mnc", ".head", ".par",
)  # fmt: skip


def image_data():
    return np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)


def write_image(path):
    data = image_data()
    name = path.name
    if name.endswith((".nii", ".nii.gz")):
        nib.Nifti1Image(data, np.eye(4)).to_filename(path)
    elif name.endswith((".mgh", ".mgz")):
        nib.MGHImage(data, np.eye(4)).to_filename(path)
    elif name.endswith(".nrrd"):
        nrrd.write(str(path), data, {"encoding": "gzip" if "gz" in name else "raw"})
    elif name.endswith(".ome.tif"):
        tifffile.imwrite(path, data, ome=True, metadata={"axes": "ZYX"}, compression="zlib")
    elif name.endswith(".tif"):
        tifffile.imwrite(path, data, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0})
    elif name.endswith(".npy"):
        np.save(path, data)
    elif name.endswith(".zarr"):
        zarr.create_array(path, data=data, chunks=(1, 10, 8))
    else:
        raise AssertionError(name)


VALID = ("a.nii", "a.nii.gz", "a.mgh", "a.mgz", "a.nrrd", "gz.nrrd", "a.tif", "a.ome.tif", "a.npy")


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    for name in VALID:
        write_image(folder / name)
    return {name: (folder / name).read_bytes() for name in VALID}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


def read_all(path):
    """Read every slice, as a session would; warnings are not errors for users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = read_image(path, axis=0).volume
        return np.stack([volume.take(index) for index in range(volume.n_slices)])


def assert_readable_or_named(path):
    message = path.name
    try:
        read_all(path)
    except VolumeError as error:
        message = str(error)
    assert path.name in message


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 400, b"\xff" * 5000, b"hello\n" * 100])
def test_what_is_no_image_at_all(tmp_path, suffix, content):
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"scan\."):
        read_all(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_another_format_than_the_suffix_says(valid, tmp_path, suffix):
    for name, content in valid.items():
        if name.endswith((suffix[-4:], suffix.replace("nhdr", "nrrd"))) or {
            name[-4:],
            suffix[-4:],
        } <= {".mgz", ".mgh", "i.gz"}:
            continue
        path = tmp_path / f"scan{suffix}"
        path.write_bytes(content)
        with pytest.raises(VolumeError, match=r"scan\."):
            read_all(path)


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files(valid, tmp_path, name, part):
    content = valid[name]
    path = tmp_path / name
    path.write_bytes(content[: int(part * len(content))])
    complete = {
        ("a.mgh", 0.99),  # Only the footer is missing, which is optional,
        ("a.tif", 0.9),  # only directories that repeat the first one of an ImageJ stack.
        ("a.tif", 0.99),
    }
    if (name, part) in complete:
        np.testing.assert_array_equal(read_all(path), image_data())
        return
    with pytest.raises(VolumeError, match=name.replace(".", r"\.")):
        read_all(path)


@settings(max_examples=60)
@given(suffix=st.sampled_from(SUFFIXES), content=st.binary(max_size=600))
def test_random_bytes(folder, suffix, content):
    path = folder / f"random{suffix}"
    path.write_bytes(content)
    assert_readable_or_named(path)


@settings(max_examples=250)
@given(
    name=st.sampled_from(VALID),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    early=st.booleans(),
)
def test_flipped_bytes(folder, valid, name, changes, early):
    content = bytearray(valid[name])
    reach = min(len(content), 600) if early else len(content)
    for place, value in changes:
        content[min(int(place * reach), len(content) - 1)] = value
    path = folder / name
    path.write_bytes(content)
    assert_readable_or_named(path)


@settings(max_examples=100)
@given(
    name=st.sampled_from(["a.nii.gz", "a.mgz"]),
    offset=st.integers(0, 400),
    value=st.binary(min_size=1, max_size=8),
)
def test_compressed_headers_that_lie(folder, valid, name, offset, value):
    content = bytearray(gzip.decompress(valid[name]))
    content[offset : offset + len(value)] = value
    path = folder / name
    path.write_bytes(gzip.compress(bytes(content), 1))
    assert_readable_or_named(path)


@pytest.mark.parametrize("sizes", ["2000000 2000000 2000000", "-1 2 3", "0 1 2", "a b c", "9 9"])
@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii", "secret"])
def test_nrrd_headers_that_lie(tmp_path, sizes, encoding):
    path = tmp_path / "a.nrrd"
    path.write_bytes(
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nencoding: {encoding}\n"
        "endian: little\n\n".encode()
        + bytes(100)
    )
    with pytest.raises(VolumeError, match=r"a\.nrrd"):
        read_all(path)


def test_npy_that_claims_a_huge_shape(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(SHAPE, np.uint8))
    content = path.read_bytes().replace(b"(9, 10, 8), }      ", b"(999999,999999,99)}")
    assert b"999999" in content
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"a\.npy"):
        read_all(path)


def test_tiff_that_claims_a_huge_page(tmp_path):
    path = tmp_path / "a.tif"
    for compression in (None, "zlib"):
        tifffile.imwrite(
            path, np.zeros((4, 6, 5), np.uint8), photometric="minisblack",
            compression=compression, metadata=None,
        )  # fmt: skip
        with tifffile.TiffFile(path, mode="r+") as tif:
            for page in tif.pages:
                for name in ("ImageWidth", "ImageLength"):
                    page.aspage().tags[name].overwrite(2**30)
        with pytest.raises(VolumeError, match=r"a\.tif"):
            read_all(path)


def test_tiff_pages_that_lead_in_a_circle(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for _ in range(3):
            tif.write(np.zeros((6, 5), np.uint8), contiguous=False, metadata=None)
    with tifffile.TiffFile(path) as tif:
        first, last = tif.pages[0].offset, tif.pages[2].offset
        n_tags = len(tif.pages[2].tags)
    with path.open("r+b") as file:
        file.seek(last + 2 + 12 * n_tags)
        file.write(first.to_bytes(4, "little"))
    with pytest.raises(VolumeError, match=r"a\.tif: its pages lead in a circle"):
        read_image(path)


def test_a_damaged_checksum_is_noticed(valid, tmp_path):
    content = bytearray(valid["a.nii.gz"])
    content[-6] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(VolumeError, match="CRC"):
        read_all(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["zarr.json", "c"])
@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff" * 50])
def test_damaged_zarr(tmp_path, name, content):
    path = tmp_path / "a.zarr"
    write_image(path)
    if name == "c":
        for chunk in (p for p in (path / "c").rglob("*") if p.is_file()):
            chunk.write_bytes(content)
    else:
        (path / name).write_bytes(content)
    with pytest.raises(VolumeError, match=r"a\.zarr"):
        read_all(path)


def test_a_zarr_group_without_its_array(tmp_path):
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w")
    group.create_array("0", shape=SHAPE, dtype="u1")
    group.attrs["ome"] = {"multiscales": [{"axes": [], "datasets": [{"path": "0"}]}]}
    assert read_image(path).volume.shape == SHAPE
    shutil.rmtree(path / "0")
    with pytest.raises(VolumeError, match=r"a\.zarr"):
        read_image(path)
    for broken in ([{}], [{"datasets": []}], "x", [1]):
        group.attrs["ome"] = {"multiscales": broken}
        with pytest.raises(VolumeError, match=r"a\.zarr"):
            read_image(path)
