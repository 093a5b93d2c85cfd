"""The propagation axis follows the planes on which the seeds were drawn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from .conftest import save

ISOTROPIC = np.eye(4)
SHAPE = (40, 40, 40)


def dice(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture
def scan(tmp_path):
    """A ball in noise with 1 mm voxels."""
    grid = np.indices(SHAPE)
    truth = sum(((g - 20) / r) ** 2 for g, r in zip(grid, (14, 12, 13), strict=True)) < 1
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    image = (60 + 140 * truth + noise).astype(np.int16)
    return save(tmp_path / "scan.nii.gz", image, ISOTROPIC), truth.astype(np.uint8)


def run(cli, scan, seeds, *options):
    image, _ = scan
    folder = image.parent
    path, out = save(folder / "seeds.nii.gz", seeds, ISOTROPIC), folder / "labels.nii.gz"
    result = cli("propagate", image, path, "-o", out, "--model", "flow", "--force", *options)
    assert result.code == 0, result.err
    from napari_slmsam2.io import read_labels

    return result, read_labels(out)


def test_a_coronal_slice_is_read_as_one(cli, scan):
    truth = scan[1]
    seeds = np.zeros_like(truth)
    seeds[:, 20] = truth[:, 20]
    report = scan[0].parent / "report.json"
    result, labels = run(cli, scan, seeds, "--report", report)
    assert "Axis     1, 40 slices. The seeds were drawn on 1 plane of axis 1" in result.out
    assert "label 1 on slice 20" in result.out
    assert "Note" not in result.err
    assert dice(labels == 1, truth == 1) > 0.7
    np.testing.assert_array_equal(labels[:, 20], seeds[:, 20])
    facts = json.loads(report.read_text())
    assert facts["axis"] == 1
    assert "drawn on 1 plane" in facts["axis_reason"]
    path = scan[0].parent / "truth.nii.gz"
    save(path, truth, ISOTROPIC)
    scores = scan[0].parent / "scores.json"
    seeds_file = scan[0].parent / "seeds.nii.gz"
    cli("evaluate", scan[0].parent / "labels.nii.gz", path, "--seeds", seeds_file, "--json", scores)
    assert json.loads(scores.read_text())["axis"] == 1


@pytest.mark.filterwarnings("always::napari_slmsam2.core.errors.SlmSam2Warning")
def test_an_axis_that_contradicts_the_seeds_is_reported(cli, scan):
    truth = scan[1]
    seeds = np.zeros_like(truth)
    seeds[:, 20] = truth[:, 20]
    result, _ = run(cli, scan, seeds, "--axis", "2")
    assert "Axis     2, 40 slices. Chosen by the user." in result.out
    assert "drawn on 1 plane of axis 1" in result.err
    assert "Choose axis 1" in result.err


def test_what_the_seeds_leave_open_the_voxel_size_decides(cli, scan):
    result, _ = run(cli, scan, scan[1], "--range", "0:0")
    assert "Axis     2, 40 slices. All axes have the same coarsest spacing" in result.out
    assert "The seeds do not determine the axis." in result.out
    assert "Note" not in result.err


@pytest.mark.filterwarnings("always::napari_slmsam2.core.errors.SlmSam2Warning")
def test_planes_of_several_axes_are_reported(cli, scan):
    truth = scan[1]
    seeds = np.zeros_like(truth)
    seeds[:, 20] = truth[:, 20]
    seeds[20] = truth[20]
    result, _ = run(cli, scan, seeds)
    assert "Axis     2, 40 slices." in result.out
    assert "seeds: they were drawn on planes of several axes" in result.err
    assert "thin lines" in result.err
