"""Evaluation of a network on the held-out part, propagated as in a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from napari_slmsam2.core.config import PropagationConfig
from napari_slmsam2.core.events import Finished, FinishReason, SliceSegmented
from napari_slmsam2.core.plan import BACKWARD, FORWARD, Gap, find_gaps
from napari_slmsam2.core.prompts import PromptSet, SlicePrompt
from napari_slmsam2.core.segmenter import SliceSegmenter
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.propagation.propagator import Propagator
from napari_slmsam2.engine.propagation.result import PropagationInput
from napari_slmsam2.evaluate import evaluate_labels
from napari_slmsam2.evaluate.report import MEASURES
from napari_slmsam2.training.compact.presence import calibrate_presence
from napari_slmsam2.training.compact.presence_sweeps import (
    WIDE,
    outward_slices,
    sweep_outward,
)
from napari_slmsam2.training.data.split import DataSplit, HeldOutVolume, thinned
from napari_slmsam2.training.synthetic.stack import LabelledStack

MOST_CALIBRATED = 6
"""Objects on which the threshold is set, evenly spaced; of fewer, several annotated slices."""

_OVERRUN = 8
"""Slices that a sweep is expected to visit beyond the end of the object, at most."""

_MEASURED_VISITS = 4
_MEASURED_S = 4.0

MEASURED = ("dice", "nsd", "op_voxels")


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
    """One slice of the first held-out label, for a picture.

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
    """Scores on the held-out part."""

    structures: tuple[StructureScores, ...]
    preview: Preview | None = None

    @property
    def dice(self) -> float:
        """Mean over the structures."""
        return self.mean("dice")

    def mean(self, measure: str) -> float:
        """Mean of a measure of `MEASURED`, over the structures for which it is defined."""
        values = np.array([getattr(s, measure) for s in self.structures], float)
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def to_dict(self) -> dict[str, float | None]:
        """The means, for JSON."""
        means = {measure: self.mean(measure) for measure in MEASURED}
        return {k: round(v, 4) if np.isfinite(v) else None for k, v in means.items()}

    def to_state(self) -> list[dict[str, float]]:
        """The scores as plain values, without the preview."""
        return [asdict(structure) for structure in self.structures]

    @classmethod
    def from_state(cls, state: Iterable[Mapping[str, Any]]) -> Self:
        """The inverse of `to_state`."""
        return cls(tuple(StructureScores(**scores) for scores in state))


