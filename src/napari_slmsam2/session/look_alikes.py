"""Seeds for all objects of a slice that look like its seeds, and their removal."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import PromptError
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.session.annotation import Annotation


def examples_on(annotation: Annotation, index: int) -> npt.NDArray[np.int64]:
    """The seeds on a slice as a label map, shape (H, W)."""
    examples = np.zeros(annotation.volume.slice_shape, np.int64)
    for seed in annotation.prompts.on_slice(index):
        if seed.mask is not None:
            examples[seed.mask] = seed.label
    return examples


def add_objects(
    annotation: Annotation, index: int, objects: npt.NDArray[np.integer]
) -> tuple[int, ...]:
    """Make every object on a slice a seed of a new label, as one step of the history.

    Pixels that have a label keep it.

    Parameters
    ----------
    annotation : Annotation
    index : int
    objects : ndarray of int, shape (H, W)
        Each value above 0 is one object.

    Returns
    -------
    tuple of int
        The new labels.
    """
    read = annotation.slices.read
    used = [int(read(i).max(initial=0)) for i in range(annotation.volume.n_slices)]
    first = 1 + max(*used, 0, *annotation.prompts.labels, *annotation.table.labels)
    free = (read(index) == 0) & ~annotation.crossing_seeds(index)
    numbers = np.unique(objects[(objects > 0) & free]).tolist()
    seeds: dict[tuple[int, int], SlicePrompt | None] = {
        (label, index): SlicePrompt.from_mask(label, index, (objects == number) & free)
        for label, number in enumerate(numbers, start=first)
    }
    labels = tuple(label for label, _ in seeds)
    if labels:
        annotation.history.edit_labels("look-alikes", labels, seeds=seeds)
    return labels


def remove_object(annotation: Annotation, index: int, label: int) -> tuple[int, ...]:
    """Remove the seed of a label on a slice with its pixels, as one step of the history.

    Returns
    -------
    tuple of int
        The slices whose labels changed.

    Raises
    ------
    PromptError
        The label is locked, or has no seed there.
    """
    if annotation.prompts.get(label, index) is None:
        raise PromptError(
            f"label {label} on slice {index}",
            "is no seed",
            hint="Click on a seed; erase other pixels with napari's eraser.",
        )
    plane = annotation.slices.read(index)
    plane = np.where(plane == label, 0, plane)
    return annotation.history.edit_labels(
        "removal", [label], seeds={(label, index): None}, planes={index: plane}
    )
