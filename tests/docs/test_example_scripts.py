"""The scripts and the notebook in `examples` run."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.markdown import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
WINDOW = "open_in_napari"

pytestmark = pytest.mark.skipif(
    not EXAMPLES.is_dir(), reason="the examples are not part of this copy"
)


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted({p.stem for p in EXAMPLES.glob("*.py")} - {WINDOW}))
def test_scripts_run(script: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{script}.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_window_opens(make_napari_viewer, monkeypatch):
    viewer = make_napari_viewer()
    monkeypatch.setattr("napari.Viewer", lambda: viewer)
    shown = runpy.run_path(str(EXAMPLES / f"{WINDOW}.py"))
    assert [layer.name for layer in viewer.layers] == ["sample scan", "sample labels"]
    assert shown["panel"].workspace.labels is viewer.layers["sample labels"]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    cells = nbformat.read(notebook, as_version=4)
    assert all(not cell.get("outputs") for cell in cells.cells), "store it without outputs"
    nbformat.validate(cells)
    nbclient.NotebookClient(
        cells, timeout=280, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
