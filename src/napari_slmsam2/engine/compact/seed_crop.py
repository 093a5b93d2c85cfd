"""An annotated slice, seen through the window around its object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.engine.compact.crop import ObjectCrop
from napari_slmsam2.engine.compact.features import (
    LOGITS_PER_PIXEL,
    Contrast,
    read_logits,
    window_for,
)
from napari_slmsam2.engine.compact.ridge_snapping import measure_ridge
from napari_slmsam2.engine.features.appearance import Appearance
from napari_slmsam2.engine.features.interpolation import signed_distance

Image = npt.NDArray[np.float32]

SEPARABLE = (0.45, 0.6)
"""Separability of object and surround up to which nothing, and from which on all, of the feedback
is of use."""

TEXTURED = (0.03, 0.04)
"""Mean gradient per pixel of the window, up to which all, and from which on nothing, of it is."""

RIDGE = (0.2, 0.4)
"""Height of the ridge on an outline, in standard deviations, up to which the outline is not drawn
to ridges, and from which on it is."""

RIDGE_PULL = 0.5
"""Share of the way to a ridge that an outline is drawn on every slice."""


def ring_width(config: CompactConfig) -> float:
    """Width of the surround of an object whose look is measured, in pixels of the window."""
    return 0.3 * config.window_size / config.window_margin


@dataclass(frozen=True, slots=True, eq=False)
class SeedCrop:
    """What a sweep measures on the annotated slice that it comes from.

    Attributes
    ----------
    window : ObjectCrop
        Around the object.
    contrast : Contrast
    image : ndarray of float32, shape (N, N)
        The slice in the window, with that contrast.
    logits : ndarray of float32, shape (N, N)
        Of the mask, not bounded.
    look : Appearance
    texture : float
        Mean gradient of the image, per pixel, over the object and its surround.
    """

    window: ObjectCrop
    contrast: Contrast
    image: Image
    logits: Image
    look: Appearance
    texture: float

    @classmethod
    def measure(cls, image: Image, mask: npt.NDArray[np.bool_], config: CompactConfig) -> Self:
        """Look at a slice.

        Parameters
        ----------
        image : ndarray of float32, shape (H, W)
        mask : ndarray of bool, shape (H, W)
            Not empty.
        config : CompactConfig
        """
        distance = signed_distance(mask)
        window = window_for(mask, config)
        assert window is not None
        contrast = Contrast.measure(image, distance)
        seen = contrast.apply(window.read(image))
        logits = read_logits(distance, window)
        level = logits / np.float32(LOGITS_PER_PIXEL)
        ring = ring_width(config)
        steepness = ndi.gaussian_gradient_magnitude(seen, 1.0)
        look = Appearance.measure(seen, level, ring)
        return cls(window, contrast, seen, logits, look, float(steepness[level > -ring].mean()))

    @property
    def fit(self) -> float:
        """Mean log likelihood ratio of object against surround inside the object."""
        inside = self.logits > 0
        return float(self.look.log_ratio(self.image)[inside].mean()) if inside.any() else 0.0

    @property
    def need_of_correction(self) -> float:
        """How much of ``CompactConfig.feedback`` is of use for the object, 0 to 1.

        Among look-alikes in a slice full of structure, as neurites in electron microscopy, the
        flow keeps an object better than a network that carries its own corrections on.
        """
        separable, textured = (
            float(np.interp(value, limits, (0.0, 1.0)))
            for value, limits in (
                (self.look.separability, SEPARABLE),
                (self.texture, TEXTURED),
            )
        )
        return max(separable, 1.0 - textured)

    @property
    def pull(self) -> float:
        """How strongly the outline is drawn to ridges, negative to dark ones.

        Only where corrections of the network are not carried on.
        """
        ridge = measure_ridge(self.image, self.logits / np.float32(LOGITS_PER_PIXEL))
        share = float(np.interp(abs(ridge), RIDGE, (0.0, 1.0))) * (1.0 - self.need_of_correction)
        return float(np.copysign(RIDGE_PULL * share, ridge))
