"""Propagate one annotated slice, correct the slice that is suggested, propagate again.

Runs without a window on a generated scan, in seconds. With your own scan, replace the sample by
``napari_slmsam2.io.read_image`` and the true masks by your annotation.
"""

from __future__ import annotations

import numpy as np

from napari_slmsam2 import SegmentationSession
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.evaluate import choose_seeds
from napari_slmsam2.sample import make_sample

LABEL = 1


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two masks."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


sample = make_sample()
volume, truth = sample.volume, sample.labels == LABEL
session = SegmentationSession(volume)


def annotate(index: int) -> None:
    """What a person does: paint the object on a slice."""
    mask = truth.take(index, axis=volume.axis)
    session.add_prompt(SlicePrompt.from_mask(label=LABEL, index=index, mask=mask))


annotate(choose_seeds(truth, volume.axis, 1)[0])
for _ in session.propagate():
    pass
print(f"one annotated slice: Dice {dice(session.labels == LABEL, truth):.3f}")

for _ in range(3):
    suggestion = session.suggestions()[0]
    annotate(suggestion.index)
    for _ in session.propagate(gaps_only=True):  # only the slices beside the correction
        pass
    score = dice(session.labels == LABEL, truth)
    print(f"slice {suggestion.index} ({suggestion.reason}): Dice {score:.3f}")
