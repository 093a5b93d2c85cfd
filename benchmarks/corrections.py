r"""Corrected slices that a label needs: the slice that the plugin suggests against other choices.

    python benchmarks/corrections.py --volumes FOLDER
    python benchmarks/corrections.py --volumes FOLDER --only mr_spinalcord_sct --max-labels 2 \
        --most 12 --json corrections.json

FOLDER is that of accuracy.py. A simulated person annotates the largest slice of a label from the
true labels, propagates, and then corrects one slice after the other: the slice becomes that of the
true labels ("absent" where they do not have it), and the gaps beside it are run again. Labels are
run one at a time. Choices of the slice:

- ``suggested``: the first suggestion of the plugin (`Annotation.suggestions`), as "Next slice to
  fix" in the window;
- ``spread``: the middle of the longest run of slices that hold the label at the moment and have no
  seed, or a slice beside them where there is none;
- ``random``: any slice without a seed that holds the label at the moment.

Reported are the corrections (without the first slice) after which the Dice of the whole label,
corrected slices included, reaches a target; a label that does not reach it counts as one more than
``--most``. Also reported is the mean Dice after each correction; a label that has reached the
highest target keeps its last one. Means are taken over labels, then over volumes. No choice knows
the true labels.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accuracy import find_folders, whole_number
from accuracy_runs import LabelledVolume, load_model, load_volume, thin_out

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.loading import ReadyModel
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL
from napari_slmsam2.evaluate import choose_seeds
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.session import SegmentationSession

TARGETS = (0.90, 0.95)
Choice = Callable[[Annotation, int, np.random.Generator], int | None]


def suggested(annotation: Annotation, label: int, rng: np.random.Generator) -> int | None:
    """The slice that the plugin suggests."""
    return next((s.index for s in annotation.suggestions() if s.label == label), None)


def spread(annotation: Annotation, label: int, rng: np.random.Generator) -> int | None:
    """The middle of the longest run of slices without a seed."""
    free = open_slices(annotation, label)
    if not free:
        return None
    runs = np.split(np.array(free), np.flatnonzero(np.diff(free) > 1) + 1)
    longest = max(runs, key=len)
    return int(longest[len(longest) // 2])


def random(annotation: Annotation, label: int, rng: np.random.Generator) -> int | None:
    """Any slice without a seed."""
    free = open_slices(annotation, label)
    return int(rng.choice(free)) if free else None


CHOICES: dict[str, Choice] = {"suggested": suggested, "spread": spread, "random": random}


def open_slices(annotation: Annotation, label: int) -> list[int]:
    """Slices that hold a label and are no seed; the nearest other ones where there are none."""
    seeds = set(annotation.prompts.seeds(label))
    n_slices = annotation.volume.n_slices
    held = {i for i in range(n_slices) if (annotation.plane(i) == label).any()}
    free = sorted(held - seeds)
    beside = {i + step for i in held | seeds for step in (-1, 1)}
    return free or sorted(i for i in beside - seeds if 0 <= i < n_slices)


def dice(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Dice of two masks of which the second one holds voxels."""
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def correct(
    loaded: LabelledVolume, model: ReadyModel, label: int, choose: Choice, most: int, seed: int
) -> list[float]:
    """Dice after 0, 1, ... corrections; ends early where the highest target is reached."""
    volume, truth = loaded.volume, loaded.truth == label
    session = SegmentationSession(volume, window=loaded.window)
    session.use_model(model)
    [first] = choose_seeds(truth, volume.axis, 1)
    rng = np.random.default_rng(seed)
    scores: list[float] = []
    index: int | None = first
    while index is not None:
        plane = truth[volume.slicer(index)]
        session.add_prompt(SlicePrompt.from_mask(label, index, plane))
        for _ in session.propagate(gaps_only=bool(scores)):
            pass
        scores.append(dice(session.labels == label, truth))
        if scores[-1] >= max(TARGETS) or len(scores) > most:
            break
        index = choose(session.annotation, label, rng)
    return scores


def corrections_to(scores: list[float], target: float, most: int) -> int:
    """Corrections until a target was reached; one more than the most where it was not."""
    return next((n for n, score in enumerate(scores) if score >= target), most + 1)


def measure(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All labels and choices of a volume."""
    loaded = load_volume(folder)
    model = load_model(arguments.model, arguments.device)
    records = []
    for label in thin_out(loaded.labels, arguments.max_labels):
        for name in CHOICES:
            started = time.perf_counter()
            scores = correct(loaded, model, label, CHOICES[name], arguments.most, arguments.seed)
            records.append(
                {
                    "volume": folder.name,
                    "label": label,
                    "choice": name,
                    "dice": scores,
                    "seconds": time.perf_counter() - started,
                }
            )
            text = " ".join(f"{score:.3f}" for score in scores)
            print(f"{folder.name} label {label} {name}: {text}", flush=True)
    return records


def mean_corrections(
    records: list[dict[str, Any]], choice: str, target: float, most: int
) -> tuple[float, float]:
    """Mean corrections, and the share of labels that reached the target."""
    volumes: dict[str, list[int]] = {}
    for one in records:
        if one["choice"] == choice:
            needed = corrections_to(one["dice"], target, most)
            volumes.setdefault(one["volume"], []).append(needed)
    means = [np.mean(needed) for needed in volumes.values()]
    reached = [np.mean([n <= most for n in needed]) for needed in volumes.values()]
    return float(np.mean(means)), float(np.mean(reached))


def mean_dice(records: list[dict[str, Any]], choice: str, corrections: int) -> float:
    """Mean Dice after so many corrections."""
    volumes: dict[str, list[float]] = {}
    for one in records:
        if one["choice"] == choice:
            volumes.setdefault(one["volume"], []).append(one["dice"][: corrections + 1][-1])
    return float(np.mean([np.mean(scores) for scores in volumes.values()]))


def print_tables(records: list[dict[str, Any]], most: int) -> None:
    """Two tables in Markdown: corrections to the targets, and mean Dice after corrections."""
    titles = [f"corrections to {target:.2f} (reached)" for target in TARGETS]
    print("\n| choice | " + " | ".join(titles) + " |")
    print("| --- |" + " --- |" * len(titles))
    for choice in CHOICES:
        cells = []
        for target in TARGETS:
            mean, reached = mean_corrections(records, choice, target, most)
            cells.append(f"{mean:.2f} ({100 * reached:.0f} %)")
        print(f"| {choice} | " + " | ".join(cells) + " |")
    counts = range(most + 1)
    print("\n| mean Dice after | " + " | ".join(map(str, counts)) + " |")
    print("| --- |" + " --- |" * len(counts))
    for choice in CHOICES:
        scores = [f"{mean_dice(records, choice, n):.3f}" for n in counts]
        print(f"| {choice} | " + " | ".join(scores) + " |")


def read_command_line() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volumes", type=Path, required=True, help="folder of the volumes")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these volumes")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-labels", type=whole_number, default=1, help="of a volume")
    parser.add_argument("--most", type=whole_number, default=8, help="corrections of a label")
    parser.add_argument("--seed", type=int, default=0, help="of the choice random")
    parser.add_argument("--json", type=Path, help="file for all scores")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = read_command_line()
    records = []
    for folder in find_folders(arguments.volumes, arguments.only):
        records += measure(folder, arguments)
    print_tables(records, arguments.most)
    if arguments.json is not None:
        text = json.dumps(records, indent=1)
        atomic_write(arguments.json, lambda file: file.write_text(text), overwrite=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
