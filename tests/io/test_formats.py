import importlib.util
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import zarr

from napari_slmsam2.core.errors import GridMismatchError, OutputError, VolumeError
from napari_slmsam2.io import check_same_grid, read_image, read_labels, write_labels

nrrd = pytest.importorskip("nrrd")

# nibabel leaves the handle of an uncompressed MGH file to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)

NIBABEL_DATA = Path(nib.__file__).parent / "tests" / "data"
SHAPE = (5, 6, 4)
AFFINE = np.array([[0, -0.9, 0, 12], [-0.8, 0, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def all_slices(volume):
    return np.stack([volume.take(i) for i in range(volume.n_slices)], volume.axis)


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
@pytest.mark.parametrize("highest", [1, 255, 256, 40_000])
def test_mgh(tmp_path, rng, suffix, highest):
    data = rng.normal(size=SHAPE).astype(np.float32)
    path = tmp_path / f"image{suffix}"
    nib.MGHImage(data, AFFINE).to_filename(path)
    loaded = read_image(path)
    assert loaded.volume.unit == "mm"
    assert loaded.volume.axis == 2
    np.testing.assert_array_equal(all_slices(loaded.volume), data)
    labels = np.zeros(SHAPE, int)
    labels[2, 3, 1] = highest
    out = write_labels(tmp_path / f"labels{suffix}", labels, loaded)
    ours, theirs = nib.load(out).header, nib.load(path).header
    for name in ("delta", "Mdc", "Pxyz_c", "goodRASFlag", "dims"):
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    np.testing.assert_array_equal(read_labels(out, loaded), labels)


def test_mgh_refuses_labels_it_cannot_hold(tmp_path, nifti):
    loaded = read_image(nifti())
    with pytest.raises(OutputError, match=r"below 2\*\*31"):
        write_labels(tmp_path / "labels.mgz", np.full(SHAPE, 2**31), loaded)
    assert not (tmp_path / "labels.mgz").exists()


@pytest.mark.parametrize("name", ["tiny.mnc", "small.mnc"])
def test_minc_is_read_and_labelled_in_nifti(tmp_path, name):
    path = NIBABEL_DATA / name
    if not path.exists():
        pytest.skip("nibabel was installed without its test data")
    if name == "small.mnc" and importlib.util.find_spec("h5py") is None:
        pytest.skip("MINC 2 needs h5py")
    loaded = read_image(path)
    np.testing.assert_allclose(all_slices(loaded.volume), nib.load(path).get_fdata())
    with pytest.raises(OutputError, match=r"\.nii\.gz"):
        write_labels(tmp_path / "labels.mnc", np.zeros(loaded.volume.shape, int), loaded)
    labels = np.arange(np.prod(loaded.volume.shape)).reshape(loaded.volume.shape) % 300
    out = write_labels(tmp_path / "labels.nii.gz", labels, loaded)
    # MINC may have z first; NIfTI has x first: the same voxels in the same places.
    axes = [loaded.order.index(a) for a in "xyz"]
    expected = nib.load(path).affine[:, [*axes, 3]]
    np.testing.assert_allclose(nib.load(out).affine, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(nib.load(out).dataobj, labels.transpose(axes))
    np.testing.assert_array_equal(read_labels(out, loaded), labels)


@pytest.mark.parametrize(
    ("encoding", "detached"), [*itertools.product(["raw", "gzip", "bzip2"], [False, True])]
)
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "<f4"])
def test_nrrd(tmp_path, rng, encoding, detached, dtype):
    data = rng.integers(0, 100, SHAPE).astype(dtype)
    header = {
        "space": "left-posterior-superior",
        "space directions": AFFINE[:3, :3].T,
        "space origin": np.array([1 / 3, -2e-7, 1234.5]),
        "kinds": ["domain"] * 3,
        "encoding": encoding,
    }
    path = tmp_path / ("image.nhdr" if detached else "image.nrrd")
    nrrd.write(str(path), data, header, detached_header=detached)
    loaded = read_image(path)
    assert loaded.volume.spacing == pytest.approx((0.8, 0.9, 3))
    assert (loaded.volume.axis, loaded.volume.unit) == (2, "mm")
    lps = np.diag([-1, -1, 1, 1])
    expected = AFFINE.copy()
    expected[:3, 3] = header["space origin"]
    np.testing.assert_allclose(loaded.volume.affine, lps @ expected)
    np.testing.assert_array_equal(all_slices(loaded.volume), data)
    out = write_labels(tmp_path / "labels.nrrd", data.astype(int), loaded)
    ours, theirs = nrrd.read_header(str(out)), nrrd.read_header(str(path))
    for name in ("space directions", "space origin", "sizes"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert ours["space"] == theirs["space"]
    assert ours["type"] == "uint8"
    np.testing.assert_array_equal(read_labels(out, loaded), data)


def test_nrrd_channels(tmp_path, rng):
    data = rng.integers(0, 100, (3, *SHAPE)).astype(np.uint8)
    directions = np.vstack([np.full(3, np.nan), np.diag([1.0, 2, 3])])
    path = tmp_path / "image.nrrd"
    header = {
        "space": "right-anterior-superior",
        "space directions": directions,
        "kinds": ["vector", "domain", "domain", "domain"],
    }
    nrrd.write(str(path), data, header)
    with pytest.raises(VolumeError, match="has 3 channels"):
        read_image(path)
    loaded = read_image(path, channel=1)
    np.testing.assert_array_equal(all_slices(loaded.volume), data[1])
    out = write_labels(tmp_path / "labels.nrrd", np.ones(SHAPE, int), loaded)
    np.testing.assert_array_equal(nrrd.read_header(str(out))["space directions"], directions[1:])
    read_labels(out, loaded)


def test_nrrd_spacings(tmp_path):
    path = tmp_path / "image.nrrd"
    header = {"spacings": np.array([0.1, 0.1, 0.3]), "units": ["um"] * 3}
    nrrd.write(str(path), np.zeros(SHAPE, np.uint8), header)
    loaded = read_image(path)
    assert loaded.volume.spacing == (0.1, 0.1, 0.3)
    assert (loaded.volume.unit, loaded.volume.affine) == ("um", None)
    out = write_labels(tmp_path / "labels.nrrd", np.zeros(SHAPE, int), loaded)
    assert read_image(out).volume.spacing == (0.1, 0.1, 0.3)
    assert read_image(out).volume.unit == "um"


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_mapped_not_read(tmp_path, rng, order):
    data = np.asarray(rng.normal(size=SHAPE), order=order)
    np.save(tmp_path / "a.npy", data)
    loaded = read_image(tmp_path / "a.npy")
    assert isinstance(loaded.volume.data, np.memmap)
    assert loaded.volume.axis == 0
    np.testing.assert_array_equal(all_slices(loaded.volume), data)


def test_npy_with_a_leading_dimension_of_one_stays_on_disk(tmp_path, rng):
    data = rng.normal(size=(1, *SHAPE))
    np.save(tmp_path / "a.npy", data)
    volume = read_image(tmp_path / "a.npy").volume
    assert not isinstance(volume.data, np.ndarray)
    np.testing.assert_array_equal(all_slices(volume), data[0])
    np.save(tmp_path / "b.npy", np.concatenate([data, data]))
    with pytest.raises(VolumeError, match=r"has 2 time points.*--time N \(time=N in Python\)"):
        read_image(tmp_path / "b.npy")
    for chosen in ({"time": 1}, {"channel": 1}):
        volume = read_image(tmp_path / "b.npy", **chosen).volume
        np.testing.assert_array_equal(all_slices(volume), data[0])
    np.save(tmp_path / "c.npy", np.zeros((2, 3, 2, *SHAPE)))
    with pytest.raises(VolumeError, match="too many dimensions"):
        read_image(tmp_path / "c.npy")


def test_npy_with_objects_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(VolumeError, match=r"a\.npy"):
        read_image(tmp_path / "a.npy")


def ome_zarr(path, data, axes, scale, version="0.4", unit="micrometer"):
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    array = group.create_array(
        "0", shape=data.shape, dtype=data.dtype, chunks=(*[1] * (data.ndim - 2), *data.shape[-2:])
    )
    array[:] = data
    types = {"t": "time", "c": "channel"}
    multiscales = [
        {
            "axes": [
                {"name": a, "type": types.get(a, "space")} | ({"unit": unit} if a in "zyx" else {})
                for a in axes
            ],
            "datasets": [
                {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
            ],
        }
    ]
    omero = {"channels": [{"label": "actin"}, {"label": "nuclei"}]}
    if version == "0.4":
        group.attrs.update({"multiscales": multiscales, "omero": omero})
    else:
        group.attrs["ome"] = {"version": version, "multiscales": multiscales, "omero": omero}
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(tmp_path, rng, version):
    data = rng.integers(0, 100, (1, 2, *SHAPE)).astype(np.uint16)
    path = ome_zarr(tmp_path / "a.zarr", data, "tczyx", [1, 1, 0.5, 0.2, 0.2], version)
    with pytest.raises(VolumeError, match=r"0 \(actin\), 1 \(nuclei\)"):
        read_image(path)
    loaded = read_image(path, channel="nuclei")
    assert loaded.format == "OME-Zarr"
    assert loaded.volume.spacing == (0.5, 0.2, 0.2)
    assert (loaded.volume.unit, loaded.volume.axis) == ("um", 0)
    np.testing.assert_array_equal(all_slices(loaded.volume), data[0, 1])
    out = write_labels(tmp_path / "labels.tif", np.ones(SHAPE, int), loaded)
    assert read_image(out).volume.spacing == (0.5, 0.2, 0.2)
    read_labels(out, loaded)


def test_zarr_reads_only_the_chunks_of_the_slice(tmp_path):
    path = ome_zarr(tmp_path / "a.zarr", np.ones((8, 4, 4), np.uint8), "zyx", [2, 1, 1])
    for chunk in (path / "0").rglob("*"):
        if chunk.is_file() and not chunk.name.startswith("."):
            chunk.write_bytes(b"damaged" if "5" not in chunk.parts and chunk.name[0] != "5"
                              else chunk.read_bytes())  # fmt: skip
    volume = read_image(path).volume
    assert (volume.take(5) == 1).all()
    with pytest.raises(VolumeError, match="slice 4 along axis 0 cannot be read"):
        volume.take(4)


def test_plain_zarr_and_groups(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=SHAPE, dtype="u1", chunks=SHAPE)
    assert read_image(tmp_path / "a.zarr").format == "Zarr"
    group = zarr.open_group(tmp_path / "b.zarr", mode="w")
    group.create_array("inner", shape=SHAPE, dtype="u1", chunks=SHAPE)
    with pytest.raises(VolumeError, match=r"group without an image.*found inner"):
        read_image(tmp_path / "b.zarr")
    assert read_image(tmp_path / "b.zarr" / "inner").volume.shape == SHAPE


@pytest.mark.parametrize("unit", ["mm", "micron"])
@pytest.mark.parametrize("source", [".nii.gz", ".nrrd", ".mgz", ".tif", ".ome.zarr"])
@pytest.mark.parametrize("target", [".nii.gz", ".nrrd", ".mgz", ".tif", ".npy", ".ome.zarr"])
@pytest.mark.filterwarnings("ignore::napari_slmsam2.core.errors.SlmSam2Warning")
def test_labels_in_another_format_lie_on_the_same_grid(tmp_path, nifti, source, target, unit):
    spacing = (0.8, 0.9, 3.0)
    affine = AFFINE.copy()
    if source in (".tif", ".ome.zarr"):
        affine = np.diag([*spacing, 1.0])
    first = nifti("first.nii", affine=affine)
    image = nib.load(first)
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "second.nii")
    original = read_image(tmp_path / "second.nii")
    labels = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    loaded = read_image(write_labels(tmp_path / f"image{source}", labels, original))
    mine = labels.T if loaded.order == "zyx" else labels
    out = write_labels(tmp_path / f"labels{target}", mine, loaded)
    np.testing.assert_array_equal(read_labels(out, loaded), mine)
    written = read_image(out)
    check_same_grid(loaded, written)
    check_same_grid(original, written)
    if target != ".npy":
        again = written.geometry.reordered(written.order, loaded.order)
        factor = {"mm": 1, "um": 1e-3}
        ratio = factor[again.unit] / factor[loaded.volume.unit]
        np.testing.assert_allclose(
            np.multiply(again.spacing, ratio), loaded.volume.spacing, rtol=1e-6
        )


def test_a_tiff_in_nanometres_becomes_nifti_in_micrometres(tmp_path):
    import tifffile

    path = tmp_path / "a.ome.tif"
    sizes = {f"PhysicalSize{a}": s for a, s in zip("ZYX", (40, 8, 8), strict=True)}
    units = {f"PhysicalSize{a}Unit": "nm" for a in "ZYX"}
    metadata = {"axes": "ZYX", **sizes, **units}
    tifffile.imwrite(path, np.zeros((3, 4, 5), np.uint8), ome=True, metadata=metadata)
    loaded = read_image(path)
    out = write_labels(tmp_path / "labels.nii.gz", np.ones((3, 4, 5), int), loaded)
    written = nib.load(out)
    assert written.shape == (5, 4, 3)
    assert written.header.get_zooms() == pytest.approx((0.008, 0.008, 0.04))
    assert written.header.get_xyzt_units()[0] == "micron"
    assert read_labels(out, loaded).shape == (3, 4, 5)


def test_what_is_no_image(tmp_path):
    with pytest.raises(VolumeError, match=r"none\.nii: does not exist"):
        read_image(tmp_path / "none.nii")
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(VolumeError, match=r"a\.xyz: is of no known format; expected \.nii"):
        read_image(tmp_path / "a.xyz")
    with pytest.raises(VolumeError, match="a folder without a Zarr or DICOM image"):
        read_image(tmp_path)
    (tmp_path / "pair.hdr").write_bytes(
        nib.Nifti1Pair(np.zeros(SHAPE), np.eye(4)).header.binaryblock
    )
    with pytest.raises(VolumeError, match=r"pair\.hdr"):
        read_image(tmp_path / "pair.hdr")


def test_grids_of_different_size(nifti, tmp_path):
    image = read_image(nifti("image.nii"))
    other = nifti("labels.nii", shape=(6, 5, 4))
    with pytest.raises(GridMismatchError, match=r"labels\.nii on .*image\.nii: the shapes differ"):
        read_labels(other, image)
