"""Short clips cut from labelled volumes: the input of a sweep, ready for the training device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.crop import ObjectCrops
from napari_slmsam2.engine.compact.features import (
    LOGITS_PER_PIXEL,
    MAX_LOGIT,
    N_POSITION_FEATURES,
    SEED_AREA,
    THICKNESS,
    ZOOM,
    KnownShapes,
    chosen_seeds,
    crop_for,
    interpolated_priors,
    position_features,
)
from napari_slmsam2.engine.compact.seed_crop import SeedCrop
from napari_slmsam2.engine.features.contrast import Contrast
from napari_slmsam2.engine.features.interpolation import signed_distance
from napari_slmsam2.engine.features.taper import find_taper

ROOM = 1.5
"""Side of a clip over the side of the network's crop: room to rotate, and for crops to move."""

MAX_DISTANCE = 16.0
"""Signed distances are stored within this bound, in pixels of the crop."""

LENGTH = 4
"""Steps of a clip."""

END_SHARE = 0.6
"""Share of the clips with unknown ends that start near the end of the object."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """``L`` steps of a sweep from one slice on, cut out in a square of ``M`` pixels.

    Attributes
    ----------
    images : ndarray of uint8, shape (L + 2, M, M)
        The slice that the sweep comes from, the ``L`` slices of the steps and the next one; the
        contrast of the seed, -1 to 2 as 0 to 255.
    distances : ndarray of int8, shape (L + 1, M, M)
        Signed distance to the true outline, an eighth of a pixel each, on all but the last.
    priors : ndarray of int8, shape (L, M, M)
        Interpolation of the annotated slices, logits times 15.
    positions : ndarray of float32, shape (L, 9)
        See `position_features`; in pixels of the clip, the last feature is half of the log2 of its
        zoom.
    travel : ndarray of float32, shape (L,)
        See `AppearanceFeatures`.
    seed_images : ndarray of uint8, shape (K, M, M)
    seed_distances : ndarray of int8, shape (K, M, M)
    seeds_known : ndarray of bool, shape (K,)
    present : ndarray of bool, shape (L,)
        Whether the object is on the slice of a step.
    weights : ndarray of float32, shape (L,)
        0 for steps that no sweep would make: beyond the volume, a marked end or the next seed.
    start : ndarray of int8, shape (M, M)
        Mask logits with which the sweep arrives, times 15.
    drifted : bool
        Whether ``start`` is the result of a sweep, not the true mask.
    feedback, ridge_strength : float
        Share of the network's feedback that sweeps from the seed use, and how strongly their
        outlines snap to ridges, see `SeedCrop`.
    label : int
        Value of the object in its label map.
    """

    images: npt.NDArray[np.uint8]
    distances: npt.NDArray[np.int8]
    priors: npt.NDArray[np.int8]
    positions: npt.NDArray[np.float32]
    travel: npt.NDArray[np.float32]
    seed_images: npt.NDArray[np.uint8]
    seed_distances: npt.NDArray[np.int8]
    seeds_known: npt.NDArray[np.bool_]
    present: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]
    start: npt.NDArray[np.int8]
    drifted: bool
    feedback: float
    ridge_strength: float
    label: int


@dataclass(frozen=True, slots=True, eq=False)
class RolloutState:
    """Result of a sweep on the slice on which a clip starts.

    Attributes
    ----------
    crop : ObjectCrops
        Of one object.
    propagated : ndarray of float32, shape (N, N)
        Mask logits in it.
    """

    crop: ObjectCrops
    propagated: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Annotation of the object, and the start of the clip.

    Attributes
    ----------
    seeds : tuple of int
        Annotated slices.
    extent : tuple of int or None
        First and last slice, if marked.
    start : int
        Slice from which the sweep comes; it runs towards higher numbers.
    """

    seeds: tuple[int, ...]
    extent: tuple[int, int] | None
    start: int


