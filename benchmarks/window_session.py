r"""A whole session in the window, from opening a scan to a saved label map, and what it takes.

    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/window_session.py
    xvfb-run -a -s "-screen 0 1600x1200x24" python benchmarks/window_session.py \
        --volume FOLDER/ct_vertebrae_tptbox --rounds 4 --out labels.nii.gz

The volume is a folder as accuracy.py reads it; default: the generated sample scan. A simulated
person sends mouse and key events of the window system to the viewer and the panel:

1. draws each label on its largest slice with napari's polygon tool, from the true labels;
2. propagates (G);
3. goes to the next slice to fix (N), as often as there are labels, accepts it (K) if its Dice is
   at least ``--accept``, else removes the label there (Shift+X) and draws it again;
4. repeats 2 and 3 until all suggestions of a round were accepted, at most ``--rounds`` times;
5. saves the labels with the button of the panel.

Printed as JSON: mouse clicks (each corner of a polygon is one) and keys, seconds, of which those
of the runs, and the Dice of every label in the saved file. Opening the file, the panel and the
names of files are not counted; the person does not think, and finds the mouse at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accuracy import whole_number
from accuracy_runs import load_volume
from corrections import dice

from napari_slmsam2.evaluate import choose_seeds
from napari_slmsam2.io import read_image, read_labels
from napari_slmsam2.sample import make_sample

PLUGIN = "napari-slmsam2"
WAIT_S = 600
TOLERANCE = 0.6
"""Distance of a drawn polygon from the true outline, in pixels."""

Mask = npt.NDArray[np.bool_]


class Hands:
    """Sends mouse and key events to a window, and counts them.

    Parameters
    ----------
    viewer : napari.Viewer
    panel : AnnotateWidget
    """

    def __init__(self, viewer: Any, panel: Any) -> None:
        from qtpy.QtWidgets import QApplication

        self.viewer, self.panel = viewer, panel
        self.clicks = self.keys = 0
        [self._canvas] = [
            w for w in QApplication.allWidgets() if type(w).__name__ == "CanvasBackendDesktop"
        ]

    def wait(self, until: Callable[[], bool], what: str) -> None:
        """Let the window live until something is so."""
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + WAIT_S
        while not until():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not within {WAIT_S} s")
            QApplication.processEvents()
            time.sleep(0.002)

    def live(self, seconds: float = 0.05) -> None:
        """Let the window live for a while."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end, "waiting")

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key over the canvas."""
        from qtpy.QtCore import QEvent, Qt
        from qtpy.QtGui import QKeyEvent
        from qtpy.QtWidgets import QApplication

        modifier = Qt.KeyboardModifier
        held = modifier.ShiftModifier if shift else modifier.NoModifier
        for kind in (QEvent.Type.KeyPress, QEvent.Type.KeyRelease):
            event = QKeyEvent(kind, getattr(Qt.Key, f"Key_{key}"), held)
            QApplication.sendEvent(self._canvas, event)
        self.keys += 1
        self.live()

    def click(self, widget: Any, x: float | None = None) -> None:
        """Click on a control, in its middle or at a distance from its left side."""
        from qtpy.QtCore import QPoint, Qt
        from qtpy.QtTest import QTest

        middle = widget.rect().center()
        point = middle if x is None else QPoint(round(x), middle.y())
        QTest.mouseClick(widget, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, point)
        self.clicks += 1
        self.live()

    def go_to(self, index: int) -> None:
        """Click on a slice in the strip of the panel."""
        strip = self.panel.strip
        at = [x for x in range(strip.width()) if strip.slice_at(x) == index]
        if not at:
            raise ValueError(f"slice {index} is not in the strip")
        self.click(strip, at[len(at) // 2])

    def click_voxel(self, row: float, column: float) -> None:
        """Click on a pixel of the slice on screen."""
        from qtpy.QtCore import QEvent, QPointF, Qt
        from qtpy.QtGui import QMouseEvent
        from qtpy.QtWidgets import QApplication

        point = self._on_canvas(row, column)
        place, kind = QPointF(self._canvas.mapToGlobal(point.toPoint())), QEvent.Type
        left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
        for which, button, held in (
            (kind.MouseMove, none, none),
            (kind.MouseButtonPress, left, left),
            (kind.MouseButtonRelease, left, none),
        ):
            event = QMouseEvent(which, point, place, button, held, Qt.KeyboardModifier.NoModifier)
            QApplication.sendEvent(self._canvas, event)
            QApplication.processEvents()
        self.clicks += 1

    def _on_canvas(self, row: float, column: float) -> Any:
        """The place of a pixel: rows and columns as napari shows them, downwards and right."""
        from qtpy.QtCore import QPointF

        layer, dims = self.panel.workspace.labels, self.viewer.dims
        data = np.array(layer.world_to_data(dims.point), float)
        shown = list(dims.displayed)
        data[shown] = row, column
        camera = self.viewer.scene.camera
        world = np.array(layer.data_to_world(data))[shown]
        y, x = (world - np.array(camera.center)[-2:]) * camera.zoom
        return QPointF(self._canvas.width() / 2 + x, self._canvas.height() / 2 + y)


class Person:
    """Makes labels as they are in the truth.

    Parameters
    ----------
    hands : Hands
    truth : ndarray of int
        The true labels.
    labels : list of int
        Those to make; they become 1, 2, ... in the window.
    axis : int
        Of the slices.
    """

    def __init__(
        self, hands: Hands, truth: npt.NDArray[np.integer], labels: list[int], axis: int
    ) -> None:
        self.hands, self.truth, self.labels = hands, np.moveaxis(truth, axis, 0), labels
        self.axis = axis
        self.run_seconds = 0.0
        self.checked = self.accepted = 0

    def mask(self, label: int, index: int) -> Mask:
        """The true mask of a label of the window."""
        return self.truth[index] == self.labels[label - 1]

    def draw(self, mask: Mask) -> None:
        """Draw all parts of a mask with the polygon tool."""
        from skimage.measure import approximate_polygon, find_contours

        limits = np.array(mask.shape) - 1
        for outline in find_contours(np.pad(mask, 1).astype(float), 0.5):
            corners = approximate_polygon(outline - 1, TOLERANCE)[:-1]
            if len(corners) < 3:
                continue
            for corner in np.clip(corners, 0, limits):
                self.hands.click_voxel(*corner)
            self.hands.press("Return")

    def begin(self) -> None:
        """Draw every label on its largest slice."""
        hands = self.hands
        hands.press("3")
        for label, true in enumerate(self.labels, 1):
            if label > 1:
                hands.press("M")
            [index] = choose_seeds(self.truth == true, 0, 1)
            hands.go_to(index)
            self.draw(self.mask(label, index))

    def propagate(self) -> None:
        """Run to the end."""
        panel, started = self.hands.panel, time.monotonic()
        panel.tracker.flush()
        self.hands.press("G")
        self.hands.wait(lambda: panel.runner.total > 0 or not panel.runner.running, "a run")
        self.hands.wait(lambda: not panel.runner.running, "the run")
        self.run_seconds += time.monotonic() - started

    def fix_next(self, accept: float) -> bool:
        """Check the suggested slice; whether it had to be corrected."""
        hands, space = self.hands, self.hands.panel.workspace
        hands.press("N")
        label, index = space.label, space.index
        found, truth = space.annotation.plane(index) == label, self.mask(label, index)
        self.checked += 1
        empty = not found.any() and not truth.any()
        if empty or dice(found, truth) >= accept:
            self.accepted += 1
            hands.press("K")
            return False
        if found.any() or not truth.any():
            hands.press("X", shift=True)
        if truth.any():
            self.draw(truth)
        return True


def open_window(arguments: argparse.Namespace) -> tuple[Any, Any, npt.NDArray[np.integer], int]:
    """A viewer with the scan and the panel, the true labels, and the axis of the slices."""
    import napari

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1280, 720)
    if arguments.volume is None:
        viewer.open_sample(PLUGIN, "scan")
        sample = make_sample()
        truth, axis = sample.labels, sample.volume.axis
    else:
        loaded = load_volume(arguments.volume)
        viewer.open(arguments.volume / "image.nii.gz", plugin=PLUGIN)
        truth, axis = loaded.truth, loaded.volume.axis
    viewer.dims.order = (axis, *(a for a in range(3) if a != axis))
    _, panel = viewer.window.add_plugin_dock_widget(PLUGIN, "Annotate")
    return viewer, panel, truth, axis


def work(arguments: argparse.Namespace, viewer: Any, panel: Any, person: Person) -> float:
    """Make the label map and save it; the seconds that it took."""
    from qtpy.QtWidgets import QFileDialog

    hands = person.hands
    started = time.monotonic()
    person.begin()
    person.propagate()
    for _ in range(arguments.rounds):
        corrected = [person.fix_next(arguments.accept) for _ in person.labels]
        if not any(corrected):
            break
        person.propagate()
    out = arguments.out
    QFileDialog.getSaveFileName = lambda *_, **__: (str(out), "")
    hands.click(panel.save_button)
    hands.wait(out.exists, "saving")
    return time.monotonic() - started


def session(arguments: argparse.Namespace) -> dict[str, Any]:
    """One session, and its figures."""
    viewer, panel, truth, axis = open_window(arguments)
    try:
        hands = Hands(viewer, panel)
        hands.wait(lambda: panel.workspace.labels is not None, "the Labels layer")
        viewer.reset_view()
        hands.live(0.3)
        labels = arguments.labels or sorted({*np.unique(truth).tolist()} - {0})[:3]
        person = Person(hands, truth, labels, axis)
        seconds = work(arguments, viewer, panel, person)
    finally:
        viewer.close()
    saved = np.asarray(read_labels(arguments.out, read_image(arguments.out)))
    return {
        "volume": "sample" if arguments.volume is None else arguments.volume.name,
        "labels": len(labels),
        "clicks": hands.clicks,
        "keys": hands.keys,
        "checked": person.checked,
        "accepted": person.accepted,
        "seconds": round(seconds, 1),
        "of which runs": round(person.run_seconds, 1),
        "dice": [round(dice(saved == n, truth == x), 3) for n, x in enumerate(labels, 1)],
    }


def main() -> None:
    """Read the command line, work, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volume", type=Path, help="folder of the volume; default: the sample")
    parser.add_argument("--labels", type=int, nargs="+", help="default: the first three")
    parser.add_argument("--rounds", type=whole_number, default=4, help="of corrections, at most")
    parser.add_argument("--accept", type=float, default=0.9, help="least Dice of a right slice")
    parser.add_argument("--out", type=Path, help="file for the labels; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["NAPARI_SLMSAM2_RECOVERY"] = folder
        arguments.out = arguments.out or Path(folder) / "labels.nii.gz"
        if arguments.out.exists():
            parser.error(f"{arguments.out} exists already")
        found = session(arguments)
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
