"""Records beside outputs: what is done, what may be replaced."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.dicom_files import save_series

from napari_slmsam2.batch.jobs import Executed, Job
from napari_slmsam2.batch.records import check_job, fingerprint, record_path, run_recorded


@pytest.fixture
def job(tmp_path) -> Job:
    source = tmp_path / "in.nii"
    source.write_bytes(b"image")
    outputs = {"--out": tmp_path / "out.nii", "--report": tmp_path / "out.json"}
    return Job(1, "row 1", ("propagate", "x"), {"image": (source,)}, outputs, batch="first")


def writes(job: Job, *options: str, ok: bool = True):
    """A command that writes the outputs of some options."""
    seen = []

    def execute(words):
        seen.append(words)
        for option in options:
            job.outputs[option].write_bytes(os.urandom(8))
        return Executed(ok, () if ok else ("broken",))

    execute.seen = seen
    return execute


def test_a_job_runs_once(job):
    assert run_recorded(job, writes(job, "--out", "--report")).ok
    assert check_job(job).done
    assert json.loads(record_path(job).read_text())["state"] == "done"
    again = writes(job, "--out")
    assert run_recorded(job, again).ok
    assert again.seen == []
    job.outputs["--report"].unlink()
    assert not check_job(job).done


def test_only_a_result_of_another_batch_is_noted(job):
    """A worker of the same batch that dies after the job is started again."""
    run_recorded(job, writes(job, "--out"))
    assert run_recorded(job, writes(job, "--out")).notes == ()
    (note,) = run_recorded(replace(job, batch="second"), writes(job, "--out")).notes
    assert "another batch" in note


def test_files_of_others_are_not_replaced(job):
    job.outputs["--out"].write_bytes(b"mine")
    execute = writes(job, "--out")
    refused = run_recorded(job, execute)
    assert not refused.ok
    assert "exists already" in refused.errors[0]
    assert execute.seen == []
    assert not record_path(job).exists()
    forced = replace(job, replace=True)
    assert run_recorded(forced, execute).ok
    assert execute.seen == [("propagate", "--force", "x")]


def test_what_a_failed_attempt_left_is_replaced(job):
    assert not run_recorded(job, writes(job, "--out", ok=False)).ok
    later = replace(job, batch="second")
    assert check_job(later).replace
    job.outputs["--out"].write_bytes(b"edited")
    assert "exists already" in check_job(later).problem


def test_a_failed_attempt_with_force_does_not_claim_the_files_of_others(job):
    job.outputs["--out"].write_bytes(b"mine")
    run_recorded(replace(job, replace=True), writes(job, ok=False))
    assert job.outputs["--out"].read_bytes() == b"mine"
    assert "exists already" in check_job(replace(job, batch="second")).problem


def test_a_failed_attempt_with_force_leaves_the_record_of_the_result_before(job):
    run_recorded(job, writes(job, "--out", "--report"))
    before = record_path(job).read_text()
    run_recorded(replace(job, replace=True, batch="second"), writes(job, ok=False))
    assert record_path(job).read_text() == before
    assert check_job(job).done


def test_a_killed_attempt_is_known_to_its_own_batch_only(job):
    """The worker is killed after it has written one of the files."""

    def die(words):
        job.outputs["--out"].write_bytes(b"half of the files")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recorded(job, die)
    assert check_job(job).replace
    assert "exists already" in check_job(replace(job, batch="second")).problem
    again = run_recorded(job, writes(job, "--out", "--report"))
    assert (again.ok, again.attempts) == (True, 2)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda job: job.inputs["image"][0].write_bytes(b"other image"), "inputs"),
        (lambda job: job.inputs["image"][0].write_bytes(b"igame"), "inputs"),
        (lambda job: replace(job, settings={"--window": "0,1"}), "settings"),
        (lambda job: replace(job, model="flow"), "model"),
    ],
)
def test_a_result_of_something_else_is_kept(job, change, differs):
    run_recorded(job, writes(job, "--out"))
    changed = change(job)
    problem = check_job(changed if isinstance(changed, Job) else job).problem
    assert problem == f"--out {job.outputs['--out']} made with other {differs}"


def test_folders_and_files_of_two_parts_have_fingerprints(tmp_path):
    folder = tmp_path / "a.zarr"
    (folder / "c").mkdir(parents=True)
    (folder / "c" / "0").write_bytes(b"chunk")
    (folder / "zarr.json").write_text("{}")
    before = fingerprint(folder)
    assert before["size"] == 7
    (folder / "c" / "0").write_bytes(b"other")
    assert fingerprint(folder)["sha256"] != before["sha256"]
    header, voxels = tmp_path / "a.hdr", tmp_path / "a.img"
    header.write_bytes(b"header")
    voxels.write_bytes(b"voxels")
    before = fingerprint(header)
    voxels.write_bytes(b"other")
    assert fingerprint(header)["sha256"] != before["sha256"]


def test_a_slice_of_a_dicom_series_has_the_fingerprint_of_the_series(tmp_path):
    save_series(tmp_path, shape=(4, 5, 7))
    first, *_, last = sorted(tmp_path.iterdir())
    before = fingerprint(first)
    assert before["size"] == sum(file.stat().st_size for file in tmp_path.iterdir())
    (tmp_path / "notes.txt").write_text("of no series")
    assert fingerprint(first) == before
    data = bytearray(last.read_bytes())
    data[-1] ^= 1
    last.write_bytes(data)
    assert fingerprint(first)["sha256"] != before["sha256"]


def test_an_unreadable_record_is_none(job, tmp_path):
    Path(record_path(job)).write_text("{")
    assert check_job(job).problem is None
    assert not check_job(job).done