def draw_scenario(
    areas: npt.NDArray[np.int64], length: int, rng: np.random.Generator
) -> Scenario | None:
    """Choose annotated slices, ends and the start of a clip for one object.

    Parameters
    ----------
    areas : ndarray of int, shape (D,)
        Pixels of the object on every slice.
    length : int
        Steps of the clip.
    rng : numpy.random.Generator

    Returns
    -------
    Scenario or None
        None where the object is on too few slices.
    """
    present = np.flatnonzero(areas)
    if len(present) < 3:
        return None
    largest = int(areas.argmax())
    wide = np.flatnonzero(areas >= 0.2 * areas.max())
    seeds = {largest if rng.random() < 0.6 else int(rng.choice(wide))}
    kind = rng.random()
    if kind > 0.65:
        seeds |= {int(wide[0]), int(wide[-1])}
    if kind > 0.85:
        seeds |= {int(i) for i in rng.choice(present, size=min(3, len(present)), replace=False)}
    first, last = int(present[0]), int(present[-1])
    extent = (first, last) if rng.random() < 0.35 else None
    low, high = min(seeds), (last if extent is None else last - 1)
    if extent is None and high - max(seeds) <= 2 and len(seeds) > 1 and rng.random() < 0.5:
        high = max(seeds)
    if high < low:
        return None
    if extent is None and rng.random() < END_SHARE:
        low = max(low, last - length + 1)
    start = int(rng.integers(low, high + 1))
    return Scenario(tuple(sorted(seeds)), extent, start)


def cut_clip(
    image: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    spacing: tuple[float, float, float],
    scenario: Scenario,
    config: CompactConfig,
    length: int = LENGTH,
    state: RolloutState | None = None,
    label: int = 1,
) -> Clip:
    """Cut ``length`` steps of a sweep towards higher slices.

    Parameters
    ----------
    image : ndarray of float32, shape (D, H, W)
        Intensities, 0 to 1 in the volume's intensity window.
    mask : ndarray of bool, shape (D, H, W)
    spacing : tuple of float
        ``(slice, row, column)``.
    scenario : Scenario
    config : CompactConfig
    length : int
        Steps.
    state : RolloutState, optional
        Of a real sweep, see `rollout_states`. Default: it starts from the true mask.
    label : int
    """
    areas = mask.sum((1, 2))
    start, last_slice = scenario.start, len(image) - 1
    on = max(i for i in range(start + 1) if areas[i])
    crop = crop_for(mask[on], config) if state is None else state.crop
    assert crop is not None
    seeds = {i: mask[i] for i in scenario.seeds}
    seed_areas = {i: int(areas[i]) for i in scenario.seeds}
    source = SeedCrop.measure(
        image[max(i for i in seeds if i <= start)],
        mask[max(i for i in seeds if i <= start)],
        config,
    )
    assert source is not None
    room = _with_room(crop)
    steps = [start + 1 + i for i in range(length)]
    slices = [min(i, last_slice) for i in (start, *steps, steps[-1] + 1)]
    pixels = room.read([_tensor(image[i]) for i in slices])
    stop = _first_not_swept(scenario, last_slice)
    shapes = KnownShapes.collect(seeds, scenario.extent)
    position = [
        _position(seed_areas, i, scenario.extent, spacing, float(room.zoom), shapes.overlap(i))
        if i < stop
        else None
        for i in steps
    ]
    priors = [interpolated_priors([shapes], [i], room) for i in steps]
    seed_fields = _seeds(image, mask, seed_areas, steps[0], config, source.contrast)
    return Clip(
        images=_as_uint8(source.contrast.apply(pixels)[0].numpy()),
        distances=_as_int8(np.stack([_distance(mask[i], room) for i in slices[:-1]])),
        priors=np.stack(
            [
                np.zeros((room.size, room.size), np.int8) if p is None else _logits_as_int8(p[0])
                for p in priors
            ]
        ),
        positions=np.stack(
            [np.zeros(N_POSITION_FEATURES, np.float32) if p is None else p[0] for p in position]
        ),
        travel=np.array([0.0 if p is None else p[1] for p in position], np.float32),
        seed_images=seed_fields[0],
        seed_distances=seed_fields[1],
        seeds_known=seed_fields[2],
        present=np.array([i <= last_slice and areas[i] > 0 for i in steps]),
        weights=np.array([float(i < stop) for i in steps], np.float32),
        start=_start(mask[start], room, state),
        drifted=state is not None,
        feedback=source.need_of_correction,
        ridge_strength=source.ridge_strength,
        label=label,
    )


