"""A DICOM series in, label maps out."""

from __future__ import annotations

import nibabel
import numpy as np
from tests.dicom_files import oblique, save_series

from napari_slmsam2.io import read_image, read_label_map, write_label_names, write_labels
from napari_slmsam2.io.label_names import LabelTable


def with_seeds(folder):
    save_series(folder / "ct", shape=(8, 16, 18), orientation=oblique(), order=range(7, -1, -1))
    image = read_image(folder / "ct")
    seeds = np.zeros(image.volume.shape, np.uint8)
    seeds[[1, 6], 4:12, 5:14] = 3
    write_labels(folder / "seeds.nii.gz", seeds, image)
    return image, seeds


def test_a_series_is_propagated_to_nifti_and_to_a_dicom_segmentation(cli, tmp_path):
    image, seeds = with_seeds(tmp_path)
    names = write_label_names(tmp_path / "names.txt", LabelTable({3: "liver"}))
    for name in ("out.nii.gz", "out.dcm"):
        result = cli(
            "propagate", tmp_path / "ct", tmp_path / "seeds.nii.gz", "-o", tmp_path / name,
            "--model", "interpolation", "--label-names", names,
        )  # fmt: skip
        assert result.code == 0, result.err
        found = read_label_map(tmp_path / name, image)
        assert (found.array[1:7] == 3).any(axis=(1, 2)).all()
        np.testing.assert_array_equal(found.array[[1, 6]], seeds[[1, 6]])
    assert found.table.names == {3: "liver"}
    affine = nibabel.load(tmp_path / "out.nii.gz").affine
    np.testing.assert_allclose(affine[:, :3], image.geometry.affine[:, 2::-1], atol=1e-5)


def test_seeds_may_be_a_dicom_segmentation(cli, tmp_path):
    image, seeds = with_seeds(tmp_path)
    write_labels(tmp_path / "seeds.dcm", seeds, image)
    result = cli(
        "propagate", tmp_path / "ct", tmp_path / "seeds.dcm", "-o", tmp_path / "out.nii.gz",
        "--model", "interpolation",
    )  # fmt: skip
    assert result.code == 0, result.err
    found = read_label_map(tmp_path / "out.nii.gz", image).array
    np.testing.assert_array_equal(found[[1, 6]], seeds[[1, 6]])


def test_a_folder_of_several_series_lists_them(cli, tmp_path):
    save_series(tmp_path / "a", SeriesDescription="Liver", SeriesNumber=1)
    save_series(tmp_path / "b", SeriesDescription="Bone", SeriesNumber=2)
    result = cli("info", tmp_path)
    assert result.code != 0
    assert "1 (2 Bone CT, 6 x 5 x 7)" in " ".join(result.err.split())
    result = cli("info", tmp_path, "--image", "1")
    assert result.code == 0, result.err
    assert "DICOM" in result.out


def test_a_segmentation_that_cannot_be_written_is_refused_before_the_run(cli, tmp_path):
    image, _ = with_seeds(tmp_path)
    voxels = np.arange(image.volume.data.size, dtype=np.uint16).reshape(image.volume.shape)
    write_labels(tmp_path / "scan.nii.gz", voxels, image)
    roi = ("--roi", "0:8,0:16,0:18")
    for source, options in (("scan.nii.gz", ()), ("ct", (*roi, "--crop"))):
        result = cli(
            "propagate", tmp_path / source, tmp_path / "seeds.nii.gz", "-o", tmp_path / "out.dcm",
            "--model", "interpolation", *options,
        )  # fmt: skip
        assert result.code == 1, result.out
        assert "refers to the DICOM files of its image" in result.flat_err
        assert not list(tmp_path.glob("*rescued*"))
    result = cli(
        "propagate", tmp_path / "ct", tmp_path / "seeds.nii.gz", "-o", tmp_path / "out.dcm",
        "--model", "interpolation", *roi,
    )  # fmt: skip
    assert result.code == 0, result.err
