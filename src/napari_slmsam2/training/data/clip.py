"""Short clips cut from labelled volumes: what the network sees while it carries a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.crop import ObjectCrop
from napari_slmsam2.engine.compact.features import (
    LOGITS_PER_PIXEL,
    MAX_LOGIT,
    N_CUES,
    Contrast,
    chosen_seeds,
    interpolated_prior,
    known_masks,
    position_features,
    window_for,
)
from napari_slmsam2.engine.compact.seed_crop import SeedCrop
from napari_slmsam2.engine.features.interpolation import signed_distance
from napari_slmsam2.engine.features.optical_flow import dense_flow

ROOM = 1.5
"""Side of what is stored over the side of the network's window: room to turn and to shift."""

MAX_DISTANCE = 16.0
"""Signed distances are stored within this bound, in pixels of the window."""

LENGTH = 4
"""Steps of a clip."""

END_SHARE = 0.6
"""Share of the clips with unknown ends that start near the end of the object."""


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """``L`` steps of a sweep from one slice on, seen through a window of ``M`` pixels.

    Attributes
    ----------
    images : ndarray of uint8, shape (L + 2, M, M)
        The slice that the sweep comes from, the ``L`` slices of the steps and the next one; the
        contrast of the seed, -1 to 2 as 0 to 255.
    distances : ndarray of int8, shape (L + 1, M, M)
        Signed distance to the true outline, an eighth of a pixel each, on all but the last.
    flows : ndarray of int8, shape (L, 2, M, M)
        ``(row, column)`` flow onto the slice of every step, an eighth of a pixel each.
    priors : ndarray of int8, shape (L, M, M)
        Interpolation of the annotated slices, logits times 15.
    cues : ndarray of float32, shape (L, 9)
        See `position_features`.
    seed_images : ndarray of uint8, shape (K, M, M)
    seed_distances : ndarray of int8, shape (K, M, M)
    seeds_known : ndarray of bool, shape (K,)
    present : ndarray of bool, shape (L,)
        Whether the object is on the slice of a step.
    weights : ndarray of float32, shape (L,)
        0 for steps that no sweep would make: beyond the volume, a marked end or the next seed.
    start : ndarray of int8, shape (M, M)
        Mask logits that the sweep comes with, times 15.
    drifted : bool
        Whether ``start`` is where the flow had carried the annotated mask, not the true mask.
    feedback : float
        Part of the network's feedback that sweeps from the seed take, see `SeedCrop`.
    label : int
        Value of the object in its label map.
    """

    images: npt.NDArray[np.uint8]
    distances: npt.NDArray[np.int8]
    flows: npt.NDArray[np.int8]
    priors: npt.NDArray[np.int8]
    cues: npt.NDArray[np.float32]
    seed_images: npt.NDArray[np.uint8]
    seed_distances: npt.NDArray[np.int8]
    seeds_known: npt.NDArray[np.bool_]
    present: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]
    start: npt.NDArray[np.int8]
    drifted: bool
    feedback: float
    label: int


@dataclass(frozen=True, slots=True, eq=False)
class RolloutState:
    """Where a sweep has arrived on the slice on which a clip starts.

    Attributes
    ----------
    window : ObjectCrop
    carried : ndarray of float32, shape (N, N)
        Mask logits in it.
    """

    window: ObjectCrop
    carried: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the person told about the object, and where the clip starts.

    Attributes
    ----------
    seeds : tuple of int
        Annotated slices.
    extent : tuple of int or None
        First and last slice, if marked.
    start : int
        Slice that the sweep comes from; it runs towards higher numbers.
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
    """Look through the window at ``length`` steps of a sweep towards higher slices.

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
        Of a real sweep, see `rollout_states`. Default: it comes with the true mask.
    label : int
    """
    areas = mask.sum((1, 2))
    start, last_slice = scenario.start, len(image) - 1
    on = max(i for i in range(start + 1) if areas[i])
    window = window_for(mask[on], config) if state is None else state.window
    assert window is not None
    seeds = {i: mask[i] for i in scenario.seeds}
    seed_areas = {i: int(areas[i]) for i in scenario.seeds}
    known = known_masks(seeds, scenario.extent)
    source = max(i for i in seeds if i <= start)
    look = SeedCrop.measure(image[source], mask[source], config)
    contrast = look.contrast
    room = _with_room(window)
    steps = [start + 1 + i for i in range(length)]
    slices = [min(i, last_slice) for i in (start, *steps, steps[-1] + 1)]
    images = np.stack([contrast.apply(room.read(image[i])) for i in slices])
    flows = [dense_flow(here, before) for here, before in zip(images[1:-1], images, strict=False)]
    stop = _first_not_swept(scenario, last_slice)
    seed_fields = _seeds(image, mask, seed_areas, steps[0], config, contrast)
    return Clip(
        images=_as_uint8(images),
        distances=_as_int8(np.stack([_distance(mask[i], room) for i in slices[:-1]])),
        flows=_as_int8(np.stack(flows)),
        priors=np.stack(
            [np.rint(interpolated_prior(known, i, room) * 15).astype(np.int8) for i in steps]
        ),
        cues=np.stack(
            [
                position_features(seed_areas, i, 1, scenario.extent, spacing, window)
                if i < stop
                else np.zeros(N_CUES, np.float32)
                for i in steps
            ]
        ),
        seed_images=seed_fields[0],
        seed_distances=seed_fields[1],
        seeds_known=seed_fields[2],
        present=np.array([i <= last_slice and areas[i] > 0 for i in steps]),
        weights=np.array([float(i < stop) for i in steps], np.float32),
        start=_start(mask[start], room, state),
        drifted=state is not None,
        feedback=look.need_of_correction,
        label=label,
    )


def _start(
    mask: npt.NDArray[np.bool_], room: ObjectCrop, state: RolloutState | None
) -> npt.NDArray[np.int8]:
    if state is None:
        logits = _distance(mask, room) * np.float32(LOGITS_PER_PIXEL)
    else:
        rim = (room.size - state.window.size) // 2
        logits = np.pad(state.carried, rim, constant_values=-MAX_LOGIT)
    return np.rint(np.clip(logits, -MAX_LOGIT, MAX_LOGIT) * 15).astype(np.int8)


def _with_room(window: ObjectCrop) -> ObjectCrop:
    size = round(ROOM * window.size)
    return ObjectCrop(window.row, window.column, window.side * size / window.size, size)


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
        window = window_for(mask[i], config)
        assert window is not None
        room = _with_room(window)
        images[k] = _as_uint8(contrast.apply(room.read(image[i])))
        distances[k] = _as_int8(_distance(mask[i], room))
        known[k] = True
    return images, distances, known


def _distance(mask: npt.NDArray[np.bool_], window: ObjectCrop) -> npt.NDArray[np.float32]:
    return window.read(signed_distance(mask)) * np.float32(window.zoom)


def _as_uint8(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.rint((np.clip(image, -1, 2) + 1) * 85).astype(np.uint8)


def _as_int8(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    return np.rint(np.clip(values, -MAX_DISTANCE, MAX_DISTANCE - 0.125) * 8).astype(np.int8)
