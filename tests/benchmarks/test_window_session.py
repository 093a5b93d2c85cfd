"""The scripted session: real mouse and keys from a scan to a saved label map."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tests.benchmarks.test_accuracy import BENCHMARKS, pytestmark

from napari_slmsam2.io import read_image, read_labels
from napari_slmsam2.sample import make_sample

__all__ = ["pytestmark"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="needs Xvfb")
def test_a_session_ends_with_a_saved_label_map(tmp_path):
    out = tmp_path / "labels.nii.gz"
    command = ["xvfb-run", "-a", "-s", "-screen 0 1600x1200x24", sys.executable]
    command += ["benchmarks/window_session.py", "--rounds", "1", "--out", str(out)]
    done = subprocess.run(
        command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    saved, sample = np.asarray(read_labels(out, read_image(out))), make_sample()
    assert saved.shape == sample.volume.shape
    assert set(np.unique(saved)) == {0, 1, 2}
    for label, score in enumerate(found["dice"], 1):
        mine, true = saved == label, sample.labels == label
        assert score == pytest.approx(2 * (mine & true).sum() / (mine.sum() + true.sum()), abs=1e-3)
        assert score > 0.8
    assert found["checked"] == 2
    assert found["clicks"] > 2 * 4, "two polygons, the strip and the button"
    assert found["keys"] >= 8, "tool, new label, ends of polygons, run, next, accept or correct"
