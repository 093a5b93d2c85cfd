"""The benchmark of slice adapters, with a tiny network on small volumes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.benchmarks.test_accuracy import BENCHMARKS, add_volume, drifting
from tests.random_weights import TINY

from napari_slmsam2.engine.loading import load_network

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not here")

WAYS = ("all", "adapters", "temporal", "dilated")


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the benchmark in this process and returns its table."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import adapters

    monkeypatch.setattr(adapters, "NETWORK", TINY)

    def run(*arguments: object) -> list[list[str]]:
        monkeypatch.setattr(sys, "argv", ["adapters.py", *map(str, arguments)])
        adapters.main()
        lines = capsys.readouterr().out.splitlines()
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

    return run


def test_every_way_is_trained_tested_with_both_memories_and_continued(tmp_path: Path, adapters):
    volumes = tmp_path / "volumes"
    labels = np.where(drifting() == 3, 1, 0).astype(np.int16)
    for name in ("mr_two_a", "mr_two_b", "ct_other_a"):
        add_volume(volumes / name, "MR", "human", labels)
    base, results = tmp_path / "base.safetensors", tmp_path / "results.json"
    given = ("--volumes", volumes, "--kinds", "mr_two", "--base", base)
    adapters(*given, "--train-base", 0.002)
    first = load_network(base).network.state_dict()
    adapters(*given, "--train-base", 0.002)
    assert any(not x.equal(first[k]) for k, x in load_network(base).network.state_dict().items())

    options = ("--minutes", 0.002, "--seeds", 1, "--trained", *WAYS, "--json", results)
    titles, _, *rows = adapters(*given, *options)
    records = json.loads(results.read_text())["records"]
    assert len(records) == 2 * (1 + len(WAYS))
    for record in records:
        assert record["test"] not in record["train"]
        assert set(record["labels"]) == {"standard", "confident"}
    steps = [record["training"]["steps"] for record in records if record["training"]]
    assert min(steps) >= 1
    assert len(rows) == 2 * (1 + len(WAYS))
    change = titles.index("change by training, 95 %")
    assert rows[0][change] == ""
    assert all(row[change].startswith(("+", "-")) for row in rows[1:])
    assert adapters(*given, *options)[2:] == rows
    assert json.loads(results.read_text())["records"] == records
    assert adapters("--load", results)[2:] == rows
