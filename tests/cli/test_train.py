"""``train``: from nothing to weights that the other commands take."""

import json


def test_train_leaves_weights_that_propagate_takes(cli, scene):
    out = scene.folder / "training"
    options = ("--synthetic-clips", "8", "--batch", "2", "--device", "cpu")
    first = cli("train", "-o", out, *options, "--steps", "2")
    assert first.code == 0, first.err
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2]
    assert (out / "training.png").stat().st_size > 1000
    again = cli("train", "-o", out, *options, "--steps", "3")
    assert again.code == 0, again.err
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == 3
    result = scene.folder / "found.nii.gz"
    done = cli(
        "propagate", scene.image, scene.seeds, "-o", result, "--model", out / "model.safetensors"
    )
    assert done.code == 0, done.err
    assert result.exists()
    assert "model.safetensors" in done.out


def test_volumes_that_are_none_are_refused(cli, tmp_path):
    result = cli("train", "-o", tmp_path / "out", "--volumes", tmp_path, "--synthetic-clips", "0")
    assert result.code != 0
    assert "no labelled volumes" in result.err
