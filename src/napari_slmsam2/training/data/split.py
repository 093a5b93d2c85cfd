"""The split of labelled scans into training objects and held-out volumes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.training.data.labelled_scan import FEWEST_SLICES, LabelledScan
from napari_slmsam2.training.data.pseudo_stack import make_pseudo_stack
from napari_slmsam2.training.synthetic.stack import LabelledStack

VOLUMES_TO_HOLD_ONE_OUT = 3
LABELS_TO_HOLD_SOME_OUT = 6
HELD_OUT_SHARE = 0.3
"""Of the slices of an object, at one end."""

SEEDS_TO_HOLD_ONE_OUT = 3
PSEUDO_STACKS = 4
"""Number of pseudo-stacks to evaluate on, where nothing else can be held out."""

MOST_EVALUATED = 6
"""Labels of a held-out volume that are propagated, evenly spaced."""

_EMPTY_AROUND = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingObject:
    """An object to train on.

    Attributes
    ----------
    scan : LabelledScan
    label : int
    first, last : int
        Slices that may be used. Equal: the slice to make pseudo-stacks from.
    is_part : bool
        The object may continue beyond them.
    """

    scan: LabelledScan
    label: int
    first: int
    last: int
    is_part: bool = False

    def stack(self, rng: np.random.Generator) -> LabelledStack:
        """The object in either direction, or a pseudo-stack."""
        if self.first == self.last:
            made = make_pseudo_stack(
                rng,
                self.scan.image(self.first),
                self.scan.mask(self.label, self.first),
                self.scan.volume.slice_spacing,
            )
            return replace(made, label=self.label)
        stack = self.scan.stack(self.label, self.first, self.last)
        if rng.random() < 0.5:
            stack = replace(stack, image=stack.image[::-1], mask=stack.mask[::-1])
        return stack


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutVolume:
    """A volume to propagate, and the slices on which the result is compared with the truth.

    Attributes
    ----------
    name : str
    volume : Volume
    window : IntensityWindow
    truth : ndarray of int, shape of the volume
    seeds : dict of label to tuple of int
        Annotated slices to start from.
    scored : dict of label to tuple of int
        First and last slice that is compared; the seeds are left out.
    """

    name: str
    volume: Volume
    window: IntensityWindow
    truth: npt.NDArray[np.integer]
    seeds: dict[int, tuple[int, ...]]
    scored: dict[int, tuple[int, int]]

    def extent_of(self, label: int) -> tuple[int, int]:
        """First and last slice with a label in the truth."""
        known = np.flatnonzero((self.truth == label).any(self.volume.plane_axes))
        return int(known[0]), int(known[-1])


@dataclass(frozen=True, slots=True, eq=False)
class DataSplit:
    """Training objects and held-out volumes, without a slice in common.

    Attributes
    ----------
    training_objects : tuple of TrainingObject
    held_out_volumes : tuple of HeldOutVolume
    held_out : str
        What is held out, as text.
    """

    training_objects: tuple[TrainingObject, ...]
    held_out_volumes: tuple[HeldOutVolume, ...]
    held_out: str

    @property
    def labels(self) -> tuple[int, ...]:
        """Labels that are trained on."""
        return tuple(sorted({training_object.label for training_object in self.training_objects}))


def split_data(scans: Sequence[LabelledScan], seed: int) -> DataSplit:
    """Hold out the last of three and more volumes, else some labels, else one end of every object.

    Of volumes with labels on annotated slices only: the middle slice of three and more, else
    pseudo-stacks made from the slices.

    Parameters
    ----------
    scans : sequence of LabelledScan
        Checked by `napari_slmsam2.training.data.labelled_scan.check_scans`.
    seed : int
        Of the pseudo-stacks.
    """
    if any(scan.seeds for scan in scans):
        return _split_seeds(scans, seed)
    usable = [
        (scan, label)
        for scan in scans
        for label in scan.areas
        if len(scan.known(label)) >= FEWEST_SLICES
    ]
    trainable = [scan for scan in scans if any(scan is s for s, _ in usable)]
    if len(trainable) >= VOLUMES_TO_HOLD_ONE_OUT:
        held = trainable[-1]
        return DataSplit(
            tuple(_training_object(scan, label) for scan, label in usable if scan is not held),
            (_held_out_volume(held, thinned([label for scan, label in usable if scan is held])),),
            "the last volume",
        )
    if len(usable) >= LABELS_TO_HOLD_SOME_OUT:
        held_labels = usable[2::5]
        held_out_volumes = [
            _held_out_volume(scan, thinned([label for s, label in held_labels if s is scan]))
            for scan in trainable
        ]
        return DataSplit(
            tuple(_training_object(*one) for one in usable if one not in held_labels),
            tuple(held_out_volume for held_out_volume in held_out_volumes if held_out_volume.seeds),
            "every fifth object",
        )
    return _split_at_ends(usable)


def _training_object(scan: LabelledScan, label: int) -> TrainingObject:
    return TrainingObject(scan, label, 0, scan.volume.n_slices - 1)


def _held_out_volume(scan: LabelledScan, labels: Sequence[int]) -> HeldOutVolume:
    """All of a volume, from the largest slice of every label."""
    n = scan.volume.n_slices
    seeds: dict[int, tuple[int, ...]] = {x: (int(scan.areas[x].argmax()),) for x in labels}
    return _trimmed(scan, seeds, dict.fromkeys(labels, (0, n - 1)))


def _trimmed(
    scan: LabelledScan,
    seeds: dict[int, tuple[int, ...]],
    scored: dict[int, tuple[int, int]],
) -> HeldOutVolume:
    """A held-out volume without the slices far from all labels."""
    known = [i for label in seeds for i in scan.known(label)] or [0]
    volume = scan.volume
    first = max(0, min(known) - _EMPTY_AROUND)
    last = min(volume.n_slices - 1, max(known) + _EMPTY_AROUND)
    slices = range(first, last + 1)
    data = np.stack([volume.take(i) for i in slices], volume.axis)
    truth = np.stack([np.asarray(scan.labels[volume.slicer(i)]) for i in slices], volume.axis)
    truth = np.where(np.isin(truth, list(seeds)), truth, 0)
    return HeldOutVolume(
        volume.name,
        replace(volume, data=data, affine=None),
        scan.window,
        truth,
        {label: tuple(i - first for i in indices) for label, indices in seeds.items()},
        {
            label: (max(0, a - first), min(last, b) - first)
            for label, (a, b) in scored.items()
        },
    )  # fmt: skip


def _split_at_ends(usable: Sequence[tuple[LabelledScan, int]]) -> DataSplit:
    """Hold out the longer side of every object from the largest slice on, in part."""
    training_objects, held_out_volumes = [], []
    for scan in {id(s): s for s, _ in usable}.values():
        seeds: dict[int, tuple[int, ...]] = {}
        scored: dict[int, tuple[int, int]] = {}
        n = scan.volume.n_slices
        for label in [label for s, label in usable if s is scan]:
            known, largest = scan.known(label), int(scan.areas[label].argmax())
            held = round(HELD_OUT_SHARE * len(known))
            after = known[-1] - largest >= largest - known[0]
            side = [i for i in known if (i > largest if after else i < largest)]
            held = min(held, len(side) - 1)
            if held < 2:
                training_objects.append(_training_object(scan, label))
            elif after:
                training_objects.append(
                    TrainingObject(scan, label, 0, side[-held] - 1, is_part=True)
                )
                scored[label] = (side[-held], n - 1)
            else:
                training_objects.append(
                    TrainingObject(scan, label, side[held - 1] + 1, n - 1, is_part=True)
                )
                scored[label] = (0, side[held - 1])
            if label in scored:
                seeds[label] = (largest,)
        if seeds:
            held_out_volumes.append(_trimmed(scan, seeds, scored))
    if held_out_volumes:
        return DataSplit(
            tuple(training_objects), tuple(held_out_volumes), "one end of every object"
        )
    (scan, _), *_ = usable
    labels = thinned([label for s, label in usable if s is scan])
    return DataSplit(
        tuple(training_objects),
        (_held_out_volume(scan, labels),),
        "nothing, because there are too few slices; scores are those of the training slices",
    )


def _split_seeds(scans: Sequence[LabelledScan], seed: int) -> DataSplit:
    training_objects: list[TrainingObject] = []
    held_out_volumes: list[HeldOutVolume] = []
    for scan in scans:
        seeds: dict[int, tuple[int, ...]] = {}
        scored: dict[int, tuple[int, int]] = {}
        for label in scan.areas:
            trusted = set(scan.confident.get(label, ()))
            known = [i for i in scan.known(label) if i not in trusted]
            if len(known) >= SEEDS_TO_HOLD_ONE_OUT:
                middle = len(known) // 2
                # Slices that were propagated from the held-out slice depend on it.
                trusted -= set(range(known[middle - 1], known[middle + 1]))
                held = known.pop(middle)
                seeds[label], scored[label] = tuple(known), (held, held)
            training_objects += [TrainingObject(scan, label, i, i) for i in known]
            training_objects += _runs(scan, label, {*known, *trusted})
        if seeds:
            held_out_volumes.append(_trimmed(scan, seeds, scored))
    if held_out_volumes:
        return DataSplit(
            tuple(training_objects), tuple(held_out_volumes), "one annotated slice of every label"
        )
    rng = np.random.default_rng((seed, 2))
    single = [
        training_object
        for training_object in training_objects
        if training_object.first == training_object.last
    ]
    chosen = [single[i * len(single) // PSEUDO_STACKS] for i in range(PSEUDO_STACKS)]
    return DataSplit(
        tuple(training_objects),
        tuple(_pseudo_volume(training_object, rng) for training_object in chosen),
        "pseudo-stacks, because there are too few annotated slices to hold one out",
    )


def _runs(scan: LabelledScan, label: int, trusted: set[int]) -> list[TrainingObject]:
    """Runs of consecutive slices that are known or trusted, as training objects."""
    training_objects = []
    ordered = sorted(trusted)
    for _, group in itertools.groupby(enumerate(ordered), lambda pair: pair[1] - pair[0]):
        run = [i for _, i in group]
        if len(run) >= FEWEST_SLICES:
            training_objects.append(TrainingObject(scan, label, run[0], run[-1], is_part=True))
    return training_objects


def _pseudo_volume(training_object: TrainingObject, rng: np.random.Generator) -> HeldOutVolume:
    stack = training_object.stack(rng)
    truth = stack.mask.astype(np.uint8)
    largest = int(truth.sum((1, 2)).argmax())
    return HeldOutVolume(
        f"pseudo-stack of slice {training_object.first} of {training_object.scan.volume.name}",
        Volume(stack.image, axis=0, spacing=stack.spacing, name="pseudo-stack"),
        IntensityWindow(0.0, 1.0),
        truth,
        {1: (largest,)},
        {1: (0, len(truth) - 1)},
    )


def thinned(items: Sequence[T], most: int = MOST_EVALUATED) -> list[T]:
    """At most ``most`` of the items, evenly spaced."""
    most = min(most, len(items))
    return [items[i * len(items) // most] for i in range(most)]
