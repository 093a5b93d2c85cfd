"""Carries the seeds of the time point on screen to the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Image
from napari.qt.threading import create_worker
from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QPushButton

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.core.prompts import PromptKind, SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.io.layer_grid import lead_axes
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.widgets.common.workers import report_defect
from napari_slmsam2.widgets.runs.runner import Runner
from napari_slmsam2.widgets.runs.task import (
    Broken,
    Failed,
    Models,
    RunControl,
    RunRequest,
    failure_of,
)
from napari_slmsam2.widgets.workspace.grid import SliceView, grid_shape, hold, make_volume
from napari_slmsam2.widgets.workspace.seeds import SeedTracker
from napari_slmsam2.widgets.workspace.workspace import Workspace

_Plane = np.ndarray[Any, np.dtype[Any]]


class NextTime(QObject):
    """The button that carries seeds on, shown for time series with a next time point.

    Parameters
    ----------
    button : QPushButton
    workspace, tracker, runner : Workspace, SeedTracker, Runner
    request : callable
        Gives the `RunRequest` that the controls stand for, or a text why there is none.
    """

    def __init__(
        self,
        button: QPushButton,
        workspace: Workspace,
        tracker: SeedTracker,
        runner: Runner,
        request: Callable[[], RunRequest | str],
    ) -> None:
        super().__init__(workspace)
        self._button, self._workspace, self._tracker = button, workspace, tracker
        self._runner, self._request = runner, request
        self._control: RunControl | None = None
        button.clicked.connect(self.carry)
        workspace.target_changed.connect(self._show)
        self._show()

    def close_connections(self) -> None:
        """End work that is in progress."""
        if self._control is not None:
            self._control.stop()
        self._control = None

    def carry(self) -> None:
        """Find the seeds of the next time point in a worker, then show it with them."""
        space, place = self._workspace, self._next()
        annotation, image = space.annotation, space.image
        if place is None or annotation is None or image is None or self._control is not None:
            return
        self._tracker.flush()
        seeds = _annotated_slices(annotation)
        request = self._request()
        problem = request if isinstance(request, str) else ""
        if self._runner.running:
            problem = "A run is in progress: stop it, or let it end, before you carry seeds on."
        elif not seeds:
            problem = "There are no seeds to carry on: annotate a slice of this time point."
        if problem or isinstance(request, str):
            show_warning(problem)
            return
        view, axis, index = place
        volumes = annotation.volume, make_volume(image, _held_at(view, axis, index))
        control = self._control = RunControl()
        self._button.setEnabled(False)
        worker = create_worker(
            _carry, self._runner.models, control, annotation, request, volumes, seeds,
            _start_thread=False, _ignore_errors=True,
        )  # fmt: skip
        worker.returned.connect(partial(self._on_carried, control, image, place))
        worker.start()

    def _on_carried(
        self,
        control: RunControl,
        image: Image,
        place: tuple[SliceView, int, int],
        found: dict[int, _Plane] | Failed | Broken,
    ) -> None:
        if control is not self._control:  # the panel has closed
            return
        self._control = None
        self._show()
        if isinstance(found, Failed):
            show_warning(found.message)
        elif isinstance(found, Broken):
            report_defect(found.error)
        elif self._next() != place or self._workspace.image is not image or self._runner.running:
            show_warning("Nothing was carried on: another time point is shown, or a run has begun.")
        else:
            _, axis, index = place
            hold(image, self._workspace.viewer.dims, axis, index)
            self._take(found)

    def _take(self, found: dict[int, _Plane]) -> None:
        """Make seeds of what was found, on slices without a seed; locked labels stay."""
        space = self._workspace
        annotation = space.annotation
        if annotation is None:
            return
        taken = {prompt.index for prompt in annotation.prompts}
        locked = sorted(annotation.table.locked)
        seeds: dict[tuple[int, int], SlicePrompt | None] = {}
        for index in sorted(found.keys() - taken):
            fixed = np.isin(annotation.slices.read(index), locked) | np.isin(found[index], locked)
            free = np.where(fixed | annotation.crossing_seeds(index), 0, found[index])
            seeds |= {(seed.label, index): seed for seed in SlicePrompt.of_labels(free, index)}
        if not seeds:
            show_info("There was nothing to carry on: the objects end, or there are seeds already.")
            return
        labels = {label for label, _ in seeds}
        try:
            space.show(annotation.history.edit_labels("mark", labels, seeds=seeds))
        except SlmSam2Error as error:
            show_warning(str(error))
            return
        many = "s" * (len(seeds) != 1)
        show_info(f"Carried {len(seeds)} seed{many} on. Correct them, then propagate.")

    def _next(self) -> tuple[SliceView, int, int] | None:
        """The view, its time axis and the index of the next time point; None without one."""
        image, view = self._workspace.image, self._workspace.view
        if image is None or view is None:
            return None
        shape = grid_shape(image)
        lead = lead_axes(shape, image.axis_labels, view.axes)
        for axis, index in view.held:
            if lead.get(axis) == "t" and index + 1 < shape[axis]:
                return view, axis, index + 1
        return None

    def _show(self) -> None:
        self._button.setVisible(self._next() is not None)
        self._button.setEnabled(self._control is None)


def _held_at(view: SliceView, axis: int, index: int) -> SliceView:
    held = tuple((a, index if a == axis else i) for a, i in view.held)
    return replace(view, held=held)


def _annotated_slices(annotation: Annotation) -> dict[int, _Plane]:
    """The seeded labels on every slice with a seed, as they are on the layer."""
    seeds: dict[int, _Plane] = {}
    for prompt in annotation.prompts:
        if prompt.kind is not PromptKind.ABSENT:
            plane = annotation.plane(prompt.index)
            known = seeds.setdefault(prompt.index, np.zeros_like(plane))
            known[plane == prompt.label] = prompt.label
    return {index: plane for index, plane in seeds.items() if plane.any()}


def _carry(
    models: Models,
    control: RunControl,
    annotation: Annotation,
    request: RunRequest,
    volumes: tuple[Volume, Volume],
    seeds: dict[int, _Plane],
) -> dict[int, _Plane] | Failed | Broken:
    """The seeded slices at the next time point, by index; in a worker, which must not raise."""
    from napari_slmsam2.session.series import carry_seeds
    from napari_slmsam2.session.session import SegmentationSession

    try:
        ready = models.get(request, control)
        window = annotation.intensity_window(request.window)

        def new_session(volume: Volume) -> SegmentationSession:
            session = SegmentationSession(
                volume, model=request.model, device=request.device, config=request.config,
                window=window, models_folder=request.models_folder,
            )  # fmt: skip
            session.use_model(ready)
            return session

        first = volumes[0]
        labels = np.zeros(first.shape, next(iter(seeds.values())).dtype)
        for index, plane in seeds.items():
            labels[first.slicer(index)] = plane
        carried = carry_seeds(volumes, {0: labels}, new_session, control.should_stop)[1]
        return {index: carried[first.slicer(index)] for index in seeds}
    except Exception as error:  # noqa: BLE001 - a worker that raises may end without a signal
        return failure_of(error)
