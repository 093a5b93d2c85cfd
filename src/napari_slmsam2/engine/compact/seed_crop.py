"""One annotated slice in the crop around its object, measured once per seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage as ndi
from torch import Tensor

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.crop import ObjectCrops
from napari_slmsam2.engine.compact.features import LOGITS_PER_PIXEL, crop_for, read_logits
from napari_slmsam2.engine.compact.ridge_snapping import measure_ridge
from napari_slmsam2.engine.features.appearance import Appearance
from napari_slmsam2.engine.features.contrast import Contrast, longest_side, surround_width
from napari_slmsam2.engine.features.interpolation import bounding_window, signed_distance

Image = npt.NDArray[np.float32]

SEPARABLE = (0.45, 0.6)
"""Separability of object and surround up to which none, and from which on all, of the feedback
is used."""

TEXTURED = (0.03, 0.04)
"""Mean gradient per pixel of the crop, up to which all, and from which on none, of it is used."""

RIDGE = (0.2, 0.4)
"""Height of the ridge on an outline, in standard deviations, up to which the outline is not snapped
to ridges, and from which on it is."""

RIDGE_STRENGTH = 0.5
"""Share of the distance to a ridge that an outline moves on every slice."""


def ring_width(config: CompactConfig) -> float:
    """Width of the surround whose appearance is measured, in pixels of the crop."""
    return 0.3 * config.window_size / config.window_margin


@dataclass(frozen=True, slots=True, eq=False)
class SeedCrop:
    """An annotated slice in the crop around its object, as batches of one.

    Attributes
    ----------
    crop : ObjectCrops
    contrast : Contrast
    pixels : Tensor of float32, shape (1, N, N)
        The slice in the crop, as it is.
    logits : Tensor of float32, shape (1, N, N)
        Of the mask, not bounded.
    appearance : Appearance
    log_likelihood : Tensor of float32, shape (1,)
        Mean log likelihood ratio of object against surround inside the object.
    need_of_correction : float
        Share of ``CompactConfig.feedback`` that is used for the object, 0 to 1. Among similar
        objects in a slice full of structure, such as neurites in electron microscopy, the flow
        keeps an object better than a network that propagates its own corrections.
    ridge_strength : float
        Share of the distance to a ridge that the outline moves on every slice, negative to dark
        ones. Only where corrections of the network are not propagated.
    """

    crop: ObjectCrops
    contrast: Contrast
    pixels: Tensor
    logits: Tensor
    appearance: Appearance
    log_likelihood: Tensor
    need_of_correction: float
    ridge_strength: float

    @classmethod
    def measure(
        cls, image: Image, mask: npt.NDArray[np.bool_], config: CompactConfig
    ) -> Self | None:
        """Measure a seed; None where its mask is empty.

        Parameters
        ----------
        image : ndarray of float32, shape (H, W)
        mask : ndarray of bool, shape (H, W)
        config : CompactConfig
        """
        crop = crop_for(mask, config)
        if crop is None:
            return None
        # Distances matter in the crop and in the surround only.
        tight = bounding_window([mask], 0)
        assert tight is not None
        reach = surround_width(longest_side(tight)) + float(crop.side)
        box = bounding_window([mask], round(reach))
        assert box is not None
        distance = signed_distance(mask[box])
        contrast = Contrast.measure(image[box], distance)
        inner = crop.shifted(*(torch.tensor([float(s.start)]) for s in box))
        logits = read_logits(torch.from_numpy(distance)[None], inner)
        pixels = crop.read([torch.from_numpy(np.ascontiguousarray(image))[None]])
        seen = contrast.apply(pixels)[:, 0]
        level = logits / LOGITS_PER_PIXEL
        ring = ring_width(config)
        appearance = Appearance.measure(seen, level, ring)
        need = _need_of_correction(
            float(appearance.separability), _texture(seen[0].numpy(), level[0].numpy() > -ring)
        )
        ridge = measure_ridge(seen[0].numpy(), level[0].numpy())
        share = float(np.interp(abs(ridge), RIDGE, (0.0, 1.0))) * (1.0 - need)
        return cls(
            crop=crop,
            contrast=contrast,
            pixels=pixels[:, 0],
            logits=logits,
            appearance=appearance,
            log_likelihood=appearance.mean_log_ratio(seen, logits > 0),
            need_of_correction=need,
            ridge_strength=float(np.copysign(RIDGE_STRENGTH * share, ridge)),
        )


def _texture(image: Image, near: npt.NDArray[np.bool_]) -> float:
    """Mean gradient per pixel in and around the object."""
    return float(ndi.gaussian_gradient_magnitude(image, 1.0)[near].mean())


def _need_of_correction(separability: float, texture: float) -> float:
    separable, textured = (
        float(np.interp(value, limits, (0.0, 1.0)))
        for value, limits in ((separability, SEPARABLE), (texture, TEXTURED))
    )
    return max(separable, 1.0 - textured)
