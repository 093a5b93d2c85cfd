"""Drives a session: progress, and Ctrl-C between two slices."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from napari_slmsam2.cli._console import meter

if TYPE_CHECKING:
    from napari_slmsam2.core.events import PropagationEvent
    from napari_slmsam2.session.session import SegmentationSession


@dataclass(slots=True)
class Outcome:
    """How a run went.

    Attributes
    ----------
    finished : bool
        False where it was interrupted.
    done, total : int
        Steps.
    slices : set of int
        Slices that were segmented.
    visits : int
        Slices that were segmented, counted once per sweep.
    seconds : float
    notes : list of str
        Fallbacks.
    """

    finished: bool = True
    done: int = 0
    total: int = 0
    slices: set[int] = field(default_factory=set)
    visits: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def slices_per_second(self) -> float | None:
        """Segmented slices per second."""
        return len(self.slices) / self.seconds if self.seconds else None


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks to stop between two slices; a second one stops at once.

    Yields
    ------
    callable
        Whether to stop.
    """
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def load_model(session: SegmentationSession) -> None:
    """Make the model ready, with a progress bar where it must be downloaded."""
    with interruptible() as should_stop, meter("downloading", is_bytes=True) as shown:
        session.load_model(progress=shown.update, should_stop=should_stop)
        if should_stop():
            raise KeyboardInterrupt


def follow(
    start: Callable[[Callable[[], bool]], Iterator[PropagationEvent]], title: str
) -> Outcome:
    """Run to the end or to Ctrl-C.

    Parameters
    ----------
    start : callable
        ``start(should_stop)`` gives the events.
    title : str
        Of the progress bar.
    """
    from napari_slmsam2.core.events import FellBack, Finished, FinishReason, SliceSegmented

    outcome = Outcome()
    began = time.perf_counter()
    with interruptible() as should_stop, meter(title) as shown:
        for event in start(should_stop):
            if isinstance(event, SliceSegmented):
                outcome.done, outcome.total = event.done, event.total
                outcome.slices.add(event.index)
                outcome.visits += 1
                shown.update(event.done, event.total)
            elif isinstance(event, FellBack):
                outcome.notes.append(event.message)
                shown.log(f"Note: {event.message}.")
            elif isinstance(event, Finished):
                stopped = event.reason is FinishReason.STOPPED and should_stop()
                outcome.finished = not stopped
        if outcome.finished:
            shown.update(1, 1)
    outcome.seconds = time.perf_counter() - began
    return outcome


def until_asked(
    events: Iterator[PropagationEvent], should_stop: Callable[[], bool]
) -> Iterator[PropagationEvent]:
    """The events, until Ctrl-C, for work of which half is of no use."""
    for event in events:
        if should_stop():
            raise KeyboardInterrupt
        yield event
