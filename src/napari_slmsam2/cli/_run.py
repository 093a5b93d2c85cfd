"""Drives a session: progress, and the end between two slices."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_slmsam2.cli._console import log, meter, print_record, show_note
from napari_slmsam2.cli._signals import interruptible

if TYPE_CHECKING:
    from napari_slmsam2.core.events import PropagationEvent, SliceSegmented
    from napari_slmsam2.session.session import SegmentationSession


@dataclass(slots=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    finished : bool
        False where it was interrupted or failed.
    done, total : int
        Work, see `SliceSegmented`.
    slices : set of int
        Slices that were segmented.
    visits : int
        Slices that were segmented, counted once per sweep.
    seconds : float
    notes : list of str
        Fallbacks.
    error : Exception or None
        What ended the run.
    """

    finished: bool = False
    done: int = 0
    total: int = 0
    slices: set[int] = field(default_factory=set)
    visits: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    error: Exception | None = None

    @property
    def percent(self) -> int:
        """Share of the work that is done."""
        return round(100 * self.done / max(1, self.total))

    @property
    def slices_per_second(self) -> float | None:
        """Segmented slices per second."""
        return len(self.slices) / self.seconds if self.seconds else None


def load_model(session: SegmentationSession, *, fit_cpu: bool = False) -> None:
    """Load the model, with a progress bar where it must be downloaded.

    Parameters
    ----------
    session : SegmentationSession
    fit_cpu : bool
        See `napari_slmsam2.engine.loading.make_segmenter`.
    """
    with interruptible() as should_stop, meter("downloading", is_bytes=True) as shown:
        session.load_model(progress=shown.update, should_stop=should_stop, fit_cpu=fit_cpu)
        if should_stop():
            raise KeyboardInterrupt


def announce_model(session: SegmentationSession) -> None:
    """Print the model of a session, its weights, its device and its precision."""
    model = session.load_model()
    weights = "no weights" if model.sha256 is None else f"SHA-256 {model.sha256[:12]}"
    log("Model", f"{model.name} ({weights}) on {model.device}, {model.precision}")
    if model.chosen_size is not None:
        show_note(model.chosen_size.describe("--image-size") + ".")


def follow(
    events: Iterator[PropagationEvent],
    should_stop: Callable[[], bool],
    title: str,
    first_slice: int = 0,
) -> Outcome:
    """Run to the end, to a request to stop, or to an error, which `Outcome` keeps.

    Parameters
    ----------
    events : iterator of PropagationEvent
        Of a run that asks ``should_stop`` itself.
    should_stop : callable
    title : str
        Of the progress bar.
    first_slice : int
        The number of the first slice, in records.
    """
    from napari_slmsam2.core.errors import SlmSam2Error
    from napari_slmsam2.core.events import (
        FellBack,
        Finished,
        FinishReason,
        Progressed,
        SliceSegmented,
    )
    from napari_slmsam2.engine.loading import forget_last_model

    outcome = Outcome()
    began = time.perf_counter()
    with meter(title) as shown:
        try:
            for event in events:
                if isinstance(event, SliceSegmented | Progressed):
                    outcome.done, outcome.total = event.done, event.total
                    shown.update(event.done, event.total, event.seconds_left)
                if isinstance(event, SliceSegmented):
                    outcome.slices.add(event.index)
                    outcome.visits += 1
                    print_record(_slice_record(event, time.perf_counter() - began, first_slice))
                elif isinstance(event, FellBack):
                    outcome.notes.append(event.message)
                    forget_last_model()
                    shown.log(f"Note: {event.message}.")
                elif isinstance(event, Finished):
                    stopped = event.reason is FinishReason.STOPPED and should_stop()
                    outcome.finished = not stopped
        except (SlmSam2Error, OSError, MemoryError) as error:
            outcome.error = error
        if outcome.finished:
            shown.update(1, 1)
    outcome.seconds = time.perf_counter() - began
    return outcome


def _slice_record(event: SliceSegmented, seconds: float, first_slice: int) -> dict[str, Any]:
    """A line of ``--progress json``."""
    left = event.seconds_left
    return {
        "event": "slice",
        "slice": event.index + first_slice,
        "final": event.final,
        "done": event.done,
        "total": event.total,
        "elapsed_s": round(seconds, 3),
        "left_s": None if left is None else round(left, 3),
        "labels": {
            str(label): {"area": quality.area, "confidence": round(quality.confidence, 4)}
            for label, quality in event.quality.items()
        },
    }


def until_asked(
    events: Iterator[PropagationEvent], should_stop: Callable[[], bool]
) -> Iterator[PropagationEvent]:
    """The events, until Ctrl-C, for work of which half is of no use."""
    for event in events:
        if should_stop():
            raise KeyboardInterrupt
        yield event
