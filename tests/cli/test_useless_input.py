"""Input that no run can use is refused, or noted, before time is spent on it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from napari_slmsam2.core.soft_masks import LogitPatch

from ..fakes import whole_slice
from .conftest import save
from .test_bad_input import fails  # noqa: F401 - a fixture


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_image(fails, scene, value):  # noqa: F811
    path = save(scene.folder / "flat.nii", np.full(scene.array.shape, value, np.int16))
    fails(1, "flat.nii: is constant", image=path)


def test_an_image_without_finite_voxels(fails, scene):  # noqa: F811
    path = save(scene.folder / "nan.nii", np.full(scene.array.shape, np.nan, np.float32))
    fails(1, "nan.nii: has no finite voxel", image=path)


def test_image_and_seeds_exchanged(fails, scene):  # noqa: F811
    unsigned = save(scene.folder / "unsigned.nii", np.clip(scene.array, 0, None).astype(np.uint16))
    fails(1, "unsigned.nii: looks like an image", image=scene.seeds, seeds=unsigned)


def test_labels_as_the_image(fails, scene):  # noqa: F811
    fails(1, "truth.nii.gz: is a label map, not an image", image=scene.truth)


def test_weights_that_are_not_finite(fails, scene, weights):  # noqa: F811
    from safetensors import safe_open

    tensors = load_file(weights)
    with safe_open(weights, "numpy") as file:
        metadata = file.metadata()
    key = next(k for k, v in tensors.items() if v.dtype == np.float32)
    tensors[key] = np.full_like(tensors[key], np.nan)
    path = scene.folder / "nan.safetensors"
    save_file(tensors, path, metadata)
    options = ("--model", path, "--device", "cpu")
    fails(1, "nan.safetensors", "weights that are not finite", key, options=options)


def test_a_window_beside_the_intensities(cli, scene):
    out = scene.folder / "labels.nii.gz"
    job = ("propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation")
    result = cli(*job, "--window", "5000,6000")
    assert result.code == 0
    assert "Note: --window 5000,6000 lies outside of the intensities" in result.err
    assert "Note" not in cli(*job, "--window", "100,900", "--force").err


def test_a_stray_voxel_is_named(cli, scene):
    seeds = scene.seeded.copy()
    seeds[2, 2, 9] = 1
    path, report = save(scene.folder / "stray.nii", seeds), scene.folder / "report.json"
    out = scene.folder / "labels.nii.gz"
    job = ("propagate", scene.image, path, "-o", out, "--model", "interpolation")
    result = cli(*job, "--report", report)
    assert result.code == 0
    assert "Note: label 1 has 1 voxel on slice 9" in result.err
    assert "Check    slice 9 of label 1 (annotation of 1 voxel only)" in result.out
    first = json.loads(report.read_text())["suggestions"][0]
    assert (first["label"], first["index"]) == (1, 9)
    assert "1 voxel" in first["reason"]
    clean = cli("propagate", scene.image, scene.seeds, *job[3:], "--force")
    assert "voxel on slice" not in clean.err


def test_masks_that_do_not_continue_the_annotations(cli, scene, monkeypatch):
    from napari_slmsam2.engine.classical.interpolation import InterpolationSegmenter

    segment = InterpolationSegmenter.segment

    def elsewhere(self, *arguments):
        found = segment(self, *arguments)
        for one in found:
            logits = whole_slice(one.patch, arguments[-1].shape)
            one.patch = LogitPatch.cut(np.roll(logits, 15, axis=0))
        return found

    out = scene.folder / "labels.nii.gz"
    job = ("propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation")
    assert "hardly overlaps" not in cli(*job).err
    monkeypatch.setattr(InterpolationSegmenter, "segment", elsewhere)
    result = cli(*job, "--merge", "sweeps", "--force")
    assert "beside the annotated slices of label 1 hardly overlaps" in result.err
