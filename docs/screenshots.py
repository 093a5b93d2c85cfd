"""Screenshots of the window for the README and the documentation.

    xvfb-run -a -s "-screen 0 1600x1200x24" python docs/screenshots.py --out pictures
    xvfb-run -a -s "-screen 0 1600x1200x24" python docs/screenshots.py --site docs/images
    python docs/screenshots.py --image scan.nii.gz --labels truth.nii.gz --label 3 --out pictures

Opens a scan in napari, paints one slice from the true labels, propagates, shows the slice that
needs a correction most, corrects it and propagates again. A screenshot of every step is saved in
the dark and in the light theme. With ``--site`` the pictures of the documentation are made
instead: an animation of the steps and three small screenshots. Without ``--image`` the generated
sample scan is used. Needs a display with OpenGL, e.g. Xvfb.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from napari_slmsam2.core.volume import default_axis
from napari_slmsam2.evaluate import choose_seeds

PLUGIN = "napari-slmsam2"
THEMES = ("dark", "light")
WAIT_S = 600
FIT = 1.15
"""Zoom relative to the exact fit of a slice; napari leaves a margin of 1.05."""


@dataclass(frozen=True)
class Scene:
    """A viewer with the panel, and the true labels of its image."""

    viewer: Any
    panel: Any
    truth: np.ndarray
    axis: int
    out: Path

    @property
    def annotated(self) -> Any:
        """The Labels layer that is painted in."""
        return self.panel.workspace.labels


def wait_until(done: Callable[[], bool], what: str) -> None:
    """Process events until a condition is true."""
    from qtpy.QtWidgets import QApplication

    deadline = time.monotonic() + WAIT_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {WAIT_S} s")
        QApplication.processEvents()
        time.sleep(0.005)


def settle(seconds: float = 0.4) -> None:
    """Process events for a time."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, "waiting")


def open_scene(arguments: argparse.Namespace) -> Scene:
    """Start napari with the scan and the panel."""
    import napari
    from qtpy.QtCore import Qt

    viewer = napari.Viewer(show=True)
    viewer.window.resize(*arguments.size)
    if arguments.image is None:
        from napari_slmsam2.sample import make_sample

        viewer.open_sample(PLUGIN, "scan")
        truth = make_sample().labels
    else:
        from napari_slmsam2.io import read_image, read_labels

        viewer.open(arguments.image, plugin=PLUGIN)
        truth = np.asarray(read_labels(arguments.labels, read_image(arguments.image)))
    if arguments.label:
        truth = np.where(np.isin(truth, arguments.label), truth, 0)
    image = viewer.layers[0]
    axis = default_axis(image.scale) if arguments.axis is None else arguments.axis
    # Slices along the coarsest axis; rows upwards, as anatomists look at a body.
    viewer.dims.order = (axis, *sorted({0, 1, 2} - {axis}, reverse=True))
    viewer.scene.camera.orientation2d = ("up", "right")
    dock, panel = viewer.window.add_plugin_dock_widget(PLUGIN, "Annotate")
    panel.window().resizeDocks([dock], [arguments.panel], Qt.Orientation.Horizontal)
    wait_until(lambda: panel.workspace.labels is not None, "the Labels layer")
    settle()
    return Scene(viewer, panel, truth, axis, arguments.out)


def paint(scene: Scene, index: int, labels: list[int]) -> None:
    """Show a slice and draw labels on it as napari's tools do, undo included."""
    viewer, panel, layer = scene.viewer, scene.panel, scene.annotated
    panel.workspace.go_to(index)
    settle(0.1)
    here = tuple(index if a == scene.axis else slice(None) for a in range(3))
    for label in labels:
        wrong = (scene.truth[here] == label) != (np.asarray(layer.data[here]) == label)
        where = list(np.nonzero(wrong))
        where.insert(scene.axis, np.full(len(where[0]), index))
        layer.selected_label = label
        layer.data_setitem(tuple(where), np.where(scene.truth[tuple(where)] == label, label, 0))
    viewer.layers.selection.active = layer
    settle(0.2)
    panel.tracker.flush()


def propagate(scene: Scene) -> None:
    """Run the propagation to its end."""
    scene.panel.propagate()
    wait_until(lambda: not scene.panel.runner.running, "the run")
    settle()


def photograph(scene: Scene, name: str) -> None:
    """Save a screenshot of the window and one of the panel in every theme."""
    for theme in THEMES:
        scene.viewer.theme = theme
        settle()
        scene.viewer.window.screenshot(
            str(scene.out / f"{name}-{theme}.png"), flash=False, canvas_only=False
        )
        scene.panel.grab().save(str(scene.out / f"{name}-panel-{theme}.png"))
    scene.viewer.theme = THEMES[0]


