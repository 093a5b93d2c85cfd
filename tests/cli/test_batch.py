"""Many jobs with one command: what runs, what is skipped, what is reported."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import get_args, get_type_hints

import nibabel
import numpy as np
import pytest
from tests.scans import make_scans

from napari_slmsam2.cli import adapt, evaluate, propagate, replay
from napari_slmsam2.cli._batch_commands import COMMANDS

FAST = ("--model", "interpolation")


@pytest.fixture
def scans(tmp_path):
    return make_scans(tmp_path)


def written(scans):
    return sorted(path.name for path in scans.out.iterdir() if not path.name.endswith(".json"))


def test_a_pattern_makes_a_job_of_every_file(cli, scans, tmp_path):
    report = tmp_path / "jobs.jsonl"
    done = cli("batch", "propagate", *scans.pattern, *FAST, "--workers", 2, "--report", report)
    assert done.code == 0, done.err
    assert "3 done" in done.out
    assert written(scans) == [f"{name}.nii.gz" for name in scans.names]
    for name in scans.names:
        alone = tmp_path / f"{name}.nii.gz"
        assert cli("propagate", scans.image(name), scans.seeds(name), "-o", alone, *FAST).code == 0
        assert alone.read_bytes() == (scans.out / alone.name).read_bytes()
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert {line["job"] for line in lines} == {f"{name}.nii.gz" for name in scans.names}
    assert {line["status"] for line in lines} == {"done"}
    assert all(line["command"][:2] == ["napari-slmsam2", "propagate"] for line in lines)


def test_jobs_with_the_same_file_name_have_different_names(cli, scans):
    """Each scan in a folder of its own; one is broken."""
    for name in scans.names:
        (scans.folder / name).mkdir()
        shutil.copy(scans.image(name), scans.folder / name / "image.nii.gz")
        shutil.copy(scans.seeds(name), scans.folder / name / "seeds.nii.gz")
    (scans.folder / "case1" / "image.nii.gz").write_bytes(b"broken")
    done = cli(
        *("batch", "propagate", "--images", f"{scans.folder}/case*/image.nii.gz"),
        *("--seeds", "{folder}/seeds.nii.gz", "-o", "{folder}/labels.nii.gz", *FAST),
    )
    assert done.code == 1
    assert all(f"{name}/labels.nii.gz" in done.out for name in scans.names)
    assert "Error: case1/labels.nii.gz: " in done.err


@pytest.mark.slow
def test_the_default_model_gives_the_labels_of_single_runs(cli, scans, tmp_path):
    """Each worker loads it once and runs more than one job with it."""
    assert cli("batch", "propagate", *scans.pattern, "--workers", 2).code == 0
    for name in scans.names:
        alone = tmp_path / f"{name}.nii.gz"
        assert cli("propagate", scans.image(name), scans.seeds(name), "-o", alone).code == 0
        assert alone.read_bytes() == (scans.out / alone.name).read_bytes()


def test_what_is_done_is_skipped(cli, scans):
    job = ("batch", "propagate", *scans.pattern, *FAST)
    assert cli(*job).code == 0
    edited = scans.out / "case0.nii.gz"
    edited.write_bytes(b"corrected by hand")
    (scans.out / "case1.nii.gz").unlink()
    os.utime(scans.image("case2"))  # another time, the same content
    again = cli(*job, "--progress", "json")
    assert again.code == 0, again.err
    events = [json.loads(line) for line in again.out.splitlines()]
    by_job = {e["job"]: e["status"] for e in events if e["event"] == "job"}
    assert by_job == {
        "case0.nii.gz": "skipped",
        "case1.nii.gz": "done",
        "case2.nii.gz": "skipped",
    }
    assert events[-1]["event"] == "finished"
    assert (events[-1]["done"], events[-1]["skipped"]) == (1, 2)
    assert edited.read_bytes() == b"corrected by hand"
    assert cli(*job, "--force").code == 0
    assert edited.read_bytes() != b"corrected by hand"


@pytest.mark.parametrize("what", ["inputs", "settings", "model"])
def test_results_of_something_else_are_not_replaced(cli, scans, what):
    job = ("batch", "propagate", *scans.pattern, *FAST)
    assert cli(*job).code == 0
    before = {path.name: path.read_bytes() for path in scans.out.iterdir()}
    if what == "inputs":
        shutil.copy(scans.seeds("case0"), scans.seeds("case2"))
    other = {"inputs": job, "settings": (*job, "--extent", "1:2:12")}
    other["model"] = (*job[:-1], "flow")
    refused = cli(*other[what])
    assert refused.code == 1
    assert f"made with other {what}" in refused.err
    assert "--force" in refused.err
    assert {path.name: path.read_bytes() for path in scans.out.iterdir()} == before


def test_settings_without_effect_on_the_result_do_not_count(cli, scans):
    job = ("batch", "propagate", *scans.pattern, *FAST)
    assert cli(*job).code == 0
    again = cli(*job, "--device", "cpu", "--direction", "both", "--workers", 2)
    assert "3 skipped" in again.out


def test_a_dry_run_lists_the_jobs(cli, scans):
    listed = cli("batch", "propagate", *scans.pattern, "--dry-run")
    assert listed.code == 0, listed.err
    assert listed.out.count("to run: napari-slmsam2 propagate") == 3
    assert str(scans.image("case1")) in listed.out
    assert written(scans) == []


def test_a_table_has_the_options_as_columns(cli, scans, monkeypatch):
    monkeypatch.chdir(scans.folder)
    table = Path("jobs.csv")
    table.write_text(
        "image,seeds,--out,extent,trust-voxels\n"
        "scans/case0_0000.nii.gz,seeds/case0.nii.gz,out/a.nii.gz,1:2:12,yes\n"
        "\n"
        "scans/case1_0000.nii.gz,seeds/case1.nii.gz,out/b.nii.gz,,no\n"
    )
    listed = cli("batch", "propagate", "--table", table, *FAST, "--dry-run").out
    assert "--extent 1:2:12 --model interpolation" in " ".join(listed.split())
    done = cli("batch", "propagate", "--table", table, *FAST, "--", "--report", "out/{name}.json")
    assert done.code == 0, done.err
    labels = np.asarray(nibabel.load("out/a.nii.gz").dataobj)
    assert not labels[..., :2].any()
    report = json.loads(Path("out/case0_0000.json").read_text())
    assert report["labels"]["1"]["extent"] == [2, 12]


def test_rows_in_json_hold_lists(cli, scans, monkeypatch):
    monkeypatch.chdir(scans.folder)
    rows = [
        {"image": f"scans/{n}_0000.nii.gz", "seeds": f"seeds/{n}.nii.gz", "out": f"out/{n}.tif",
         "extent": ["1:2:12"], "stop_after": 2, "trust_voxels": True}
        for n in scans.names
    ]  # fmt: skip
    table = Path("jobs.jsonl")
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cli("batch", "propagate", "--table", table, *FAST)
    assert done.code == 0, done.err
    assert written(scans) == [f"{name}.tif" for name in scans.names]


def test_labels_are_evaluated_and_sessions_replayed(cli, scans):
    sessions = f"{scans.folder}/{{1}}.slmsam2"
    assert cli("batch", "propagate", *scans.pattern, *FAST, "--session", sessions).code == 0
    evaluated = cli(
        *("batch", "evaluate", "--predictions", f"{scans.out}/*.nii.gz"),
        *("--reference", f"{scans.folder}/truth/{{file}}", "--json", f"{scans.out}/{{name}}.json"),
    )
    assert evaluated.code == 0, evaluated.err
    scores = json.loads((scans.out / "case1.json").read_text())
    assert scores["labels"][0]["all_slices"]["overlap"]["dice"] > 0.7
    replayed = cli(
        *("batch", "replay", "--sessions", f"{scans.folder}/*.slmsam2"),
        *("-o", f"{scans.out}/{{name}}-again.nii.gz"),
    )
    assert replayed.code == 0, replayed.err
    for name in scans.names:
        again = scans.out / f"{name}-again.nii.gz"
        assert again.read_bytes() == (scans.out / f"{name}.nii.gz").read_bytes()


def test_pairs_of_adapt_come_from_patterns_and_tables(cli, scans, monkeypatch, tmp_path):
    monkeypatch.setenv("NAPARI_SLMSAM2_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(scans.folder)
    common = ("--recipe", "this-volume", "--dry-run")
    pairs = ("--pairs", "scans/*_0000.nii.gz", "seeds/{1}.nii.gz", "-o", "model-{1}")
    listed = cli("batch", "adapt", *pairs, *common)
    assert listed.code == 0, listed.err
    text = " ".join(listed.out.split())
    assert f"--pair {scans.image('case0')} {scans.seeds('case0')} --name model-case0" in text
    table = Path("jobs.tsv")
    two = " ".join(f"scans/{n}_0000.nii.gz seeds/{n}.nii.gz" for n in scans.names[:2])
    table.write_text(f"pair\tname\n{two}\tliver\n")
    listed = cli("batch", "adapt", "--table", table, *common)
    assert listed.code == 0, listed.err
    assert listed.out.count("--pair") == 2


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("image,seeds,out\na.nii,b.nii\n", "jobs.csv, row 2: does not fit the header"),
        ("image,seeds,out,axis\na.nii,b.nii,c.nii,7\n", "jobs.csv, row 2, column --axis: expected"),
        ("image,seeds,out,exent\na.nii,b.nii,c.nii,1:2:3\n", "column exent: is no option"),
        ("image,out\na.nii,c.nii\n", "jobs.csv, row 2, column --seeds: is missing"),
        ("image,seeds,out,force\na.nii,b.nii,c.nii,yes\n", "column force: is an option of the"),
        ("image,image\na.nii,b.nii\n", "row 1, column image: is there twice"),
        ("image,seeds,out,trust-voxels\na,b,c.nii,maybe\n", "row 2, column trust-voxels: is nei"),
        ("image,seeds,out,extent\na.nii,b.nii,c.nii,1-5\n", "--extent: expected LABEL:FIRST:LAST"),
        ("image,seeds,out,extent\na.nii,b.nii,c.nii,1-5\n", "found '1-5'.\n"),
        ("image,seeds,out\n", "has no jobs"),
        ("", "is empty"),
    ],
)
def test_a_wrong_table_is_refused_with_row_and_column(cli, scans, monkeypatch, rows, expected):
    monkeypatch.chdir(scans.folder)
    Path("jobs.csv").write_text(rows)
    refused = cli("batch", "propagate", "--table", "jobs.csv")
    assert refused.code == 2
    assert expected in refused.err


def test_wrong_json_lines_are_refused_with_their_row(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text, expected in (
        ('{"image": "a.nii"}\n{"image": \n', "jobs.jsonl, row 2: is no JSON"),
        ("[1]\n", "jobs.jsonl, row 1: is no job"),
        ('{"image": "a", "seeds": "b", "out": ["c", "d"]}', "column out: has several values"),
    ):
        Path("jobs.jsonl").write_text(text)
        refused = cli("batch", "propagate", "--table", "jobs.jsonl")
        assert (refused.code, expected in refused.err) == (2, True), refused.err


def test_missing_files_are_found_before_the_first_job(cli, scans):
    scans.seeds("case2").unlink()
    refused = cli("batch", "propagate", *scans.pattern, *FAST)
    assert refused.code == 2
    assert f"{scans.image('case2')}, --seeds: {scans.seeds('case2')} not found" in refused.err
    assert written(scans) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-o", "{folder}/../out/same.nii.gz"), "is an output of"),
        (("-o", "{folder}/../seeds/case0.nii.gz"), "is an input of"),
        (("-o", "{folder}/../missing/{1}.nii.gz"), "expected an existing folder"),
        (("-o", "{nmae}.nii.gz"), "--out: has an unknown placeholder {nmae}"),
        (("--modle", "flow"), "--modle: is no option of propagate; expected model"),
        (("scans/b.nii.gz",), "Quote patterns"),
    ],
)
def test_jobs_that_cannot_run_are_refused(cli, scans, options, expected):
    refused = cli("batch", "propagate", *scans.pattern, *options)
    assert refused.code in (1, 2)
    assert expected in refused.err
    assert written(scans) == []


def test_other_refusals(cli, scans, tmp_path):
    no_match = cli("batch", "propagate", "--images", "nothing/*.nii", "--seeds", "a", "-o", "b")
    assert "matches no file" in no_match.err
    assert "--images: is missing" in cli("batch", "propagate", "--seeds", "a").err
    evaluate = ("batch", "evaluate", "--predictions", f"{scans.folder}/truth/*.nii.gz")
    assert "--json is missing" in cli(*evaluate, "--reference", scans.seeds("case0")).err
    report = cli("batch", "propagate", *scans.pattern, "--report", scans.seeds("case0"))
    assert "--report: names the same file as an input" in report.err
    assert cli("batch", "info").code == 2
    slurm = ("batch", "propagate", *scans.pattern, "--on", "slurm", "--slurm-time", "soon")
    assert "--slurm-time: is no time" in cli(*slurm).err


def test_files_of_every_command_are_known_as_inputs_or_outputs():
    """A new option of a command that is a file must be read or written for `batch` too."""
    others = {"models_folder", "log", "resume", "checkpoint"}
    for command in (adapt.adapt, evaluate.evaluate, propagate.propagate, replay.replay):
        spec = COMMANDS[command.__name__]
        hints = get_type_hints(command)
        known = {*spec.inputs, *spec.outputs}
        assert known <= hints.keys()
        files = {name for name, hint in hints.items() if Path in (hint, *get_args(hint))}
        assert files <= known | others, command.__name__


def test_help_has_examples_and_the_options_of_slurm(cli):
    text = cli("batch", "--help").out
    assert "napari-slmsam2 batch propagate" in text
    assert "--slurm-partition" in text
