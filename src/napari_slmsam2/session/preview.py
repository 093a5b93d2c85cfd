"""A short sweep from a seed to both sides, whose result is shown before it is taken."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.errors import PromptError, SlmSam2Warning
from napari_slmsam2.core.events import FellBack, SliceSegmented
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.plan import clip_gaps, find_gaps, gaps_beside
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt
from napari_slmsam2.core.quality import SliceQuality
from napari_slmsam2.core.segmenter import SliceSegmenter
from napari_slmsam2.engine.propagation.embedding_cache import EmbeddingCache
from napari_slmsam2.engine.propagation.propagator import Propagator
from napari_slmsam2.engine.propagation.result import PropagationInput
from napari_slmsam2.session.annotation import Annotation
from napari_slmsam2.session.label_array import with_room_for


@dataclass(frozen=True, slots=True, eq=False)
class PreviewSlice:
    """What a label would be on a slice.

    Attributes
    ----------
    label, index : int
    mask : ndarray of bool, shape (H, W)
        Without pixels that have another label.
    quality : SliceQuality
    """

    label: int
    index: int
    mask: npt.NDArray[np.bool_]
    quality: SliceQuality


def preview_sweep(
    annotation: Annotation,
    seed: SlicePrompt,
    segmenter: SliceSegmenter,
    window: IntensityWindow,
    config: PropagationConfig,
    reach: int,
    *,
    embeddings: EmbeddingCache | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[PreviewSlice]:
    """Propagate one seed to its neighbouring slices; the annotation does not change.

    The sweep ends at other seeds and marked ends of the label, and takes no pixel of another label.

    Parameters
    ----------
    annotation : Annotation
    seed : SlicePrompt
        With a mask.
    segmenter : SliceSegmenter
    window : IntensityWindow
    config : PropagationConfig
    reach : int
        Slices to each side.
    embeddings : EmbeddingCache, optional
        Of this segmenter, volume and window.
    should_stop : callable, optional
        Checked between slices.

    Yields
    ------
    PreviewSlice
        The nearest slices of a side first. A slice between two seeds comes twice, the second time
        as merged from both.

    Warns
    -----
    SlmSam2Warning
        Memory ran out, and the model was moved to the CPU.
    """
    label, volume = seed.label, annotation.volume
    first, last = max(0, seed.index - reach), min(volume.n_slices - 1, seed.index + reach)
    prompts = _prompts_within(annotation.prompts, seed, first, last)
    gaps = gaps_beside(find_gaps(prompts, volume.n_slices), [(label, seed.index)])

    def read_labels(index: int) -> npt.NDArray[np.integer]:
        return with_room_for(annotation.slices.read(index), label)

    task = PropagationInput(
        volume, window, prompts, clip_gaps(gaps, first, last), read_labels, (first, last)
    )
    config = config.replace(overlap="keep")
    for event in Propagator(segmenter, task, config, embeddings=embeddings).propagate(should_stop):
        if isinstance(event, FellBack):
            warnings.warn(event.message, SlmSam2Warning, stacklevel=2)
        if isinstance(event, SliceSegmented) and label in event.quality:
            plane = read_labels(event.index)
            plane[event.bbox] = event.labels
            yield PreviewSlice(label, event.index, plane == label, event.quality[label])


def _prompts_within(prompts: PromptSet, seed: SlicePrompt, first: int, last: int) -> PromptSet:
    """The seeds of the label in a range of slices and beside it, and its extent."""
    near = {
        key: p
        for key, p in prompts.prompts.items()
        if p.label == seed.label and first - 1 <= p.index <= last + 1
    }
    extent = prompts.extents.get(seed.label)
    extents = {} if extent is None else {seed.label: extent}
    return PromptSet({**near, (seed.label, seed.index): seed}, extents)


def take_preview(annotation: Annotation, found: Mapping[int, PreviewSlice]) -> tuple[int, ...]:
    """Write previewed slices as results, not as seeds, as one step of the history.

    Pixels that have another label by now, and slices that were annotated since, stay as they are.
    Not during a run.

    Parameters
    ----------
    annotation : Annotation
    found : mapping of slice index to PreviewSlice
        Of one label.

    Returns
    -------
    tuple of int
        The slices whose labels changed.

    Raises
    ------
    PromptError
        The label is locked, or there is no slice.
    """
    open_slices = {
        i: one for i, one in found.items() if annotation.prompts.get(one.label, i) is None
    }
    if not open_slices:
        raise PromptError("preview", "has no slice that is not annotated")
    planes = {}
    for index, one in open_slices.items():
        plane = with_room_for(annotation.slices.read(index), one.label)
        plane[plane == one.label] = 0
        plane[one.mask & (plane == 0)] = one.label
        planes[index] = plane
    return annotation.history.edit_labels(
        "3D result",
        {one.label for one in open_slices.values()},
        planes=planes,
        scores={(one.label, index): one.quality for index, one in open_slices.items()},
    )
