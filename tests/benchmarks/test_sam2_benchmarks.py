"""The benchmarks of SAM 2 run on a CPU, so that they can be run unseen on a card."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def output_of(script: str, *arguments: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment, timeout=280
    )
    return done.stdout


@pytest.mark.slow
def test_the_table_begins_with_parity_and_has_a_row_per_case():
    printed = output_of(
        "against_sam2.py", "--sizes", "128", "--labels", "1", "2", "--slices", "4"
    ).splitlines()
    assert float(printed[1].split()[-1]) < 1e-3
    begins_memory = next(i for i, line in enumerate(printed) if line.startswith("| peak memory"))
    times, memory = printed[:begins_memory], printed[begins_memory + 2 :]
    rows = [line.split(" | ") for line in times if line.startswith(("| SAM", "| SLM"))]
    assert [(r[0], r[1], r[2]) for r in rows] == [
        (name, "128", labels) for name in ("| SAM 2", "| SLM-SAM 2") for labels in "12"
    ]
    assert all(float(row[4]) > 0 for row in rows)
    assert [line.split(" | ")[0] for line in memory[:2]] == ["| SAM 2", "| here"]


@pytest.mark.slow
def test_no_weight_is_cast_and_a_slice_is_read_once():
    printed = output_of("operators.py", "--labels", "2", "--slices", "11", "--size", "64")
    counted, scaling = printed.split("\n\n")
    header, _, *rows = [line.strip("| ").split(" | ") for line in counted.splitlines()]
    assert len(rows) == 2
    assert all(float(ms) > 0 for ms in scaling.splitlines()[2].strip("| ").split(" | ")[1:])
    for row in rows:
        counts = dict(zip(header, row, strict=True))
        assert float(counts["operators"]) > 300
        assert counts["casts of weights"] == "0"
        assert counts["reads by the host"] == "1"
        assert counts["uploads"] == "0"


@pytest.mark.slow
def test_clips_that_are_computed_together_take_fewer_operators():
    printed = output_of("training_steps.py", "--steps", "4", "--slices", "3", "--batch", "3")
    _, _, *rows = [line.strip("| ").split(" | ") for line in printed.splitlines()]
    assert [row[:2] for row in rows] == [["1", "no"], ["1", "yes"], ["3", "no"], ["3", "yes"]]
    one_by_one, _, together, recomputed = rows
    assert float(one_by_one[2]) > 0
    assert float(recomputed[3]) < float(together[3])
    assert int(together[4]) < 0.8 * int(one_by_one[4])
