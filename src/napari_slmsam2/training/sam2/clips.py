"""Clips of consecutive slices for SAM 2.1 and SLM-SAM 2, drawn at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from napari_slmsam2.core.errors import VolumeError
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
    images : Tensor, shape (T, 3, S, S)
        As the network takes them.
    masks : Tensor, shape (T, B, S, S)
        0 or 1. Every label is on the first slice.
    """

    images: Tensor
    masks: Tensor


class ClipSampler:
    """Draws clips of training objects as SLM-SAM 2 does (Chen et al., arXiv:2505.01854).

    Parameters
    ----------
    training_objects : sequence of TrainingObject
    recipe : PaperRecipe
    image_size : int
        Side S of the network's input.
    device : torch.device
    """

    def __init__(
        self,
        training_objects: Sequence[TrainingObject],
        recipe: PaperRecipe,
        image_size: int,
        device: torch.device,
    ) -> None:
        self._objects = training_objects
        self._recipe = recipe
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
            images, masks = self._cut(training_object, rng)
            if masks[0].any():
                return self._seen(images, masks, rng)
        raise VolumeError(
            "labels",
            "have no run of slices that starts with a label",
            expected=f"{self._recipe.clip_slices} consecutive slices",
            hint="Give volumes that are labelled on every slice.",
        )

    def _cut(
        self, training_object: TrainingObject, rng: np.random.Generator
    ) -> tuple[list[npt.NDArray[np.float32]], npt.NDArray[np.bool_]]:
        """Slices in either direction, and masks of shape (T, B, H, W)."""
        length = self._recipe.clip_slices
        if training_object.first == training_object.last:
            made = training_object.stack(rng)
            first = int(rng.integers(max(1, len(made.image) - length + 1)))
            part = slice(first, first + length)
            return list(made.image[part]), np.asarray(made.mask[part])[:, None]
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
        indices = list(range(start, stop + 1) if forward else range(start, stop - 1, -1))
        labels = self._labels(training_object, indices, rng)
        masks = np.stack([[scan.mask(label, i) for label in labels] for i in indices])
        return [scan.image(i) for i in indices], masks

    def _labels(
        self, training_object: TrainingObject, indices: list[int], rng: np.random.Generator
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

    def _seen(
        self,
        images: list[npt.NDArray[np.float32]],
        masks: npt.NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> Sam2Clip:
        brightness, contrast = 1 + rng.uniform(-1, 1, 2) * (BRIGHTNESS, CONTRAST)
        shown = []
        for image in images:
            own = 1 + rng.uniform(-1, 1, 2) * (SLICE_BRIGHTNESS, SLICE_CONTRAST)
            middle = float(image.mean())
            changed = (image - middle) * contrast * own[1] + middle * brightness * own[0]
            shown.append(self._preprocessor.image(np.clip(changed, 0, 1).astype(np.float32)))
        size = self._preprocessor.image_size
        flat = [self._preprocessor.mask(mask) for mask in masks.reshape(-1, *masks.shape[2:])]
        truth = torch.cat(flat).reshape(len(masks), -1, size, size)
        place = _draw_place(rng)
        turned = _turned(truth, place, "nearest")
        if not turned[0].flatten(1).any(1).all():
            # Rotated out of the image: keep the original.
            return Sam2Clip(torch.cat(shown), truth)
        black = self._preprocessor.image(np.zeros((1, 1), np.float32))[..., :1, :1]
        return Sam2Clip(_turned(torch.cat(shown) - black, place, "bilinear") + black, turned)


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
