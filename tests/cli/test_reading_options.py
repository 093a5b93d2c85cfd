"""Options that choose a volume reach image, seeds and both files of `evaluate`."""

import nibabel as nib
import numpy as np
import pytest
import tifffile

from napari_slmsam2.core.label_table import LabelTable
from napari_slmsam2.io import read_image, read_label_map, read_label_names, write_label_names

SHAPE = (10, 24, 20)


def ball():
    z, y, x = np.indices(SHAPE)
    truth = ((z - 5) / 4) ** 2 + ((y - 12) / 8) ** 2 + ((x - 10) / 7) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    return (np.where(truth, 200, 60) + noise).clip(0).astype(np.uint16), truth.astype(np.uint8)


def imagej(path, data, axes):
    tifffile.imwrite(path, data, imagej=True, metadata={"axes": axes})
    return path


def two_images(path, first, second):
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(first, photometric="minisblack", metadata={"axes": "ZYX", "Name": "first"})
        file.write(second, photometric="minisblack", metadata={"axes": "ZYX", "Name": "second"})
    return path


@pytest.fixture
def files(tmp_path):
    """Seeds in channel 1, time point 2 and image 1 of files; the image in the same places."""
    scan, truth = ball()
    seeds = np.zeros_like(truth)
    seeds[5] = truth[5]
    zeros, empty = np.zeros_like(scan), np.zeros_like(seeds)
    return {
        "channel": (
            imagej(tmp_path / "c.tif", np.stack([zeros, scan], 1), "ZCYX"),
            imagej(tmp_path / "cs.tif", np.stack([empty, seeds], 1), "ZCYX"), "1",
        ),
        "time": (
            imagej(tmp_path / "t.tif", np.stack([zeros, zeros, scan]), "TZYX"),
            imagej(tmp_path / "ts.tif", np.stack([empty, empty, seeds]), "TZYX"), "2",
        ),
        "image": (
            two_images(tmp_path / "i.ome.tif", zeros[:3], scan),
            two_images(tmp_path / "is.ome.tif", empty[:3], seeds), "second",
        ),
        "stack": (
            imagej(tmp_path / "s.tif", scan[None], "ZCYX"),
            imagej(tmp_path / "ss.tif", seeds[None], "ZCYX"), "channel",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("option", ["channel", "time", "image", "stack"])
def test_options_reach_image_seeds_and_evaluation(cli, files, tmp_path, option):
    image, seeds, value = files[option]
    done = cli("info", image, f"--{option}", value, "--json")
    assert done.code == 0, done.err
    out, session = tmp_path / "out.tif", tmp_path / "a.slmsam2"
    common = ("--model", "interpolation", "--session", session)
    done = cli("propagate", image, seeds, "-o", out, f"--{option}", value,
               f"--seeds-{option}", value, *common)  # fmt: skip
    assert done.code == 0, done.err
    assert read_image(out).volume.shape == SHAPE
    done = cli("replay", session, "-o", tmp_path / "again.tif")
    assert done.code == 0, done.err
    done = cli("evaluate", seeds, out, f"--prediction-{option}", value)
    assert done.code == 0, done.err
    done = cli("evaluate", out, seeds, f"--reference-{option}", value)
    assert done.code == 0, done.err


@pytest.mark.parametrize("option", ["channel", "image"])
def test_the_error_names_the_option_of_its_file(cli, files, tmp_path, option):
    image, seeds, value = files[option]
    done = cli("propagate", image, seeds, "-o", tmp_path / "o.tif", f"--{option}", value)
    assert done.code == 1
    assert f"--seeds-{option} N" in done.flat_err
    done = cli("evaluate", tmp_path / seeds.name, image, f"--reference-{option}", value)
    assert f"--prediction-{option} N" in done.flat_err


def test_voxels_are_trusted(cli, tmp_path):
    scan, truth = ball()
    seeds = np.zeros_like(truth)
    seeds[5] = truth[5]
    nib.Nifti1Image(scan.astype(np.int16), np.diag([3, 1, 1, 1])).to_filename(tmp_path / "a.nii")
    nib.Nifti1Image(seeds, np.eye(4)).to_filename(tmp_path / "s.nii")
    given = ("propagate", tmp_path / "a.nii", tmp_path / "s.nii", "-o", tmp_path / "o.nii",
             "--model", "interpolation")  # fmt: skip
    done = cli(*given)
    assert done.code == 1
    assert "--trust-voxels" in done.err
    assert cli(*given, "--trust-voxels").code == 0


def test_names_of_labels_are_read_and_written(cli, tmp_path):
    scan, truth = ball()
    seeds = np.zeros_like(truth)
    seeds[5] = truth[5]
    imagej(tmp_path / "a.tif", scan, "ZYX")
    imagej(tmp_path / "s.tif", seeds, "ZYX")
    names = write_label_names(tmp_path / "n.txt", LabelTable({1: "organ"}, {1: (1, 0, 0, 1)}))
    for suffix in (".seg.nrrd", ".ome.zarr"):
        out, saved = tmp_path / f"o{suffix}", tmp_path / f"saved{suffix}.txt"
        done = cli("propagate", tmp_path / "a.tif", tmp_path / "s.tif", "-o", out, "--label-names",
                   names, "--save-label-names", saved, "--model", "interpolation")  # fmt: skip
        assert done.code == 0, done.err
        assert "label 1 (organ)" in done.out + done.err
        assert read_label_map(out).table.names == {1: "organ"}
        assert read_label_names(saved) == read_label_names(names)
