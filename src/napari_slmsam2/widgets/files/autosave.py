"""Unsaved work is written in the background, so that a crash or a closed window loses nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any
from weakref import WeakKeyDictionary

from napari.layers import Image
from qtpy.QtCore import QObject, QTimer, Signal

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.common.workers import report_defect
from napari_slmsam2.widgets.files.recovery import ImageIdentity, RecoveryStore, recovery_folder
from napari_slmsam2.widgets.files.saving import Snapshot, save_snapshot
from napari_slmsam2.widgets.runs.task import RunRequest
from napari_slmsam2.widgets.workspace.grid import finest
from napari_slmsam2.widgets.workspace.stacks import Stack

SETTLE_S = 2.0
"""Work is written when nothing has changed for so long ..."""
LONGEST_S = 30.0
"""... and at the latest after this time, also during a run."""

_REST = 9
"""The thread that writes rests so many times as long as it worked."""
_POLL_MS = 50


@dataclass(slots=True)
class _Work:
    """The state of the work on one stack of slices.

    Attributes
    ----------
    number : int
    changes : int
        Counts them.
    pending : tuple or None
        What is to be written: nothing else here keeps layers and labels alive.
    """

    number: int
    changes: int = 0
    pending: tuple[Stack, ImageIdentity, RunRequest] | None = None


class Autosave(QObject):
    """Writes what changed to recovery files, in a thread of its own.

    Nothing is copied: the thread reads labels that may change meanwhile, and what has changed is
    written again soon.
    """

    found = Signal(object, object)
    """An image, and the list of `Recovered` of it."""
    failed = Signal(str)
    """Work cannot be kept. Emitted once, until it works again."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._store = RecoveryStore(recovery_folder())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="napari-slmsam2-autosave")
        self._work: WeakKeyDictionary[Annotation, _Work] = WeakKeyDictionary()
        self._images: WeakKeyDictionary[Image, ImageIdentity] = WeakKeyDictionary()
        self._numbers = 0
        self._since = 0.0
        self._rest_until = 0.0
        self._reported = False
        self._asked: list[tuple[Future[Any], Callable[[Any], None]]] = []
        self._timer, self._poll = QTimer(self), QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._on_timer)
        self._poll.setInterval(_POLL_MS)
        self._poll.timeout.connect(self._look)

    def look_for(self, image: Image) -> None:
        """Search for unsaved work on an image; `found` reports it."""
        self._ask(self._store.find, self._identity(image), then=partial(self.found.emit, image))

    def touch(self, stack: Stack, image: Image, request: RunRequest) -> None:
        """Something changed that is not saved yet.

        Parameters
        ----------
        stack : Stack
            Where it changed.
        image : Image
        request : RunRequest
            The settings.
        """
        annotation, now = stack.annotation, time.monotonic()
        if annotation not in self._work:
            self._numbers += 1
            self._work[annotation] = _Work(self._numbers)
        work = self._work[annotation]
        work.changes += 1
        work.pending = stack, self._identity(image), request
        if not self._timer.isActive():
            self._since = now
        due = max(self._rest_until, min(now + SETTLE_S, self._since + LONGEST_S))
        self._timer.start(max(0, int(1000 * (due - now))))

    def changes(self, annotation: Annotation) -> int:
        """How often the work on a stack changed; see `saved`."""
        work = self._work.get(annotation)
        return 0 if work is None else work.changes

    def saved(self, annotation: Annotation, changes: int) -> None:
        """A person saved the work on a stack as it was after so many changes."""
        work = self._work.get(annotation)
        if work is not None and work.changes == changes:
            work.pending = None
            try:
                self._ask(self._store.remove, work.number)
            except RuntimeError:  # the panel has closed while the work was being saved
                name = "napari-slmsam2-autosave-end"
                Thread(target=self._remove_at_end, args=(work.number,), name=name).start()

    def _remove_at_end(self, number: int) -> None:
        self._thread.shutdown(wait=True)
        self._store.remove(number)

    def flush(self, then: Callable[[], None] = lambda: None) -> None:
        """Write at once what is to be written.

        Parameters
        ----------
        then : callable
            Called after everything was written, and only then.
        """
        self._timer.stop()
        unsaved = [(work, work.pending) for work in self._work.values() if work.pending]
        for work, _ in unsaved:
            work.pending = None
        jobs = [self._job(work.number, *pending) for work, pending in unsaved if pending]

        def on_written(result: float | str) -> None:
            if isinstance(result, str):
                for work, pending in unsaved:
                    work.pending = work.pending or pending
                if not self._reported:
                    self.failed.emit(result)
                self._reported = True
                return
            self._reported = False
            self._rest_until = time.monotonic() + _REST * result
            then()

        self._ask(_write, jobs, then=on_written)

    def discard(self, folder: Path) -> None:
        """Delete what a panel that is gone left."""
        self._ask(self._store.discard, folder)

    def close_connections(self) -> None:
        """Write what is not written yet; the program waits for it, the window does not."""
        # A program that is ending takes no more work; it has closed its windows long before.
        with contextlib.suppress(RuntimeError):
            self.flush()
            self._thread.submit(self._store.close)
        self._poll.stop()
        self._thread.shutdown(wait=False)

    def _identity(self, image: Image) -> ImageIdentity:
        data, known = finest(image), self._images.get(image)
        if known is None or known.data is not data:
            path = image.source.path
            known = ImageIdentity(data, image.ndim, None if path is None else str(path))
            self._images[image] = known
        return known

    def _job(
        self,
        number: int,
        stack: Stack,
        image: ImageIdentity,
        request: RunRequest,
    ) -> Callable[[], object]:
        snapshot = Snapshot.of(stack, request)
        return partial(self._store.write, number, image, partial(save_snapshot, snapshot))

    def _on_timer(self) -> None:
        if self._asked:
            self._timer.start(int(1000 * SETTLE_S))
        else:
            self.flush()

    def _ask(
        self,
        function: Callable[..., Any],
        *args: Any,
        then: Callable[[Any], None] = lambda result: None,
    ) -> None:
        self._asked.append((self._thread.submit(function, *args), then))
        self._poll.start()

    def _look(self) -> None:
        """Handle the finished jobs of the thread."""
        while self._asked and self._asked[0][0].done():
            future, then = self._asked.pop(0)
            try:
                then(future.result())
            except Exception as error:  # noqa: BLE001 - the window works without autosave
                report_defect(error)
        if not self._asked:
            self._poll.stop()


def _write(jobs: list[Callable[[], object]]) -> float | str:
    """Seconds that it took, or what went wrong."""
    started = time.monotonic()
    try:
        for job in jobs:
            job()
    except SlmSam2Error as error:
        return str(error)
    return time.monotonic() - started
