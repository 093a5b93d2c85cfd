"""Results checked by implementations that are not ours."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import numpy as np
import pytest
from nibabel.cmdline.nifti_dx import main as check_headers
from scipy import ndimage

from napari_slmsam2.evaluate.surface import SurfacePair, extract_surface
from napari_slmsam2.io import read_image, write_labels
from napari_slmsam2.sample import make_sample


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Labels of the sample scan in a format, by its suffix."""
    import nibabel

    folder = tmp_path_factory.mktemp("labels")
    sample = make_sample()
    nibabel.save(nibabel.Nifti1Image(sample.volume.data, sample.volume.affine), folder / "ct.nii")
    image = read_image(folder / "ct.nii")

    def write(suffix: str):
        path = folder / f"labels{suffix}"
        return path if path.exists() else write_labels(path, sample.labels, image)

    return write


def test_ome_zarr_labels_are_valid(files):
    yaozarrs = pytest.importorskip("yaozarrs")
    pytest.importorskip("zarr")
    group = yaozarrs.validate_zarr_store(files(".ome.zarr"))
    [scales] = group.ome_metadata().multiscales
    assert [axis.name for axis in scales.axes] == ["z", "y", "x"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_headers_are_valid(files, suffix):
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        check_headers([str(files(suffix))])
    [line] = report.getvalue().strip().splitlines()
    assert line.endswith("is clean")


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.9, 2.5)])
@pytest.mark.parametrize("tolerance", [0.5, 1.0, 3.0])
def test_surface_metrics_are_those_of_their_authors(spacing, tolerance):
    """By the code that accompanies Nikolov et al. 2021."""
    reference = pytest.importorskip("surface_distance")
    noise = np.random.default_rng(0).standard_normal((30, 26, 20))
    truth = ndimage.gaussian_filter(noise, 3) > 0.02
    found = ndimage.binary_dilation(np.roll(truth, 1, axis=0))
    for mask in (truth, found):
        for axis in range(3):
            np.moveaxis(mask, axis, 0)[[0, -1]] = False
    ours = SurfacePair.of(
        extract_surface(truth, spacing), extract_surface(found, spacing), spacing
    ).score(tolerance, np.ones(20, bool), axis=2)
    theirs = reference.compute_surface_distances(truth, found, spacing)
    expected = reference.compute_surface_dice_at_tolerance(theirs, tolerance)
    assert ours.nsd == pytest.approx(expected, abs=0.005)
    assert ours.hd95 == pytest.approx(reference.compute_robust_hausdorff(theirs, 95), rel=0.02)


def test_the_wheel_has_no_stray_files(repository, tmp_path):
    pytest.importorskip("check_wheel_contents")
    for command in (
        ["-m", "hatchling", "build", "-d", tmp_path, "-t", "wheel"],
        ["-m", "check_wheel_contents", tmp_path],
    ):
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=repository,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 5 * 2**20
