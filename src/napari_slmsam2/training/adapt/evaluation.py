"""How good a network is on what was held out, by propagating it as a run would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.events import Finished, FinishReason, SliceSegmented
from napari_slmsam2.core.plan import find_gaps
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt
from napari_slmsam2.core.segmenter import SliceSegmenter
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.propagation.propagator import Propagator
from napari_slmsam2.engine.propagation.result import PropagationInput
from napari_slmsam2.evaluate import evaluate_labels
from napari_slmsam2.evaluate.report import MEASURES
from napari_slmsam2.training.compact.presence import calibrate_presence
from napari_slmsam2.training.compact.presence_sweeps import WIDE, sweep_outward
from napari_slmsam2.training.data.split import DataSplit, HeldOutVolume, thinned
from napari_slmsam2.training.synthetic.stack import LabelledStack

MOST_CALIBRATED = 6
"""Objects on which the threshold is set, evenly spaced; of fewer, several annotated slices."""

JUDGED = ("dice", "nsd", "op_voxels")


@dataclass(frozen=True, slots=True)
class StructureScores:
    """One label of one held-out volume.

    Attributes
    ----------
    held_out_volume : int
        Number of the volume.
    label : int
    dice, nsd, op_voxels : float
        See `napari_slmsam2.evaluate`; NaN where not defined.
    """

    held_out_volume: int
    label: int
    dice: float
    nsd: float
    op_voxels: float


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """The middle of what is compared of the first held-out label.

    Attributes
    ----------
    image : ndarray of float32, shape (H, W)
        0 to 1.
    truth, found : ndarray of bool, shape (H, W)
    """

    image: npt.NDArray[np.float32]
    truth: npt.NDArray[np.bool_]
    found: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationResult:
    """Scores on all that was held out."""

    structures: tuple[StructureScores, ...]
    preview: Preview | None = None

    @property
    def dice(self) -> float:
        """Mean over the structures."""
        return self.mean("dice")

    def mean(self, measure: str) -> float:
        """Mean of a measure of `JUDGED`, over the structures for which it is defined."""
        values = np.array([getattr(s, measure) for s in self.structures], float)
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def to_dict(self) -> dict[str, float | None]:
        """The means, for JSON."""
        means = {measure: self.mean(measure) for measure in JUDGED}
        return {k: round(v, 4) if np.isfinite(v) else None for k, v in means.items()}

    def to_state(self) -> list[dict[str, float]]:
        """The scores as plain values, without the preview."""
        return [asdict(structure) for structure in self.structures]

    @classmethod
    def from_state(cls, state: Iterable[Mapping[str, Any]]) -> Self:
        """The inverse of `to_state`."""
        return cls(tuple(StructureScores(**scores) for scores in state))


class Evaluator:
    """Sets the presence threshold of window networks.

    Parameters
    ----------
    data_split : DataSplit
    device : torch.device
    """

    def __init__(self, data_split: DataSplit, device: torch.device) -> None:
        self._device = device
        whole = [
            training_object
            for training_object in data_split.training_objects
            if training_object.first < training_object.last
        ]
        if any(training_object.scan.seeds for training_object in data_split.training_objects):
            whole = []
        self._stacks = [
            training_object.scan.stack(
                training_object.label, training_object.first, training_object.last
            )
            for training_object in thinned(whole, MOST_CALIBRATED)
        ]

    def calibrated(self, network: CompactNetwork) -> CompactNetwork:
        """A copy with the threshold that suits the objects it learned from.

        They must be known as a whole: ends of made stacks say nothing of true ones.
        """
        copy = CompactNetwork(network.config).to(self._device)
        copy.load_state_dict(network.state_dict())
        each = max(1, MOST_CALIBRATED // max(1, len(self._stacks)))
        objects = [
            sweep_outward(copy, stack, [seed])
            for stack in self._stacks
            for seed in _telling_slices(stack, each)
        ]
        calibrate_presence(copy, objects)
        return copy


def _telling_slices(stack: LabelledStack, n: int) -> list[int]:
    """The largest slice of an object, and others that somebody may annotate."""
    areas = stack.mask.sum((1, 2))
    wide = [int(i) for i in np.flatnonzero(areas >= WIDE * areas.max())]
    return list(dict.fromkeys([int(areas.argmax()), *thinned(wide, n)]))[:n]


def judge(
    segmenter: SliceSegmenter,
    held_out_volumes: Sequence[HeldOutVolume],
    should_stop: Callable[[], bool] | None = None,
) -> EvaluationResult | None:
    """Propagate all held-out volumes and compare.

    Returns
    -------
    Judgement or None
        None where it was stopped.
    """
    structures: list[StructureScores] = []
    preview = None
    for number, held_out_volume in enumerate(held_out_volumes):
        found = _propagate(segmenter, held_out_volume, should_stop)
        if found is None:
            return None
        structures += [
            StructureScores(number, label, **_scores(held_out_volume, found, label))
            for label in held_out_volume.seeds
        ]
        preview = preview or _preview(held_out_volume, found)
    return EvaluationResult(tuple(structures), preview)


def _propagate(
    segmenter: SliceSegmenter,
    held_out_volume: HeldOutVolume,
    should_stop: Callable[[], bool] | None,
) -> npt.NDArray[np.integer] | None:
    volume, labels, prompts = (
        held_out_volume.volume,
        np.zeros_like(held_out_volume.truth),
        PromptSet(),
    )
    for label, indices in held_out_volume.seeds.items():
        for index in indices:
            place = volume.slicer(index)
            mask = np.asarray(held_out_volume.truth[place]) == label
            prompts = prompts.with_prompt(SlicePrompt.from_mask(label, index, mask))
            labels[place][mask] = label
    task = PropagationInput(
        volume,
        held_out_volume.window,
        prompts,
        find_gaps(prompts, volume.n_slices),
        lambda index: np.asarray(labels[volume.slicer(index)]),
    )
    for event in Propagator(segmenter, task, PropagationConfig()).propagate(should_stop):
        if isinstance(event, SliceSegmented):
            labels[volume.slicer(event.index)][event.bbox] = event.labels
        elif isinstance(event, Finished) and event.reason is FinishReason.STOPPED:
            return None
    return labels


def _scores(
    held_out_volume: HeldOutVolume, found: npt.NDArray[np.integer], label: int
) -> dict[str, float]:
    first, last = held_out_volume.scored[label]
    axis = held_out_volume.volume.axis
    predicted, truth = found == label, held_out_volume.truth == label
    exclude = [
        *range(first),
        *range(last + 1, held_out_volume.volume.n_slices),
        *held_out_volume.seeds[label],
    ]
    if first == last:
        # The other slices are not known: only this one is compared.
        predicted, truth = (np.take(m, [first], axis) for m in (predicted, truth))
        exclude = []
    report = evaluate_labels(
        predicted.astype(np.uint8),
        truth.astype(np.uint8),
        spacing=held_out_volume.volume.spacing,
        unit=held_out_volume.volume.unit,
        axis=axis,
        labels=[1],
        exclude={1: exclude},
    )
    scores = report.labels[0].scores
    return {measure: MEASURES[measure](scores) for measure in JUDGED}


def _preview(held_out_volume: HeldOutVolume, found: npt.NDArray[np.integer]) -> Preview:
    label, (first, last) = next(iter(held_out_volume.scored.items()))
    there = [
        i
        for i in range(first, last + 1)
        if i not in held_out_volume.seeds[label]
        and (held_out_volume.truth[held_out_volume.volume.slicer(i)] == label).any()
    ]
    index = there[len(there) // 2] if there else (first + last) // 2
    place = held_out_volume.volume.slicer(index)
    image = held_out_volume.window.apply(held_out_volume.volume.take(index))
    return Preview(image, held_out_volume.truth[place] == label, found[place] == label)
