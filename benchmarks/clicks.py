"""Clicks, boxes, scribbles and lassos on real labelled volumes, and their corrections.

    python benchmarks/clicks.py --volumes FOLDER                    # the default model
    python benchmarks/clicks.py --volumes FOLDER --model flow sam2.1-tiny

FOLDER is that of ``accuracy.py``. Of every label (at most four of a volume) up to three slices are
asked, at a fifth, half and four fifths of its extent, where it has at least 20 pixels.

The first click is made in the middle of the object (the pixel farthest from its outline), or as
often anywhere in its inner half; every further one in the middle of the largest error, as inside
or outside. A box is the object's own, wider by 3 % on each side, with sides off by 3 % of its size
(standard deviation). A scribble runs through the object from end to end of its inner half, three
pixels wide; a lasso is the outline, displaced by smooth noise of a tenth of the object's radius, a
pixel at least ("drawn": its own Dice). Clicks correct them likewise. Dice: mean over the slices of
a volume, the volumes of a group, the groups. Milliseconds: of one answer, without the encoding of
the image.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from accuracy_runs import load_model, load_volume, thin_out
from scipy import ndimage as ndi
from skimage.graph import MCP_Geometric
from skimage.measure import find_contours

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.clicks.hints import lasso_interior
from napari_slmsam2.engine.clicks.prompt_solver import PromptSolver
from napari_slmsam2.engine.propagation.merge import dice
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL

N_CLICKS, N_CORRECTIONS, SMALLEST = 5, 2, 20
Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]


def depth(mask: Mask) -> npt.NDArray[np.float64]:
    """Distance of every pixel of a mask from its outline."""
    return np.asarray(ndi.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1])


def middle(mask: Mask) -> tuple[int, int]:
    """The pixel farthest from the outline."""
    row, column = np.unravel_index(depth(mask).argmax(), mask.shape)
    return int(row), int(column)


def first_click(mask: Mask, rng: np.random.Generator) -> tuple[int, int]:
    """The middle, or a place in the inner half."""
    if rng.random() < 0.5:
        return middle(mask)
    inner = np.argwhere(depth(mask) > 0.5 * depth(mask).max())
    row, column = inner[rng.integers(len(inner))]
    return int(row), int(column)


def drawn_box(mask: Mask, rng: np.random.Generator) -> Box:
    """A box as a person might draw it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    size = np.array([np.ptp(rows) + 1, np.ptp(columns) + 1] * 2)
    corners = np.array([rows[0] - 0.5, columns[0] - 0.5, rows[-1] + 0.5, columns[-1] + 0.5])
    corners += np.maximum(0.5, 0.03 * size) * (-1, -1, 1, 1) + rng.normal(0, 0.03 * size)
    return tuple(corners.tolist())


def drawn_scribble(mask: Mask) -> npt.NDArray[np.int64]:
    """The pixels of a stroke through the largest part of an object, shape (N, 2)."""
    parts, _ = ndi.label(mask)
    inner = (depth(mask) > 0.5 * depth(mask).max()) & (parts == parts[middle(mask)])
    inner = ndi.label(inner)[0] == ndi.label(inner)[0][middle(mask)]
    # Through the inner half from end to end; the middle of the object attracts the path.
    cost = np.where(inner, 1 / depth(mask).clip(0.5), -1)
    start = middle(mask)
    for _ in range(2):
        ways = MCP_Geometric(cost)
        away, _ = ways.find_costs([start])
        end = np.unravel_index(np.where(inner, away, -1).argmax(), mask.shape)
        start, path = end, ways.traceback(end)
    stroke = np.zeros(mask.shape, bool)
    stroke[tuple(np.array(path).T)] = True
    return np.argwhere(ndi.binary_dilation(stroke, np.ones((3, 3))) & mask)


