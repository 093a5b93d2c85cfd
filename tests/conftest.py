from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).parents[1]

# Deadlines fail on loaded machines, not on slow code.
settings.register_profile("here", deadline=None, max_examples=50)
settings.load_profile("here")


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    # Xvfb is started by its plugin where it is installed. Widgets need no screen.
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


@pytest.fixture(autouse=True)
def _own_models_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """No test reads or fills the user's cache."""
    folder = tmp_path_factory.getbasetemp() / "models"
    monkeypatch.setenv("NAPARI_SLMSAM2_MODELS", str(folder))


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Evaluation data beside the repository; not part of it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the shared data are not there")
    return folder
