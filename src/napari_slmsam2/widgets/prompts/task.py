"""Finding the mask of clicks, and what it becomes on the next slices, in a worker thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from napari_slmsam2.core.intensity import check_contrast
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.runs.task import (
    Broken,
    Failed,
    Models,
    RunControl,
    RunRequest,
    failure_of,
)

if TYPE_CHECKING:
    from napari_slmsam2.engine.clicks.prompt_solver import PromptSolver
    from napari_slmsam2.session.preview import PreviewSlice


class Finder:
    """Finds masks with the model of the panel; encoded slices are kept while model and image stay.

    Only one thread may use it at a time.
    """

    def __init__(self) -> None:
        self._last: PromptSolver | None = None

    def find(
        self,
        models: Models,
        control: RunControl,
        annotation: Annotation,
        request: RunRequest,
        prompt: SlicePrompt,
    ) -> SlicePrompt | Failed | Broken:
        """The prompt with the mask that the model finds, or why there is none.

        Nothing is raised, as in `run_events`.
        """
        try:
            check_contrast(annotation.volume)
            return self._solver(models, control, annotation, request).find(prompt)
        except Exception as error:  # noqa: BLE001 - a worker that raises may end without a signal
            return failure_of(error)

    def sweep(
        self,
        models: Models,
        control: RunControl,
        annotation: Annotation,
        request: RunRequest,
        seed: SlicePrompt,
        reach: int,
    ) -> Iterator[PreviewSlice | Failed | Broken]:
        """What the seed becomes on the next slices, see `preview_sweep`, or why it ended early.

        Nothing is raised, as in `run_events`.
        """
        from napari_slmsam2.session.preview import preview_sweep

        try:
            solver = self._solver(models, control, annotation, request)
            yield from preview_sweep(
                annotation,
                seed,
                solver.segmenter,
                solver.window,
                request.config,
                reach,
                embeddings=solver.embeddings,
                should_stop=control.should_stop,
            )
        except Exception as error:  # noqa: BLE001 - a worker that raises may end without a signal
            yield failure_of(error)

    def _solver(
        self, models: Models, control: RunControl, annotation: Annotation, request: RunRequest
    ) -> PromptSolver:
        from napari_slmsam2.engine.clicks.prompt_solver import PromptSolver

        segmenter = models.get(request, control).segmenter
        window = annotation.intensity_window(request.window)
        last = self._last
        if (
            last is None
            or last.segmenter is not segmenter
            or last.volume is not annotation.volume
            or last.window != window
        ):
            last = self._last = PromptSolver(segmenter, annotation.volume, window)
        return last
