"""Controls of runs: start, pause and stop; their cost, progress and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QObject, QTimer, Signal

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.core.events import FinishReason, SliceSegmented
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.common.download import DownloadMeter, ask_first, describe_cancelled
from napari_slmsam2.widgets.runs.estimate import Speeds
from napari_slmsam2.widgets.runs.model_notes import slow_device
from napari_slmsam2.widgets.runs.preload import Preloader
from napari_slmsam2.widgets.runs.quality import Scores
from napari_slmsam2.widgets.runs.run_bar import describe_end
from napari_slmsam2.widgets.runs.runner import Runner
from napari_slmsam2.widgets.runs.task import Failed, NotLoaded, Ready, RunRequest
from napari_slmsam2.widgets.workspace.seeds import SeedTracker
from napari_slmsam2.widgets.workspace.workspace import Workspace

if TYPE_CHECKING:
    from napari_slmsam2.widgets.annotate.view import PanelView


class Runs(QObject):
    """Connects the controls of runs to the runner.

    Parameters
    ----------
    view : PanelView
    workspace : Workspace
    tracker : SeedTracker

    Attributes
    ----------
    runner : Runner
    scores : Scores
    """

    changed = Signal()
    """A run began, was paused, was continued or ended."""

    def __init__(self, view: PanelView, workspace: Workspace, tracker: SeedTracker) -> None:
        super().__init__(view)
        self._view, self._workspace, self._tracker = view, workspace, tracker
        self.runner = Runner(self)
        self.scores = Scores(self)
        self._preloader = Preloader(lambda: self.runner.models, self)
        self._preloader.ended.connect(self._on_loaded)
        self._speeds = Speeds()
        self._device = ""
        self._download = DownloadMeter()
        self._notes_shown: set[str] = set()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._show_cost)
        bar, runner = view.run_bar, self.runner
        bar.propagate.connect(self.propagate)
        bar.stop.connect(runner.stop)
        bar.pause.connect(self.pause_or_resume)
        runner.ready.connect(self._on_ready)
        runner.segmented.connect(self._on_slice)
        runner.ticked.connect(self._on_tick)
        runner.noted.connect(show_warning)
        runner.ended.connect(self._on_ended)
        workspace.seeds_changed.connect(self._preload)
        workspace.volume_replaced.connect(self._on_volume_replaced)
        for signal in (
            workspace.target_changed,
            workspace.seeds_changed,
            workspace.label_changed,
            bar.options_changed,
            view.model.changed,
            view.settings.changed,
            self.changed,
        ):
            signal.connect(lambda *_: self._timer.start(0))

    def close_connections(self) -> None:
        """End the run."""
        self._timer.stop()
        self._preloader.close_connections()
        self.runner.close_connections()

    def propagate(self, mode: str = "auto") -> None:
        """Start a run.

        Parameters
        ----------
        mode : {"auto", "gaps", "all", "resume"}
        """
        stack = self._workspace.stack
        if stack is None or self.runner.running:
            return
        self._tracker.scan_all()
        try:
            request = self.request(mode)
        except SlmSam2Error as error:
            show_warning(str(error))
            return
        if self._may_download():
            self.scores.visited.clear()
            self._download = DownloadMeter()
            self._view.run_bar.show_loading()
            self.runner.start(stack, request)
            self.changed.emit()

    def request(self, mode: str = "auto") -> RunRequest:
        """The run that the controls specify.

        Raises
        ------
        PromptError
            There is nothing to propagate.
        """
        annotation, image = self._workspace.annotation, self._workspace.image
        assert annotation is not None
        assert image is not None
        labels = annotation.labels_to_run()
        if self._view.run_bar.only_label.isChecked() and self._workspace.label in labels:
            labels = (self._workspace.label,)
        return self._view.read_request(image, mode, labels)

    def propagate_or_stop(self) -> None:
        """Start a run, or stop the present one."""
        if self.runner.running:
            self.runner.stop()
        else:
            self.propagate()

    def pause_or_resume(self) -> None:
        """Pause the run, continue it, or resume the one that was stopped."""
        if self.runner.running:
            self.runner.toggle_pause()
            self.changed.emit()
        elif self.resumable:
            self.propagate("resume")

    @property
    def resumable(self) -> bool:
        """Whether the run that was stopped can be continued."""
        runner, stack = self.runner, self._workspace.stack
        return (
            not runner.running
            and runner.outcome is FinishReason.STOPPED
            and stack is not None
            and runner.stack is stack
            and stack.session is not None
            and stack.session.resumable
            and runner.request is not None
            and runner.request.model == self._view.model.model
        )

    def take_over(self) -> None:
        """Show the scores of the stack on screen, and no message about a run of another one."""
        annotation = self._workspace.annotation
        if not self.runner.running:
            self.scores.take_over(annotation)
            if annotation is not self.runner.annotation and not self._preloader.loading:
                self._view.run_bar.show_end("")
        elif self.runner.annotation is not annotation:
            self.scores.take_over(None)

    def _on_volume_replaced(self, annotation: Annotation, what: str) -> None:
        ending = self.runner.control.stopped  # and its reason was reported
        if self.runner.running and self.runner.annotation is annotation and not ending:
            show_warning(f"{what}: the run ends; its finished slices stay.")
            self.runner.stop()

    def _may_download(self) -> bool:
        chooser = self._view.model
        card = chooser.to_download
        return card is None or ask_first(self._view, card, chooser.folder)

    def _preload(self) -> None:
        """Load the model as soon as something is annotated, unless it has to be downloaded."""
        annotation, image = self._workspace.annotation, self._workspace.image
        if annotation is None or image is None or not len(annotation.prompts):
            return
        if not self.runner.running and self._view.model.to_download is None:
            request = self._view.read_request(image)
            if self._preloader.load(request):
                self._view.run_bar.show_loading()

    def _on_loaded(self, ready: Ready | None) -> None:
        if self.runner.running:
            return
        self._view.run_bar.show_end("")
        if ready is not None and ready.model == self._view.model.model:
            self._view.model.show_ready(ready.model, ready.device, ready.precision)

    def _on_ready(self, ready: Ready) -> None:
        request = self.runner.request
        assert request is not None
        self._device = ready.device
        self._view.model.show_ready(ready.model, ready.device, ready.precision)
        note = slow_device(request, ready)
        if note and note not in self._notes_shown:
            self._notes_shown.add(note)
            show_info(note)
        self._view.run_bar.show_progress(0, 0, None, paused=False)

    def _on_slice(self, event: SliceSegmented) -> None:
        if self._workspace.annotation is self.runner.annotation:
            self.scores.add(event)

    def _on_tick(self) -> None:
        runner, bar, strip = self.runner, self._view.run_bar, self._view.strip
        if runner.total:
            left = None if runner.rate is None else runner.seconds_left
            bar.show_progress(runner.done, runner.total, left, paused=runner.paused)
        elif runner.control.download is not None:
            done, total = runner.control.download
            text = self._download.describe(done, total, stopping=runner.control.stopped)
            bar.show_loading(text, done / max(1, total))
        if self._workspace.annotation is runner.annotation:
            strip.set_progress(self.scores.visited)
            strip.set_quality(self.scores.lowest(runner.annotation))
            if bar.follow.isChecked() and runner.latest and not runner.paused:
                self._workspace.go_to(_slice_to_follow(runner.latest, self._workspace.index))

    def _on_ended(self, outcome: FinishReason | Failed | NotLoaded | None) -> None:
        runner = self.runner
        if isinstance(outcome, Failed):
            show_error(outcome.message)
        rate = runner.rate
        if rate is not None and runner.annotation is not None and runner.request is not None:
            self._speeds.note(runner.annotation, runner.request, rate, self._device)
        text = describe_end(outcome, runner.done, runner.total)
        if isinstance(outcome, NotLoaded):
            text = describe_cancelled(runner.control.download)
        if runner.stack is not None and runner.annotation is not self._workspace.annotation:
            text = f"{runner.stack.sink.name}: {text}"
        self._view.run_bar.show_end(text)
        self.scores.take_over(self._workspace.annotation)
        self._view.strip.set_progress(())
        self.changed.emit()

    def _show_cost(self) -> None:
        annotation, text = self._workspace.annotation, ""
        if annotation is not None and not self.runner.running:
            try:
                text = self._speeds.describe(annotation, self.request())
            except SlmSam2Error:  # nothing is drawn yet
                text = ""
        self._view.run_bar.show_cost(text)


def _slice_to_follow(latest: Sequence[int], shown: int) -> int:
    """The slice written last; where two sweeps alternate, that of the one which is shown."""
    alternate = abs(latest[-1] - latest[0]) > 1
    return min(latest, key=lambda index: abs(index - shown)) if alternate else latest[-1]
