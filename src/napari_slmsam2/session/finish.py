"""Finish a label map: remove islands, fill holes, smooth between slices.

The functions of masks are pure. `find_changes` applies one of them to labels of an annotation,
and changes nothing; `apply_changes` does, as one step that undo takes back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import label as connected_components

from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.settings import Settings, setting
from napari_slmsam2.session.annotation import Annotation

_Mask = npt.NDArray[np.bool_]
_Plane = npt.NDArray[np.integer]

ISLANDS, HOLES, SMOOTH = "islands", "holes", "smooth"
_LARGEST_INDEX = 2**24
"""Labels up to here are found by one pass over the volume."""
_FAR = 3.0
"""Pixels beyond which the distance to an outline does not matter, in standard deviations."""


def remove_islands(mask: _Mask, smallest: int = 0) -> _Mask:
    """Keep the large connected parts of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (N, H, W)
    smallest : int
        Voxels of the smallest part that is kept; 0: only the largest part is kept.

    Returns
    -------
    ndarray of bool, shape (N, H, W)
        Parts are connected by faces, edges or corners of voxels.
    """
    parts = connected_components(mask, connectivity=mask.ndim)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    keep = sizes >= smallest if smallest else np.arange(len(sizes)) == sizes.argmax()
    keep[0] = False
    kept: _Mask = keep[parts]
    return kept


def fill_holes(mask: _Mask, largest: int = 0, *, per_slice: bool = False) -> _Mask:
    """Fill what a mask encloses.

    Parameters
    ----------
    mask : ndarray of bool, shape (N, H, W)
    largest : int
        Voxels of the largest hole that is filled; 0: all are filled.
    per_slice : bool
        Whether a hole is what is enclosed within a slice, for instance the canal of a vertebra.
        Else it has to be enclosed in 3D.

    Returns
    -------
    ndarray of bool, shape (N, H, W)
    """
    flat = ndimage.generate_binary_structure(mask.ndim, 1)
    if per_slice:
        flat[[0, -1]] = False
    # A border of background, along the slices only where holes are 3D.
    padded = np.pad(mask, [(0, 0) if per_slice else (1, 1), (1, 1), (1, 1)])
    parts, n = ndimage.label(~padded, structure=flat)
    sizes = np.bincount(parts.ravel(), minlength=n + 1)
    hole = np.ones(n + 1, bool) if not largest else sizes <= largest
    hole[0] = False
    outside = parts[:, 0, 0] if per_slice else parts[0, 0, 0]
    hole[outside] = False
    filled: _Mask = (padded | hole[parts])[:, 1:-1, 1:-1]
    return filled if per_slice else filled[1:-1]


def smooth_between_slices(mask: _Mask, sigma: float = 1.0) -> _Mask:
    """Smooth outlines along the slices, so that they do not jump from one to the next.

    The signed distance to the outline of each slice is averaged with that of its neighbours
    (shape-based interpolation: Raya and Udupa, IEEE TMI 9, 1990), weighted by a Gaussian.

    Parameters
    ----------
    mask : ndarray of bool, shape (N, H, W)
    sigma : float
        Standard deviation of the weights, in slices.

    Returns
    -------
    ndarray of bool, shape (N, H, W)
        Slices without the object stay empty, and do not count as neighbours.
    """
    held = np.flatnonzero(mask.any(axis=(1, 2)))
    result = mask.copy()
    distances: dict[int, npt.NDArray[np.float32]] = {}
    reach = int(np.ceil(_FAR * sigma))
    for index in held.tolist():
        near = held[np.abs(held - index) <= reach].tolist()
        # Distances are computed once, and kept as long as a slice needs them.
        distances = {i: distances[i] if i in distances else _distance(mask[i]) for i in near}
        weights = np.exp(-((np.array(near) - index) ** 2) / (2 * sigma**2))
        mean = sum(w * distances[i] for w, i in zip(weights, near, strict=True))
        result[index] = mean > 0
    return result


def _distance(mask: _Mask) -> npt.NDArray[np.float32]:
    """Pixels to the outline of a mask, shape (H, W): positive inside, negative outside."""
    padded = np.pad(mask, 1)
    inside = ndimage.distance_transform_edt(padded)
    outside = ndimage.distance_transform_edt(~padded)
    signed: npt.NDArray[np.float32] = (inside - outside)[1:-1, 1:-1].astype(np.float32)
    return signed


@dataclass(frozen=True, kw_only=True)
class FinishRequest(Settings):
    """What to do to which labels.

    Attributes
    ----------
    tool : {"islands", "holes", "smooth"}
    smallest : int
        See `remove_islands`.
    largest : int
        See `fill_holes`.
    per_slice : bool
        See `fill_holes`.
    sigma : float
        See `smooth_between_slices`.
    first, last : int
        Slices that may change. Those outside are read.
    with_seeds : bool
        Whether slices that a person annotated or checked may change. They stay seeds.
    labels : tuple of int
        Empty: all labels that are not locked.
    """

    tool: str = setting(
        ISLANDS, "Tool", "What is done to the labels.", choices=(ISLANDS, HOLES, SMOOTH)
    )
    smallest: int = setting(
        0,
        "Parts to keep",
        "Connected parts with fewer voxels are removed. 0 keeps the largest part only.",
        minimum=0,
        unit="voxels or more",
    )
    largest: int = setting(
        0, "Fill holes up to", "Larger holes stay. 0 fills all.", minimum=0, unit="voxels"
    )
    per_slice: bool = setting(
        False,
        "Holes within a slice",
        "Also fill what is enclosed within its slice only, such as the canal of a vertebra.",
    )
    sigma: float = setting(
        1.0,
        "Strength",
        "Standard deviation of the weights of the neighbouring slices.",
        minimum=0.1,
        maximum=10.0,
        unit="slices",
    )
    first: int = setting(0, "First slice", "Slices before it stay as they are.", minimum=0)
    last: int = setting(0, "Last slice", "Slices behind it stay as they are.", minimum=0)
    with_seeds: bool = setting(
        False, "Also seeds", "Change slices that you annotated or checked, too. They stay seeds."
    )
    labels: tuple[int, ...] = setting((), "Labels", "Empty: all that are not locked.")

    def apply(self, mask: _Mask) -> _Mask:
        """The mask, shape (N, H, W), as the tool makes it."""
        if self.tool == ISLANDS:
            return remove_islands(mask, self.smallest)
        if self.tool == HOLES:
            return fill_holes(mask, self.largest, per_slice=self.per_slice)
        return smooth_between_slices(mask, self.sigma)


@dataclass(frozen=True, slots=True)
class FinishChanges:
    """What a request would change.

    Attributes
    ----------
    request : FinishRequest
    labels : tuple of int
        Labels that change.
    slices : mapping of slice index to (before, after)
        Labels of the slices that change, each of shape (H, W).
    added, removed : int
        Voxels.
    """

    request: FinishRequest
    labels: tuple[int, ...]
    slices: Mapping[int, tuple[_Plane, _Plane]]
    added: int
    removed: int


def find_changes(
    annotation: Annotation,
    request: FinishRequest,
    should_stop: Callable[[], bool] = lambda: False,
) -> FinishChanges:
    """Find what a request changes, without changing it; in any thread.

    Voxels are taken from the background and given to it, never from or to another label.

    Parameters
    ----------
    annotation : Annotation
    request : FinishRequest
    should_stop : callable
        Checked between labels.

    Raises
    ------
    PromptError
        A label of the request is locked.
    """
    annotation.check_unlocked(request.labels)
    labels = np.moveaxis(annotation.labels, annotation.volume.axis, 0)
    before: dict[int, _Plane] = {}
    after: dict[int, _Plane] = {}
    changed: list[int] = []
    added = removed = 0
    for label, box in _boxes(labels, request.labels):
        if should_stop():
            break
        if label in annotation.table.locked:
            continue
        mask = labels[box] == label
        wanted = request.apply(mask)
        first = box[0].start
        place = box[1], box[2]
        for number in np.flatnonzero((wanted != mask).any(axis=(1, 2))).tolist():
            index = first + number
            if not request.first <= index <= request.last:
                continue
            if not request.with_seeds and annotation.prompts.get(label, index) is not None:
                continue
            # The slice may be edited meanwhile: both states are of one moment.
            found = before[index] if index in before else labels[index].copy()
            plane = after[index] if index in after else found.copy()
            part = plane[place]
            gains = wanted[number] & ~mask[number] & (part == 0)
            loses = mask[number] & ~wanted[number] & (part == label)
            part[gains], part[loses] = label, 0
            if gains.any() or loses.any():
                before[index], after[index] = found, plane
                changed.append(label)
                added, removed = added + int(gains.sum()), removed + int(loses.sum())
    slices = {index: (before[index], after[index]) for index in sorted(after)}
    return FinishChanges(request, tuple(sorted(set(changed))), slices, added, removed)


def apply_changes(annotation: Annotation, changes: FinishChanges) -> tuple[int, ...]:
    """Make changes that were found, as one step that undo takes back; not during a run.

    Voxels that were changed since they were found stay as they are.

    Returns
    -------
    tuple of int
        The slices whose labels changed.

    Raises
    ------
    PromptError
        A label was locked since.
    """
    planes: dict[int, _Plane] = {}
    seeds: dict[tuple[int, int], SlicePrompt | None] = {}
    for index, (before, after) in changes.slices.items():
        now = annotation.slices.read(index)
        plane = np.where((before != after) & (now == before), after, now).astype(now.dtype)
        planes[index] = plane
        for label in changes.labels:
            if annotation.prompts.get(label, index) is None:
                continue
            mask = plane == label
            if not np.array_equal(mask, now == label):
                seeds[label, index] = SlicePrompt.from_mask(label, index, mask)
    word = changes.request.tool
    return annotation.history.edit_labels(word, changes.labels, planes=planes, seeds=seeds)


def _boxes(labels: _Plane, wanted: tuple[int, ...]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Labels above 0, all or some, and the smallest box of slices around each."""
    if wanted or labels.max(initial=0) >= _LARGEST_INDEX:
        for label in wanted or np.unique(labels[labels > 0]).tolist():
            mask = labels == label
            if mask.any():
                yield label, ndimage.find_objects(mask.view(np.uint8))[0]
        return
    small = labels if labels.dtype.itemsize <= 4 else labels.astype(np.int32)
    for number, box in enumerate(ndimage.find_objects(np.maximum(small, 0)), 1):
        if box is not None:
            yield number, box
