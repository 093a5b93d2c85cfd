"""The 3D preview of a click: a short sweep to both sides, shown as outlines until it is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from napari.layers import Labels
from napari.qt.threading import GeneratorWorker, create_worker
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import QObject, Signal
from scipy.ndimage import binary_erosion

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.widgets.common.own_layers import add_own_layer, remove_layer
from napari_slmsam2.widgets.common.workers import report_defect, start_beside_runs
from napari_slmsam2.widgets.prompts.task import Finder
from napari_slmsam2.widgets.runs.task import Broken, Failed, Models, RunControl, RunRequest
from napari_slmsam2.widgets.workspace.grid import SliceView
from napari_slmsam2.widgets.workspace.slab import slab_key, slab_shape, slab_transform
from napari_slmsam2.widgets.workspace.stacks import Stack
from napari_slmsam2.widgets.workspace.workspace import Workspace

if TYPE_CHECKING:
    from napari_slmsam2.session.preview import PreviewSlice

_THICK = 256
"""From this many pixels on, outlines on a slice are two pixels wide, else one."""


class SweepPreview(QObject):
    """Sweeps from one seed at a time, in a worker thread.

    The labels do not change before `take`. The preview is dropped where its seed changes, another
    label is selected or another stack is shown.

    Parameters
    ----------
    workspace : Workspace
    finder : Finder
        Used by one thread at a time: ask for nothing else while `running`.
    """

    changed = Signal()
    """Slices were added, or the preview began, ended, or was taken or dropped."""
    stopped = Signal()
    """The worker has ended: `Finder` is free."""

    def __init__(self, workspace: Workspace, finder: Finder) -> None:
        super().__init__(workspace)
        self._workspace, self._finder = workspace, finder
        self._control = RunControl()
        self._worker: GeneratorWorker[Any, Any, Any] | None = None
        self._seed: SlicePrompt | None = None
        self._stack: Stack | None = None
        self._found: dict[int, PreviewSlice] = {}
        self._layer: Labels | None = None
        self._unseen: Labels | None = None
        self._first = 0
        self.problem = ""

    @property
    def running(self) -> bool:
        """Whether the worker is sweeping, for this preview or one that was dropped."""
        return self._worker is not None

    @property
    def active(self) -> bool:
        """Whether there is a preview, complete or not."""
        return self._seed is not None

    @property
    def slices(self) -> tuple[int, ...]:
        """The slices that are previewed, without that of the seed, ascending."""
        return tuple(sorted(self._found))

    @property
    def sweeping(self) -> bool:
        """Whether slices are still to come."""
        return self.active and self.running

    def start(self, seed: SlicePrompt, models: Models, request: RunRequest, reach: int) -> None:
        """Sweep from a seed, which has a mask, to both sides; none may be running."""
        assert self._worker is None
        stack = self._workspace.stack
        labels, view = self._workspace.labels, self._workspace.view
        if stack is None or labels is None or view is None:
            return
        self.drop()
        self._seed, self._stack, self.problem = seed, stack, ""
        self._first = max(0, seed.index - reach)
        # Before the worker: napari ignores warnings meanwhile, which is not safe among threads.
        self._unseen = _outline_layer(labels, view, seed.label, self._first, 2 * reach + 1)
        control = self._control = RunControl()
        worker = create_worker(
            self._finder.sweep,
            models,
            control,
            stack.annotation,
            request,
            seed,
            reach,
            _start_thread=False,
            _ignore_errors=True,
        )
        assert isinstance(worker, GeneratorWorker)
        # napari stops workers by their own flag when the viewer closes.
        control.aborted = lambda: bool(worker.abort_requested)
        worker.yielded.connect(lambda found: self._on_found(control, found))
        worker.finished.connect(self._on_finished)
        self._worker = worker
        start_beside_runs(worker)
        self.changed.emit()

    def take(self) -> tuple[int, ...]:
        """Make results of the slices that are shown; those still to come are left out.

        Returns
        -------
        tuple of int
            The slices that were previewed.

        Raises
        ------
        SlmSam2Error
            The label is locked, or the layer cannot be written.
        """
        from napari_slmsam2.session.preview import take_preview

        stack, found = self._stack, self._found
        removed = self._layer not in self._workspace.viewer.layers
        self.drop()
        if stack is None or not found or removed:
            return ()
        self._workspace.show(take_preview(stack.annotation, found))
        return tuple(sorted(found))

    def drop(self) -> None:
        """Remove the preview and end its sweep."""
        self._control.stop()
        active = self.active
        self._seed, self._stack, self._found = None, None, {}
        remove_layer(self._workspace.viewer, self._layer)
        self._layer = None
        if active:
            self.changed.emit()

    def drop_if_outdated(self) -> None:
        """Remove the preview of a seed, label or stack that has changed."""
        seed, stack = self._seed, self._stack
        if seed is None or stack is None:
            return
        known = stack.annotation.prompts.get(seed.label, seed.index)
        same = stack is self._workspace.stack and self._workspace.label == seed.label
        if not same or known is not seed:
            self.drop()

    def _on_found(self, control: RunControl, found: PreviewSlice | Failed | Broken) -> None:
        if isinstance(found, Broken):
            report_defect(found.error)
        if control is not self._control or not self.active:
            return
        if isinstance(found, Failed):
            self.problem = found.message
        elif isinstance(found, Broken):
            self.problem = "an error in the program."
        elif self._layer is not None and self._layer not in self._workspace.viewer.layers:
            self.drop()  # a person has removed it
        else:
            self._found[found.index] = found
            self._show(found)
        self.changed.emit()

    def _on_finished(self) -> None:
        self._worker = None
        self.changed.emit()
        self.stopped.emit()

    def _show(self, found: PreviewSlice) -> None:
        view = self._workspace.view
        if view is None or self._unseen is None:
            return
        if self._layer is None:
            self._layer = self._unseen
            add_own_layer(self._workspace.viewer, self._layer)
            self._layer.editable = False
        layer = self._layer
        layer.data[slab_key(view, found.index - self._first)] = _outline(found.mask)
        dims = self._workspace.viewer.dims
        if dims.ndisplay == 3 or self._workspace.index == found.index:
            layer.refresh(thumbnail=False, highlight=False, extent=False)


def _outline_layer(
    labels: Labels, view: SliceView, label: int, first: int, n_slices: int
) -> Labels:
    """A layer for the outlines of a label on some slices, in its colour."""
    n_slices = min(n_slices, labels.data.shape[view.layer_axis] - first)
    return Labels(
        np.zeros(slab_shape(labels, view, n_slices), np.uint8),
        name=f"3D preview of label {label}",
        colormap=DirectLabelColormap(color_dict={None: "transparent", 1: labels.get_color(label)}),
        opacity=1.0,
        **slab_transform(labels, view, first),
    )


def _outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The outline of a mask, inside it; napari's own contours exist in 2D only."""
    width = 2 if min(mask.shape) >= _THICK else 1
    return np.asarray(mask & ~binary_erosion(mask, iterations=width))


def describe_preview(preview: SweepPreview) -> str:
    """The state of a preview, for the panel; empty without one."""
    if not preview.active:
        return ""
    slices = preview.slices
    if preview.problem:
        return f"No 3D preview: {preview.problem}"
    if not slices:
        return "3D preview ..." if preview.sweeping else "3D preview: no further slice."
    more = " ..." if preview.sweeping else ""
    return f"3D preview on slices {slices[0]} to {slices[-1]}{more}"
