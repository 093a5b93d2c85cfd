"""The window network as a `SliceSegmenter`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from napari_slmsam2.core.memory import MemoryBank
from napari_slmsam2.core.segmenter import SegmentedSlice, SweepContext
from napari_slmsam2.engine.compact.crop import ObjectCrop
from napari_slmsam2.engine.compact.features import (
    LOGITS_PER_PIXEL,
    MAX_LOGIT,
    Contrast,
    chosen_seeds,
    follow,
    interpolated_prior,
    known_masks,
    position_features,
    read_logits,
    window_for,
)
from napari_slmsam2.engine.compact.network import (
    CompactInput,
    CompactNetwork,
    SeedMemory,
    apply_correction,
)
from napari_slmsam2.engine.compact.presence_gru import N_CLUES
from napari_slmsam2.engine.compact.presence_gru import WIDTH as ENDS_WIDTH
from napari_slmsam2.engine.compact.ridge_snapping import snap_to_ridge
from napari_slmsam2.engine.compact.seed_crop import SeedCrop, ring_width
from napari_slmsam2.engine.device import computing
from napari_slmsam2.engine.features.appearance import Appearance
from napari_slmsam2.engine.features.interpolation import mask_stability, signed_distance
from napari_slmsam2.engine.features.optical_flow import dense_flow, warp
from napari_slmsam2.engine.features.presence import AppearanceFeatures
from napari_slmsam2.engine.features.taper import find_taper
from napari_slmsam2.engine.raw_slice_segmenter import Image, RawSliceSegmenter

NETWORK_SHARE = 0.5
"""Weight of the network against `AppearanceFeatures` in the logit of presence."""


@dataclass(frozen=True, slots=True, eq=False)
class SeedState:
    """An annotated slice.

    Attributes
    ----------
    image : ndarray of float32, shape (H, W)
    mask : ndarray of bool, shape (H, W)
    area : int
        In pixels; 0 where the object is absent.
    """

    image: Image
    mask: npt.NDArray[np.bool_]
    area: int


@dataclass(frozen=True, slots=True, eq=False)
class SweepState:
    """A sweep that has reached a slice.

    Attributes
    ----------
    image : ndarray of float32, shape (H, W)
        The slice.
    window : ObjectCrop
        Around the object, for the next slice.
    carried : ndarray of float32, shape (N, N)
        Mask logits in that window, as the flow, and ``config.feedback`` of the network's
        corrections, have carried them here from the seed.
    contrast : Contrast
    look : Appearance
        Of the object on the seed, in its window.
    fit : float
        Mean log likelihood ratio inside it.
    area : int
        Of the object on the seed, in pixels.
    feedback : float
        Share of a correction that is carried on.
    pull : float
        Of ridges, see `SeedCrop.pull`.
    memory : SeedMemory
    seeds : tuple of int
        The annotated slices in the memory.
    ends : ndarray of float32, shape (32,)
        What `SweepPresence` remembers of the slices so far.
    clues : ndarray of float32, shape (21,)
        What it has seen of this one.
    """

    image: Image
    window: ObjectCrop
    carried: Image
    contrast: Contrast
    look: Appearance
    fit: float
    area: int
    feedback: float
    pull: float
    memory: SeedMemory
    seeds: tuple[int, ...]
    ends: npt.NDArray[np.float32]
    clues: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """One object as the network will see it on the next slice."""

    label: int
    state: SweepState
    images: Image
    aligned: Image
    moved: Image
    prior: Image
    cues: npt.NDArray[np.float32]
    met: AppearanceFeatures
    certain: bool


def presence_features(view: _View, logit: float, iou: float) -> npt.NDArray[np.float32]:
    """What `SweepPresence` sees of a slice."""
    cues = min(max(view.met.presence(), 1e-4), 1 - 1e-4)
    by_cues = np.log(cues / (1 - cues))
    joint = NETWORK_SHARE * logit + (1 - NETWORK_SHARE) * by_cues
    clues = np.array([joint, logit, iou, *astuple(view.met), *view.cues], np.float32)
    return np.clip(clues, -10.0, 10.0)


class CompactSegmenter(RawSliceSegmenter):
    """Carries masks with a `CompactNetwork`.

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
        self._network = network.to(device).eval()
        self._device, self._dtype, self._threshold = device, dtype, threshold

    def _remembered(self, image: Image, mask: npt.NDArray[np.bool_]) -> SeedState:
        return SeedState(image, mask, int(mask.sum()))

    def segment(
        self,
        embedding: Any,
        index: int,
        direction: int,
        banks: Sequence[MemoryBank],
        context: SweepContext,
    ) -> list[SegmentedSlice]:
        """Carry the mask of every bank over from the slice before."""
        following = index + direction
        ahead = embedding
        if 0 <= following < context.n_slices and context.embedding_of is not None:
            ahead = context.embedding_of(following)
        with computing(self._device, self._dtype):
            views = [
                self._look(embedding, ahead, index, direction, bank, context) for bank in banks
            ]
            memory = SeedMemory(
                *(torch.cat(parts) for parts in zip(*(v.state.memory for v in views), strict=True))
            )
            output = self._network(self._inputs(views), memory)
            logits = output.logits.float().cpu().numpy()
            iou = torch.sigmoid(output.iou.float()).cpu().numpy()
        with computing(self._device, torch.float32):
            clues = np.stack(
                [
                    presence_features(*clue)
                    for clue in zip(views, output.presence.float().cpu().numpy(), iou, strict=True)
                ]
            )
            presence, ends = self._judge_presence(views, clues)
        return [
            self._answer(view, embedding, *found)
            for view, *found in zip(views, logits, presence, iou, ends, clues, strict=True)
        ]

    def _look(
        self,
        image: Image,
        ahead: Image,
        index: int,
        direction: int,
        bank: MemoryBank,
        context: SweepContext,
    ) -> _View:
        seeds: dict[int, SeedState] = {i: e.content for i, e in bank.seeds.items()}
        areas = {i: seed.area for i, seed in seeds.items()}
        extent = context.extents.get(bank.label)
        chosen = tuple(chosen_seeds(areas, index, direction, self.config.seed_slices))
        previous = bank.get(index - direction)
        assert previous is not None
        state = previous.content
        if isinstance(state, SeedState):
            state = self._start(state, seeds, chosen)
        elif state.seeds != chosen:
            state = replace(
                state, memory=self._remember(seeds, chosen, state.contrast), seeds=chosen
            )
        window, contrast = state.window, state.contrast
        images = np.stack([contrast.apply(window.read(i)) for i in (state.image, image, ahead)])
        flow = dense_flow(images[1], images[0])
        taper = find_taper(areas, index, direction, extent, context.spacing)
        aligned, moved = warp(images[0], flow), warp(state.carried, flow)
        distance = snap_to_ridge(moved / np.float32(LOGITS_PER_PIXEL), images[1], state.pull)
        moved = distance * np.float32(LOGITS_PER_PIXEL)
        met = AppearanceFeatures.measure(
            images[1],
            np.abs(images[1] - aligned),
            distance,
            look=state.look,
            fit=state.fit,
            area=state.area,
            travel=taper.travel(index),
            zoom=window.zoom,
            ring=ring_width(self.config),
        )
        masks = known_masks({i: seed.mask for i, seed in seeds.items()}, extent)
        return _View(
            label=bank.label,
            state=state,
            images=images,
            aligned=aligned,
            moved=moved,
            prior=interpolated_prior(masks, index, window),
            cues=position_features(areas, index, direction, extent, context.spacing, window),
            met=met,
            certain=taper.between or (extent is not None and extent[0] <= index <= extent[1]),
        )

    def _start(
        self, seed: SeedState, seeds: dict[int, SeedState], chosen: tuple[int, ...]
    ) -> SweepState:
        view = SeedCrop.measure(seed.image, seed.mask, self.config)
        return SweepState(
            image=seed.image,
            window=view.window,
            carried=np.clip(view.logits, -MAX_LOGIT, MAX_LOGIT),
            contrast=view.contrast,
            look=view.look,
            fit=view.fit,
            area=seed.area,
            feedback=self.config.feedback * view.need_of_correction,
            pull=view.pull,
            memory=self._remember(seeds, chosen, view.contrast),
            seeds=chosen,
            ends=np.zeros(ENDS_WIDTH, np.float32),
            clues=np.zeros(N_CLUES, np.float32),
        )

    def _remember(
        self, seeds: dict[int, SeedState], chosen: tuple[int, ...], contrast: Contrast
    ) -> SeedMemory:
        size, n = self.config.window_size, self.config.seed_slices
        images, logits = np.zeros((2, 1, n, size, size), np.float32)
        known = np.zeros((1, n), bool)
        for k, index in enumerate(chosen):
            window = window_for(seeds[index].mask, self.config)
            assert window is not None
            images[0, k] = contrast.apply(window.read(seeds[index].image))
            logits[0, k] = read_logits(signed_distance(seeds[index].mask), window)
            known[0, k] = True
        return self._network.read_seeds(*(self._tensor(x) for x in (images, logits, known)))

    def _inputs(self, views: Sequence[_View]) -> CompactInput:
        return CompactInput(
            images=self._tensor(np.stack([v.images for v in views])),
            aligned=self._tensor(np.stack([v.aligned[None] for v in views])),
            carried=self._tensor(np.stack([v.moved[None] for v in views])),
            prior=self._tensor(np.stack([v.prior[None] for v in views])),
            cues=self._tensor(np.stack([v.cues for v in views])),
            labels=self._tensor(np.array([v.label for v in views])),
        )

    def _tensor(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def _judge_presence(
        self, views: Sequence[_View], clues: Image
    ) -> tuple[npt.NDArray[np.float64], Image]:
        """Probability that every object is there, and what is remembered for the next slice."""
        found, ends = self._network.judge_presence(
            self._tensor(clues),
            self._tensor(np.stack([v.state.ends for v in views])),
            self._tensor(np.array([v.label for v in views])),
        )
        chance = 1.0 / (1.0 + np.exp(-found.cpu().numpy().astype(np.float64)))
        certain = np.array([v.certain for v in views])
        return np.where(certain, 0.5 + 0.5 * chance, chance), ends.float().cpu().numpy()

    def _answer(
        self,
        view: _View,
        image: Image,
        found: Image,
        presence: np.float64,
        iou: np.float32,
        ends: Image,
        clues: Image,
    ) -> SegmentedSlice:
        state, chance = view.state, float(presence)
        if view.certain and not (found > 0).any():
            found = found - found.max() + np.float32(0.5)
        logits = np.full(image.shape, -4 * MAX_LOGIT, np.float32)
        present = chance >= self._threshold and bool((found > 0).any())
        moved = view.moved
        if present:
            moved = apply_correction(moved, found, state.feedback)
        window, carried = follow(moved, state.window, image.shape, self.config)
        here = replace(state, image=image, window=window, carried=carried, ends=ends, clues=clues)
        if not present:
            return SegmentedSlice(logits, min(chance, 0.49), 0.0, 0.0, here)
        state.window.write(found, logits)
        return SegmentedSlice(
            logits=logits,
            presence=chance,
            predicted_iou=float(iou),
            stability=mask_stability(found / np.float32(LOGITS_PER_PIXEL * state.window.zoom)),
            content=here,
        )
