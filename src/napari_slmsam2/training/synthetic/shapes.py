"""Label fields of synthetic stacks: tissues, blobs, cells, tubes and lesions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from napari_slmsam2.training.synthetic.noise import Floats, smooth_noise

Labels = npt.NDArray[np.int16]
Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]

MARGIN = 8
"""Margin in pixels by which a scene is larger than the stack on each side, so that warping finds
content beyond the border."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The grid of one stack and the size of its objects.

    Attributes
    ----------
    shape : tuple of int
        Sub-slices, rows, columns; with `MARGIN` rows and columns on each side.
    fine : int
        Sub-slices per slice.
    diameter : float
        In-plane size of a typical object, pixels.
    extent : float
        Size of a typical object along the stack, sub-slices.
    spacing : float
        Distance of slices, in pixels.
    """

    shape: Shape
    fine: int
    diameter: float
    extent: float
    spacing: float

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: Shape, fine: int, smallest: float) -> Self:
        """Draw sizes for a stack of ``shape`` slices, rows and columns."""
        largest = 0.7 * min(80.0, 0.75 * min(shape[1:]))
        diameter = math.exp(rng.uniform(math.log(smallest), math.log(max(smallest, largest))))
        length = diameter * math.exp(rng.uniform(math.log(0.7), math.log(1.8)))
        spacing = float(np.clip(length / rng.uniform(7.0, 1.2 * shape[0]), 1.0, 6.0))
        extent = max(length / spacing, 7.0)
        if rng.uniform() < 0.35:
            # Spines, vessels and neurites extend through the stack.
            extent *= 3.0
        padded = (shape[0] * fine, shape[1] + 2 * MARGIN, shape[2] + 2 * MARGIN)
        return cls(padded, fine, diameter, extent * fine, spacing)

    def cells(self, size: float) -> tuple[float, float, float]:
        """Cell size of a noise whose features have ``size`` times the size of an object."""
        return (self.extent * size, self.diameter * size, self.diameter * size)


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Label field of a stack.

    Attributes
    ----------
    labels : ndarray of int16, the shape of the frame
        Zero is what no object covers.
    behind : ndarray of int16, the shape of the frame
        The label that would be there without the one that is.
    first : int
        Labels from here on are objects that may be the target.
    """

    labels: Labels
    behind: Labels
    first: int = 1

    @property
    def count(self) -> int:
        """Number of labels, zero included."""
        return int(max(self.labels.max(), self.behind.max())) + 1


class _Canvas:
    """Keeps the best and the second best label of every voxel."""

    def __init__(self, shape: Shape, floor: float) -> None:
        self.best: Floats = np.full(shape, floor, np.float32)
        self.second: Floats = np.full(shape, floor, np.float32)
        self.labels: Labels = np.zeros(shape, np.int16)
        self.behind: Labels = np.zeros(shape, np.int16)

    def add(self, label: int, score: Floats, box: Box | tuple[()] = ()) -> None:
        """Insert a label inside a box."""
        best, second = self.best[box], self.second[box]
        labels, behind = self.labels[box], self.behind[box]
        wins = score > best
        places = score > second
        np.copyto(behind, np.int16(label), where=places)
        np.copyto(behind, labels, where=wins)
        np.copyto(second, np.minimum(score, best), where=places)
        np.copyto(labels, np.int16(label), where=wins)
        np.maximum(best, score, out=best)

    def scene(self, first: int = 1) -> Scene:
        return Scene(self.labels, self.behind, first)


