"""Lassos and scribbles as points and a box, for networks that read nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.clicks.hints import lasso_interior

ALONG = (0.1, 0.5, 0.9)
"""Where points are taken along a stroke, as fractions of its length."""


def as_clicks(prompt: SlicePrompt, shape: tuple[int, int]) -> SlicePrompt:
    """The prompt with points and a box in place of lasso and scribble.

    A lasso gives its bounding box and the pixel farthest from its outline; each stroke gives points
    at a tenth, half and nine tenths of its length.

    Parameters
    ----------
    prompt : SlicePrompt
    shape : tuple of int
        ``(H, W)`` of the slice.
    """
    if prompt.lasso is None and prompt.scribble is None:
        return prompt
    assert prompt.points is not None
    assert prompt.point_labels is not None
    points, signs = [prompt.points], [prompt.point_labels]
    box = prompt.box
    if prompt.lasso is not None:
        interior = lasso_interior(prompt.lasso, shape)
        depth = ndi.distance_transform_edt(np.pad(interior, 1))[1:-1, 1:-1]
        points.append(np.array([np.unravel_index(depth.argmax(), shape)], float))
        signs.append(np.ones(1, np.int32))
        if box is None:
            rows, columns = np.nonzero(interior)
            box = (rows.min() - 0.5, columns.min() - 0.5, rows.max() + 0.5, columns.max() + 0.5)
    if prompt.scribble is not None:
        for sign in (1, 0):
            along = _along_strokes(prompt.scribble[prompt.scribble_labels == sign], shape)
            points.append(along)
            signs.append(np.full(len(along), sign, np.int32))
    clicks = SlicePrompt.from_points(
        prompt.label, prompt.index, np.concatenate(points), np.concatenate(signs), box
    )
    return replace(clicks, mask=prompt.mask, previous=prompt.previous)


def _along_strokes(
    pixels: npt.NDArray[np.int64], shape: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Pixels along each connected part of a scribble, shape (N, 2)."""
    drawn = np.zeros(shape, bool)
    drawn[tuple(np.clip(pixels, 0, np.array(shape) - 1).T)] = True
    parts, n = ndi.label(drawn, np.ones((3, 3)))
    found = []
    for number in range(1, n + 1):
        places = np.argwhere(parts == number)
        away = np.linalg.norm(places - places[0], axis=1)
        start = places[away.argmax()]  # one end of the stroke
        order = np.argsort(np.linalg.norm(places - start, axis=1))
        found += [places[order[round(part * (len(order) - 1))]] for part in ALONG]
    return np.unique(np.array(found, float).reshape(-1, 2), axis=0)
