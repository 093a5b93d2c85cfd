"""Finding the mask of clicks in a worker thread."""

from __future__ import annotations

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


class Finder:
    """Finds masks with the model of the panel; encoded slices are kept while model and image stay.

    Only one thread may use it at a time.
    """

    def __init__(self) -> None:
        self._answers: PromptSolver | None = None

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
            return self._find(models, control, annotation, request, prompt)
        except Exception as error:  # noqa: BLE001 - a worker that raises may end without a signal
            return failure_of(error)

    def _find(
        self,
        models: Models,
        control: RunControl,
        annotation: Annotation,
        request: RunRequest,
        prompt: SlicePrompt,
    ) -> SlicePrompt:
        from napari_slmsam2.engine.clicks.prompt_solver import PromptSolver

        check_contrast(annotation.volume)
        segmenter = models.get(request, control).segmenter
        window = annotation.intensity_window(request.window)
        last = self._answers
        if (
            last is None
            or last.segmenter is not segmenter
            or last.volume is not annotation.volume
            or last.window != window
        ):
            last = self._answers = PromptSolver(segmenter, annotation.volume, window)
        return last.find(prompt)
