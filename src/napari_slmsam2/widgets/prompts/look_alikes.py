"""Finds the objects of the slice on screen that look like its seeds, in a worker thread."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from napari.qt.threading import create_worker
from napari.utils.notifications import show_warning
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QPushButton

from napari_slmsam2.core.errors import SlmSam2Error
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.look_alikes import examples_on
from napari_slmsam2.widgets.common.workers import report_defect
from napari_slmsam2.widgets.prompts.bar import PromptBar
from napari_slmsam2.widgets.runs.task import Broken, Failed, failure_of
from napari_slmsam2.widgets.workspace.seeds import SeedTracker
from napari_slmsam2.widgets.workspace.workspace import Workspace


class LookAlikes(QObject):
    """A button that makes seeds of all look-alikes of the seeds on the slice.

    Parameters
    ----------
    button : QPushButton
    bar : PromptBar
        Shows the result.
    workspace : Workspace
    tracker : SeedTracker
    """

    def __init__(
        self, button: QPushButton, bar: PromptBar, workspace: Workspace, tracker: SeedTracker
    ) -> None:
        super().__init__(button)
        self._button, self._bar = button, bar
        self._workspace, self._tracker = workspace, tracker
        self._closed = False
        button.clicked.connect(self.find)

    def close_connections(self) -> None:
        """Ignore what is still being searched for."""
        self._closed = True

    def find(self) -> None:
        """Search on the slice on screen."""
        self._tracker.scan_all()
        annotation, index = self._workspace.annotation, self._workspace.index
        if annotation is None:
            return
        self._button.setEnabled(False)
        worker = create_worker(
            _find, annotation.volume, index, examples_on(annotation, index), _start_thread=False
        )
        worker.returned.connect(partial(self._on_found, annotation, index))
        worker.start()

    def _on_found(self, annotation: Annotation, index: int, found: Any) -> None:
        if self._closed:
            return
        self._button.setEnabled(True)
        if isinstance(found, Broken):
            report_defect(found.error)
            return
        if isinstance(found, Failed):
            show_warning(found.message)
            return
        if annotation is not self._workspace.annotation:
            show_warning("Nothing was added: other labels, or slices of another stack, are shown.")
            return
        self._tracker.flush()
        try:
            labels = self._workspace.add_objects(index, found)
        except SlmSam2Error as error:
            show_warning(str(error))
            return
        text = f"{len(labels)} look-alikes are seeds of new labels. Remove: click on wrong ones."
        self._bar.set_hint(text if labels else "No look-alike was found on this slice.")


def _find(
    volume: Volume, index: int, examples: npt.NDArray[np.int64]
) -> npt.NDArray[np.int32] | Failed | Broken:
    """Nothing is raised: a worker that raises may end without a signal."""
    from napari_slmsam2.engine.features.look_alikes import find_look_alikes

    try:
        return find_look_alikes(volume.take(index), examples)
    except Exception as error:  # noqa: BLE001 - see above
        return failure_of(error)
