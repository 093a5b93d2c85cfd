"""Checks of what a person points at or draws on a slice; arrays are copied and made read-only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import PromptError

Box = tuple[float, float, float, float]


def frozen(array: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A read-only copy."""
    copy = np.array(array, dtype=dtype, order="C")
    copy.setflags(write=False)
    return copy


def checked_places(where: str, places: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Points of a slice as ``(row, column)``, shape (N, 2); there may be none.

    Raises
    ------
    PromptError
        They have another shape, or are not finite.
    """
    coordinates = frozen(places, np.float64)
    if coordinates.size == 0:
        coordinates = coordinates.reshape(0, 2)
    if coordinates.ndim != 2 or coordinates.shape[1] != 2:
        raise PromptError(
            where,
            "the points are not a list of (row, column)",
            expected="shape (N, 2)",
            found=f"shape {coordinates.shape}",
        )
    if not np.isfinite(coordinates).all():
        raise PromptError(where, "a point is not finite")
    return coordinates


def checked_signs(
    where: str, places: npt.NDArray[Any], signs: npt.ArrayLike | None
) -> npt.NDArray[np.int32]:
    """Labels of points, 1 inside and 0 outside the object, shape (N,). Default: all inside.

    Raises
    ------
    PromptError
        Their number differs from that of the points, or one is neither 0 nor 1.
    """
    values = np.ones(len(places)) if signs is None else np.asarray(signs).reshape(-1)
    if len(values) != len(places):
        raise PromptError(
            where,
            "points and point labels differ in number",
            expected=f"{len(places)} point labels",
            found=len(values),
        )
    if not np.isin(values, (0, 1)).all():
        raise PromptError(
            where,
            "a point label is neither 0 (outside) nor 1 (inside)",
            found=sorted(set(np.asarray(values).tolist())),
        )
    return frozen(values, np.int32)


def checked_box(where: str, box: Box) -> Box:
    """A box ``(row_min, column_min, row_max, column_max)``.

    Raises
    ------
    PromptError
        It is empty, or not finite.
    """
    row_min, column_min, row_max, column_max = (float(v) for v in box)
    if not (row_min < row_max and column_min < column_max):
        raise PromptError(
            where,
            "the box is empty",
            expected="(row_min, column_min, row_max, column_max)",
            found=box,
        )
    box = (row_min, column_min, row_max, column_max)
    if not np.isfinite(box).all():
        raise PromptError(where, "the box is not finite", found=box)
    return box


def checked_outline(where: str, outline: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The corners of a polygon, shape (N, 2).

    Raises
    ------
    PromptError
        There are fewer than three, or they enclose nothing.
    """
    corners = checked_places(where, outline)
    if len(corners) < 3 or (np.ptp(corners, axis=0) == 0).any():
        raise PromptError(
            where,
            "the lasso encloses nothing",
            expected="three or more corners",
            found=f"{len(corners)} corners",
        )
    return corners


def check_inside(
    where: str, places: Iterable[npt.NDArray[Any]], slice_shape: tuple[int, int]
) -> None:
    """Raise `PromptError` where a point lies outside the slice."""
    rim = np.asarray(slice_shape) - 0.5
    for points in places:
        if ((points < -0.5) | (points > rim)).any():
            raise PromptError(
                where,
                "a point lies outside the slice",
                expected=f"(row, column) within a slice of {tuple(slice_shape)}",
                found=points.tolist(),
            )


def check_reaches(
    where: str, what: str, corners: npt.NDArray[Any], slice_shape: tuple[int, int]
) -> None:
    """Raise `PromptError` where a box or lasso, by its corners, lies outside the slice."""
    rim = np.asarray(slice_shape) - 0.5
    if (corners.max(0) < -0.5).any() or (corners.min(0) > rim).any():
        raise PromptError(
            where,
            f"the {what} lies outside the slice",
            expected=f"a {what} that overlaps a slice of {tuple(slice_shape)}",
            found=corners.tolist(),
        )
