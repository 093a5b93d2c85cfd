"""How long the Annotate panel takes to open, and what napari itself takes.

    python benchmarks/opening.py
    python benchmarks/opening.py --runs 9

Every run is a fresh process with a shown window (Xvfb will do) and an image. Printed are medians of
processor seconds, which other work on the machine changes little, and of wall seconds:

- napari alone: its import, the viewer and the image;
- a first Labels layer in napari alone (it loads pandas, scipy and scikit-image);
- the panel until it is drawn for the first time: its import, its widgets, its dock;
- from there until the panel has made its own Labels layer.

Torch must not be loaded by any of this; the process fails if it is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

NAPARI, LABELS, PANEL, FIRST = (
    "napari and a viewer with an image",
    "first Labels layer in napari alone",
    "the panel, until it is drawn",
    "then its own first Labels layer",
)


class Clock:
    """Processor and wall seconds between marks."""

    def __init__(self) -> None:
        self.laps: dict[str, tuple[float, float]] = {}
        self._last = time.process_time(), time.perf_counter()

    def lap(self, name: str) -> None:
        """The time since the last mark was for this."""
        now = time.process_time(), time.perf_counter()
        self.laps[name] = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now


def measure(with_panel: bool) -> dict[str, tuple[float, float]]:
    """One run, in this process."""
    clock = Clock()
    import napari
    import numpy as np
    from qtpy.QtWidgets import QApplication

    viewer = napari.Viewer(show=True)
    image = np.random.default_rng(0).normal(size=(60, 128, 128)).astype(np.float32)
    viewer.add_image(image)
    QApplication.processEvents()
    clock.lap(NAPARI)
    if not with_panel:
        viewer.add_labels(np.zeros(image.shape, np.uint8))
        QApplication.processEvents()
        clock.lap(LABELS)
    else:
        panel = open_panel(viewer, clock)
        while panel.workspace.labels is None:
            QApplication.processEvents()
        clock.lap(FIRST)
    viewer.close()
    if "torch" in sys.modules:
        raise SystemExit("torch was loaded")
    return clock.laps


def open_panel(viewer: object, clock: Clock) -> object:
    """The docked panel; the lap ends when it is drawn for the first time."""
    from qtpy.QtCore import QEvent, QObject
    from qtpy.QtWidgets import QApplication

    from napari_slmsam2.widgets import AnnotateWidget

    class Watch(QObject):
        def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's
            if event.type() == QEvent.Type.Paint and PANEL not in clock.laps:
                clock.lap(PANEL)
            return False

    panel, watch = AnnotateWidget(viewer), Watch()
    panel.installEventFilter(watch)
    viewer.window.add_dock_widget(panel)
    while PANEL not in clock.laps:
        QApplication.processEvents()
    panel.removeEventFilter(watch)
    return panel


def run_once(what: str) -> dict[str, tuple[float, float]]:
    """One run, in a fresh process that finds no work to recover."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, __file__, "--once", what],
            env=os.environ | {"NAPARI_SLMSAM2_RECOVERY": folder},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="fresh processes of each kind")
    parser.add_argument("--once", choices=("napari", "panel"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments.once == "panel")))
        return
    runs = [run_once(what) for _ in range(arguments.runs) for what in ("napari", "panel")]
    print("| step | processor seconds | wall seconds |")
    print("|---|---|---|")
    for name in (NAPARI, LABELS, PANEL, FIRST):
        laps = [run[name] for run in runs if name in run]
        cpu, wall = (statistics.median(part) for part in zip(*laps, strict=True))
        print(f"| {name} | {cpu:.2f} | {wall:.2f} |")


if __name__ == "__main__":
    main()
