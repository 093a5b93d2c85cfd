"""The report: labels, means, intervals, JSON, table and plot."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from napari_slmsam2.core.errors import (
    ConfigError,
    GridMismatchError,
    OutputError,
    VolumeError,
)
from napari_slmsam2.evaluate import (
    evaluate_labels,
    plot_report,
    render_table,
    summarise,
)

MM = {"spacing": (1.0, 1.0, 3.0), "unit": "mm", "axis": 2}


@pytest.fixture
def volumes():
    """Label 1 is run on by two slices, label 2 is right, 3 is missed, 4 is invented."""
    reference = np.zeros((20, 20, 12), np.uint16)
    reference[2:8, 2:8, 3:9] = 1
    reference[12:18, 2:8, 1:11] = 2
    reference[2:8, 12:18, 4:6] = 3
    predicted = np.where(reference == 3, 0, reference)
    predicted[2:8, 2:8, 9:11] = 1
    predicted[14:18, 14:18, 5:7] = 4
    return predicted, reference


def table_text(report, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(render_table(report))
    return console.file.getvalue()


def test_every_label_of_either_volume_is_scored(volumes):
    report = evaluate_labels(*volumes, **MM)
    scores = {s.label: s.scores for s in report.labels}
    assert sorted(scores) == [1, 2, 3, 4]
    assert scores[1].overlap.dice == pytest.approx(2 * 6 / (6 + 8))
    assert scores[1].extent.run_on == (0, 2)
    assert scores[1].extent.end_distance == (0, 6)
    assert scores[1].surface.hd95 == pytest.approx(6)
    assert (scores[2].overlap.dice, scores[2].surface.nsd) == (1, 1)
    for label in (3, 4):
        assert (scores[label].overlap.dice, scores[label].surface.nsd) == (0, 0)
        assert scores[label].extent.f1 == 0
        assert math.isnan(scores[label].surface.hd95)


def test_means_say_over_how_many_labels(volumes):
    means = evaluate_labels(*volumes, **MM).summary()
    assert means["dice"].mean == pytest.approx((12 / 14 + 1) / 4)
    assert means["dice"].n == 4
    assert (means["hd95"].mean, means["hd95"].n) == (pytest.approx(3), 2)
    assert means["dice"].low <= means["dice"].mean <= means["dice"].high


def test_scores_equal_those_of_the_label_alone(volumes):
    predicted, reference = volumes
    report = evaluate_labels(predicted, reference, **MM)
    plain = {row["label"]: row for row in report.to_dict()["labels"]}
    for scores in report.labels:
        one = [(v == scores.label).astype(np.uint8) for v in (predicted, reference)]
        alone = evaluate_labels(*one, **MM).to_dict()["labels"][0]
        assert alone["scores"] == plain[scores.label]["scores"]


def test_only_the_labels_asked_for(volumes):
    report = evaluate_labels(*volumes, **MM, labels=[3, 1])
    assert [s.label for s in report.labels] == [1, 3]
    with pytest.raises(VolumeError, match="label 9: is in neither volume; expected 1, 2, 3, 4"):
        evaluate_labels(*volumes, **MM, labels=[9])


def test_excluded_slices(volumes):
    predicted, reference = volumes
    report = evaluate_labels(predicted, reference, **MM, exclude={1: [9, 5], 3: [4, 5]})
    one, two, three, _ = report.labels
    assert one.excluded == (5, 9)
    assert one.scores.overlap.dice == pytest.approx(2 * 5 / (5 + 6))
    assert one.all_slices.overlap.dice == pytest.approx(2 * 6 / (6 + 8))
    assert two.excluded == ()
    assert two.scores.overlap.dice == two.all_slices.overlap.dice == 1
    assert math.isnan(three.scores.overlap.dice)
    assert three.all_slices.overlap.dice == 0
    assert report.summary()["dice"].n == 3
    assert report.summary(all_slices=True)["dice"].n == 4


def test_tolerance_follows_the_unit(volumes):
    spacing = (0.3, 0.2, 0.9)
    assert evaluate_labels(*volumes, spacing=spacing, unit="mm", axis=2).tolerance == 2
    assert evaluate_labels(*volumes, spacing=spacing, unit="um", axis=2).tolerance == 0.2
    given = evaluate_labels(*volumes, spacing=spacing, unit="um", axis=2, tolerance=0.9)
    assert given.tolerance == 0.9
    one = given.labels[0].scores.surface
    assert one.nsd < 1
    wide = evaluate_labels(*volumes, spacing=spacing, unit="um", axis=2, tolerance=1.8)
    assert wide.labels[0].scores.surface.nsd == 1


def test_the_report_is_plain_json(volumes):
    report = evaluate_labels(*volumes, **MM, exclude={1: [5]})
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert record["spacing"] == [1.0, 1.0, 3.0]
    assert record["mean"]["dice"]["n"] == 4
    assert record["labels"][2]["scores"]["surface"]["hd95"] is None
    assert record["labels"][0]["scores"]["extent"]["run_on"] == [0, 2]
    assert len(record["labels"][0]["all_slices"]["overlap"]["slice_dice"]) == 12


def test_two_empty_volumes():
    empty = np.zeros((3, 4, 5), np.uint8)
    report = evaluate_labels(empty, empty, **MM)
    assert report.labels == ()
    assert report.summary()["dice"].n == 0
    assert "0 labels" in table_text(report)
    with pytest.raises(OutputError, match="no label to draw"):
        plot_report(report, "never.png")


def test_large_and_sparse_label_values():
    reference = np.zeros((4, 5, 6), np.uint32)
    reference[1:3, 1:3, 1:3] = 2**32 - 1
    (only,) = evaluate_labels(reference, reference, **MM).labels
    assert (only.label, only.scores.overlap.dice) == (2**32 - 1, 1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"predicted": np.zeros((4, 4, 5), np.uint8)}, GridMismatchError, r"found \(4, 4, 5\)"),
        ({"predicted": np.zeros((4, 4))}, VolumeError, "prediction: is not a 3D volume"),
        ({"reference": np.zeros((4, 4, 4))}, VolumeError, "reference: does not hold labels"),
        ({"predicted": np.full((4, 4, 4), -2)}, VolumeError, "negative"),
        ({"axis": 3}, ConfigError, "axis"),
        ({"spacing": (1.0, 0.0, 1.0)}, ConfigError, "spacing"),
        ({"tolerance": -1.0}, ConfigError, "tolerance"),
        ({"exclude": {1: [4]}}, ConfigError, "excluded slice of label 1.*0 to 3; found 4"),
    ],
)
def test_bad_input(changes, error, message):
    good = np.ones((4, 4, 4), np.uint8)
    asked = {"predicted": good, "reference": good, **MM, **changes}
    with pytest.raises(error, match=message):
        evaluate_labels(**asked)


def test_summary_of_nothing_defined():
    summary = summarise([math.nan])
    assert summary.n == 0
    assert math.isnan(summary.mean)


def test_table_fits_a_plain_terminal(volumes):
    report = evaluate_labels(*volumes, **MM, exclude={1: [5, 6]})
    surface = report.labels[0].scores.surface
    text = table_text(report)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if line.split()[:1] == ["1"])
    distances = [f"{surface.nsd:.3f}", "6.00", f"{surface.assd:.2f}"]
    ends = ["0|2", "0|0", "0|2"]
    assert row.split() == ["1", "0.800", *distances, "0.800", "0.500", *ends, "0.857"]
    assert next(line for line in text.splitlines() if "mean" in line).split()[1] == "0.450"
    assert "2 annotated slices" in text
    assert "within 2 mm" in text


def test_table_without_exclusion_has_no_second_dice(volumes):
    text = table_text(evaluate_labels(*volumes, **MM))
    assert "annotated" not in text
    assert " all" not in text


@pytest.mark.parametrize("n_labels", [1, 4, 30])
def test_plot_is_a_picture(tmp_path, n_labels):
    pytest.importorskip("matplotlib")
    from PIL import Image

    reference = np.zeros((n_labels, 4, 9), np.uint8)
    reference[:, :3, 2:6] = np.arange(1, n_labels + 1)[:, None, None]
    predicted = np.roll(reference, 1, axis=2)
    report = evaluate_labels(predicted, reference, **MM, exclude={1: [3]})
    plot_report(report, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (1200, 800)
        assert np.asarray(picture.convert("L")).std() > 10


def test_plot_without_matplotlib_says_what_to_install(volumes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OutputError, match=r"pip install 'napari-slmsam2\[plot\]'"):
        plot_report(evaluate_labels(*volumes, **MM), tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_importing_is_cheap():
    code = (
        "import sys, napari_slmsam2.evaluate\n"
        "heavy = {'torch', 'scipy', 'skimage', 'matplotlib', 'rich', 'PIL', 'napari'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
