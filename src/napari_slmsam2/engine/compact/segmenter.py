"""The compact network as a `SliceSegmenter`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.segmenter import SegmentedSlice, SliceVisit, SweepContext
from napari_slmsam2.core.soft_masks import LogitPatch
from napari_slmsam2.engine.compact.cpu_workers import compute_in_parts
from napari_slmsam2.engine.compact.features import (
    LOGITS_PER_PIXEL,
    KnownShapes,
    chosen_seeds,
    interpolated_priors,
    position_features,
)
from napari_slmsam2.engine.compact.network import CompactNetwork, SeedMemory
from napari_slmsam2.engine.compact.seed_crop import SeedCrop
from napari_slmsam2.engine.compact.sweep import (
    StepInput,
    StepOutput,
    SweepSeed,
    SweepState,
    join,
    split,
    sweep_step,
)
from napari_slmsam2.engine.device import computing, free_memory, move_to_cpu
from napari_slmsam2.engine.features.contrast import Contrast
from napari_slmsam2.engine.features.taper import find_taper
from napari_slmsam2.engine.raw_slice_segmenter import Image, RawSliceSegmenter

CROP_PIXEL_BYTES = 1200
"""Peak bytes per pixel of the crop while an object is segmented (measured: 1100)."""

SLICE_PIXEL_BYTES = 20
"""Bytes per pixel of the slice: three slices in a crop of its size, and the logits on it."""

MEMORY_SHARE = 0.25
"""Of the free memory that a batch may take."""

MOST_ON_CPU = 64
"""More objects gain no time, and a run stops between two batches only."""

MOST_ON_CARD = 512
"""The time of a step hardly depends on the number of objects before."""


@dataclass(frozen=True, slots=True, eq=False)
class SeedState:
    """An annotated slice.

    Attributes
    ----------
    mask : ndarray of bool, shape (H, W)
    area : int
        In pixels; 0 where the object is absent.
    crop : SeedCrop or None
        None where the object is absent.
    """

    mask: npt.NDArray[np.bool_]
    area: int
    crop: SeedCrop | None


@dataclass(frozen=True, slots=True, eq=False)
class TrackedObject:
    """One object in one sweep that has reached a slice.

    Attributes
    ----------
    state : SweepState
    seed : SweepSeed
        Both of one object, on the device of the network.
    memory : SeedMemory
    seeds : tuple of int
        The annotated slices in the memory.
    contrast : Contrast
        Of the seed that the sweep comes from.
    shapes : KnownShapes
    """

    state: SweepState
    seed: SweepSeed
    memory: SeedMemory
    seeds: tuple[int, ...]
    shapes: KnownShapes


@dataclass(frozen=True, slots=True, eq=False)
class _Arrival:
    """An object whose sweep arrives on a slice.

    Attributes
    ----------
    bank : MemoryBank
    index : int
    direction : {+1, -1}
    slices : tuple of Tensor of float32, shape (H, W)
        The slice before, the slice itself and the next one.
    """

    bank: MemoryBank
    index: int
    direction: int
    slices: tuple[Tensor, Tensor, Tensor]


class CompactSegmenter(RawSliceSegmenter):
    """Propagates masks with a `CompactNetwork`.

    Parameters
    ----------
    network : CompactNetwork
    name : str
    device : torch.device
    dtype : torch.dtype
        Of the network's arithmetic.
    threshold : float
        Presence below which a slice is left empty.
    """

    reach = 1
    bidirectional = True
    default_merge = "sweeps"
    most_stored = 5 * 2**25
    """Seven slices where a model with one sweep at a time stores three: then two sweeps side by
    side read each slice once."""

    def __init__(
        self,
        network: CompactNetwork,
        *,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        threshold: float = 0.5,
    ) -> None:
        self.name = name
        self.config = network.config
        # Convolutions on a CPU take two thirds of the time in this layout.
        self._network = network.to(device).to(memory_format=torch.channels_last).eval()
        self.device, self.dtype, self._threshold = device, dtype, threshold

    def labels_at_once(self, shape: tuple[int, int], *, seeds: int, reserved: int) -> int:
        """Labels that a call of `segment` can take, see `SliceSegmenter`."""
        of_window = CROP_PIXEL_BYTES * self.config.window_size**2
        per_label = of_window + SLICE_PIXEL_BYTES * shape[0] * shape[1]
        free = int(MEMORY_SHARE * max(0, free_memory(self.device) - reserved))
        most = MOST_ON_CPU if self.device.type == "cpu" else MOST_ON_CARD
        return max(1, min(most, free // per_label))

    def encode_image(self, image: npt.NDArray[np.float32]) -> Tensor:
        """The slice on the device, shape (H, W), with values that are not finite set to 0."""
        return self._on_device(torch.from_numpy(super().encode_image(image)))

    def encode_seed(
        self, embedding: Tensor, prompt: SlicePrompt, shape: tuple[int, int]
    ) -> SegmentedSlice:
        """The mask of the seed, see `seed_mask`."""
        return super().encode_seed(embedding.cpu().numpy(), prompt, shape)

    def free_memory(self) -> str | None:
        """Compute on the CPU."""
        note = move_to_cpu(self._network, self.device)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        return note

    def _remembered(self, image: Image, mask: npt.NDArray[np.bool_]) -> SeedState:
        (crop,) = compute_in_parts(
            lambda masks: [SeedCrop.measure(image, one, self.config) for one in masks],
            [mask],
            torch.device("cpu"),
        )
        return SeedState(mask, int(mask.sum()), crop)

    def segment(
        self,
        embedding: Tensor,
        index: int,
        direction: int,
        banks: Sequence[MemoryBank],
        context: SweepContext,
    ) -> list[SegmentedSlice]:
        """Propagate the mask of every bank from the slice before."""
        return self.segment_visits([SliceVisit(embedding, index, direction, banks)], context)

    def segment_visits(
        self, visits: Sequence[SliceVisit], context: SweepContext
    ) -> list[SegmentedSlice]:
        """Propagate the masks of several slices as one batch, see `SliceSegmenter`."""
        arrivals = []
        for visit in visits:
            slices = self._slices(visit, context)
            arrivals += [
                _Arrival(bank, visit.index, visit.direction, slices) for bank in visit.banks
            ]
        return compute_in_parts(
            lambda part: self._segment_part(part, context), arrivals, self.device
        )

    @staticmethod
    def _slices(visit: SliceVisit, context: SweepContext) -> tuple[Tensor, Tensor, Tensor]:
        """The slice before, the slice itself and the next one."""
        current = visit.embedding
        if context.embedding_of is None:
            return current, current, current
        following = visit.index + visit.direction
        inside = 0 <= following < context.n_slices
        return (
            context.embedding_of(visit.index - visit.direction),
            current,
            context.embedding_of(following) if inside else current,
        )

    def _segment_part(
        self, arrivals: Sequence[_Arrival], context: SweepContext
    ) -> list[SegmentedSlice]:
        """Some of the objects."""
        with computing(self.device, self.dtype):
            tracked = self._tracked(arrivals, context)
            # After a move to the CPU some states are still on the device.
            state = join([self._on_device(one.state) for one in tracked])
            # The attention need not read the room for seeds that no object of the batch has.
            memory = join([self._on_device(one.memory) for one in tracked]).first(
                max(len(one.seeds) for one in tracked), self.config.seed_slices
            )
            output, state = sweep_step(
                self._network,
                memory,
                join([self._on_device(one.seed) for one in tracked]),
                state,
                self._step(arrivals, context, tracked, state),
                threshold=self._threshold,
            )
            contents = [
                replace(one, state=own) for one, own in zip(tracked, split(state), strict=True)
            ]
            return _segmented(output, contents, context.shape)

    def _tracked(self, arrivals: Sequence[_Arrival], context: SweepContext) -> list[TrackedObject]:
        """The objects on the slice before; sweeps that begin there are started."""
        found: list[TrackedObject | None] = []
        to_read: list[tuple[int, dict[int, SeedState], tuple[int, ...], Contrast]] = []
        for number, arrival in enumerate(arrivals):
            bank, index, direction = arrival.bank, arrival.index, arrival.direction
            seeds: dict[int, SeedState] = {i: e.content for i, e in bank.seeds.items()}
            areas = {i: seed.area for i, seed in seeds.items()}
            chosen = tuple(chosen_seeds(areas, index, direction, self.config.seed_slices))
            previous = bank.get(index - direction)
            assert previous is not None
            content = previous.content
            if isinstance(content, TrackedObject) and content.seeds == chosen:
                found.append(content)
                continue
            if not isinstance(content, TrackedObject):
                content = self._start(bank.label, content, seeds, chosen, context)
            to_read.append((number, seeds, chosen, content.seed.contrast))
            found.append(replace(content, seeds=chosen))
        if to_read:
            # On a CPU, how many slices are encoded together changes the last digits.
            n = 1 if self.device.type == "cpu" else len(to_read)
            memories = [
                memory
                for start in range(0, len(to_read), n)
                for memory in split(self._read_seeds([r[1:] for r in to_read[start : start + n]]))
            ]
            for (number, *_), memory in zip(to_read, memories, strict=True):
                started = found[number]
                assert started is not None
                found[number] = replace(started, memory=memory)
        return [one for one in found if one is not None]

    def _start(
        self,
        label: int,
        source: SeedState,
        seeds: dict[int, SeedState],
        chosen: tuple[int, ...],
        context: SweepContext,
    ) -> TrackedObject:
        crop = source.crop
        assert crop is not None
        seed = SweepSeed.measured(crop, source.area, label, self.config)
        masks = {i: one.mask for i, one in seeds.items()}
        empty = torch.empty(1, 0)
        return TrackedObject(
            state=self._on_device(SweepState.start(crop.crop, crop.logits)),
            seed=self._on_device(seed),
            memory=SeedMemory(empty, empty, empty, empty),
            seeds=chosen,
            shapes=KnownShapes.collect(masks, context.extents.get(label)),
        )

    def _read_seeds(
        self, reads: Sequence[tuple[dict[int, SeedState], tuple[int, ...], Contrast]]
    ) -> SeedMemory:
        """The annotated slices in the long-term memory, with the contrast of each sweep's seed.

        Parameters
        ----------
        reads : sequence of (seeds, chosen, contrast)
            All seeds of an object by slice index, those to read, and the contrast.
        """
        size, n = self.config.window_size, self.config.seed_slices
        pixels, logits = (torch.zeros(len(reads), n, size, size) for _ in range(2))
        known = torch.zeros(len(reads), n, dtype=torch.bool)
        for number, (seeds, chosen, _) in enumerate(reads):
            for place, index in enumerate(chosen):
                crop = seeds[index].crop
                assert crop is not None
                pixels[number, place] = crop.pixels[0]
                logits[number, place] = crop.logits[0]
                known[number, place] = True
        contrast = join([self._on_device(contrast) for *_, contrast in reads])
        images = contrast.apply(self._on_device(pixels)) * self._on_device(known)[..., None, None]
        return self._network.read_seeds(images, *self._on_device((logits, known)))

    def _step(
        self,
        arrivals: Sequence[_Arrival],
        context: SweepContext,
        tracked: Sequence[TrackedObject],
        state: SweepState,
    ) -> StepInput:
        positions, travel, certain = [], [], []
        for arrival, one in zip(arrivals, tracked, strict=True):
            bank, index, direction = arrival.bank, arrival.index, arrival.direction
            areas = {i: entry.content.area for i, entry in bank.seeds.items()}
            extent = context.extents.get(bank.label)
            taper = find_taper(areas, index, direction, extent, context.spacing)
            overlap = one.shapes.overlap(index)
            positions.append(
                position_features(areas, index, direction, extent, context.spacing, overlap)
            )
            travel.append(taper.travel(index))
            within = extent is not None and extent[0] <= index <= extent[1]
            certain.append(taper.between or within)
        # The slices of every visit once; the arrivals of one visit share theirs.
        visits = list({id(one.slices): one.slices for one in arrivals}.values())
        numbers = {id(slices): number for number, slices in enumerate(visits)}
        which = [numbers[id(one.slices)] for one in arrivals]
        previous, current, following = (
            torch.stack(self._on_device(of_visits)) for of_visits in zip(*visits, strict=True)
        )
        return StepInput(
            previous,
            current,
            following,
            which=self._on_device(torch.tensor(which)),
            positions=self._on_device(torch.from_numpy(np.stack(positions))),
            travel=self._on_device(torch.tensor(travel, dtype=torch.float32)),
            certain=self._on_device(torch.tensor(certain)),
            prior=interpolated_priors(
                [one.shapes for one in tracked], [one.index for one in arrivals], state.crops
            ),
        )

    def _on_device(self, value: Any) -> Any:
        """A tensor, or a (nested) tuple of tensors, on the device of the network."""
        if isinstance(value, Tensor):
            return value.to(self.device)
        if isinstance(value, tuple):
            moved = [self._on_device(one) for one in value]
            return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
        return value


def _segmented(
    output: StepOutput, contents: Sequence[TrackedObject], shape: tuple[int, int]
) -> list[SegmentedSlice]:
    """The results of a step at the resolution of the slice."""
    distances = output.logits / (LOGITS_PER_PIXEL * output.crops.zoom)[:, None, None]
    outer, inner = ((distances > edge).sum((1, 2)) for edge in (-0.25, 0.25))
    stability = inner / outer.clamp(min=1)
    iou = torch.sigmoid(output.network.iou.float())
    numbers = torch.stack([output.presence, output.present.float(), iou, stability]).T.tolist()
    pasted = output.crops.paste(output.logits, shape)
    found = []
    for (presence, present, iou_, stable), (box, block), content in zip(
        numbers, pasted, contents, strict=True
    ):
        if present:
            patch = LogitPatch.cut(block, box)
            found.append(SegmentedSlice(patch, presence, iou_, stable, content))
        else:
            absent = LogitPatch.empty()
            found.append(SegmentedSlice(absent, min(presence, 0.49), 0.0, 0.0, content))
    return found
