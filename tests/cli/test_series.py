"""All time points of a series in one command."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from napari_slmsam2.engine.sam2 import input_size
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.weights.checkpoints import save_weights

from ..random_weights import TINY, randomise

SHAPE = (24, 20, 9)
N_TIMES = 4
MIDDLE = 4


def ball(time):
    """An object that moves by two voxels and shrinks from one time point to the next."""
    x, y, z = np.indices(SHAPE)
    return (x - 7 - 2 * time) ** 2 + (y - 9) ** 2 + 4 * (z - MIDDLE) ** 2 < (6 - 0.5 * time) ** 2


@pytest.fixture
def series(tmp_path):
    """A series, its truth, and seeds on the middle slice of the first time point."""
    truth = np.stack([ball(t) for t in range(N_TIMES)], axis=-1)
    noise = np.random.default_rng(0).normal(0, 4, truth.shape)
    image = nibabel.Nifti1Image(
        (100 * truth + 50 + noise).astype(np.float32), np.diag([1, 1, 2, 1])
    )
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.5
    image.to_filename(tmp_path / "series.nii.gz")
    seeds = np.zeros(SHAPE, np.uint8)
    seeds[..., MIDDLE] = truth[..., MIDDLE, 0]
    nibabel.Nifti1Image(seeds, image.affine).to_filename(tmp_path / "seeds.nii.gz")
    return truth


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def run(cli, folder, *more, seeds="seeds.nii.gz", out="out.nii.gz", model="flow"):
    return cli(
        "propagate", folder / "series.nii.gz", folder / seeds, "-o", folder / out,
        "--model", model, *more,
    )  # fmt: skip


def test_seeds_are_carried_through_time(cli, tmp_path, series):
    report = tmp_path / "report.json"
    result = run(cli, tmp_path, "--time", "all", "--carry", "--report", report)
    assert result.code == 0, result.err
    assert result.out.count("Window   ") == result.out.count("Model    flow (no weights)") == 1
    assert "Check    time point 3: slice " in result.out
    written = nibabel.load(tmp_path / "out.nii.gz")
    labels = np.asarray(written.dataobj)
    assert labels.shape == (*SHAPE, N_TIMES)
    assert written.header["pixdim"][4] == 2.5
    assert written.header.get_xyzt_units() == ("mm", "sec")
    for t in range(N_TIMES):
        # The annotated slice follows the object, which by then has moved by 2 t voxels.
        found, truth = labels[..., MIDDLE, t] == 1, series[..., MIDDLE, t]
        assert dice(found, truth) > 0.8, t
        assert dice(labels[..., t] == 1, series[..., t]) > 0.6, t
    assert dice(series[..., MIDDLE, 0], series[..., MIDDLE, 3]) < 0.6
    times = json.loads(report.read_text())["times"]
    assert [(x["time"], x["carried"]) for x in times] == [
        (0, False), (1, True), (2, True), (3, True)
    ]  # fmt: skip
    assert "4 time points every 2.5 s" in result.out


@pytest.mark.filterwarnings("ignore:.*taken at time point:UserWarning")
def test_seeds_of_each_time_point_are_used_as_they_are(cli, tmp_path, series):
    seeds = np.zeros((*SHAPE, N_TIMES), np.uint8)
    seeds[..., MIDDLE, :] = series[..., MIDDLE, :]
    affine = nibabel.load(tmp_path / "series.nii.gz").affine
    nibabel.Nifti1Image(seeds, affine).to_filename(tmp_path / "each.nii.gz")
    result = run(cli, tmp_path, "--time", "all", seeds="each.nii.gz")
    assert result.code == 0, result.err
    labels = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    for t in range(N_TIMES):
        np.testing.assert_array_equal(labels[..., MIDDLE, t], seeds[..., MIDDLE, t])
        alone = run(cli, tmp_path, "--time", t, seeds="each.nii.gz", out=f"{t}.nii.gz")
        assert alone.code == 0, alone.err
        single = np.asarray(nibabel.load(tmp_path / f"{t}.nii.gz").dataobj)
        assert f"time point {t} of 4" in alone.out
        if t == 0:  # the intensity window of a series is that of its first seeds
            np.testing.assert_array_equal(labels[..., t], single)


def test_seeds_of_a_later_time_point_are_carried_to_both_sides(cli, tmp_path, series):
    seeds = np.zeros(SHAPE, np.uint8)
    seeds[..., MIDDLE] = series[..., MIDDLE, 2]
    affine = nibabel.load(tmp_path / "series.nii.gz").affine
    nibabel.Nifti1Image(seeds, affine).to_filename(tmp_path / "later.nii.gz")
    result = run(
        cli, tmp_path, "--time", "all", "--carry", "--seeds-time", "2", seeds="later.nii.gz",
        out="out.ome.tif",
    )  # fmt: skip
    assert result.code == 0, result.err
    from napari_slmsam2.io import read_image

    for t in range(N_TIMES):
        image = read_image(tmp_path / "out.ome.tif", time=t)
        plane = np.asarray(image.volume.data)[MIDDLE].T == 1
        assert dice(plane, series[..., MIDDLE, t]) > 0.8
    assert image.geometry.time.step == 2.5


def test_time_points_without_seeds_are_named(cli, tmp_path, series):
    result = run(cli, tmp_path, "--time", "all")
    assert result.code != 0
    assert "none at 3 of 4 time points" in result.flat_err.replace("there are ", "")
    assert "--carry" in result.err
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--time", "all", "--session", "a.slmsam2"), "cannot be combined with --session"),
        (("--time", "all", "--level", 1), "cannot be combined with --level"),
        (("--time", "all", "--roi", "0:9,:,:"), "cannot be combined with --roi"),
        (("--carry",), "expected --time all"),
        (("--time", "some"), "expected a whole number from 0, or all"),
        (("--time", "all", "--carry", "--seeds-time", "9"), "expected 0 to 3"),
    ],
)
def test_options_that_do_not_fit_are_named(cli, tmp_path, series, options, message):
    result = run(cli, tmp_path, *options)
    assert result.code != 0
    assert message in result.flat_err


def test_a_format_of_single_volumes_is_refused_before_the_run(cli, tmp_path, series):
    result = run(cli, tmp_path, "--time", "all", "--carry", out="out.seg.nrrd")
    assert result.code != 0
    assert "cannot hold labels of several time points" in result.flat_err
    assert "propagating" not in result.err


def test_a_series_in_python(tmp_path, series):
    from napari_slmsam2.io import open_series, read_labels, write_labels
    from napari_slmsam2.session.series import propagate_series

    opened = open_series(tmp_path / "series.nii.gz", axis=2)
    images = [opened.image(t) for t in range(opened.n_times)]
    seeds = read_labels(tmp_path / "seeds.nii.gz", images[0])
    labels = propagate_series(
        [image.volume for image in images], {0: seeds}, carry=True, model="flow"
    )
    assert labels.shape == (N_TIMES, *SHAPE)
    path = write_labels(tmp_path / "out.ome.tif", labels, images[0])
    again = open_series(path)
    for t in range(N_TIMES):
        np.testing.assert_array_equal(again.labels(t, images[t]).array, labels[t])


def test_a_smaller_input_for_a_slow_cpu_is_used_at_every_time_point(
    cli, tmp_path, series, monkeypatch
):
    monkeypatch.setattr(input_size, "SMALL_INPUT", 64)
    monkeypatch.setattr(input_size, "measure_parts", lambda *_: input_size.PartTimes(5.0, 1.0))
    config = TINY.replace(image_size=96)
    network = SliceNetwork(config)
    randomise(network, 11)
    weights, report = tmp_path / "larger.safetensors", tmp_path / "report.json"
    save_weights(weights, network.state_dict(), {"config": config.to_dict()})
    model = ("--device", "cpu", "--report", report)
    result = run(cli, tmp_path, "--time", "all", "--carry", *model, model=weights)
    assert result.code == 0, result.err
    assert result.flat_err.count("input of 64 px: about 8 s per slice and label on this CPU") == 1
    times = json.loads(report.read_text())["times"]
    sizes = [time["chosen"]["image_size"] for time in times if time["chosen"]]
    assert sizes
    assert set(sizes) == {64}