def anatomy(rng: np.random.Generator, frame: Frame, count: int | None = None) -> Scene:
    """Smooth regions that fill the stack, in some cases inside the outline of a body.

    Parameters
    ----------
    rng : numpy.random.Generator
    frame : Frame
    count : int, optional
        Number of regions; default 6 to 16.
    """
    count = int(rng.integers(6, 17)) if count is None else count
    canvas = _Canvas(frame.shape, -np.inf)
    whole = (slice(0, frame.shape[0]), slice(0, frame.shape[1]), slice(0, frame.shape[2]))
    rough = rng.uniform(0.03, 0.25)
    # Compact like organs, or winding like tissues.
    compact = rng.choice([0.0, rng.uniform(1.0, 4.0)])
    for label in range(1, count + 1):
        score = smooth_noise(rng, frame.shape, frame.cells(rng.uniform(0.8, 1.4)))
        score += rough * smooth_noise(rng, frame.shape, frame.cells(0.4))
        score += np.float32(rng.normal(0.0, 0.4))
        if compact:
            centre = rng.uniform(0, frame.shape)
            radii = np.exp(rng.normal(0.0, 0.2, 3)) * frame.cells(1.0)
            score -= compact * _distance(rng, whole, centre, radii)
        canvas.add(label, score)
    scene = canvas.scene()
    if rng.uniform() < 0.4:
        outside = ~_body(rng, frame)
        scene.labels[outside] = 0
        scene.behind[outside] = 0
    return scene


def blobs(rng: np.random.Generator, frame: Frame) -> Scene:
    """Round objects on a background, separate, crowded or touching."""
    canvas = _Canvas(frame.shape, 0.0)
    gap = rng.choice([rng.uniform(0.75, 1.0), rng.uniform(1.0, 1.8)])
    rough = rng.uniform(0.0, 0.2) * smooth_noise(rng, frame.shape, frame.cells(0.45))
    for label, centre in enumerate(_scatter(rng, frame, gap), 1):
        size = np.exp(rng.normal(0.0, 0.15)) * np.exp(rng.normal(0.0, 0.12, 3))
        radii = 0.5 * size * frame.cells(1.0)
        box = _box(frame.shape, centre, 1.35 * radii)
        score = 1 - np.sqrt(_distance(rng, box, centre, radii)) + rough[box]
        canvas.add(label, score, box)
    return canvas.scene()


def cells(rng: np.random.Generator, frame: Frame) -> Scene:
    """Cells that fill the stack, or a piece of tissue in it."""
    canvas = _Canvas(frame.shape, -np.inf)
    stretch = np.exp(rng.normal(0.0, 0.2, 3))
    rough = rng.uniform(0.02, 0.15) * smooth_noise(rng, frame.shape, frame.cells(0.5))
    for label, centre in enumerate(_scatter(rng, frame, 1.0), 1):
        radii = stretch * np.exp(rng.normal(0.0, 0.12, 3)) * frame.cells(1.0)
        box = _box(frame.shape, centre, 1.3 * np.asarray(frame.cells(1.0)))
        # A shared noise field bends the borders, because each cell has its own weight for it.
        score = -_distance(rng, box, centre, radii) + np.float32(rng.normal()) * rough[box]
        canvas.add(label, score, box)
    scene = canvas.scene()
    if rng.uniform() < 0.4:
        outside = ~_body(rng, frame)
        scene.labels[outside] = 0
        scene.behind[outside] = 0
    return scene


