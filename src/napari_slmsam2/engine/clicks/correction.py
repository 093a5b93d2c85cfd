"""Correction of a mask by one click near its outline, which leaves the rest unchanged."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_slmsam2.engine.clicks.geodesic import distance_from, gradient_cost, intensity_cost

Mask = npt.NDArray[np.bool_]

SMALL = 0.35
"""Largest depth of an error that is corrected, as a fraction of the radius of the mask."""

REACH = 2.5
"""Reach of a correction, in depths of the error; at least `LEAST` pixels."""

LEAST = 3.0


def correct_mask(
    image: npt.NDArray[np.float32], mask: Mask, click: tuple[int, int], *, inside: bool
) -> Mask | None:
    """The mask with the pixels that a click adds or removes.

    Pixels on the wrong side of the outline change sides if they are geodesically nearer to the
    click than to trusted pixels (on that side of the outline, beyond the reach of the click).

    Parameters
    ----------
    image : ndarray of float32, shape (H, W)
    mask : ndarray of bool, shape (H, W)
    click : tuple of int
        ``(row, column)``.
    inside : bool
        Whether the click is inside the object.

    Returns
    -------
    ndarray of bool, shape (H, W), or None
        None if the error is too large for a local correction.
    """
    wrong = ~mask if inside else mask
    if not wrong[click]:
        return mask
    if not mask.any() or mask.all():
        return None
    rows, columns = np.indices(mask.shape)
    away = np.hypot(rows - click[0], columns - click[1])
    depth = float(away[~wrong].min())
    if depth > SMALL * np.sqrt(mask.sum() / np.pi):
        return None
    reach = max(LEAST, REACH * depth)
    near = np.argwhere(away <= reach + 2)
    (top, left), (bottom, right) = near.min(0), near.max(0) + 1
    window = slice(top, bottom), slice(left, right)
    here, trusted = wrong[window], wrong[window] & (away[window] > reach)
    if not trusted.any():
        trusted = here & (away[window] == away[window][here].max())
    smooth, cost, unit = gradient_cost(image[window], None)
    place = np.array([[click[0] - top, click[1] - left]])
    known = np.argwhere(trusted)
    ours = distance_from(cost + intensity_cost(smooth, place) / unit, place)
    theirs = distance_from(cost + intensity_cost(smooth, place) / unit, known)
    changed = here & (ours < theirs)
    result = mask.copy()
    result[window] ^= changed
    return result
