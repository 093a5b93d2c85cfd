"""The accuracy benchmark, on volumes whose scores can be told beforehand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tests.random_weights import tiny_file

from napari_slmsam2.evaluate import choose_seeds

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not here")

AXIS = 1
FIRST, LAST, N = 4, 11, 16


def add_volume(folder: Path, modality: str, origin: str, labels: np.ndarray) -> None:
    """A folder as the benchmark reads it; objects are bright."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 5, labels.shape)
    for name, array in (("image", (100 * (labels > 0) + noise)), ("labels", labels)):
        nib.Nifti1Image(array.astype(np.int16), np.eye(4)).to_filename(folder / f"{name}.nii.gz")
    meta = {
        "slice_axis": AXIS,
        "suggested_eval_labels": sorted({*np.unique(labels).tolist()} - {0}),
        "modality": modality,
        "label_origin": origin,
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def cylinder() -> np.ndarray:
    """One shape on all of its slices."""
    labels = np.zeros((20, N, 20), np.int16)
    labels[5:13, FIRST : LAST + 1, 6:14] = 1
    return labels


def drifting() -> np.ndarray:
    """Three objects that grow, shrink and move sideways."""
    labels = np.zeros((40, N, 40), np.int16)
    for label, left in ((3, 1), (5, 14), (9, 27)):
        for index in range(FIRST, LAST + 1):
            side = 5 + min(index - FIRST, LAST - index)
            labels[10 : 10 + side, index, left + (index - FIRST) // 2 :][:, :side] = label
    return labels


@pytest.fixture
def volumes(tmp_path):
    folder = tmp_path / "volumes"
    add_volume(folder / "first", "CT (portal venous)", "human (one)", cylinder())
    add_volume(folder / "second", "FIB-SEM", "Human, proofread", drifting())
    add_volume(folder / "third", "MR T2w", "PSEUDO (a network)", cylinder())
    return folder


@pytest.fixture
def accuracy(monkeypatch, capsys):
    """Runs the benchmark in this process and gives what it printed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import accuracy

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *map(str, arguments)])
        accuracy.main()
        return capsys.readouterr().out

    return run


def stored(path: Path, **wanted: str) -> list[dict]:
    """The runs of a file with these values."""
    runs = json.loads(path.read_text())["runs"]
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def table(text: str, title: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    lines = text.split(f"## {title}\n\n", 1)[1].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def test_copying_a_cylinder_scores_what_can_be_counted(volumes, accuracy, tmp_path):
    path = tmp_path / "results.json"
    options = ["--volumes", volumes, "--only", "first", "--model", "copy", "--json", path]
    text = accuracy(*options, "--protocols", "1", "1-ends")
    length = LAST - FIRST + 1
    (plain,), (told,) = (stored(path, protocol=p) for p in ("1", "1-ends"))
    (one,), (known,) = plain["structures"], told["structures"]
    assert (one["seeds"], one["extent"]) == ([FIRST], [FIRST, LAST])
    assert one["scores"]["dice"] == pytest.approx(2 * (length - 1) / (length - 1 + N - 1))
    assert one["all_slices"]["dice"] == pytest.approx(2 * length / (length + N))
    assert one["all_slices"]["op_voxels"] == pytest.approx((N - length) / length)
    assert one["all_slices"]["absent_recall"] == 0
    assert known["scores"]["dice"] == known["scores"]["nsd"] == 1
    assert known["all_slices"]["absent_recall"] == 1
    assert (plain["label_slices"], told["label_slices"]) == (N - 1, length - 1)
    cells = table(text, "`copy`, protocol 1")[2]
    assert cells[:3] == ["first", "1", f"{one['scores']['dice']:.3f}"]


def test_copy_takes_the_nearest_annotated_slice(volumes, accuracy, tmp_path):
    path = tmp_path / "results.json"
    options = ["--volumes", volumes, "--only", "second", "--model", "copy", "--json", path]
    accuracy(*options, "--protocols", "3-ends", "5-ends")
    for protocol, n in (("3-ends", 3), ("5-ends", 5)):
        (run,) = stored(path, protocol=protocol)
        assert [one["label"] for one in run["structures"]] == [3, 5, 9]
        for one in run["structures"]:
            truth = np.moveaxis(drifting() == one["label"], AXIS, 0)
            seeds = choose_seeds(truth, 0, n)
            assert one["seeds"] == list(seeds)
            rest = [i for i in range(FIRST, LAST + 1) if i not in seeds]
            copied = [truth[min(seeds, key=lambda s, i=i: (abs(s - i), s))] for i in rest]
            assert one["scores"]["dice"] == pytest.approx(dice(np.array(copied), truth[rest]))


def test_means_are_over_labels_then_volumes_then_groups(volumes, accuracy, tmp_path):
    path = tmp_path / "results.json"
    text = accuracy(
        *("--volumes", volumes, "--model", "copy", "interpolation", "--json", path),
        *("--protocols", "1", "3"),
    )
    means = json.loads(path.read_text())["means"]["copy"]["1"]
    assert set(means) == {"CT", "EM", "mean of groups"}
    for group, name in (("CT", "first"), ("EM", "second")):
        (run,) = stored(path, volume=name, model="copy", protocol="1")
        assert means[group]["Dice"]["mean"] == pytest.approx(
            np.mean([one["scores"]["dice"] for one in run["structures"]])
        )
    whole = means["mean of groups"]["Dice"]
    both = [means[group]["Dice"]["mean"] for group in ("CT", "EM")]
    assert whole["mean"] == pytest.approx(np.mean(both))
    assert whole["low"] <= whole["mean"] <= whole["high"]
    rows = {tuple(r[:2]): r[2:] for r in table(text, "3D Dice without the annotated slices")[2:]}
    assert rows["1", "copy"][2] == f"**{whole['mean']:.3f}**"
    assert rows["1", "interpolation"][:3] == ["0.000"] * 3
    assert rows["1", "copy"][-2:] == ["2", "4"]
    assert "- 1: `copy` is best" in text
    title = "Labels that were not drawn by people: 3D Dice without the annotated slices"
    assert table(text, title)[0] == ["protocol", "model", "third"]


@pytest.fixture
def weights(tmp_path):
    """The file of a small network that has learned nothing."""
    return tiny_file(tmp_path / "tiny.safetensors")


def test_a_file_of_weights_runs_beside_the_other_models(volumes, accuracy, weights, tmp_path):
    path = tmp_path / "results.json"
    text = accuracy(
        *("--volumes", volumes, "--only", "second", "--model", weights, "copy", "--json", path),
        *("--protocols", "1-ends", "--max-labels", 2, "--device", "cpu"),
    )
    (run,) = stored(path, model="tiny.safetensors")
    assert len(run["sha256"]) == 64
    assert [one["label"] for one in run["structures"]] == [3, 5]
    rows = table(text, "All measures, mean of groups")[2:]
    assert [row[:2] for row in rows] == [["1-ends", "tiny.safetensors"], ["1-ends", "copy"]]


def test_workers_find_the_same_and_stored_results_can_be_shown(volumes, accuracy, tmp_path):
    alone, together = tmp_path / "alone.json", tmp_path / "together.json"
    options = ["--volumes", volumes, "--protocols", "1", "3-ends", "--json"]
    accuracy(*options, alone, "--model", "copy")
    command = [sys.executable, BENCHMARKS / "accuracy.py", *map(str, options), together]
    command += ["--model", "copy", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = [stored(path) for path in (alone, together)]
    for one, other in zip(*runs, strict=True):
        assert one["volume"] == other["volume"]
        assert one["structures"] == other["structures"]
    shown = accuracy("--load", together)
    title = "3D Dice without the annotated slices"
    assert table(shown, title) == table(done.stdout, title)


def test_compare_pairs_the_labels(volumes, accuracy, tmp_path):
    earlier, now = tmp_path / "earlier.json", tmp_path / "now.json"
    accuracy("--volumes", volumes, "--model", "copy", "--protocols", "1-ends", "--json", earlier)
    content = json.loads(earlier.read_text())
    for run in content["runs"]:
        for one in run["structures"]:
            one["scores"]["dice"] -= 0.01 * one["label"]
    earlier.write_text(json.dumps(content))
    text = accuracy(
        *("--volumes", volumes, "--only", "second", "--model", "interpolation", "copy"),
        *("--protocols", "1-ends", "3", "--json", now, "--compare", earlier),
    )
    lines = table(text, "Change of the Dice, and its paired 95 % interval")[2:]
    rows = {tuple(line[:2]): line[2:] for line in lines}
    assert rows["1-ends", "copy"] == [
        *("copy", "-", "-", "-", "+0.057", "-", "+0.057", "+0.030 to +0.090", "3")
    ]
    assert rows["3", "copy"][0] == "-"
    assert rows["1-ends", "interpolation"][0] == "copy"


def test_every_nth_slice_makes_a_stack_of_thick_slices(volumes, accuracy, tmp_path):
    path = tmp_path / "results.json"
    options = ["--volumes", volumes, "--only", "first", "--model", "copy", "--protocols", "1"]
    accuracy(*options, "--thin", 3, "--json", path)
    text = accuracy(*options, "--load", path, "--json", path, "--force")
    thick, thin = stored(path, thin=3), stored(path, thin=1)
    on = [i for i, index in enumerate(range(0, N, 3)) if FIRST <= index <= LAST]
    (one,) = thick[0]["structures"]
    assert (one["seeds"], one["extent"]) == ([on[0]], [on[0], on[-1]])
    n, slices = len(on), len(range(0, N, 3))
    assert one["scores"]["dice"] == pytest.approx(2 * (n - 1) / (n - 1 + slices - 1))
    assert one["all_slices"]["end_distance"] == pytest.approx(1.5 * (slices - n))
    assert len(thin) == 1
    rows = table(text, "3D Dice without the annotated slices")[2:]
    assert [row[0] for row in rows] == ["1", "1, every 3 slices"]


def test_labels_of_one_slice_are_dropped_from_thick_stacks(volumes, accuracy):
    options = ["--volumes", volumes, "--only", "first", "--model", "copy", "--protocols", "1"]
    with pytest.raises(SystemExit, match="first: no label is on two of every 12 slices"):
        accuracy(*options, "--thin", 12)


def test_structures_that_more_annotated_slices_make_worse_are_named(volumes, accuracy, tmp_path):
    path = tmp_path / "results.json"
    options = ["--volumes", volumes, "--only", "second", "--model", "copy", "--json", path]
    text = accuracy(*options, "--protocols", "1-ends", "3-inner-ends")
    title = "Structures that are worse with more annotated slices"
    line = "- `copy`, 3-inner-ends against 1-ends: {} of 3 structures lose more than 0.01"
    assert table(text, title) == [[line.format(0)]]
    content = json.loads(path.read_text())
    (one,) = (run for run in content["runs"] if run["protocol"] == "1-ends")
    (three,) = (run for run in content["runs"] if run["protocol"] == "3-inner-ends")
    truth = np.moveaxis(drifting() == 5, AXIS, 0)
    annotated = {*one["structures"][1]["seeds"], *three["structures"][1]["seeds"]}
    rest = [i for i in range(FIRST, LAST + 1) if i not in annotated]
    (seed,) = one["structures"][1]["seeds"]
    before = dice(np.repeat(truth[seed][None], len(rest), 0), truth[rest])
    counts = three["structures"][1]["slices"]
    for place, index in enumerate(counts["index"]):
        if index in rest:
            counts["common"][place] = 0
    path.write_text(json.dumps(content))
    shown = accuracy("--load", path)
    assert table(shown, title) == [[f"{line.format(1)} (second 5 {before:.3f} to 0.000)"]]


def test_plain_flow_follows_what_moves(volumes, accuracy, tmp_path):
    path = tmp_path / "results.json"
    options = ["--volumes", volumes, "--only", "second", "--model", "tvl1", "copy", "--json", path]
    accuracy(*options, "--protocols", "1-ends")
    flow, copy = (
        np.mean([one["scores"]["dice"] for one in stored(path, model=model)[0]["structures"]])
        for model in ("tvl1", "copy")
    )
    assert flow > copy + 0.05


def test_nothing_is_replaced_without_being_asked(volumes, accuracy, tmp_path):
    path = tmp_path / "results.json"
    path.write_text("mine")
    options = ["--volumes", volumes, "--only", "first", "--model", "copy", "--json", path]
    with pytest.raises(SystemExit, match="exists already"):
        accuracy(*options)
    assert path.read_text() == "mine"
    accuracy(*options, "--force", "--protocols", "1")
    assert len(stored(path)) == 1


def test_a_run_that_fails_leaves_what_was_measured_before(volumes, accuracy, tmp_path):
    meta = volumes / "second" / "meta.json"
    meta.write_text(meta.read_text().replace("FIB-SEM", "ultrasound"))
    path = tmp_path / "results.json"
    with pytest.raises(SystemExit, match=r"second.*modality names no group.*'ultrasound'"):
        accuracy("--volumes", volumes, "--model", "copy", "--protocols", "1", "--json", path)
    assert [run["volume"] for run in stored(path)] == ["first"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "fourth"], "has no volume fourth; found first, second, third"),
        (["--model", "a/x.pt", "b/x.pt"], "x.pt twice"),
        (["--model", "flaw"], "expected flow.*found 'flaw'"),
        (["--load", "volumes/first/meta.json"], "holds no results"),
    ],
)
def test_bad_requests(volumes, accuracy, arguments, message, monkeypatch):
    monkeypatch.chdir(volumes.parent)
    with pytest.raises(SystemExit, match=message):
        accuracy("--volumes", volumes, *arguments)