def tubes(rng: np.random.Generator, frame: Frame) -> Scene:
    """Branching objects along the stack, packed or separate."""
    depth, height, width = frame.shape
    packed = rng.uniform() < 0.55
    canvas = _Canvas(frame.shape, -np.inf if packed else 0.0)
    density = rng.uniform(0.9, 1.3) if packed else rng.uniform(0.05, 0.4)
    count = int(np.clip(density * height * width / (0.7 * frame.diameter**2), 1, 90))
    along = np.arange(depth)
    lean = rng.normal(0.0, 0.5 * frame.diameter, 2)[:, None] * np.linspace(-1, 1, depth)
    wander = rng.uniform(0.1, 0.5) * frame.diameter
    rough = rng.uniform(0.0, 0.25) * smooth_noise(rng, frame.shape, frame.cells(0.5))
    starts = np.zeros((0, 2))
    paths: list[npt.NDArray[np.float64]] = []
    for label in range(1, count + 1):
        places = rng.uniform((0, 0), (height, width), (8, 2))
        if len(starts):
            # In the largest free space, so that no tube is inside another one.
            apart = np.linalg.norm(places[:, None] - starts, axis=-1).min(axis=1)
            places = places[[int(apart.argmax())]]
        starts = np.concatenate([starts, places[:1]])
        path = places[0][:, None] + lean
        path = path + wander * smooth_noise(rng, (2, depth), (1.0, max(6.0, depth / 4)))
        owner = label
        if not packed and paths and rng.uniform() < 0.3:
            owner = int(rng.integers(1, len(paths) + 1))
            leaving = np.clip((along - rng.uniform(0, depth)) / (0.4 * depth), 0, 1)
            path = paths[owner - 1] + rng.normal(0.0, 1.5 * frame.diameter, 2)[:, None] * leaving
        paths.append(path)
        radius = 0.5 * frame.diameter * np.exp(rng.normal(0.0, 0.3))
        radius = radius * np.exp(0.2 * smooth_noise(rng, (depth,), (depth / 5,)))
        radius = radius * _ends(rng, depth) if owner == label else radius
        reach = (2.6 if packed else 1.4) * float(radius.max())
        rows = _span(path[0].min() - reach, path[0].max() + reach, height)
        columns = _span(path[1].min() - reach, path[1].max() + reach, width)
        box = (slice(0, depth), rows, columns)
        dy = (np.arange(height)[rows] - path[0][:, None]).astype(np.float32)
        dx = (np.arange(width)[columns] - path[1][:, None]).astype(np.float32)
        scale = (1 / np.maximum(radius, 0.3)).astype(np.float32)[:, None]
        score = 1 - ((dy * scale)[:, :, None] ** 2 + (dx * scale)[:, None, :] ** 2) + rough[box]
        canvas.add(owner, score, box)
    return canvas.scene()


def lesions(rng: np.random.Generator, frame: Frame) -> Scene:
    """A few irregular objects in a smooth anatomy."""
    wide = Frame(frame.shape, frame.fine, 40.0, 40.0 / frame.spacing * frame.fine, frame.spacing)
    around = anatomy(rng, wide, int(rng.integers(2, 8)))
    first = int(around.labels.max()) + 1
    canvas = _Canvas(frame.shape, 0.0)
    rough = rng.uniform(0.1, 0.45) * smooth_noise(rng, frame.shape, frame.cells(0.4))
    for label in range(first, first + int(rng.integers(1, 6))):
        margin = 0.2 * np.asarray(frame.shape)
        centre = rng.uniform(margin, frame.shape - margin)
        radii = 0.5 * np.exp(rng.normal(-0.1, 0.3) + rng.normal(0.0, 0.2, 3)) * frame.cells(1.0)
        box = _box(frame.shape, centre, 1.8 * radii)
        canvas.add(label, 1 - np.sqrt(_distance(rng, box, centre, radii)) + rough[box], box)
    labels = np.where(canvas.labels > 0, canvas.labels, around.labels)
    return Scene(labels, np.where(canvas.labels > 0, around.labels, around.behind), first)