class PresenceCalibrator:
    """Sets the presence threshold of compact networks on the objects that are trained on.

    Parameters
    ----------
    data_split : DataSplit
    device : torch.device
    """

    def __init__(self, data_split: DataSplit, device: torch.device) -> None:
        self._device = device
        objects = data_split.training_objects
        # Objects must be known as a whole: the ends of made stacks do not predict true ends.
        known = [] if any(x.scan.seeds for x in objects) else objects
        whole = thinned([x for x in known if x.first < x.last], MOST_CALIBRATED)
        stacks = [x.scan.stack(x.label, x.first, x.last) for x in whole]
        each = max(1, MOST_CALIBRATED // max(1, len(stacks)))
        self._sweeps = [
            (number, seed)
            for number, stack in enumerate(stacks)
            for seed in _seeds_to_try(stack, each)
        ]
        self._stacks = stacks

    def limit(self, most: int) -> None:
        """Use fewer objects, evenly spaced."""
        self._sweeps = thinned(self._sweeps, most)

    @property
    def n_slices(self) -> int:
        """Slices that one calibration visits; 0 where it changes nothing."""
        return sum(
            len(slices)
            for number, seed in self._sweeps
            for slices in outward_slices(self._stacks[number].mask, [seed])
        )

    def calibrated(
        self, network: CompactNetwork, advanced: Callable[[int], object] = lambda slices: None
    ) -> CompactNetwork:
        """A copy with the threshold that is best on the sweeps.

        Parameters
        ----------
        network : CompactNetwork
        advanced : callable
            Called with the number of slices visited after every object.
        """
        copy = CompactNetwork(network.config).to(self._device)
        copy.load_state_dict(network.state_dict())
        objects = []
        for number, stack in enumerate(self._stacks):
            seedings = [[seed] for of, seed in self._sweeps if of == number]
            objects += sweep_outward(copy, stack, seedings)
            advanced(sum(len(one.found) for found in objects for one in found))
        calibrate_presence(copy, objects)
        return copy


def _seeds_to_try(stack: LabelledStack, n: int) -> list[int]:
    """The largest slice of an object, and others that a person may annotate."""
    areas = stack.mask.sum((1, 2))
    wide = [int(i) for i in np.flatnonzero(areas >= WIDE * areas.max())]
    return list(dict.fromkeys([int(areas.argmax()), *thinned(wide, n)]))[:n]


def evaluate(
    segmenter: SliceSegmenter,
    held_out_volumes: Sequence[HeldOutVolume],
    should_stop: Callable[[], bool] = lambda: False,
    advanced: Callable[[int], object] = lambda slices: None,
) -> EvaluationResult | None:
    """Propagate all held-out volumes and compare with the truth.

    Parameters
    ----------
    segmenter : SliceSegmenter
    held_out_volumes : sequence of HeldOutVolume
    should_stop : callable
    advanced : callable
        Called after every slice with the number of visits, see `count_visits`.

    Returns
    -------
    EvaluationResult or None
        None where it was stopped.
    """
    structures: list[StructureScores] = []
    preview, before = None, 0
    for number, held_out_volume in enumerate(held_out_volumes):
        propagation, visits = _Propagation(held_out_volume), count_visits([held_out_volume])
        for share in propagation.slices(segmenter, should_stop):
            advanced(before + int(share * visits))
        if propagation.stopped:
            return None
        before += visits
        advanced(before)
        structures += [
            StructureScores(number, label, **_scores(held_out_volume, propagation.labels, label))
            for label in held_out_volume.seeds
        ]
        preview = preview or _preview(held_out_volume, propagation.labels)
    return EvaluationResult(tuple(structures), preview)


def measure_visit(
    segmenter: SliceSegmenter,
    held_out_volumes: Sequence[HeldOutVolume],
    should_stop: Callable[[], bool] = lambda: False,
) -> float:
    """Seconds for one label on one slice, measured on the first few slices of an evaluation."""
    first = held_out_volumes[0]
    label = next(iter(first.seeds))
    one = replace(first, seeds={label: first.seeds[label]}, scored={label: first.scored[label]})
    times: list[float] = []

    def is_enough() -> bool:
        slow = len(times) > 1 and times[-1] - times[0] > _MEASURED_S
        return should_stop() or slow or len(times) > _MEASURED_VISITS

    started = time.perf_counter()
    for _ in _Propagation(one).slices(segmenter, is_enough):
        times.append(time.perf_counter())
    if len(times) < 2:
        return time.perf_counter() - started
    return (times[-1] - times[0]) / (len(times) - 1)


def count_visits(held_out_volumes: Sequence[HeldOutVolume]) -> int:
    """Visits of one label on one slice in an evaluation, if sweeps stop near the true ends."""
    return sum(
        _visits(volume, gap, direction)
        for volume in held_out_volumes
        for gap in _Propagation(volume).gaps
        for direction in (FORWARD, BACKWARD)
        if gap.swept(direction)
    )


def _visits(held_out_volume: HeldOutVolume, gap: Gap, direction: int) -> int:
    length = gap.stop - gap.start + 1
    if gap.closed:
        return length
    first, last = held_out_volume.extent_of(gap.label)
    ahead = last - gap.start if direction == FORWARD else gap.stop - first
    return max(1, min(length, ahead + 1 + _OVERRUN))


def thin_labels(held_out_volumes: Sequence[HeldOutVolume], most: int) -> list[HeldOutVolume]:
    """The held-out volumes with fewer labels, evenly spaced."""
    every = [(number, label) for number, v in enumerate(held_out_volumes) for label in v.seeds]
    kept = set(thinned(every, most))
    fewer = []
    for number, volume in enumerate(held_out_volumes):
        labels = [label for label in volume.seeds if (number, label) in kept]
        if labels:
            seeds = {label: volume.seeds[label] for label in labels}
            scored = {label: volume.scored[label] for label in labels}
            fewer.append(replace(volume, seeds=seeds, scored=scored))
    return fewer


class _Propagation:
    """A run on a held-out volume from its seeds.

    Attributes
    ----------
    gaps : tuple of Gap
    labels : ndarray of int, shape of the volume
        Seeds and what has been found so far.
    stopped : bool
    """

    def __init__(self, held_out_volume: HeldOutVolume) -> None:
        self._held_out = held_out_volume
        self._prompts = PromptSet()
        self.stopped = False
        self.labels = np.zeros_like(held_out_volume.truth)
        for label, indices in held_out_volume.seeds.items():
            for index in indices:
                place = held_out_volume.volume.slicer(index)
                mask = np.asarray(held_out_volume.truth[place]) == label
                self._prompts = self._prompts.with_prompt(SlicePrompt.from_mask(label, index, mask))
                self.labels[place][mask] = label
        self.gaps = find_gaps(self._prompts, held_out_volume.volume.n_slices)

    def slices(self, segmenter: SliceSegmenter, should_stop: Callable[[], bool]) -> Iterator[float]:
        """Propagate; yields the share of the work done after every slice."""
        volume = self._held_out.volume
        task = PropagationInput(
            volume,
            self._held_out.window,
            self._prompts,
            self.gaps,
            lambda index: np.asarray(self.labels[volume.slicer(index)]),
        )
        for event in Propagator(segmenter, task, PropagationConfig()).propagate(should_stop):
            if isinstance(event, SliceSegmented):
                self.labels[volume.slicer(event.index)][event.bbox] = event.labels
                yield event.done / event.total
            elif isinstance(event, Finished) and event.reason is FinishReason.STOPPED:
                self.stopped = True


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
    return {measure: MEASURES[measure](scores) for measure in MEASURED}


def _preview(held_out_volume: HeldOutVolume, found: npt.NDArray[np.integer]) -> Preview:
    """The middle one of the compared slices with the first label."""
    label, (first, last) = next(iter(held_out_volume.scored.items()))
    volume, truth = held_out_volume.volume, held_out_volume.truth
    compared = [i for i in range(first, last + 1) if i not in held_out_volume.seeds[label]]
    present = [i for i in compared if (truth[volume.slicer(i)] == label).any()]
    index = present[len(present) // 2] if present else (first + last) // 2
    place, image = volume.slicer(index), held_out_volume.window.apply(volume.take(index))
    return Preview(image, truth[place] == label, found[place] == label)
