"""Counts labels in a thread of its own, so that the window never waits for it."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from qtpy.QtCore import QObject, QTimer, Signal

from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.label_counts import LabelCounts
from napari_slmsam2.session.label_rows import LabelRow, label_rows
from napari_slmsam2.widgets.common.workers import report_defect

_POLL_MS = 30
_SHORTEST_MS = 150
"""Between two counts."""


class LabelCounter(QObject):
    """Keeps the rows of an annotation up to date; requests are put together.

    Only slices that changed are counted again.
    """

    counted = Signal(object, object)
    """An `Annotation`, and the list of `LabelRow` of it."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="napari-slmsam2-labels")
        self._wanted: tuple[Annotation, float | None] | None = None
        self._job: tuple[Annotation, Future[list[LabelRow]]] | None = None
        self._closed = threading.Event()
        self._timer, self._poll = QTimer(self), QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._start)
        self._poll.setInterval(_POLL_MS)
        self._poll.timeout.connect(self._on_poll)

    def request(self, annotation: Annotation, voxel_volume: float | None) -> None:
        """Count an annotation soon; `counted` reports the rows.

        Parameters
        ----------
        annotation : Annotation
        voxel_volume : float or None
            Of one voxel in mm3.
        """
        self._wanted = annotation, voxel_volume
        if self._job is None and not self._timer.isActive():
            self._timer.start(0)

    @property
    def busy(self) -> bool:
        """Whether something is to be counted, or is being counted."""
        return self._wanted is not None or self._job is not None

    def close_connections(self) -> None:
        """End counting."""
        self._closed.set()
        self._timer.stop()
        self._poll.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        if self._wanted is None or self._job is not None:
            return
        annotation, voxel_volume = self._wanted
        self._wanted = None
        self._job = annotation, self._thread.submit(self._count, annotation, voxel_volume)
        self._poll.start()

    def _count(self, annotation: Annotation, voxel_volume: float | None) -> list[LabelRow]:
        counts = LabelCounts(annotation)
        counts.update(self._closed.is_set)
        quality = annotation.propagated.mean_confidence()
        totals, prompts, table = counts.totals(), annotation.prompts, annotation.table
        return label_rows(totals, prompts, table, quality, voxel_volume)

    def _on_poll(self) -> None:
        if self._job is None or not self._job[1].done():
            return
        annotation, future = self._job
        self._job = None
        self._poll.stop()
        # What changed meanwhile is counted after a pause.
        if self._wanted is not None:
            self._timer.start(_SHORTEST_MS)
        try:
            rows = future.result()
        except Exception as error:  # noqa: BLE001 - the window works without the table
            report_defect(error)
        else:
            self.counted.emit(annotation, rows)
