"""info, evaluate, models, demo, --version."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

import napari_slmsam2
from napari_slmsam2.engine.weights import download, registry
from napari_slmsam2.sample import make_sample

from .conftest import save


def test_version(cli):
    assert cli("--version").out.split() == ["napari-slmsam2", napari_slmsam2.__version__]


@pytest.mark.parametrize(
    "command",
    [(), ("propagate",), ("replay",), ("evaluate",), ("info",), ("demo",), ("models",), ("train",)],
)
def test_help_has_examples(cli, command):
    result = cli(*command, "--help")
    assert result.code == 0
    assert "napari-slmsam2 " + " ".join(command) in result.out


def test_info(cli, scene):
    result = cli("info", scene.image)
    assert result.code == 0
    for word in ("30 x 26 x 16", "0.8 x 0.9 x 4 mm", "RAS", "int16", "coarsest spacing"):
        assert word in result.out
    facts = json.loads(cli("info", scene.image, "--json", "--axis", "1").out)
    assert facts["axis"] == 1
    assert facts["slices"] == 26
    assert facts["shape"] == [30, 26, 16]


def test_evaluate(cli, scene):
    shifted = save(scene.folder / "shifted.nii.gz", np.roll(scene.labels, 2, axis=0))
    scores, plot = scene.folder / "scores.json", scene.folder / "plot.png"
    with_files = ("--json", scores, "--plot", plot, "--seeds", scene.seeds, "--exclude", "2:9")
    result = cli("evaluate", shifted, scene.truth, *with_files, "--tolerance", "1")
    if "matplotlib" in result.err:
        pytest.skip("matplotlib is not installed")
    assert result.code == 0, result.err
    assert "Dice" in result.out
    facts = json.loads(scores.read_text())
    by_label = {row["label"]: row for row in facts["labels"]}
    assert by_label[1]["excluded"] == [4, 11]
    assert by_label[2]["excluded"] == [7, 9]
    assert facts["tolerance"] == 1
    assert facts["axis"] == 2
    a, b = np.roll(scene.labels, 2, axis=0) == 1, scene.labels == 1
    expected = 2 * (a & b).sum() / (a.sum() + b.sum())
    assert by_label[1]["all_slices"]["overlap"]["dice"] == pytest.approx(expected)
    with Image.open(plot) as picture:
        assert picture.width == 1200
    again = cli("evaluate", shifted, scene.truth, "--json", scores)
    assert again.code == 1
    assert "--json" in again.err
    one = cli("evaluate", shifted, scene.truth, "--labels", "2")
    assert "1 label," in one.out
    assert cli("evaluate", shifted, scene.truth, "--labels", "two").code == 2
    assert cli("evaluate", shifted, scene.truth, "--exclude", "1:99").code == 2


def test_list_of_models(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("NAPARI_SLMSAM2_MODELS", str(tmp_path))
    card = registry.get_model("sam2.1-tiny")
    (tmp_path / card.weights.filename).touch()
    result = cli("models", "list")
    assert result.code == 0
    lines = {line.split()[0]: line for line in result.out.splitlines() if line.strip()}
    for known in registry.list_models():
        assert known.licence in lines[known.name]
    assert " yes " in lines["sam2.1-tiny"]
    assert " no " in lines["sam2.1-large"]
    assert "898 MB" in lines["sam2.1-large"]
    assert "no, to be trained" in lines["slm-sam2.1-tiny"]
    assert "(default)" in lines[registry.DEFAULT_MODEL]


def test_one_model(cli):
    result = cli("models", "info", "slm-sam2.1-tiny")
    assert result.code == 0
    assert "NOT fine-tuned" in " ".join(result.out.split())
    assert registry.get_model("sam2.1-tiny").weights.sha256 in result.out
    wrong = cli("models", "info", "sam2.1-tinny")
    assert wrong.code == 2
    assert "sam2.1-tiny" in wrong.err


def test_download(cli, tmp_path, monkeypatch):
    """What the command adds to `download_weights`, which has its own tests with a real server."""
    card = registry.get_model("sam2.1-tiny")
    path = tmp_path / card.weights.filename
    path.write_bytes(b"not the weights")
    result = cli("models", "download", "sam2.1-tiny", "--models-folder", tmp_path)
    assert result.code == 1
    assert f"{path}: has the wrong size" in result.err
    assert path.read_bytes() == b"not the weights"
    assert "nothing to download" in cli("models", "download", "flow").out
    assert cli("models", "download", "sam9").code == 2


def test_download_with_progress(cli, tmp_path, monkeypatch):
    import hashlib
    import http.server
    import threading

    payload = bytes(300_000)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            weights = registry.WeightsFile(
                url=f"http://127.0.0.1:{server.server_port}/w.pt",
                filename="w.pt",
                size=len(payload),
                sha256=hashlib.sha256(payload).hexdigest(),
            )
            card = registry.ModelCard(
                name="small-one",
                title="A small one",
                kind="network",
                licence="MIT",
                description="For a test.",
                weights=weights,
            )
            monkeypatch.setitem(registry._MODELS, card.name, card)
            result = cli("models", "download", "small-one", "--models-folder", tmp_path)
        finally:
            server.shutdown()
            thread.join()
    assert result.code == 0, result.err
    assert "licence MIT" in result.out
    assert "downloading: 100 %" in result.err
    assert "SHA-256 verified" in result.out
    assert (tmp_path / "w.pt").read_bytes() == payload
    assert download.is_downloaded(card, tmp_path)
    assert (
        "was there already"
        in cli("models", "download", "small-one", "--models-folder", tmp_path).out
    )


def test_demo(cli, tmp_path):
    out = tmp_path / "new" / "demo"
    result = cli("demo", "--out", out)
    assert result.code == 0, result.err
    names = {"image.nii.gz", "seeds.nii.gz", "truth.nii.gz"}
    names |= {"labels.nii.gz", "overview.png", "report.json"}
    assert {p.name for p in out.iterdir()} == names
    assert all(str(out / name) in result.out for name in names - {"seeds.nii.gz", "truth.nii.gz"})
    sample = make_sample()
    image = nibabel.load(out / "image.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), sample.volume.data)
    labels = np.asarray(nibabel.load(out / "labels.nii.gz").dataobj)
    seeds = np.asarray(nibabel.load(out / "seeds.nii.gz").dataobj)
    for label in sample.names:
        (index,) = np.flatnonzero((seeds == label).any(axis=(0, 1)))
        np.testing.assert_array_equal(labels[..., index] == label, seeds[..., index] == label)
        a, b = labels == label, sample.labels == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.6
    assert "Dice" in result.out
    again = cli("demo", "--out", out)
    assert again.code == 1
    assert "exists already" in again.err
    assert "--force" in again.err


def test_the_sample_is_the_same_every_time():
    first, second, other = make_sample(), make_sample(), make_sample(1)
    np.testing.assert_array_equal(first.volume.data, second.volume.data)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert (first.volume.data != other.volume.data).any()
    assert first.volume.shape == first.labels.shape
    assert max(first.volume.spacing) == first.volume.spacing[first.volume.axis]
    for label in first.names:
        present = np.flatnonzero((first.labels == label).any(axis=(0, 1)))
        assert present[0] > 2
        assert present[-1] < first.volume.n_slices - 3
        np.testing.assert_array_equal(np.diff(present), 1)


def test_encoded_slices_are_kept_shown_and_deleted(cli, scene, weights, tmp_path, monkeypatch):
    folder = tmp_path / "embeddings"
    monkeypatch.setenv("NAPARI_SLMSAM2_EMBEDDINGS", str(folder))
    assert "Slices   0, 0.0 MiB" in cli("embeddings").out
    labels = [scene.folder / f"{name}.nii.gz" for name in ("first", "second")]
    for out in labels:
        job = ("propagate", scene.image, scene.seeds, "-o", out, "--model", weights)
        kept = ("--embedding-disk", 1, "--session", out.with_suffix(".slmsam2"))
        result = cli(*job, "--device", "cpu", *kept)
        assert result.code == 0, result.err
    facts = json.loads(cli("embeddings", "--json").out)
    assert facts["folder"] == str(folder)
    assert facts["slices"] == len(list(folder.iterdir())) > 0
    assert facts["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    system = json.loads(cli("info", "--system", "--json").out)
    assert system["embeddings"]["slices"] == facts["slices"]
    assert f"{facts['slices']}, " in cli("info", "--system").out
    first, second = (np.asarray(nibabel.load(path).dataobj) for path in labels)
    np.testing.assert_array_equal(first, second)
    result = cli("embeddings", "--clear")
    assert f"Deleted  {facts['bytes'] / 2**20:.1f} MiB" in result.out
    assert "Slices   0, 0.0 MiB" in result.out
    assert list(folder.iterdir()) == []
    again = scene.folder / "again.nii.gz"
    result = cli("replay", labels[0].with_suffix(".slmsam2"), "-o", again, "--device", "cpu")
    assert result.code == 0, result.err
    assert list(folder.iterdir()) == [], "a file does not decide what is kept on this computer"


def test_info_describes_a_resolution_level(cli, tmp_path):
    from napari_slmsam2.io import read_image, write_labels

    plain = save(tmp_path / "scan.nii.gz", np.ones((300, 280, 4), np.uint8), np.diag([1, 1, 5, 1]))
    image = read_image(plain)
    write_labels(tmp_path / "scan.ome.zarr", np.ones(image.volume.shape, np.uint8), image)
    facts = [
        json.loads(cli("info", tmp_path / "scan.ome.zarr", "--level", n, "--json").out)
        for n in (0, 1)
    ]
    assert [sorted(f["shape"]) for f in facts] == [[4, 280, 300], [4, 140, 150]]
    assert [sorted(f["spacing"]) for f in facts] == [[1, 1, 5], [2, 2, 5]]
    assert "1 (4 x 140 x 150)" in cli("info", tmp_path / "scan.ome.zarr", "--level", 7).err
