"""The zero-shot protocol of Shen et al. 2024 (arXiv:2408.02635) on labelled volumes.

    python benchmarks/zero_shot.py --volumes FOLDER                     # the default model
    python benchmarks/zero_shot.py --volumes FOLDER --model sam2.0-large sam2.1-large --device cuda

FOLDER is that of ``accuracy.py``. One object a volume (all labels merged), the stack cropped to the
slices of the object and ``--margin`` slices on either side. The middle slice of the stack is
annotated: with the true mask, or with ``--clicks`` simulated clicks, each at the deepest point of
the larger of the missed and the surplus regions. The masks are propagated forward from the middle,
then backward. Dice and NSD (tolerance: one voxel) over the whole stack, the annotated slice
included, as in the paper; mean over the volumes of a group, and over the groups.

Different from the published code: intensities are windowed per volume, not per slice; each
direction has a state of its own; NSD is computed on the stack in its own order (the published one
stacks the slices in the order of processing).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
from accuracy_runs import LabelledVolume, load_model, load_volume
from clicks import depth, middle

from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL
from napari_slmsam2.evaluate import evaluate_labels
from napari_slmsam2.session.session import SegmentationSession

Mask = npt.NDArray[np.bool_]


def cropped(volume: LabelledVolume, margin: int) -> tuple[Volume, Mask]:
    """The slices of the object and a few more, with the object; slices come first."""
    whole = volume.volume
    truth = np.moveaxis(np.isin(volume.truth, volume.labels), whole.axis, 0)
    there = np.flatnonzero(truth.any((1, 2)))
    part = slice(max(0, there[0] - margin), there[-1] + 1 + margin)
    image = np.stack([whole.take(i) for i in range(whole.n_slices)[part]])
    return Volume(image, axis=0, spacing=whole.slice_spacing, unit=whole.unit), truth[part]


def simulated_clicks(session: SegmentationSession, index: int, truth: Mask, n: int) -> SlicePrompt:
    """The prompt after ``n`` clicks, with the mask that the model finds for them."""
    prompt = SlicePrompt.from_points(1, index, [middle(truth)])
    answered = session.answer(prompt)
    for _ in range(n - 1):
        assert answered.mask is not None
        missed, surplus = truth & ~answered.mask, answered.mask & ~truth
        outside = depth(surplus).max() > depth(missed).max()
        error = surplus if outside else missed
        if not error.any():
            break
        prompt = prompt.refine([middle(error)], [0 if outside else 1])
        answered = session.answer(prompt)
    return answered


def measure(
    volume: Volume, truth: Mask, window: IntensityWindow, model: ReadyModel, clicks: int
) -> tuple[float, float]:
    """Dice and NSD of one volume; ``clicks`` 0 stands for the true mask."""
    session = SegmentationSession(volume, window=window)
    session.use_model(model)
    there = np.flatnonzero(truth.any((1, 2)))
    index = int(there[np.abs(there - len(truth) // 2).argmin()])
    if clicks:
        session.add_prompt(simulated_clicks(session, index, truth[index], clicks))
    else:
        session.add_prompt(SlicePrompt.from_mask(1, index, truth[index]))
    for _ in session.propagate():
        pass
    report = evaluate_labels(
        (session.labels == 1).astype(np.uint8),
        truth.astype(np.uint8),
        spacing=volume.spacing,
        unit=volume.unit,
        axis=0,
        labels=[1],
        tolerance=float(max(volume.spacing)),
    )
    scores = report.labels[0].scores
    return scores.overlap.dice, scores.surface.nsd


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--volumes", type=Path, required=True)
    parser.add_argument("--model", nargs="+", default=[DEFAULT_MODEL])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clicks", type=int, default=5)
    parser.add_argument("--margin", type=int, default=5)
    arguments = parser.parse_args()
    folders = [path.parent for path in sorted(arguments.volumes.glob("*/meta.json"))]
    for name in arguments.model:
        model = load_model(name, arguments.device)
        groups: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for folder in folders:
            found = load_volume(folder)
            if not found.human:
                continue
            volume, truth = cropped(found, arguments.margin)
            for what, clicks in (("mask", 0), (f"{arguments.clicks} clicks", arguments.clicks)):
                scores = measure(volume, truth, found.window, model, clicks)
                groups[what][found.group].append(scores)
        for what, by_group in groups.items():
            rows = {group: np.mean(scores, axis=0) for group, scores in sorted(by_group.items())}
            rows["mean"] = np.mean(list(rows.values()), axis=0)
            for group, (dice, nsd) in rows.items():
                print(f"{name}  {what:9} {group:6} Dice {dice:.3f}  NSD {nsd:.3f}", flush=True)


if __name__ == "__main__":
    main()
