"""The benchmark of corrections: a simulated person ends at the true labels."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
from tests.benchmarks.test_accuracy import BENCHMARKS, add_volume, pytestmark

__all__ = ["pytestmark"]


def cone() -> np.ndarray:
    """An object that grows, so that one slice is not enough."""
    labels = np.zeros((24, 16, 24), np.int16)
    rows, columns = np.indices((24, 24))
    for index in range(3, 13):
        disc = (rows - 12) ** 2 + (columns - 4 - index) ** 2 < (index - 1) ** 2
        labels[:, index][disc] = 2
    return labels


def test_every_choice_reaches_the_targets_and_the_table_counts_corrections(tmp_path):
    add_volume(tmp_path / "volumes" / "one", "CT", "human", cone())
    command = [sys.executable, "benchmarks/corrections.py", "--volumes", tmp_path / "volumes"]
    command += ["--model", "interpolation", "--most", "14", "--json", tmp_path / "out.json"]
    done = subprocess.run(
        list(map(str, command)), cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "out.json").read_text())
    assert {one["choice"] for one in records} == {"suggested", "spread", "random"}
    for one in records:
        assert one["dice"][0] < 0.9, "one slice is not enough"
        assert one["dice"][-1] >= 0.95
        assert one["label"] == 2
    needed = {
        one["choice"]: next(n for n, score in enumerate(one["dice"]) if score >= 0.95)
        for one in records
    }
    for choice, n in needed.items():
        rows = [line for line in done.stdout.splitlines() if line.startswith(f"| {choice} |")]
        needed_row, dice_row = ([cell.strip() for cell in row.split("|")] for row in rows)
        assert needed_row[3] == f"{n:.2f} (100 %)"
        [scores] = [one["dice"] for one in records if one["choice"] == choice]
        assert dice_row[2] == f"{scores[0]:.3f}"
        assert dice_row[-2] == f"{scores[-1]:.3f}", "a label that is done keeps its Dice"
