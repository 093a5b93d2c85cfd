"""``--level``, ``--roi`` and ``--crop``: a part, numbered and placed as in the file."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from napari_slmsam2.io import read_image, read_labels

from .conftest import SHAPE, save

ROI = "2:29,0:25,2:14"
KEY = np.s_[2:29, 0:25, 2:14]


def cropped(scene):
    """The same part as files of their own."""
    affine = nibabel.load(scene.image).affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [2, 0, 2]
    return (
        save(scene.folder / "part.nii.gz", scene.array[KEY], affine),
        save(scene.folder / "part_seeds.nii.gz", scene.seeded[KEY], affine),
    )


@pytest.mark.parametrize("suffix", ["nii.gz", "ome.zarr"])
def test_a_region_gives_the_labels_of_a_cropped_file(cli, scene, suffix):
    options = ("--model", "flow", "--axis", "2")
    part, seeds = cropped(scene)
    alone = scene.folder / "alone.nii.gz"
    marks = ("--extent", "1:1:10", "--absent", "2:11", "--range", "0:10")
    assert cli("propagate", part, seeds, "-o", alone, *options, *marks).code == 0
    expected = read_labels(alone)
    marks = ("--extent", "1:3:12", "--absent", "2:13", "--range", "2:12")
    for name, extra in (("whole", ()), ("crop", ("--crop",))):
        out, report = scene.folder / f"{name}.{suffix}", scene.folder / f"{name}.json"
        done = cli(
            *("propagate", scene.image, scene.seeds, "-o", out, "--roi", ROI, *options, *marks),
            *("--report", report, "--session", scene.folder / f"{name}.slmsam2", *extra),
        )
        assert done.code == 0, done.err
        assert "Region   2:29,0:25,2:14 of 30 x 26 x 16 voxels" in done.out
        assert "label 1 on slices 4, 11; from slice 3 to 12" in done.out
        content = json.loads(report.read_text())
        assert content["labels"]["1"]["seeds"] == [4, 11]
        assert content["labels"]["1"]["extent"] == [3, 12]
        assert min(map(int, content["labels"]["1"]["quality"])) >= 3
        labels = read_labels(out, read_image(part if extra else scene.image))
        whole = np.zeros(SHAPE, np.uint8)
        whole[KEY] = expected
        np.testing.assert_array_equal(labels, expected if extra else whole)
    done = cli("replay", scene.folder / "whole.slmsam2", "-o", scene.folder / f"again.{suffix}")
    assert done.code == 0, done.err
    again = read_labels(scene.folder / f"again.{suffix}", read_image(scene.image))
    np.testing.assert_array_equal(again, whole)


@pytest.mark.parametrize(
    ("roi", "code", "message"),
    [
        ("2:29,0:25", 2, "expected START:STOP,START:STOP,START:STOP in whole numbers from 0"),
        ("a:b,:,:", 2, "expected START:STOP"),
        (":,:,3:17", 1, "START < STOP within x 0:30, y 0:26, z 0:16"),
        (":,:,12:14", 1, "only background in --roi 0:30,0:26,12:14"),
    ],
)
def test_a_region_that_cannot_be_used_is_refused(cli, scene, roi, code, message):
    out = scene.folder / "out.nii.gz"
    done = cli("propagate", scene.image, scene.seeds, "-o", out, "--roi", roi, "--axis", "2")
    assert done.code == code
    assert message in done.flat_err
    assert not out.exists()


@pytest.mark.parametrize(
    ("option", "value"), [("--range", "0:5"), ("--absent", "1:15"), ("--extent", "1:14:15")]
)
def test_slices_outside_of_the_region_are_refused(cli, scene, option, value):
    out = scene.folder / "out.nii.gz"
    done = cli(
        *("propagate", scene.image, scene.seeds, "-o", out, "--axis", "2"),
        *("--roi", ":,:,2:14", option, value),
    )
    assert done.code == 2
    assert "2 to 13" in done.flat_err
    assert not out.exists()