def drawn_lasso(mask: Mask, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The corners of a rough outline of the largest part of an object, shape (N, 2)."""
    wide = np.pad(mask, 10)
    parts, _ = ndi.label(wide)
    largest = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    radius = np.sqrt(largest.sum() / np.pi)
    noise = ndi.gaussian_filter(rng.normal(size=wide.shape), max(2.0, 0.5 * radius))
    signed = ndi.distance_transform_edt(largest) - ndi.distance_transform_edt(~largest)
    noise *= max(1.0, 0.1 * radius) / noise.std()
    rough = ndi.gaussian_filter(signed, 0.15 * radius) + noise
    outlines = find_contours(np.pad(rough, 1, constant_values=-1.0), 0.0)
    outline = max(outlines, key=len) - 11
    return outline[:: max(1, len(outline) // 40)]


def answer_all(
    answers: PromptSolver, index: int, truth: Mask, prompt: SlicePrompt, n: int
) -> Iterator[tuple[float, float]]:
    """Dice and seconds of the first answer and of each of ``n`` corrections."""
    for _ in range(n + 1):
        started = time.perf_counter()
        found = answers.find(prompt).mask
        seconds = time.perf_counter() - started
        assert found is not None
        yield dice(found, truth), seconds
        missed, extra = truth & ~found, found & ~truth
        outside = depth(extra).max() > depth(missed).max()
        error = extra if outside else missed
        if error.any():
            prompt = prompt.refine([middle(error)], [0 if outside else 1])


def measure(folder: Path, model: str, device: str) -> Iterator[tuple[str, list[float], float]]:
    """What was asked, Dice after each click, and mean seconds, for each slice of a volume."""
    volume, ready = load_volume(folder), load_model(model, device)
    stack = volume.volume
    rng, of_lassos = np.random.default_rng(0), np.random.default_rng(1)
    answers = PromptSolver(ready.segmenter, stack, volume.window)
    for label in thin_out(volume.labels, 4):
        mask = np.moveaxis(volume.truth == label, stack.axis, 0)
        there = np.flatnonzero(mask.any((1, 2)))
        for index in sorted({int(there[int(part * (len(there) - 1))]) for part in (0.2, 0.5, 0.8)}):
            truth = mask[index]
            if truth.sum() < SMALLEST:
                continue
            click = SlicePrompt.from_points(label, index, [first_click(truth, rng)])
            box = SlicePrompt.from_box(label, index, drawn_box(truth, rng))
            answers.find(click)  # encodes the image
            scribble = SlicePrompt.from_scribble(label, index, drawn_scribble(truth))
            lasso = SlicePrompt.from_lasso(label, index, drawn_lasso(truth, of_lassos))
            assert lasso.lasso is not None
            interior = lasso_interior(lasso.lasso, truth.shape)
            yield "drawn", [dice(interior, truth)], np.nan
            for what, prompt, n in (
                ("clicks", click, N_CLICKS - 1),
                ("box", box, N_CORRECTIONS),
                ("scribble", scribble, N_CORRECTIONS),
                ("lasso", lasso, N_CORRECTIONS),
            ):
                scores, seconds = zip(*answer_all(answers, index, truth, prompt, n), strict=True)
                yield what, list(scores), float(np.mean(seconds))


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--volumes", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=[DEFAULT_MODEL])
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    folders = [path.parent for path in sorted(arguments.volumes.glob("*/meta.json"))]
    for model in arguments.model:
        groups = defaultdict(lambda: defaultdict(list))
        times, n = [], 0
        for folder in folders:
            found = load_volume(folder)
            if not found.human:
                continue
            of_volume = defaultdict(list)
            for what, scores, seconds in measure(folder, model, arguments.device):
                of_volume[what].append(scores)
                times.append(seconds)
                n += what == "box"
            for what, scores in of_volume.items():
                groups[what][found.group].append(np.mean(scores, axis=0))
        print(f"{model}: {n} slices, {1000 * np.nanmean(times):.0f} ms per answer")
        for what, by_group in groups.items():
            rows = {group: np.mean(scores, axis=0) for group, scores in sorted(by_group.items())}
            rows["mean"] = np.mean(list(rows.values()), axis=0)
            for group, row in rows.items():
                print(f"  {what:8} {group:6}", " ".join(f"{score:.3f}" for score in row))


if __name__ == "__main__":
    main()
