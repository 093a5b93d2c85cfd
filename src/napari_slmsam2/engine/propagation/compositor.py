"""From the masks of single sweeps to the labels of a slice."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.events import SliceSegmented
from napari_slmsam2.core.overlap import resolve_labels
from napari_slmsam2.core.plan import FORWARD, Gap, Step
from napari_slmsam2.core.prompts import PromptKind, PromptSet, SlicePrompt
from napari_slmsam2.core.quality import SliceQuality, mean_quality, measured
from napari_slmsam2.core.segmenter import SegmentedSlice
from napari_slmsam2.core.soft_masks import (
    BACKGROUND,
    LogitPatch,
    find_box,
    unite_boxes,
)
from napari_slmsam2.engine.features.interpolation import interpolated_logits
from napari_slmsam2.engine.propagation.competition import LabelLogits, SeedDistances
from napari_slmsam2.engine.propagation.merge import dice, merge_logits, sweep_weights
from napari_slmsam2.engine.propagation.result import PropagationInput, PropagationResult
from napari_slmsam2.engine.propagation.sweep import Sweep

#: Weight of the interpolated shape against the two sweeps together.
INTERPOLATION_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class SweptMask:
    """What a sweep found on a slice.

    Attributes
    ----------
    found : SliceQuality
        Of this sweep alone.
    patch : LogitPatch
        Merged with the earlier sweep of the gap, where there is one.
    quality : SliceQuality
        Of the merged mask.
    """

    found: SliceQuality
    patch: LogitPatch
    quality: SliceQuality


class Compositor:
    """Merges the sweeps of a gap, and resolves the labels of a slice against each other.

    Parameters
    ----------
    task : PropagationInput
    config : PropagationConfig
    result : PropagationResult
        Updated in place.
    running : collection of int
        Labels of the run.
    merge : {"sweeps", "interpolation"}
        Whether the shape interpolated between two seeds has a share in a merged mask.

    Attributes
    ----------
    running : frozenset of int
    seed_masks : dict of label to dict of slice index to ndarray of bool, shape (H, W)
        Of the seeds that the model has read.
    """

    def __init__(
        self,
        task: PropagationInput,
        config: PropagationConfig,
        result: PropagationResult,
        *,
        running: Collection[int],
        merge: str,
    ) -> None:
        self._task = task
        self._config = config
        self._result = result
        self.running = frozenset(running)
        self._merge_rule = merge
        self._shape = task.volume.slice_shape
        self.seed_masks: dict[int, dict[int, npt.NDArray[np.bool_]]] = {}
        self._distances: tuple[PromptSet, SeedDistances] | None = None

    def add_seed(self, prompt: SlicePrompt, mask: npt.NDArray[np.bool_]) -> None:
        """Keep the mask, shape (H, W), of a seed that the model has read."""
        key = prompt.label, prompt.index
        self.seed_masks.setdefault(prompt.label, {})[prompt.index] = mask
        if self._task.prompts_now().get(*key) is prompt:
            self._result.forget(*key)
            self._result.seed_masks[key] = mask

    def merge(self, sweep: Sweep, step: Step, output: SegmentedSlice) -> SweptMask:
        """Measure what a sweep found, and merge it with the earlier sweep of its gap.

        Nothing is stored, see `store`.
        """
        patch = output.patch
        quality = SliceQuality(output.presence, output.predicted_iou, output.stability)
        if output.presence < 0.5:
            patch = LogitPatch.empty()
        elif output.area is None:
            quality = _measured(quality, patch)
        else:
            quality = replace(quality, area=output.area, centroid=output.centroid)
        if sweep.gap.closed and step.completes(sweep.gap):
            return SweptMask(quality, *self._merged(sweep, step.index, patch, quality))
        return SweptMask(quality, patch, quality)

    def store(
        self, index: int, masks: Iterable[tuple[Sweep, SweptMask]]
    ) -> dict[int, SliceQuality]:
        """Store what the sweeps found on a slice.

        Returns
        -------
        dict of label to SliceQuality
            Of the labels that are to be written on this slice.
        """
        quality = {}
        for sweep, mask in masks:
            label = sweep.label
            if not self.writes(label, index):
                continue
            self._result.soft.put(label, index, mask.patch, self._shape)
            self._result.suppressed.discard((label, index))
            self._result.scores.setdefault(label, {})[index] = mask.quality
            quality[label] = mask.quality
        return quality

    def clear_rest(self, sweep: Sweep, index: int) -> Iterator[SliceSegmented]:
        """Remove what an earlier run left beyond the slice on which a sweep ended."""
        for i in sweep.rest(index):
            if not self.writes(sweep.label, i):
                continue
            self._result.forget(sweep.label, i)
            if (self._task.read_labels(i) == sweep.label).any():
                yield self.slice_event(i, {}, final=True)

    def slice_event(
        self,
        index: int,
        quality: Mapping[int, SliceQuality],
        *,
        final: bool,
        cleared: Collection[int] = (),
    ) -> SliceSegmented:
        """The labels of a slice as they are now, and where they differ from those before."""
        existing = self._task.read_labels(index)
        running = self.running.union(cleared)
        resolved = self.resolve(existing, index, self._result.patches(index), running)
        bbox = find_box(resolved != existing)
        return SliceSegmented(index, resolved[bbox], bbox, dict(quality), final)

    def resolve(
        self,
        existing: npt.NDArray[np.integer],
        index: int,
        label_logits: LabelLogits,
        running: Collection[int],
    ) -> npt.NDArray[np.integer]:
        """The labels of a slice, from the logits of all of them.

        Parameters
        ----------
        existing : ndarray of int, shape (H, W)
            Labels on the slice so far.
        index : int
        label_logits : mapping of label to LogitPatch
        running : collection of int
            Labels whose earlier pixels are replaced.

        Returns
        -------
        ndarray of int, shape (H, W)
        """
        prompts = self._task.prompts_now()
        seeds = {
            p.label: mask
            for p in prompts.on_slice(index)
            if (mask := self._seed_mask(p)) is not None
        }
        if self._distances is None or self._distances[0] is not prompts:
            self._distances = prompts, SeedDistances(prompts)
        weighted = self._distances[1].weight(label_logits, index)
        rule, locked = self._config.overlap, self._task.locked
        return resolve_labels(existing, weighted, running, seeds, rule, locked)

    def writes(self, label: int, index: int) -> bool:
        """Whether a slice of a gap is to be filled: in the range, and not annotated since."""
        everything = (0, self._task.volume.n_slices - 1)
        prompts = self._task.prompts_now()
        return prompts.get(label, index) is None and all(
            first <= index <= last
            for first, last in (
                self._task.write_range or everything,
                prompts.extents.get(label, everything),
            )
        )

    def _merged(
        self,
        sweep: Sweep,
        index: int,
        own: LogitPatch,
        quality: SliceQuality,
    ) -> tuple[LogitPatch, SliceQuality]:
        """The mask in a gap between two seeds, inside the box of all its parts."""
        gap, label = sweep.gap, sweep.label
        assert gap.before is not None
        assert gap.after is not None
        earlier, agreement, weights = None, None, [1.0]
        box, is_forward = own.box, sweep.direction == FORWARD
        if gap.from_before and gap.from_after:
            # None where a seed was set and removed again since the earlier sweep.
            first = self._result.scores.get(label, {}).get(index)
            if first is not None:
                earlier = self._result.soft.patch(label, index) or LogitPatch.empty()
                # Both are rounded, so that the order of the sweeps does not matter.
                own = own.as_stored()
                box = unite_boxes(box, earlier.box)
                agreement = dice(earlier.within(box) > 0, own.within(box) > 0)
                forward, backward = (quality, first) if is_forward else (first, quality)
                weights = list(
                    sweep_weights(
                        index, gap.before, gap.after, forward.confidence, backward.confidence
                    )
                )
                quality = mean_quality(forward, backward)
        shape = None
        if self._interpolates(gap):
            shape = interpolated_logits(self.seed_masks[label], index)
            box = unite_boxes(box, find_box(shape > BACKGROUND))
            weights.append(INTERPOLATION_SHARE * sum(weights))
        parts = [own.within(box)]
        if earlier is not None:
            parts.insert(1 if is_forward else 0, earlier.within(box))
        if shape is not None:
            parts.append(shape[box])
        if len(parts) == 1:
            return own, quality
        merged = merge_logits(zip(parts, weights, strict=True))
        patch = LogitPatch.cut(merged, box)
        return patch, replace(_measured(quality, patch), agreement=agreement)

    def _interpolates(self, gap: Gap) -> bool:
        return self._merge_rule == "interpolation" and all(
            self.seed_masks[gap.label][i].any() for i in (gap.before, gap.after) if i is not None
        )

    def _seed_mask(self, prompt: SlicePrompt) -> npt.NDArray[np.bool_] | None:
        if prompt.mask is not None:
            return prompt.mask
        if prompt.kind is PromptKind.ABSENT:
            return np.zeros(self._shape, dtype=bool)
        return self._result.seed_masks.get((prompt.label, prompt.index))


def _measured(quality: SliceQuality, patch: LogitPatch) -> SliceQuality:
    rows, columns = patch.box
    return measured(quality, patch.logits, (rows.start, columns.start))