def _position(
    areas: dict[int, int],
    index: int,
    extent: tuple[int, int] | None,
    spacing: tuple[float, float, float],
    zoom: float,
    overlap: float,
) -> tuple[npt.NDArray[np.float32], float]:
    """Position features of a step in pixels of the clip, and the distance from the seed."""
    features = position_features(areas, index, 1, extent, spacing, overlap)
    features[SEED_AREA] *= zoom**2
    features[THICKNESS] *= zoom
    features[ZOOM] = np.log2(zoom) / 2
    return features, find_taper(areas, index, 1, extent, spacing).travel(index)


def _start(
    mask: npt.NDArray[np.bool_], room: ObjectCrops, state: RolloutState | None
) -> npt.NDArray[np.int8]:
    if state is None:
        return _logits_as_int8(torch.from_numpy(_distance(mask, room) * LOGITS_PER_PIXEL))
    rim = (room.size - state.crop.size) // 2
    padded = np.pad(state.propagated, rim, constant_values=-MAX_LOGIT)
    return _logits_as_int8(torch.from_numpy(padded))


def _with_room(crop: ObjectCrops) -> ObjectCrops:
    size = round(ROOM * crop.size)
    return crop._replace(side=crop.side * (size / crop.size), size=size)


def _first_not_swept(scenario: Scenario, last_slice: int) -> int:
    ahead = [i for i in scenario.seeds if i > scenario.start]
    end = [] if scenario.extent is None else [scenario.extent[1] + 1]
    return min([*ahead, *end, last_slice + 1])


def _seeds(
    image: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    areas: dict[int, int],
    index: int,
    config: CompactConfig,
    contrast: Contrast,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8], npt.NDArray[np.bool_]]:
    size = round(ROOM * config.window_size)
    n = config.seed_slices
    images, distances = np.zeros((n, size, size), np.uint8), np.full((n, size, size), -127, np.int8)
    known = np.zeros(n, bool)
    for k, i in enumerate(chosen_seeds(areas, index, 1, n)):
        crop = crop_for(mask[i], config)
        assert crop is not None
        room = _with_room(crop)
        images[k] = _as_uint8(contrast.apply(room.read([_tensor(image[i])]))[0, 0].numpy())
        distances[k] = _as_int8(_distance(mask[i], room))
        known[k] = True
    return images, distances, known


def _distance(mask: npt.NDArray[np.bool_], crop: ObjectCrops) -> npt.NDArray[np.float32]:
    """Signed distance in pixels of the crop, exact within `MAX_DISTANCE`."""
    reach = float(crop.side / 2 + MAX_DISTANCE / crop.zoom) + 2
    box = tuple(
        slice(
            int(np.clip(np.floor(float(centre) - reach), 0, n - 1)),
            int(np.clip(np.ceil(float(centre) + reach) + 1, 1, n)),
        )
        for centre, n in zip((crop.row, crop.column), mask.shape, strict=True)
    )
    inner = crop.shifted(*(torch.tensor([float(s.start)]) for s in box))
    found = inner.read([_tensor(signed_distance(mask[box]))])[0, 0].numpy()
    return np.asarray(found * np.float32(crop.zoom), np.float32)


def _tensor(image: npt.NDArray[np.float32]) -> torch.Tensor:
    """A slice as a batch of one."""
    return torch.from_numpy(np.ascontiguousarray(image))[None]


def _logits_as_int8(logits: torch.Tensor) -> npt.NDArray[np.int8]:
    bounded = np.clip(logits.numpy(), -MAX_LOGIT, MAX_LOGIT)
    return np.rint(bounded * 15).astype(np.int8)


def _as_uint8(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.rint((np.clip(image, -1, 2) + 1) * 85).astype(np.uint8)


def _as_int8(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    return np.rint(np.clip(values, -MAX_DISTANCE, MAX_DISTANCE - 0.125) * 8).astype(np.int8)
