"""Many objects at once: look-alikes of three examples against hand-drawn seeds.

    python benchmarks/look_alikes.py --volumes FOLDER

FOLDER is that of ``accuracy.py``; the cells and nuclei of it are used. On slices at a third, half
and two thirds of a volume three objects of at least 20 pixels are the examples, drawn three times
at random. An object is found where its overlap with a proposal (intersection over union) is at
least 0.5; each other proposal is wrong and costs one click to remove. Dice of the seeds: of the
objects found, against the hand-drawn masks. Dice of the volume: of the middle slice's first draw,
after one run of ``compact`` from the examples and the objects found, and from the hand-drawn masks
of the same objects; without the slice itself.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.features.look_alikes import find_look_alikes
from napari_slmsam2.engine.propagation.merge import dice
from napari_slmsam2.io import read_image
from napari_slmsam2.session.session import SegmentationSession

VOLUMES = ("lm_nuclei_stardist3d", "lm_nuclei_ovule1135", "lm_cells_ovule")
N_EXAMPLES, N_DRAWS, SMALLEST, HIT = 3, 3, 20, 0.5

Ints = npt.NDArray[np.integer[Any]]


def matches(found: Ints, truth: Ints, objects: list[int]) -> dict[int, int]:
    """The proposal of each object that was found."""
    areas, pairs = np.bincount(found.ravel()), {}
    for label in objects:
        mask = truth == label
        common = np.bincount(found[mask], minlength=len(areas))
        common[0] = 0
        best = int(common.argmax())
        if common[best] >= HIT * (mask.sum() + areas[best] - common[best]):
            pairs[label] = best
    return pairs


def run(volume: Any, index: int, masks: dict[int, npt.NDArray[np.bool_]]) -> Ints:
    """The labels after a run from masks on one slice."""
    session = SegmentationSession(volume, model="compact", device="cpu")
    for label, mask in masks.items():
        session.add_prompt(SlicePrompt.from_mask(label, index, mask))
    for _ in session.propagate():
        pass
    return session.labels


def mean_dice(labels: Ints, truth: Ints, axis: int, index: int, objects: list[int]) -> float:
    """Mean Dice of objects over a volume, without one slice."""
    rest = [np.delete(np.asarray(one), index, axis) for one in (labels, truth)]
    return float(np.mean([dice(rest[0] == label, rest[1] == label) for label in objects]))


def measure(folder: Path) -> str:
    """One row of the table."""
    axis = json.loads((folder / "meta.json").read_text())["slice_axis"]
    image = read_image(folder / "image.nii.gz", axis=axis).volume
    truth = np.asarray(read_image(folder / "labels.nii.gz", axis=axis).volume.data).astype(int)
    rows, runs = [], []
    for share in (1 / 3, 1 / 2, 2 / 3):
        index = int(image.n_slices * share)
        plane = np.take(truth, index, axis)
        labels, areas = np.unique(plane[plane > 0], return_counts=True)
        whole = labels[areas >= SMALLEST].tolist()
        for draw in range(N_DRAWS):
            chosen = np.random.default_rng(draw).choice(whole, N_EXAMPLES, replace=False).tolist()
            examples, rest = np.where(np.isin(plane, chosen), plane, 0), set(whole) - set(chosen)
            began = time.perf_counter()
            found = find_look_alikes(image.take(index), examples)
            seconds = time.perf_counter() - began
            hits = matches(found, plane, sorted(rest))
            scores = [dice(found == part, plane == label) for label, part in hits.items()]
            wrong = int(found.max()) - len(set(hits.values()))
            rows.append((len(rest), len(hits), wrong, np.mean(scores), seconds))
            if share == 1 / 2 and draw == 0:
                hand = {label: plane == label for label in (*chosen, *hits)}
                ours = hand | {label: found == part for label, part in hits.items()}
                runs = [
                    mean_dice(run(image, index, masks), truth, axis, index, sorted(hits))
                    for masks in (ours, hand)
                ]
    total, hit, wrong, score, seconds = np.nanmean(np.array(rows), 0)
    return (
        f"| {folder.name} | {hit:.1f} of {total:.1f} | {wrong:.1f} | {score:.2f} | "
        f"{runs[0]:.2f} | {runs[1]:.2f} | {1000 * seconds:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--volumes", type=Path, required=True)
    folder = parser.parse_args().volumes
    print("| volume | found | wrong (clicks) | Dice of seeds | volume | hand seeds | ms |")
    print("|---|---|---|---|---|---|---|")
    for name in VOLUMES:
        print(measure(folder / name), flush=True)


if __name__ == "__main__":
    main()
