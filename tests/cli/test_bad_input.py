"""What a user can get wrong: a clear message, a non-zero exit code, nothing written."""

from __future__ import annotations

import os
import pickle

import nibabel
import numpy as np
import pytest

from .conftest import AFFINE, save


class _Bomb:
    """Leaves a file behind if it is ever unpickled by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.fixture
def fails(cli, scene):
    """Propagate wrongly: check the exit code, the message, and that nothing is left behind."""

    def check(code, *words, image=None, seeds=None, options=(), out=None):
        out = scene.folder / "labels.nii.gz" if out is None else out
        before = sorted(p.name for p in scene.folder.iterdir())
        result = cli("propagate", image or scene.image, seeds or scene.seeds, "-o", out, *options)
        assert result.code == code, result.out + result.err
        for word in words:
            assert word in result.flat_err
        assert "Traceback" not in result.err
        if code == 1:
            assert result.err.startswith("Error: ")
        assert sorted(p.name for p in scene.folder.iterdir()) == before
        return result

    return check


@pytest.mark.parametrize("which", ["image", "seeds"])
def test_missing_file(fails, scene, which):
    path = scene.folder / "nowhere.nii.gz"
    fails(1, f"{path}: does not exist", **{which: path})


@pytest.mark.parametrize("which", ["image", "seeds"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_truncated_file(fails, scene, which, suffix):
    path = scene.folder / f"cut.{suffix}"
    nibabel.load(getattr(scene, which)).to_filename(path)
    path.write_bytes(path.read_bytes()[:-200])
    fails(1, str(path), **{which: path})


@pytest.mark.parametrize("which", ["image", "seeds"])
def test_a_file_that_is_no_image(fails, scene, which):
    path = scene.folder / "text.nii.gz"
    path.write_text("once upon a time")
    fails(1, str(path), **{which: path})
    fails(1, str(scene.folder), "is a folder", **{which: scene.folder})


def test_another_shape_or_grid(fails, scene):
    path = save(scene.folder / "other.nii.gz", scene.seeded[..., 1:])
    fails(1, str(path), "shapes differ", "(30, 26, 16)", "(30, 26, 15)", seeds=path)
    moved = AFFINE.copy()
    moved[0, 3] = 5.0
    save(path, scene.seeded, moved)
    fails(1, str(path), "affines differ", seeds=path)


def test_no_seeds(fails, scene):
    path = save(scene.folder / "none.nii.gz", np.zeros_like(scene.seeded))
    fails(1, str(path), "holds no seeds", "only background", seeds=path)


def test_seeds_that_are_no_labels(fails, scene):
    floats = scene.seeded.astype(np.float32)
    floats[10, 9, 4] = 0.5
    path = save(scene.folder / "floats.nii.gz", floats)
    fails(1, str(path), "0.5", "(10, 9, 4)", seeds=path)
    negative = scene.seeded.astype(np.int16)
    negative[0, 0, 0] = -3
    path = save(scene.folder / "negative.nii.gz", negative)
    fails(1, str(path), "-3", seeds=path)
    path = save(scene.folder / "nan.nii.gz", np.where(scene.seeded > 0, np.nan, 0.0))
    fails(1, str(path), "nan", seeds=path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--axis", "3"), ("--axis", "3")),
        (("--axis", "z"), ("--axis", "z")),
        (("--model", "sam3"), ("model", "sam3")),
        (("--window", "wide"), ("--window", "wide")),
        (("--window", "5,5"), ("--window",)),
        (("--merge", "magic"), ("--merge", "magic", "sweeps")),
        (("--overlap", "mine"), ("--overlap", "mine")),
        (("--direction", "up"), ("--direction",)),
        (("--precision", "int8"), ("--precision",)),
        (("--stop-after", "0"), ("--stop-after", "0")),
        (("--batch-size", "0"), ("--batch-size", "0")),
        (("--range", "4:99"), ("--range 4:99", "0 to 15")),
        (("--range", "9:4"), ("--range 9:4",)),
        (("--range", "all"), ("--range", "all")),
        (("--extent", "1:5:9"), ("--extent 1:5:9", "leaves out slices that hold a seed")),
        (("--extent", "1:0:99"), ("--extent 1:0:99", "0 to 15")),
        (("--extent", "9:0:5"), ("--extent 9:0:5", "no seed of this label", "1, 2")),
        (("--extent", "1:2"), ("--extent", "1:2", "LABEL:FIRST:LAST")),
        (("--absent", "1:4"), ("--absent 1:4", "annotated on this slice")),
        (("--absent", "1:99"), ("--absent 1:99",)),
        (("--absent", "one:4"), ("--absent", "one:4")),
        (("--qc", "picture.jpg"), ("--qc", ".png", "picture.jpg")),
        (("--fast",), ("--fast",)),
    ],
)
def test_bad_options(fails, options, words):
    fails(2, *words, options=options)


def test_missing_arguments(cli):
    result = cli("propagate")
    assert result.code == 2
    assert "IMAGE" in result.flat_err
    assert cli("fly").code == 2


def test_a_device_that_is_not_there(fails, weights):
    fails(1, "device", "cuda:99", options=("--model", weights, "--device", "cuda:99"))
    fails(2, "device", "gpu", options=("--model", weights, "--device", "gpu"))


def test_a_checkpoint_that_is_none(fails, scene, tmp_path):
    path = tmp_path / "weights.pt"
    fails(1, str(path), options=("--model", path))
    path.write_bytes(b"weights")
    fails(1, str(path), options=("--model", path))
    safe = tmp_path / "weights.safetensors"
    safe.write_bytes(b"weights")
    fails(1, str(safe), options=("--model", safe))


def test_a_malicious_pickle_is_not_run(fails, tmp_path):
    path, crater = tmp_path / "evil.pt", tmp_path / "crater"
    path.write_bytes(pickle.dumps({"model": _Bomb(crater)}, protocol=2))
    fails(1, str(path), "nothing in it was run", options=("--model", path))
    path.write_bytes(pickle.dumps({"model": _Bomb(crater)}))
    fails(1, str(path), "is not a checkpoint", options=("--model", path))
    assert not crater.exists()


def test_an_output_that_cannot_be_written(fails, scene):
    fails(1, "seeds.nii.gz", out=scene.seeds / "labels.nii.gz")
    fails(1, "no folder", out=scene.folder / "nowhere" / "labels.nii.gz")
    fails(1, "is a folder", out=scene.folder)
    fails(1, "labels.docx", ".nii.gz", out=scene.folder / "labels.docx")
    for option in ("--report", "--session"):
        fails(1, "no folder", options=(option, scene.folder / "nowhere" / "file"))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no /proc")
def test_a_folder_of_the_kernel(fails):
    fails(1, "/proc/self/labels.nii.gz", out="/proc/self/labels.nii.gz")


def test_outputs_and_inputs_must_differ(fails, scene):
    same = scene.folder / "labels.nii.gz"
    fails(2, "--out", "an input", out=scene.image, options=("--force",))
    assert nibabel.load(scene.image).shape == scene.array.shape
    fails(2, "--report", "same file as --out", options=("--report", same))


def test_a_log_is_no_other_file(fails, scene):
    before = scene.image.read_bytes()
    fails(2, "--log", "same file", options=("--log", scene.image))
    assert scene.image.read_bytes() == before
    fails(2, "--log", "same file", options=("--log", scene.folder / "labels.nii.gz"))
    fails(1, "no.log", options=("--log", scene.folder / "nowhere" / "no.log"))


@pytest.mark.parametrize("option", ["--report", "--qc", "--session"])
def test_other_results_are_not_overwritten_either(fails, scene, option):
    path = scene.folder / "mine.png"
    path.write_text("mine")
    fails(1, f"{option} {path}: exists already", options=(option, path))
    assert path.read_text() == "mine"


def test_image_with_channels(fails, scene):
    array = np.stack([scene.array] * 2, axis=-1)
    path = save(scene.folder / "four.nii.gz", array)
    fails(1, str(path), image=path)


def test_files_for_the_other_commands(cli, scene, tmp_path):
    nowhere, text = tmp_path / "nowhere.nii.gz", tmp_path / "text.slmsam2"
    text.write_text("seeds")
    out = tmp_path / "labels.nii.gz"
    for arguments, word in (
        (("info", nowhere), "nowhere.nii.gz"),
        (("evaluate", nowhere, scene.truth), "nowhere.nii.gz"),
        (("evaluate", scene.truth, nowhere), "nowhere.nii.gz"),
        (("evaluate", scene.image, scene.image, "--labels", "4711"), "label 4711"),
        (("replay", nowhere, "-o", out), "nowhere.nii.gz"),
        (("replay", text, "-o", out), "text.slmsam2"),
        (("demo", "--out", text), "text.slmsam2"),
    ):
        result = cli(*arguments)
        assert result.code == 1, result.out
        assert word in result.err
        assert "Traceback" not in result.err
    assert not out.exists()


@pytest.mark.parametrize("options", [(), ("--model", "flow")])
def test_unknown_device(fails, options):
    """Also with a model that runs on the CPU alone."""
    fails(2, "'--device'", "auto, cpu, mps, cuda or cuda:N", options=("--device", "gpu", *options))


def test_crop_without_a_region(fails):
    fails(2, "--crop", "expected --roi", options=("--crop",))


def test_replay_to_a_segmentation_is_refused_before_the_run(cli, scene):
    pytest.importorskip("highdicom")
    session, out = scene.folder / "a.slmsam2", scene.folder / "again.dcm"
    first = scene.folder / "labels.nii.gz"
    options = ("--model", "interpolation", "--session", session)
    assert cli("propagate", scene.image, scene.seeds, "-o", first, *options).code == 0
    before = sorted(scene.folder.iterdir())
    done = cli("replay", session, "-o", out)
    assert done.code == 1
    assert f"{out}: a DICOM Segmentation refers to" in done.flat_err
    assert "replaying" not in done.err
    assert sorted(scene.folder.iterdir()) == before
