"""Worker threads beside a run, and defects that end them."""

from __future__ import annotations

from typing import Any

from napari.qt.threading import WorkerBase
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QThreadPool


def report_defect(error: Exception) -> None:
    """Show an error in the program with its traceback, in napari's notifications."""
    notification_manager.receive_error(type(error), error, error.__traceback__)


def start_beside_runs(worker: WorkerBase[Any]) -> None:
    """Start a worker in one thread more than the pool has.

    A run may hold the only thread of a small machine.
    """
    pool = QThreadPool.globalInstance()
    pool.releaseThread()
    worker.finished.connect(lambda: pool.reserveThread())
    worker.start()
