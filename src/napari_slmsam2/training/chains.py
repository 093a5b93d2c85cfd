"""Where the optical flow carries the annotated mask: the states in which the network is asked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.config import WindowConfig
from napari_slmsam2.engine.interpolate import signed_distance
from napari_slmsam2.engine.optical_flow import warp
from napari_slmsam2.engine.window_cues import (
    MAX_LOGIT,
    Contrast,
    follow,
    read_logits,
    window_flow,
    window_for,
)
from napari_slmsam2.training.clips import Arrival, Scenario

BEYOND = 2
"""Slices beyond the end of the object on which a clip may still start."""


def chain_arrivals(
    image: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    scenario: Scenario,
    config: WindowConfig,
) -> dict[int, Arrival]:
    """Carry the last seed before the start of a scenario along, as inference does.

    Parameters
    ----------
    image : ndarray of float32, shape (D, H, W)
        Intensities, 0 to 1 in the volume's intensity window.
    mask : ndarray of bool, shape (D, H, W)
    scenario : Scenario
    config : WindowConfig

    Returns
    -------
    dict of slice index to Arrival
        For the slices between that seed and the next one, the marked end, or `BEYOND` slices
        behind the true end.
    """
    source = max(i for i in scenario.seeds if i <= scenario.start)
    last = int(np.flatnonzero(mask.any((1, 2)))[-1])
    stops = [i - 1 for i in scenario.seeds if i > scenario.start]
    stops.append(last - 1 if scenario.extent is not None else last + BEYOND)
    distance = signed_distance(mask[source])
    contrast = Contrast.measure(image[source], distance)
    window = window_for(mask[source], config)
    assert window is not None
    carried = np.clip(read_logits(distance, window), -MAX_LOGIT, MAX_LOGIT)
    arrivals: dict[int, Arrival] = {}
    for index in range(source + 1, min(*stops, len(image) - 2) + 1):
        before, here = (contrast.apply(window.read(image[i])) for i in (index - 1, index))
        moved = warp(carried, window_flow(here, before))
        window, carried = follow(moved, window, mask.shape[1:], config)
        arrivals[index] = Arrival(window, carried)
    return arrivals
