"""Synthetic labelled stacks: a target that begins and ends among similar objects.

Nothing here comes from a scan. One call draws the label field (`synthetic_shapes`), chooses and
shapes the target (`synthetic_target`) and takes an image of it (`synthetic_imaging`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_slmsam2.core.errors import InputError
from napari_slmsam2.training.synthetic.imaging import (
    Appearance,
    acquire,
    draw_appearance,
    draw_contrast,
    draw_optics,
    paint,
)
from napari_slmsam2.training.synthetic.noise import Floats
from napari_slmsam2.training.synthetic.shapes import (
    Frame,
    Scene,
    anatomy,
    blobs,
    cells,
    lesions,
    tubes,
    warp,
)
from napari_slmsam2.training.synthetic.target import (
    Target,
    choose_target,
    fits,
    shape_target,
    slice_mask,
    surround,
)

SMALLEST_SHAPE = (16, 48, 48)
"""Smallest number of slices, rows and columns for a target and its empty slices."""

_ATTEMPTS = 200


@dataclass(frozen=True, slots=True)
class _Look:
    share: float
    draw: Callable[[np.random.Generator, Frame], Scene]
    fine: float
    """Probability that slices average two sub-slices."""
    smallest: float
    """Smallest in-plane size of a typical object, pixels."""
    core: float
    """Probability that the target has parts of another intensity."""


_LOOKS = {
    "anatomy": _Look(0.25, anatomy, 0.6, 14.0, 0.25),
    "blobs": _Look(0.15, blobs, 0.5, 11.0, 0.1),
    "cells": _Look(0.20, cells, 0.0, 16.0, 0.15),
    "tubes": _Look(0.25, tubes, 0.3, 11.0, 0.15),
    "lesion": _Look(0.15, lesions, 0.6, 11.0, 0.4),
}


@dataclass(frozen=True, slots=True, eq=False)
class LabelledStack:
    """An image and the target object in it.

    Attributes
    ----------
    image : ndarray of float32, shape (D, H, W)
        0..1, windowed between the percentiles 0.5 and 99.5 of the stack.
    mask : ndarray of bool, shape (D, H, W)
        The target.
    spacing : tuple of float
        Of slices, rows and columns; only their ratio means something.
    kind : str
        The look: ``anatomy``, ``blobs``, ``cells``, ``tubes`` or ``lesion``.
    label : int
        Value of the object in its label map.
    """

    image: Floats
    mask: npt.NDArray[np.bool_]
    spacing: tuple[float, float, float]
    kind: str
    label: int = 1


def make_stack(
    rng: np.random.Generator, shape: tuple[int, int, int] = (32, 128, 128)
) -> LabelledStack:
    """Generate a stack with one target.

    Parameters
    ----------
    rng : numpy.random.Generator
        The same state gives the same stack.
    shape : tuple of int
        Slices, rows, columns; at least `SMALLEST_SHAPE`.

    Returns
    -------
    LabelledStack

    Raises
    ------
    InputError
        The shape is too small.
    """
    if any(n < least for n, least in zip(shape, SMALLEST_SHAPE, strict=True)):
        raise InputError(
            "shape of a synthetic stack", "is too small", expected=SMALLEST_SHAPE, found=shape
        )
    kind = str(rng.choice(list(_LOOKS), p=[look.share for look in _LOOKS.values()]))
    look = _LOOKS[kind]
    for _ in range(_ATTEMPTS):
        fine = 2 if rng.uniform() < look.fine else 1
        frame = Frame.draw(rng, shape, fine, look.smallest)
        scene = warp(rng, frame, look.draw(rng, frame))
        target = choose_target(rng, scene, fine)
        if target is None or not shape_target(rng, scene, target, fine):
            continue
        mask = slice_mask(target, scene.labels.shape, fine)
        if fits(mask):
            image = _image(rng, kind, scene, target, frame)
            return LabelledStack(image, mask, (frame.spacing, 1.0, 1.0), kind)
    raise InputError("shape of a synthetic stack", f"no target of look {kind} fits in", found=shape)


def render_stack(
    rng: np.random.Generator, labels: npt.NDArray[np.integer], target_ids: Sequence[int] = ()
) -> Floats:
    """Render an image of given labels with random contrast.

    Parameters
    ----------
    rng : numpy.random.Generator
    labels : ndarray of int, shape (D, H, W)
        Zero is the background.
    target_ids : sequence of int
        Labels whose contrast to what surrounds them is drawn as that of a synthetic target.

    Returns
    -------
    ndarray of float32, shape (D, H, W)
        0..1, windowed between the percentiles 0.5 and 99.5 of the stack.
    """
    ids, inverse = np.unique(labels, return_inverse=True)
    indices = inverse.reshape(labels.shape)
    optics = draw_optics(rng, "anatomy")
    appearance, deviation = draw_appearance(rng, "anatomy", len(ids), optics.noise)
    if ids[0] != 0:
        appearance.means[0] = rng.uniform(0.0, 1.0)
    for target in target_ids:
        index = int(np.searchsorted(ids, target))
        if index < len(ids) and ids[index] == target:
            _set_contrast(rng, appearance, index, indices, indices == index, deviation)
    return acquire(rng, paint(rng, indices, appearance, 1.0), 1, optics)


def _image(
    rng: np.random.Generator, kind: str, scene: Scene, target: Target, frame: Frame
) -> Floats:
    """Render the image of a scene with its target; relabels the target in place."""
    optics = draw_optics(rng, kind)
    labels, box, mask = scene.labels, target.box, target.mask
    count = scene.count
    packed = bool(np.count_nonzero(labels) > 0.95 * labels.size)
    look, deviation = draw_appearance(rng, kind, count, optics.noise, packed)
    # Separate labels for the target, for the trap beyond its ends and for its core.
    own, trap, core = count, count + 1, count + 2
    look.extend(target.label, target.label, target.label)
    labels[box][mask] = own
    if target.trap is not None:
        labels[box][target.trap] = trap
    if kind in ("anatomy", "lesion"):
        _set_contrast(rng, look, own, labels[box], mask, deviation)
        _add_look_alikes(rng, look, kind, scene, target, deviation)
    sign = rng.choice([-1.0, 1.0])
    look.means[trap] = look.means[own] + sign * rng.uniform(0.2, 1.2) * deviation
    if rng.uniform() < _LOOKS[kind].core:
        along = frame.fine / frame.spacing
        labels[box][target.core(rng, along)] = core
        step = rng.uniform(1.0, 4.0) * deviation
        look.means[core] = look.means[own] - step if rng.uniform() < 0.6 else look.means[own] + step
    return acquire(rng, paint(rng, labels, look, frame.fine / frame.spacing), frame.fine, optics)


def _set_contrast(
    rng: np.random.Generator,
    look: Appearance,
    index: int,
    labels: npt.NDArray[np.integer],
    mask: npt.NDArray[np.bool_],
    deviation: float,
) -> None:
    """Set the contrast of a label to the mean of its surround to a random value."""
    around = labels[surround(mask)]
    if not around.size:
        return
    base = float(look.means[around].mean())
    step = draw_contrast(rng) * deviation * rng.choice([-1.0, 1.0])
    mean = base + step if 0.0 <= base + step <= 1.0 else base - step
    look.means[index] = np.clip(mean, 0.0, 1.0)


def _add_look_alikes(
    rng: np.random.Generator,
    look: Appearance,
    kind: str,
    scene: Scene,
    target: Target,
    deviation: float,
) -> None:
    """Copy the target's intensity to other parts of its label, or to other objects."""
    mean = look.means[scene.count]
    if rng.uniform() < 0.6:
        look.means[target.label] = mean + rng.normal(0.0, 0.3) * deviation
    if rng.uniform() < (0.8 if kind == "lesion" else 0.5):
        others = np.arange(scene.first, scene.count)
        if kind == "anatomy":
            others = rng.choice(others, 2)
        look.means[others] = mean + rng.normal(0.0, 0.3, len(others)) * deviation
