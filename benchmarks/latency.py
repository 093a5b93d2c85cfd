"""Gaps between iterations of the event loop during a run.

    python benchmarks/latency.py
    python benchmarks/latency.py --model flow --follow

A viewer with a 512x512x200 volume and the Annotate panel (Xvfb will do); one object is painted on
one slice and propagated both ways. A timer of the event loop asks to be called at once, again and
again; printed are the gaps between its calls, idle and during the run: median, 95th percentile and
longest, in milliseconds, and the share of the time that lies in gaps over 50 ms. The time to the
first slice (importing torch, loading the model) is printed apart.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time

import numpy as np

SHAPE = (200, 512, 512)


def scan() -> tuple[np.ndarray, np.ndarray]:
    """A bent tube in noise, and its mask."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    row, column = 256 + 60 * np.sin(z / 40), 256 + 50 * np.cos(z / 55)
    mask = (y - row) ** 2 + (x - column) ** 2 < (40 + 10 * np.sin(z / 25)) ** 2
    noise = np.random.default_rng(0).normal(0, 0.08, SHAPE)
    return (0.3 + 0.4 * mask + noise).astype(np.float32), mask


def line(what: str, gaps: list[float]) -> str:
    """Median, 95th percentile and longest of some gaps."""
    if not gaps:
        return f"| {what} | - | - | - | - | 0 |"
    found = np.array(gaps) * 1000
    median, late = np.percentile(found, (50, 95))
    stuck = found[found > 50].sum() / found.sum()
    return (
        f"| {what} | {median:.1f} | {late:.1f} | {found.max():.1f} | {stuck:.0%} | {len(found)} |"
    )


def main() -> None:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="compact")
    parser.add_argument("--follow", action="store_true", help="the view follows the run")
    parser.add_argument("--seconds", type=float, default=60, help="stop the run after this time")
    arguments = parser.parse_args()

    os.environ["NAPARI_SLMSAM2_RECOVERY"] = tempfile.mkdtemp()
    import napari
    from qtpy.QtCore import QTimer
    from qtpy.QtWidgets import QApplication

    from napari_slmsam2.widgets import AnnotateWidget

    viewer = napari.Viewer(show=True)
    image, mask = scan()
    viewer.add_image(image)
    panel = AnnotateWidget(viewer)
    viewer.window.add_dock_widget(panel)
    panel.model.choose(arguments.model)
    panel.run_bar.follow.setChecked(arguments.follow)

    calls: list[float] = []
    timer = QTimer()
    timer.setInterval(0)
    timer.timeout.connect(lambda: calls.append(time.perf_counter()))

    def live(seconds: float, until=lambda: False) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end and not until():
            QApplication.processEvents()
            time.sleep(0.001)

    def gaps(since: float = 0.0, until: float = np.inf) -> list[float]:
        pairs = itertools.pairwise(calls)
        return [after - before for before, after in pairs if since <= before < until]

    live(3)
    timer.start()
    live(5)
    rows = [line("idle", gaps())]
    labels = panel.workspace.labels
    panel.workspace.go_to(100)
    live(1)
    labels.data_setitem(np.nonzero(mask & (np.arange(SHAPE[0]) == 100)[:, None, None]), 1)
    live(2)
    calls.clear()
    moves: list[int] = []
    panel.workspace.slice_changed.connect(moves.append)
    panel.run_bar.go_button.click()
    live(60, lambda: panel.runner.done > 0)
    started = time.perf_counter()
    live(arguments.seconds, lambda: not panel.runner.running)
    took = time.perf_counter() - started
    rows.append(line("run, to its first slice", gaps(until=started)))
    rows.append(line("run", gaps(started)))
    done = panel.runner.done
    panel.run_bar.stop_button.click()
    live(10, lambda: not panel.runner.running)
    viewer.close()
    print("| | median | 95 % | longest | over 50 ms | calls |\n|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"\n{arguments.model}: {done / took:.1f} slices, {len(moves) / took:.1f} views a second")


if __name__ == "__main__":
    main()
