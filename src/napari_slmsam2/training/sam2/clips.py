"""Clips of consecutive slices for SAM 2.1 and SLM-SAM 2, drawn at every step."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.core.errors import VolumeError
from napari_slmsam2.engine.propagation.slice_encoding import slices_to_encode
from napari_slmsam2.engine.sam2.preprocess import SlicePreprocessor
from napari_slmsam2.training.data.split import TrainingObject
from napari_slmsam2.training.recipes import PaperRecipe

TURN, SHEAR = math.radians(25.0), math.radians(20.0)
BRIGHTNESS, CONTRAST = 0.1, 0.03
"""Largest change of all slices of a clip together."""

SLICE_BRIGHTNESS, SLICE_CONTRAST = 0.1, 0.05
"""Largest change of every slice on its own."""

_TRIES = 50


@dataclass(frozen=True, slots=True, eq=False)
class Sam2Clip:
    """Consecutive slices of one volume, in the order of the sweep.

    Attributes
    ----------
    images : Tensor, shape (N, 3, S, S)
        As the network takes them: the T slices of the sweep, then other slices that an encoder
        with a temporal adapter reads beside them.
    masks : Tensor, shape (T, B, S, S)
        0 or 1. Every label is on the first slice.
    groups : tuple of tuple of int
        For each slice of the sweep, the positions in ``images`` that its embedding depends on, in
        the order of the volume.
    """

    images: Tensor
    masks: Tensor
    groups: tuple[tuple[int, ...], ...]

    def encoder_input(self, index: int) -> Tensor:
        """The images that the encoder reads for a slice of the sweep, shape (D, 3, S, S)."""
        return self.images[list(self.groups[index])]


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """A clip before augmentation.

    Attributes
    ----------
    images : list of ndarray of float32, shape (H, W)
        See `Sam2Clip.images`.
    masks : ndarray of bool, shape (T, B, H, W)
    groups : tuple of tuple of int
    """

    images: list[npt.NDArray[np.float32]]
    masks: npt.NDArray[np.bool_]
    groups: tuple[tuple[int, ...], ...]


class DrawnAhead:
    """Draws the next clips in a thread of its own, while those before are trained on.

    A process that ends waits for the thread: it cannot be interrupted inside PyTorch.

    Parameters
    ----------
    draw : callable
        ``draw(seed)`` gives the same clip for the same seed.
    """

    def __init__(self, draw: Callable[[Sequence[int]], Sam2Clip]) -> None:
        self._draw = draw
        self._thread: threading.Thread | None = None
        self._clips: dict[tuple[int, ...], Sam2Clip] = {}

    def begin(self, seeds: Sequence[tuple[int, ...]]) -> None:
        """Draw clips in the background."""
        self._clips = {}
        self._thread = threading.Thread(target=self._run, args=(tuple(seeds),))
        self._thread.start()

    def take(self, seed: tuple[int, ...]) -> Sam2Clip:
        """The clip of a seed: one of those that were begun, or drawn now.

        Raises
        ------
        VolumeError
            See `ClipSampler.draw`.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        drawn = self._clips.pop(seed, None)
        return self._draw(seed) if drawn is None else drawn

    def _run(self, seeds: Sequence[tuple[int, ...]]) -> None:
        # What fails here is drawn again by `take`, which raises the error where it is handled.
        with suppress(Exception):
            for seed in seeds:
                self._clips[seed] = self._draw(seed)