def warp(rng: np.random.Generator, frame: Frame, scene: Scene) -> Scene:
    """Warp a scene in its slices, shift it along the stack, and displace single slices.

    Parameters
    ----------
    rng : numpy.random.Generator
    frame : Frame
    scene : Scene

    Returns
    -------
    Scene
        Without the margin of the frame.
    """
    depth, height, width = frame.shape
    bend = min(rng.uniform(0.0, 0.1) * frame.diameter, 0.5 * MARGIN)
    shift = bend * smooth_noise(rng, (2, *frame.shape), (1.0, *frame.cells(0.7)))
    period = max(8.0 * frame.fine, depth / rng.uniform(1.0, 3.0))
    drift = rng.uniform(0.0, 0.15) * frame.diameter
    moves = np.clip(drift * smooth_noise(rng, (2, depth), (1.0, period)), -MARGIN, MARGIN)
    if rng.uniform() < 0.25:
        jitter = rng.normal(0.0, 0.7, (2, depth // frame.fine)).astype(np.float32)
        moves = moves + np.repeat(jitter, frame.fine, axis=1)
    inner = (slice(None), slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
    rows, columns = (part[inner] for part in shift + moves[:, :, None, None])
    rows += np.arange(MARGIN, height - MARGIN, dtype=np.float32)[:, None]
    columns += np.arange(MARGIN, width - MARGIN, dtype=np.float32)
    index = _mirrored(rows, height) * width + _mirrored(columns, width)
    index += np.arange(depth)[:, None, None] * (height * width)
    return Scene(scene.labels.ravel()[index], scene.behind.ravel()[index], scene.first)


def _mirrored(position: Floats, n: int) -> npt.NDArray[np.intp]:
    """Nearest index, reflected at the borders."""
    index = np.abs(np.rint(position).astype(np.intp))
    return np.clip(np.where(index >= n, 2 * (n - 1) - index, index), 0, n - 1)


def _scatter(rng: np.random.Generator, frame: Frame, gap: float) -> npt.NDArray[np.float64]:
    """Centres on a jittered lattice that extends beyond the borders, shape (N, 3)."""
    step = gap * np.asarray(frame.cells(1.0))
    axes = [np.arange(-rng.uniform(0, s), n + s, s) for n, s in zip(frame.shape, step, strict=True)]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    # Every second row is shifted, as in a dense packing.
    lattice[:, 1::2, :, 2] += step[2] / 2
    centres = lattice.reshape(-1, 3)
    return centres + rng.uniform(-0.3, 0.3, centres.shape) * step


def _distance(
    rng: np.random.Generator, box: Box, centre: npt.NDArray[np.float64], radii: npt.ArrayLike
) -> Floats:
    """Squared distance in units of the radii of a randomly rotated ellipsoid, on a box."""
    radii = np.asarray(radii)
    angle = rng.uniform(0, math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    lean = rng.normal(0.0, 0.3, 2)
    z, y, x = (
        (np.arange(part.start, part.stop) - middle).astype(np.float32)
        for part, middle in zip(box, centre, strict=True)
    )
    z = z[:, None, None] / np.float32(radii[0])
    u = (cosine * y[:, None] + sine * x) / np.float32(radii[1])
    v = (cosine * x - sine * y[:, None]) / np.float32(radii[2])
    return z**2 + (u + np.float32(lean[0]) * z) ** 2 + (v + np.float32(lean[1]) * z) ** 2


def _ends(rng: np.random.Generator, depth: int) -> Floats:
    """Factor of a radius that goes to zero at an end inside the stack, or one, shape (depth,)."""
    along = np.arange(depth)
    factor = np.ones(depth)
    for distance in (along, along[::-1]):
        if rng.uniform() < 0.3:
            past = distance - rng.uniform(0.05, 0.5) * depth
            factor *= np.sqrt(np.clip(past / (0.15 * depth), 0, 1))
    return factor.astype(np.float32)


def _body(rng: np.random.Generator, frame: Frame) -> npt.NDArray[np.bool_]:
    """A large smooth region around the middle."""
    height, width = frame.shape[1:]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] / np.float32(rng.uniform(0.75, 1.1))
    x = np.linspace(-1, 1, width, dtype=np.float32) / np.float32(rng.uniform(0.75, 1.1))
    cells = (frame.shape[0] / 2, height / 3, width / 3)
    return y**2 + x**2 + 0.2 * smooth_noise(rng, frame.shape, cells) < 1


def _box(shape: Shape, centre: npt.NDArray[np.float64], reach: npt.ArrayLike) -> Box:
    low, high = centre - np.asarray(reach), centre + np.asarray(reach)
    z, y, x = (_span(a, b, n) for a, b, n in zip(low, high, shape, strict=True))
    return (z, y, x)


def _span(low: float, high: float, n: int) -> slice:
    start = int(np.clip(math.floor(low), 0, n - 1))
    return slice(start, int(np.clip(math.ceil(high) + 1, start + 1, n)))
