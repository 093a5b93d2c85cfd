"""Smooth noise, the basis of all random shapes and textures of synthetic stacks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Mean of the sum of the squared weights of a uniform cubic B-spline, one axis.
_SPLINE_ENERGY = 151 / 315


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], cells: tuple[float, ...]
) -> Floats:
    """Gaussian noise of standard deviation one, smooth over ``cells`` voxels along each axis.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : tuple of int
    cells : tuple of float
        One per axis; an axis of cell size one or less is not smoothed.

    Returns
    -------
    ndarray of float32, shape ``shape``
        A cubic B-spline with independent coefficients on a coarse grid of random phase.
    """
    weights = [_spline(rng, n, cell) for n, cell in zip(shape, cells, strict=True)]
    grid = [n if w is None else w.shape[1] for n, w in zip(shape, weights, strict=True)]
    field = rng.standard_normal(grid, dtype=np.float32)
    # The first axis last: only its product is on the full grid.
    for axis in range(len(shape) - 1, -1, -1):
        weight = weights[axis]
        if weight is None:
            continue
        if axis == len(shape) - 1 and axis > 0:
            field = field @ weight.T
        else:
            head, tail = field.shape[:axis], field.shape[axis + 1 :]
            columns = weight @ field.reshape(*head, field.shape[axis], -1)
            field = columns.reshape(*head, len(weight), *tail)
    return field


def _spline(rng: np.random.Generator, n: int, cell: float) -> Floats | None:
    if cell <= 1.0:
        return None
    position = np.arange(n) / cell + rng.uniform()
    base = position.astype(np.intp)
    t = position - base
    rows = np.arange(n)
    weights = np.zeros((n, int(base[-1]) + 4), np.float32)
    weights[rows, base] = (1 - t) ** 3 / 6
    weights[rows, base + 1] = (3 * t**3 - 6 * t**2 + 4) / 6
    weights[rows, base + 2] = (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
    weights[rows, base + 3] = t**3 / 6
    return weights / np.float32(math.sqrt(_SPLINE_ENERGY))