class ClipSampler:
    """Draws clips of training objects as SLM-SAM 2 does (Chen et al., arXiv:2505.01854).

    Parameters
    ----------
    training_objects : sequence of TrainingObject
    recipe : PaperRecipe
    image_size : int
        Side S of the network's input.
    device : torch.device
    neighbours : int
        Slices on either side that the encoder reads (`NetworkSegmenter.neighbours`). Their images
        are read wherever they lie in the volume, as in a run; masks are read on the slices of the
        training objects only.
    """

    def __init__(
        self,
        training_objects: Sequence[TrainingObject],
        recipe: PaperRecipe,
        image_size: int,
        device: torch.device,
        neighbours: int = 0,
    ) -> None:
        self._objects = training_objects
        self._recipe = recipe
        self._neighbours = neighbours
        self._preprocessor = SlicePreprocessor(image_size, device)

    def draw(self, seed: Sequence[int]) -> Sam2Clip:
        """Draw a clip; the same seed gives the same clip.

        Raises
        ------
        VolumeError
            No clip starts with a label.
        """
        rng = np.random.default_rng(seed)
        for _ in range(_TRIES):
            training_object = self._objects[int(rng.integers(len(self._objects)))]
            clip = self._seen(self._cut(training_object, rng), rng)
            if clip is not None:
                return clip
        raise VolumeError(
            "labels",
            "have no run of slices that starts with a label",
            expected=f"{self._recipe.clip_slices} consecutive slices",
            hint="Give volumes that are labelled on every slice.",
        )

    def _cut(self, training_object: TrainingObject, rng: np.random.Generator) -> _Cut:
        """Slices in either direction."""
        length = self._recipe.clip_slices
        if training_object.first == training_object.last:
            made = training_object.stack(rng)
            first = int(rng.integers(max(1, len(made.image) - length + 1)))
            part = range(first, min(first + length, len(made.image)))
            masks = np.asarray(made.mask[part.start : part.stop])[:, None]
            return self._with_neighbours(
                part, masks, made.image.__getitem__, len(made.image), made.spacing
            )
        scan = training_object.scan
        span = training_object.last - training_object.first + 1
        known = np.flatnonzero(scan.areas[training_object.label])
        near = known[(known >= training_object.first) & (known <= training_object.last)]
        # Far from the object there is nothing to learn but its absence.
        start = int(rng.choice(near))
        forward = bool(rng.random() < 0.5)
        if min(length, span) > (
            training_object.last - start + 1 if forward else start - training_object.first + 1
        ):
            forward = not forward
        stop = min(start + length - 1, training_object.last) if forward else max(
            start - length + 1, training_object.first
        )  # fmt: skip
        indices = range(start, stop + 1) if forward else range(start, stop - 1, -1)
        labels = self._labels(training_object, indices, rng)
        masks = np.stack([[scan.mask(label, i) for label in labels] for i in indices])
        return self._with_neighbours(
            indices, masks, scan.image, scan.volume.n_slices, scan.volume.slice_spacing
        )

    def _with_neighbours(
        self,
        indices: range,
        masks: npt.NDArray[np.bool_],
        image: Callable[[int], npt.NDArray[np.float32]],
        n_slices: int,
        spacing: tuple[float, float, float],
    ) -> _Cut:
        """Read the slices of a sweep, and those that a run would encode with them."""
        reads = [slices_to_encode(i, n_slices, self._neighbours, spacing) for i in indices]
        slices = list(dict.fromkeys((*indices, *(i for group in reads for i in group))))
        groups = tuple(tuple(map(slices.index, group)) for group in reads)
        return _Cut([image(i) for i in slices], masks, groups)

    def _labels(
        self, training_object: TrainingObject, indices: Sequence[int], rng: np.random.Generator
    ) -> list[int]:
        """The label of the object, and others that are known on all these slices."""
        low, high = min(indices), max(indices)
        others = [
            x.label
            for x in self._objects
            if x.scan is training_object.scan
            and x.label != training_object.label
            and x.first <= low
            and high <= x.last
            and x.scan.areas[x.label][indices[0]] > 0
        ]
        more = rng.permutation(others)[: self._recipe.most_labels - 1].tolist()
        return [training_object.label, *more]

    def _seen(self, cut: _Cut, rng: np.random.Generator) -> Sam2Clip | None:
        """The clip after augmentation, at the resolution of the network.

        Labels without a pixel on its first slice are left out; None where no label remains.
        """
        size = self._preprocessor.image_size
        flat = [self._preprocessor.mask(m) for m in cut.masks.reshape(-1, *cut.masks.shape[2:])]
        truth = torch.cat(flat).reshape(len(cut.masks), -1, size, size)
        truth = truth[:, truth[0].flatten(1).any(1)]
        if not truth.shape[1]:
            return None
        brightness, contrast = 1 + rng.uniform(-1, 1, 2) * (BRIGHTNESS, CONTRAST)
        shown = []
        for image in cut.images:
            own = 1 + rng.uniform(-1, 1, 2) * (SLICE_BRIGHTNESS, SLICE_CONTRAST)
            middle = float(image.mean())
            changed = (image - middle) * contrast * own[1] + middle * brightness * own[0]
            shown.append(self._preprocessor.image(np.clip(changed, 0, 1).astype(np.float32)))
        place = _draw_place(rng)
        turned = _turned(truth, place, "nearest")
        if not turned[0].flatten(1).any(1).all():
            # Rotated out of the image: keep the original.
            return Sam2Clip(torch.cat(shown), truth, cut.groups)
        black = self._preprocessor.image(np.zeros((1, 1), np.float32))[..., :1, :1]
        images = _turned(torch.cat(shown) - black, place, "bilinear") + black
        return Sam2Clip(images, turned, cut.groups)


def _draw_place(rng: np.random.Generator) -> Tensor:
    """A rotation, a shear and possibly a reflection, shape (2, 3)."""
    turn, shear = rng.uniform(-TURN, TURN), rng.uniform(-SHEAR, SHEAR)
    cos, sin = math.cos(turn), math.sin(turn)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, math.tan(shear)], [0, 1]])
    if rng.random() < 0.5:
        matrix[:, 0] *= -1
    return torch.from_numpy(np.column_stack([matrix, np.zeros(2)])).float()


def _turned(stack: Tensor, place: Tensor, mode: str) -> Tensor:
    """All slices of a stack (T, C, S, S) under the same transform; zero outside."""
    theta = place.to(stack.device).expand(len(stack), -1, -1)
    grid = F.affine_grid(theta, list(stack.shape), align_corners=False)
    return F.grid_sample(stack, grid, mode=mode, align_corners=False)
