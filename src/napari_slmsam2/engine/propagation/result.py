"""The input and the result of a propagation run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.plan import Gap
from napari_slmsam2.core.prompts import PromptSet
from napari_slmsam2.core.quality import SliceQuality
from napari_slmsam2.core.soft_masks import LogitPatch, SoftMasks
from napari_slmsam2.core.volume import Volume


@dataclass(slots=True)
class PropagationInput:
    """Everything a run reads.

    Attributes
    ----------
    volume : Volume
    window : IntensityWindow
    prompts : PromptSet
    gaps : tuple of Gap
        What to run, from `napari_slmsam2.core.plan`.
    read_labels : callable
        ``read_labels(index)`` gives the labels of a slice as they are, shape (H, W).
    write_range : tuple of int, optional
        First and last slice to write. Default: all.
    current_prompts : callable, optional
        Gives the seeds and extents as they are now: those that were set during the run are
        respected, although the run does not read them. Default: ``prompts``.
    locked : frozenset of int
        Labels that neither gain nor lose a pixel.
    """

    volume: Volume
    window: IntensityWindow
    prompts: PromptSet
    gaps: tuple[Gap, ...]
    read_labels: Callable[[int], npt.NDArray[np.integer]]
    write_range: tuple[int, int] | None = None
    current_prompts: Callable[[], PromptSet] | None = None
    locked: frozenset[int] = frozenset()

    def prompts_now(self) -> PromptSet:
        """Seeds and extents as they are now."""
        return self.prompts if self.current_prompts is None else self.current_prompts()


@dataclass(slots=True)
class PropagationResult:
    """The result of a run; pass it to the next run of the same volume.

    Attributes
    ----------
    soft : SoftMasks
        Logits of every propagated label and slice.
    scores : dict of label to dict of slice index to SliceQuality
        As the sweeps measured them; see `quality`.
    seed_masks : dict of (label, index) to ndarray of bool, shape (H, W)
        The mask of each seed: as drawn, or as the model found it for points.
    suppressed : set of (label, index)
        Slices of a sweep that follows the object of another label: their logits do not count.
    """

    soft: SoftMasks = field(default_factory=SoftMasks)
    scores: dict[int, dict[int, SliceQuality]] = field(default_factory=dict)
    seed_masks: dict[tuple[int, int], npt.NDArray[np.bool_]] = field(default_factory=dict)
    suppressed: set[tuple[int, int]] = field(default_factory=set)

    def copy(self) -> PropagationResult:
        """A copy that later runs do not change; the arrays are shared."""
        return PropagationResult(
            self.soft.copy(),
            {label: dict(slices) for label, slices in self.scores.items()},
            dict(self.seed_masks),
            set(self.suppressed),
        )

    def patches(self, index: int) -> dict[int, LogitPatch]:
        """Mask logits of the labels that are followed on a slice, inside their boxes."""
        return {
            label: patch
            for label, patch in self.soft.on_slice(index).items()
            if (label, index) not in self.suppressed
        }

    def label_logits(self, index: int) -> dict[int, npt.NDArray[np.float32]]:
        """Mask logits, shape (H, W), of the labels that are followed on a slice."""
        found = {label: self.soft.get(label, index) for label in self.patches(index)}
        return {label: logits for label, logits in found.items() if logits is not None}

    @property
    def quality(self) -> dict[int, dict[int, SliceQuality]]:
        """Scores by label and slice index; of suppressed slices only the first of each sweep.

        There the model found the object and the labels do not show it, which is to be checked.
        """
        return {
            label: {
                index: replace(one, area=0, centroid=None)
                if (label, index) in self.suppressed
                else one
                for index, one in slices.items()
                if (label, index) not in self.suppressed or self._is_shown_beside(label, index)
            }
            for label, slices in self.scores.items()
        }

    def _is_shown_beside(self, label: int, index: int) -> bool:
        beside = [(label, index - 1), (label, index + 1)]
        return any(
            near in self.seed_masks
            or (near[1] in self.scores[label] and near not in self.suppressed)
            for near in beside
        )

    def forget(self, label: int, index: int) -> None:
        """Drop what was propagated for a label to a slice."""
        self.soft.discard(label, index)
        self.suppressed.discard((label, index))
        self.scores.get(label, {}).pop(index, None)
        self.seed_masks.pop((label, index), None)

    def known(self) -> frozenset[tuple[int, int]]:
        """``(label, index)`` of everything that is stored."""
        scored = {(label, index) for label, slices in self.scores.items() for index in slices}
        return frozenset(scored | self.seed_masks.keys() | set(self.soft))
