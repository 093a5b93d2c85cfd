"""Prompts on the canvas are answered one after the other, and previewed in 3D."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from napari.qt.threading import create_worker
from qtpy.QtCore import QObject, Signal

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.common.workers import report_defect, start_beside_runs
from napari_slmsam2.widgets.prompts.preview import SweepPreview
from napari_slmsam2.widgets.prompts.task import Finder
from napari_slmsam2.widgets.runs.runner import Runner
from napari_slmsam2.widgets.runs.task import Broken, Failed, RunControl, RunRequest
from napari_slmsam2.widgets.workspace.seeds import SeedTracker
from napari_slmsam2.widgets.workspace.workspace import Workspace


class CanvasPrompt(Protocol):
    """What a person pointed at or drew on the slice on screen."""

    @property
    def needs_object(self) -> bool:
        """Whether it only corrects what was pointed at before."""
        ...

    def added_to(self, seed: SlicePrompt | None, label: int, index: int) -> SlicePrompt:
        """The prompt for the model, together with the clicks so far."""
        ...


class Asking(QObject):
    """Has the masks of prompts computed in a worker thread, one at a time, and makes seeds of them.

    Parameters
    ----------
    workspace : Workspace
    tracker : SeedTracker
    runner : Runner
        Has the model; during a run there is no preview.
    request : callable
        Gives the `RunRequest` that the controls stand for, or a text why there is none.
    reach : callable
        Gives the slices to each side of a preview; 0 for none.

    Attributes
    ----------
    preview : SweepPreview
        Of the last answer.
    """

    began = Signal(object)
    """The mask of a `CanvasPrompt` is being computed."""
    refused = Signal()
    """A prompt has no answer."""
    hint = Signal(str)
    """A text for the person; empty where there is nothing to report."""

    def __init__(
        self,
        workspace: Workspace,
        tracker: SeedTracker,
        runner: Runner,
        request: Callable[[], RunRequest | str],
        reach: Callable[[], int],
    ) -> None:
        super().__init__(workspace)
        self._workspace, self._tracker, self._runner = workspace, tracker, runner
        self._request, self._reach = request, reach
        self._finder, self._control = Finder(), RunControl()
        self.preview = SweepPreview(workspace, self._finder)
        self.preview.stopped.connect(self._solve_next)
        self._pending: deque[CanvasPrompt] = deque()
        self._current: object | None = None
        self._working = False
        self._closed = False
        for signal in (
            workspace.target_changed, workspace.label_changed, workspace.seeds_changed
        ):  # fmt: skip
            signal.connect(self.preview.drop_if_outdated)

    def close_connections(self) -> None:
        """End the work in progress; nothing is taken any more."""
        self._closed = True
        self._control.stop()
        self.preview.drop()

    @property
    def busy(self) -> bool:
        """Whether a mask is being computed, or waits for a preview to end."""
        return self._working or bool(self._pending)

    def ask(self, pointed: CanvasPrompt) -> None:
        """Have a prompt answered after those before it; a preview in progress is dropped."""
        self.preview.drop()
        self._pending.append(pointed)
        self._solve_next()

    def discard(self) -> None:
        """Drop what is not answered yet."""
        self._pending.clear()
        if self._current is not None:
            self._current = None
            if not self._closed:
                self.hint.emit("")

    def _solve_next(self) -> None:
        stack = self._workspace.stack
        if not self._pending or stack is None or self._closed:
            return
        if self._working or self.preview.running:  # one thread at a time uses the finder
            return
        pointed = self._pending.popleft()
        self._tracker.flush()
        annotation, label, index = stack.annotation, self._workspace.label, self._workspace.index
        seed = annotation.prompts.get(label, index)
        if seed is not None and seed.kind is PromptKind.MASK:
            self._refuse(
                f"Label {label} is painted on this slice. Delete that seed in the list to click "
                "instead; its pixels stay until then."
            )
            return
        clicked = seed if seed is not None and seed.kind is PromptKind.POINTS else None
        if clicked is None and pointed.needs_object:
            self._refuse("Mark the object first.")
            return
        request = self._request()
        if isinstance(request, str):
            self._refuse(request)
            return
        prompt = pointed.added_to(clicked, label, index)
        token = self._current = object()
        self._working = True
        self.began.emit(pointed)
        self.hint.emit(f"Asking {request.model} ...")
        worker = create_worker(
            self._finder.find,
            self._runner.models,
            self._control,
            annotation,
            request,
            prompt,
            _start_thread=False,
        )
        worker.returned.connect(partial(self._on_answer, token, annotation, seed, request))
        start_beside_runs(worker)

    def _refuse(self, why: str) -> None:
        self._pending.clear()
        self.refused.emit()
        self.hint.emit(why)

    def _on_answer(
        self,
        token: object,
        annotation: Annotation,
        seed: SlicePrompt | None,
        request: RunRequest,
        found: SlicePrompt | Failed | Broken,
    ) -> None:
        self._working = False
        if self._closed:
            return
        if token is self._current:
            self._current = None
            self._tracker.flush()
            self.hint.emit("")
            if isinstance(found, Failed):
                self._refuse(found.message)
            elif isinstance(found, Broken):
                report_defect(found.error)
                self._refuse("No mask could be computed for this click.")
            elif annotation.prompts.get(found.label, found.index) is seed:
                self._take(found, request)
        self._solve_next()

    def _take(self, found: SlicePrompt, request: RunRequest) -> None:
        try:
            self._workspace.set_clicks(found)
        except SlmSam2Error as error:
            self._refuse(str(error))
            return
        annotation, reach = self._workspace.annotation, self._reach()
        seed = None if annotation is None else annotation.prompts.get(found.label, found.index)
        if seed is not None and reach and not self._pending and not self._runner.running:
            self.preview.start(seed, self._runner.models, request, reach)
