from __future__ import annotations

import pytest

from napari_slmsam2.training.data import processes


@pytest.fixture(autouse=True)
def _few_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips and sweeps are made in this process where a test does not state how many make them."""
    monkeypatch.setattr(processes, "count_cores", lambda: 1)
