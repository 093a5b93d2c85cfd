from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.widgets.mouse import SHAPE

pytestmark = pytest.mark.skipif(
    not os.environ.get("DISPLAY"), reason="a window with a canvas needs an X display"
)


@pytest.fixture(scope="module")
def told(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of some work, see `tests.widgets.mouse`."""
    folder = tmp_path_factory.mktemp("mouse")
    settings = {"QT_QPA_PLATFORM": "xcb", "NAPARI_SLMSAM2_RECOVERY": str(folder)}
    result = subprocess.run(
        [sys.executable, "-m", "tests.widgets.mouse"],
        env={**os.environ, **settings, "NAPARI_CONFIG": str(folder / "settings.yaml")},
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_two_fast_clicks_are_two_points_and_no_zoom(told):
    np.testing.assert_allclose(told["points of two fast clicks"], [[35, 55]] * 2, atol=0.6)
    assert told["the picture keeps its size"]
    assert told["a double click zooms again"]


def test_a_stroke_of_the_brush_becomes_a_seed_by_itself(told):
    painted = told["painted"]
    assert painted["seeds"] == [[5, 1, "painted"]]
    assert painted["slices"] == [5]
    top, left, bottom, right = painted["box"]
    assert 16 <= top <= 18
    assert 22 <= bottom <= 24
    assert 26 <= left <= 29
    assert 61 <= right <= 64


def test_a_key_starts_a_run_that_leaves_the_stroke_alone(told):
    assert told["propagated"]["slices"] == list(range(SHAPE[0]))
    assert told["the stroke stays"]


def test_erasing_undo_and_redo_change_the_seeds(told):
    before, erased = told["before erasing"], told["erased"]
    assert erased["voxels"] < before["voxels"]
    assert [8, 1, "painted"] in erased["seeds"]
    assert told["undone"] == before
    assert told["redone"] == erased


def test_fill_becomes_a_seed(told):
    assert [10, 2, "painted"] in told["filled"]["seeds"]
    assert told["filled"]["voxels"] == SHAPE[1] * SHAPE[2]


def test_panning_makes_no_seed(told):
    assert told["panning changes nothing"]


def test_clicks_and_a_box_become_seeds_and_are_corrected(told):
    assert told["clicking"] == ["points", "pan_zoom"]
    assert told["clicked"] == [[4, 3, "points"]]
    [[row, column]] = told["points"]
    assert abs(row - 40) <= 1
    assert abs(column - 60) <= 1
    assert told["signs"] == [1, 0]
    assert told["signs after undo"] == [1]
    assert told["boxed"] == [[6, 3, "box"]]
    np.testing.assert_allclose(told["box"], [30, 50, 50, 80], atol=1)
    assert told["the picture stays"]


def test_escape_leaves_no_trace_of_clicking(told):
    # To both sides up to the seeds on the slices 4 and 7.
    assert told["previewed"] == [5]
    shown = {"scan", "scan labels", "clicks", "boxes", "3D preview of label 3"}
    assert set(told["layers while clicking"]) == shown
    assert told["after one escape"] == ["box", False]
    assert told["after escape"] == ["off", "scan", "scan labels"]


def test_a_lasso_and_a_scribble_are_drawn_previewed_and_accepted_by_key(told):
    np.testing.assert_allclose(told["lasso"], [10, 20, 30, 52], atol=1)
    assert told["lasso previewed"] == [4, 5, 6, 7, 8, 10, 11]
    # On 7 and 10, seeds of other labels keep their pixels.
    assert told["slices accepted"] == [4, 5, 6, 8, 9, 11]
    assert told["scribbling"] == ["scribble", "scribble"]
    np.testing.assert_allclose(told["scribble"], [20, 30, 20, 60], atol=2)
    assert told["after one escape of drawing"] == ["scribble", False]
    assert told["undone scribble"]
    assert told["after drawing"] == ["off", "scan labels", "scan", "scan labels"]
