"""Estimated time of a run, from the runs before. Imports neither napari nor Qt."""

from __future__ import annotations

from pathlib import Path

from napari_slmsam2.core.plan import (
    BACKWARD,
    FORWARD,
    Step,
    clip_gaps,
    find_gaps,
    gaps_beside,
    make_steps,
)
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.common.wording import duration
from napari_slmsam2.widgets.runs.task import RunRequest, runs_gaps_only

ENOUGH_STEPS = 5
"""Slices after which the speed of a model is known."""

_DIRECTIONS = {"both": (FORWARD, BACKWARD), "forward": (FORWARD,), "backward": (BACKWARD,)}


def plan_run(annotation: Annotation, request: RunRequest) -> tuple[tuple[Step, ...], bool]:
    """The slices that a run visits at most, and whether it runs only beside dirty seeds.

    Raises
    ------
    PromptError
        There is nothing to propagate.
    """
    gaps = find_gaps(
        annotation.prompts,
        annotation.volume.n_slices,
        labels=request.labels,
        directions=_DIRECTIONS[request.config.direction],
    )
    gaps_only = runs_gaps_only(annotation, request)
    if gaps_only:
        gaps = gaps_beside(gaps, annotation.dirty)
    if request.write_range is not None:
        gaps = clip_gaps(gaps, *request.write_range)
    return make_steps(gaps), gaps_only


class Speeds:
    """Measured speed of models, by settings, slice size and number of labels."""

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], dict[int, tuple[float, str]]] = {}

    def note(self, annotation: Annotation, request: RunRequest, rate: float, device: str) -> None:
        """Store that a run segmented ``rate`` labels on slices per second on a device."""
        of_labels = self._seen.setdefault(_key(annotation, request), {})
        of_labels[len(request.labels)] = 1 / rate, device

    def describe(self, annotation: Annotation, request: RunRequest) -> str:
        """One sentence on the run that a request would start; empty where there is none.

        Raises
        ------
        PromptError
            There is nothing to propagate.
        """
        steps, gaps_only = plan_run(annotation, request)
        if not steps:
            return "Nothing to run: no gap lies beside a changed seed." if gaps_only else ""
        n_slices = len({step.index for step in steps})
        what = f"{n_slices} slice{'s' * (n_slices != 1)}"
        if gaps_only:
            what += " beside changed seeds"
        seconds = self._seconds(annotation, request)
        if seconds is None:
            return f"{what} to fill; the time is estimated after the first {ENOUGH_STEPS} of a run."
        model = Path(request.model).name
        visits = sum(len(step.gaps) for step in steps)
        return f"About {duration(visits * seconds[0])} for {what} ({model} on {seconds[1]})."

    def _seconds(self, annotation: Annotation, request: RunRequest) -> tuple[float, str] | None:
        """Seconds per label on a slice, and the device, of the most similar run."""
        of_labels = self._seen.get(_key(annotation, request))
        if not of_labels:
            return None
        n_labels = len(request.labels)
        nearest = min(of_labels, key=lambda n: (abs(n - n_labels), n))
        return of_labels[nearest]


def _key(annotation: Annotation, request: RunRequest) -> tuple[object, ...]:
    config = request.config
    return (
        request.model, request.device, config.precision, config.image_size, config.memory,
        config.memory_pooling, annotation.volume.slice_shape,
    )  # fmt: skip
