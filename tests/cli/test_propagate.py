"""The main job: an image and seeds in, a label map and what goes with it out."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile

import nibabel
import numpy as np
import pytest
from PIL import Image

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.engine.sam2 import input_size
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL
from napari_slmsam2.io import read_image, read_labels

from ..random_weights import TINY, randomise


def read(path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def dice(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_one_command_fills_the_volume(cli, scene):
    out = scene.folder / "labels.nii.gz"
    result = cli("propagate", scene.image, scene.seeds, "-o", out)
    assert result.code == 0, result.err
    labels = read(out)
    assert labels.dtype == np.uint8
    for label in (1, 2):
        assert dice(labels == label, scene.labels == label) > 0.6
        for index in np.flatnonzero((scene.seeded == label).any(axis=(0, 1))):
            np.testing.assert_array_equal(
                labels[..., index] == label, scene.seeded[..., index] == label
            )
    image = nibabel.load(scene.image)
    np.testing.assert_array_equal(nibabel.load(out).affine, image.affine)
    for said in (
        "Axis     2, 16 slices. Axis 2 has the coarsest spacing (4 mm).",
        "(0.5-99.5%)",
        "label 1 on slices 4, 11",
        "label 2 on slice 7",
        "mean confidence",
        "slices/s",
        str(out),
    ):
        assert said in result.out
    assert re.search(rf"Model    {DEFAULT_MODEL} \(SHA-256 [0-9a-f]{{12}}\) on cpu", result.out)
    assert result.out.count("of label") == 3
    assert "propagating: 100 %" in result.err
    assert len(result.err.splitlines()) <= 12


def test_report_picture_and_session(cli, scene):
    names = ("labels.nii.gz", "report.json", "overview.png", "run.slmsam2")
    out, report, qc, session = (scene.folder / name for name in names)
    result = cli(
        *("propagate", scene.image, scene.seeds, "-o", out, "--report", report, "--qc", qc),
        *("--session", session, "--window", "100,800", "--merge", "sweeps", "--range", "2:12"),
        *("--extent", "1:3:12", "--absent", "2:1"),
    )
    assert result.code == 0, result.err
    facts = json.loads(report.read_text())
    assert facts["finished"] is True
    assert facts["axis"] == 2
    assert "coarsest" in facts["axis_reason"]
    assert facts["window"] == {"low": 100.0, "high": 800.0, "source": "limits"}
    assert facts["model"]["name"] == DEFAULT_MODEL
    assert facts["model"]["device"] == "cpu"
    assert facts["config"]["merge"] == "sweeps"
    assert facts["range"] == [2, 12]
    assert facts["memory"]["peak_resident_bytes"] > 10e6
    assert facts["versions"]["packages"]["numpy"] == np.__version__
    assert {"read_s", "window_s", "model_s", "propagate_s", "write_s"} <= facts["timings"].keys()
    assert facts["timings"]["slices_per_second"] > 0
    labels = read(out)
    for label in (1, 2):
        told = facts["labels"][str(label)]
        present = np.flatnonzero((labels == label).any(axis=(0, 1)))
        assert told["voxels"] == (labels == label).sum()
        assert told["slices"] == len(present)
        assert [told["first"], told["last"]] == [present[0], present[-1]]
        for index, quality in told["quality"].items():
            assert quality["area"] >= 0
            assert 0 <= quality["confidence"] <= 1
            assert 2 <= int(index) <= 12
    assert facts["labels"]["1"]["seeds"] == [4, 11]
    assert facts["labels"]["1"]["extent"] == [3, 12]
    assert facts["labels"]["2"]["seeds"] == [1, 7]
    assert facts["suggestions"]
    assert facts["suggestions"][0].keys() == {"label", "index", "score", "reason"}
    assert not (labels[..., :3] == 1).any()
    assert not (labels[..., 13:] == 1).any()
    with Image.open(qc) as picture:
        assert picture.width == 1600
    again = scene.folder / "again.nii.gz"
    replayed = cli("replay", session, "-o", again)
    assert replayed.code == 0, replayed.err
    assert "the same as the session file" in replayed.out
    assert again.read_bytes() == out.read_bytes()


def test_a_network_end_to_end(cli, scene, weights):
    out, report = scene.folder / "labels.nii.gz", scene.folder / "report.json"
    session = scene.folder / "run.slmsam2"
    result = cli(
        *("propagate", scene.image, scene.seeds, "-o", out, "--model", weights, "--device", "cpu"),
        *("--report", report, "--session", session, "--precision", "float32"),
        *("--batch-size", "1"),
    )
    assert result.code == 0, result.err
    facts = json.loads(report.read_text())
    assert facts["model"] == {
        "name": "tiny.safetensors",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "device": "cpu",
        "precision": "float32",
    }
    assert facts["config"]["batch_size"] == 1
    assert "torch" in facts["versions"]["packages"]
    moved = scene.folder / "moved.safetensors"
    moved.write_bytes(weights.read_bytes())
    again = scene.folder / "again.nii.gz"
    assert cli("replay", session, "-o", again, "--model", moved).code == 0
    np.testing.assert_array_equal(read(again), read(out))
    other = scene.folder / "other.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    result = cli("replay", session, "-o", scene.folder / "no.nii.gz", "--model", other)
    assert result.code == 1
    assert "other.safetensors" in result.err
    assert not (scene.folder / "no.nii.gz").exists()


def test_a_smaller_input_for_a_slow_cpu_is_reported_and_recorded(cli, scene, monkeypatch):
    monkeypatch.setattr(input_size, "SMALL_INPUT", 64)
    monkeypatch.setattr(input_size, "measure_parts", lambda *_: input_size.PartTimes(5.0, 1.0))
    weights = scene.folder / "larger.safetensors"
    config = TINY.replace(image_size=96)
    network = SliceNetwork(config)
    randomise(network, 11)
    save_weights(weights, network.state_dict(), {"config": config.to_dict()})
    out, report = scene.folder / "labels.nii.gz", scene.folder / "report.json"
    session = scene.folder / "run.slmsam2"
    job = ("propagate", scene.image, scene.seeds, "-o", out, "--model", weights, "--device", "cpu")
    result = cli(*job, "--report", report, "--session", session)
    assert result.code == 0, result.err
    assert "input of 64 px: about 8 s per slice and label on this CPU" in result.flat_err
    assert "--image-size 96, the model's own" in result.flat_err
    assert json.loads(report.read_text())["chosen"]["image_size"] == 64
    again = scene.folder / "again.nii.gz"
    assert cli("replay", session, "-o", again).code == 0
    np.testing.assert_array_equal(read(again), read(out))
    given = cli(*job, "--force", "--image-size", "96")
    assert given.code == 0, given.err
    assert "per slice and label" not in given.err


def test_another_axis_and_format(cli, scene):
    seeds = np.zeros_like(scene.labels)
    seeds[10] = scene.labels[10]
    path = scene.folder / "seeds_x.nii"
    nibabel.Nifti1Image(seeds, nibabel.load(scene.image).affine).to_filename(path)
    out = scene.folder / "labels.nrrd"
    result = cli("propagate", scene.image, path, "-o", out, "--axis", "0")
    if "pynrrd" in result.err:
        pytest.skip("pynrrd is not installed")
    assert result.code == 0, result.err
    assert "Axis     0, 30 slices. Chosen by the user." in result.out


def test_labels_as_ome_zarr(cli, scene):
    out = scene.folder / "labels.ome.zarr"
    command = ("propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation")
    result = cli(*command)
    assert result.code == 0, result.err
    image = read_image(scene.image)
    labels = read_labels(out, image)
    seeded = scene.seeded > 0
    np.testing.assert_array_equal(labels[seeded], scene.seeded[seeded])
    assert read_image(out).geometry.spacing == image.geometry.spacing[::-1]
    again = cli(*command)
    assert (again.code, "exists already" in again.err) == (1, True)
    assert cli(*command, "--force").code == 0
    np.testing.assert_array_equal(read_labels(out, image), labels)


def test_a_place_that_ome_zarr_cannot_hold_is_noted(shell, scene):
    for path in (scene.image, scene.seeds):
        scan = nibabel.load(path)
        mirrored = np.diag([-1, -1, 1, 1]) @ scan.affine
        nibabel.Nifti1Image(np.asarray(scan.dataobj), mirrored, scan.header).to_filename(path)
    out = scene.folder / "labels.ome.zarr"
    result = shell("propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation")
    assert result.code == 0, result.err
    assert "Note: labels.ome.zarr: OME-Zarr keeps" in result.err
    assert "UserWarning" not in result.err


def test_every_setting_has_its_option(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    text = " ".join(cli("propagate", "--help").out.replace("│", " ").split())
    for field in PropagationConfig.fields():
        name = "stop-after" if field.name == "stop_after_absent" else field.name.replace("_", "-")
        assert f"--{name} " in text
        assert field.metadata["help"].split(".")[0][:40] in text
        assert field.default is None or f"[default: {field.default}]" in text


def test_settings_reach_the_run(cli, scene, weights):
    out, report = scene.folder / "labels.nii.gz", scene.folder / "report.json"
    settings = {
        "direction": "forward",
        "overlap": "keep",
        "stop_after_absent": 2,
        "memory": "confident",
        "memory_dtype": "float32",
        "embedding_budget": 0,
        "image_size": 96,
    }
    flags = {"stop_after_absent": "--stop-after"}
    options = [
        word
        for name, value in settings.items()
        for word in (flags.get(name, "--" + name.replace("_", "-")), value)
    ]
    job = ("propagate", scene.image, scene.seeds, "-o", out, "--model", weights)
    result = cli(*job, "--device", "cpu", "--report", report, *options)
    assert result.code == 0, result.err
    config = json.loads(report.read_text())["config"]
    assert {name: config[name] for name in settings} == settings
    refused = cli(*job, "--force", "--memory", "none")
    assert refused.code == 2
    assert "expected standard or confident" in refused.flat_err
    default = PropagationConfig().to_dict()
    untouched = default.keys() - settings.keys()
    assert {name: config[name] for name in untouched} == {n: default[n] for n in untouched}


def test_it_is_said_where_nothing_could_be_carried(cli, scene):
    """Label 2 has one seed, and shapes are interpolated between seeds only."""
    out = scene.folder / "labels.nii.gz"
    result = cli("propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation")
    assert result.code == 0
    assert "label 2 was carried to no other slice" in result.out
    assert "label 1 was carried" not in result.out


def test_overwriting_is_asked_for(cli, scene):
    out = scene.folder / "labels.nii.gz"
    out.write_text("mine")
    job = ("propagate", scene.image, scene.seeds, "-o", out, "--model", "interpolation")
    result = cli(*job)
    assert result.code == 1
    assert f"--out {out}: exists already" in result.err
    assert "--force" in result.err
    assert out.read_text() == "mine"
    assert cli(*job, "--force").code == 0
    assert read(out).any()


def test_a_replay_that_differs_writes_nothing(cli, scene):
    """Someone changed the window in the session file."""
    session, out = scene.folder / "a.slmsam2", scene.folder / "labels.nii.gz"
    assert cli("propagate", scene.image, scene.seeds, "-o", out, "--session", session).code == 0
    forged = scene.folder / "forged.slmsam2"
    with zipfile.ZipFile(session) as source, zipfile.ZipFile(forged, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "session.json":
                facts = json.loads(content)
                facts["window"] = {"low": 380.0, "high": 390.0, "source": "limits"}
                content = json.dumps(facts).encode()
            target.writestr(name, content)
    again = scene.folder / "again.nii.gz"
    result = cli("replay", forged, "-o", again)
    assert result.code == 1
    assert "come out differently" in result.err
    assert not again.exists()
    assert cli("replay", forged, "-o", again, "--allow-differences").code == 0
    assert again.exists()


def test_a_real_volume(cli, shared, tmp_path):
    folder = shared / "volumes" / "mr_hippocampus_msd001"
    if not folder.is_dir():
        pytest.skip("the volume is not there")
    from napari_slmsam2.evaluate import choose_seeds, seed_volume

    image = nibabel.load(folder / "labels.nii.gz")
    truth = np.asarray(image.dataobj).astype(np.uint8)
    chosen = {label: choose_seeds(truth == label, 1, 3) for label in (1, 2)}
    seeds = tmp_path / "seeds.nii.gz"
    nibabel.Nifti1Image(seed_volume(truth, chosen, 1), image.affine).to_filename(seeds)
    out, scores = tmp_path / "labels.nii.gz", tmp_path / "scores.json"
    job = ("propagate", folder / "image.nii.gz", seeds, "-o", out, "--axis", "1")
    assert cli(*job, "--model", "interpolation").code == 0
    truth_file = folder / "labels.nii.gz"
    result = cli("evaluate", out, truth_file, "--axis", "1", "--seeds", seeds, "--json", scores)
    assert result.code == 0, result.err
    assert json.loads(scores.read_text())["mean"]["dice"]["mean"] > 0.6