def walk_through(scene: Scene) -> None:
    """Run the steps of the README, with a screenshot of each."""
    panel, labels = scene.panel, [int(v) for v in np.unique(scene.truth) if v]
    scene.viewer.reset_view()
    scene.viewer.scene.camera.zoom *= FIT / 1.05
    seeds = {label: choose_seeds(scene.truth == label, scene.axis, 1)[0] for label in labels}
    for label, index in seeds.items():
        paint(scene, index, [label])
    photograph(scene, "1-painted")

    panel.propagate()
    wait_until(
        lambda: not panel.runner.running or panel.runner.done > panel.runner.total / 3 > 0,
        "a third of the run",
    )
    if panel.runner.running:
        panel.runs.pause_or_resume()
        settle()
        photograph(scene, "2-running")
        panel.runs.pause_or_resume()
    wait_until(lambda: not panel.runner.running, "the run")
    settle()
    photograph(scene, "3-propagated")

    panel.next_to_fix()
    settle()
    photograph(scene, "4-next-to-fix")
    paint(scene, panel.workspace.index, labels)
    propagate(scene)
    photograph(scene, "5-corrected")


class Recorder:
    """Frames of the window for the documentation.

    Parameters
    ----------
    scene : Scene
    width : int
        Of the pictures, in pixels.
    """

    def __init__(self, scene: Scene, width: int = 960) -> None:
        self.scene, self.width = scene, width
        self.frames: list[Image.Image] = []
        self.durations: list[int] = []

    def take(self, ms: int) -> Image.Image:
        """Add the window as it is, shown for some milliseconds, and return the picture."""
        shown = self.scene.viewer.window.screenshot(flash=False, canvas_only=False)
        image = Image.fromarray(np.asarray(shown)[..., :3])
        height = round(image.height * self.width / image.width)
        frame = image.resize((self.width, height), Image.Resampling.LANCZOS)
        self.frames.append(frame)
        self.durations.append(ms)
        return frame

    def save(self, path: Path) -> None:
        """Write all frames as an animated WebP."""
        self.frames[0].save(
            path,
            save_all=True,
            append_images=self.frames[1:],
            duration=self.durations,
            loop=0,
            quality=60,
            method=6,
        )


def record_site(scene: Scene) -> None:
    """The animation and the screenshots of the documentation: one organ, painted to corrected."""
    viewer, panel = scene.viewer, scene.panel
    label = int(np.unique(scene.truth)[1])
    viewer.reset_view()
    viewer.scene.camera.zoom *= FIT / 1.05
    index = choose_seeds(scene.truth == label, scene.axis, 1)[0]
    panel.workspace.go_to(index)
    settle()
    recorder = Recorder(scene)
    recorder.take(1200)
    paint(scene, index, [label])
    painted = recorder.take(1500)

    panel.run_bar.follow.setChecked(True)
    panel.propagate()
    while panel.runner.running:
        settle(0.05)
        recorder.take(140)
    settle()
    propagated = recorder.take(1500)

    panel.next_to_fix()
    settle()
    suggested = recorder.take(1800)
    paint(scene, panel.workspace.index, [label])
    recorder.take(1200)
    propagate(scene)
    recorder.take(2500)
    recorder.save(scene.out / "propagation.webp")
    for name, picture in (
        ("painted", painted),
        ("propagated", propagated),
        ("next-to-fix", suggested),
    ):
        picture.quantize(128).save(scene.out / f"first-{name}.png", optimize=True)


def main() -> None:
    """Make all screenshots."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, help="folder for screenshots of every step")
    target.add_argument("--site", type=Path, help="folder for the pictures of the documentation")
    parser.add_argument("--image", type=Path, help="scan; default: the sample")
    parser.add_argument("--labels", type=Path, help="true labels of the scan, to paint from")
    parser.add_argument("--label", type=int, action="append", help="only this label; repeatable")
    parser.add_argument("--axis", type=int, choices=(0, 1, 2), help="slice axis")
    parser.add_argument("--size", type=int, nargs=2, default=(1400, 900), help="of the window")
    parser.add_argument("--panel", type=int, default=320, help="width of the panel")
    arguments = parser.parse_args()
    if (arguments.image is None) != (arguments.labels is None):
        parser.error("--image and --labels must be given together")
    steps = walk_through if arguments.site is None else record_site
    arguments.out = arguments.out or arguments.site
    arguments.out.mkdir(parents=True, exist_ok=True)
    # Keep recovery files of this script apart from those of the user.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as recovery:
        os.environ["NAPARI_SLMSAM2_RECOVERY"] = recovery
        scene = open_scene(arguments)
        try:
            steps(scene)
        finally:
            scene.viewer.close()
    sys.stdout.writelines(f"{path}\n" for path in sorted(arguments.out.iterdir()))


if __name__ == "__main__":
    main()
