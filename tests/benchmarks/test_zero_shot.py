"""The zero-shot benchmark, on a volume whose scores are known beforehand."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tests.benchmarks.test_accuracy import BENCHMARKS, add_volume, cylinder

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="the benchmarks are not here")


def test_a_cylinder_is_segmented_from_a_mask_and_from_clicks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import zero_shot

    add_volume(tmp_path / "one", "CT", "human", cylinder())
    argv = ["zero_shot.py", "--volumes", str(tmp_path), "--model", "flow", "--margin", "2"]
    monkeypatch.setattr(sys, "argv", argv)
    zero_shot.main()
    rows = re.findall(
        r"flow +(mask|5 clicks) +(\S+) +Dice (\S+)  NSD (\S+)", capsys.readouterr().out
    )
    assert [(what, group) for what, group, _, _ in rows] == [
        ("mask", "CT"),
        ("mask", "mean"),
        ("5 clicks", "CT"),
        ("5 clicks", "mean"),
    ]
    dice = {what: float(score) for what, _, score, _ in rows}
    assert dice["mask"] > 0.8
    assert 0.5 < dice["5 clicks"] <= dice["mask"] + 0.05
