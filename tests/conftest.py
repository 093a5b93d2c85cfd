from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).parents[1]

# No settings of napari are read from the user's folder, or saved there at every change.
os.environ["NAPARI_CONFIG"] = ""

# Deadlines fail on loaded machines, not on slow code.
settings.register_profile("here", deadline=None, max_examples=50)
settings.load_profile("here")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    # Xvfb is started by its plugin where it is installed, by every worker of pytest-xdist, which
    # inherit what is set here. Widgets need no screen.
    hands_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if sys.platform.startswith("linux") and not os.environ.get("DISPLAY") and not hands_out:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    if hands_out:
        # Threads of several workers would wait for each other. Numba sets those of torch, too.
        os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """No test reads or fills the user's cache."""
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("NAPARI_SLMSAM2_MODELS", str(folder / "models"))
    monkeypatch.setenv("NAPARI_SLMSAM2_EMBEDDINGS", str(folder / "embeddings"))


@pytest.fixture(autouse=True)
def _no_kept_model(monkeypatch: pytest.MonkeyPatch):
    """Jobs of a batch keep their model until the process ends."""
    from napari_slmsam2.engine import loading

    monkeypatch.setattr(loading, "_kept", None)


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_is_searched_for_garbage():
    """What was imported stays: napari's fixture collects twice per viewer, a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _plugins_are_discovered_once() -> Iterator[None]:
    """napari's fixture discovers them again for every viewer, which takes a fifth of a second."""
    from npe2 import PluginManifest

    found = list(PluginManifest.discover())
    with mock.patch.object(PluginManifest, "discover", return_value=found):
        yield


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
