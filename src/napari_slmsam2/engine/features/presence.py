"""Presence of an object on a slice, from its appearance and its distance from the seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor

from napari_slmsam2.engine.features.appearance import Appearance

_PRESENCE = {
    "bias": -5.72,
    "travel": -0.44,
    "log_travel": -1.16,
    "log_likelihood": 0.57,
    "log_likelihood_change": -0.37,
    "similarity": 6.80,
    "mean_change": -0.21,
    "log_area": 0.79,
    "separability": 2.83,
    "separability_change": 4.66,
    "residual": -8.42,
}
"""Logistic regression to "the mask overlaps the true one with a Dice of more than 0.35"."""

_OVERLAP = {
    "bias": -2.29,
    "travel": -0.55,
    "log_travel": -0.48,
    "log_likelihood": 0.03,
    "log_likelihood_change": 0.40,
    "similarity": 2.83,
    "mean_change": -0.16,
    "log_area": 0.64,
    "separability": 2.08,
    "separability_change": 2.12,
    "residual": -11.59,
}
"""Logistic regression to the intersection over union with the true mask."""


class AppearanceFeatures(NamedTuple):
    """Features of ``B`` objects on a slice that a sweep has reached, each of shape (B,).

    The weights were fitted on the training volumes (see ``docs/flow.md``).

    Attributes
    ----------
    travel : Tensor
        Distance from the seed over the half length of the object along the stack.
    log_likelihood : Tensor
        Mean log likelihood ratio of object against surround inside the mask, with the seed's
        histograms.
    log_likelihood_change : Tensor
        The same, minus its value on the seed.
    similarity : Tensor
        Bhattacharyya coefficient of the intensities inside, here and on the seed.
    mean_change : Tensor
        Change of the mean intensity inside since the seed, in standard deviations.
    log_area : Tensor
        Log of the area over that of the seed.
    separability : Tensor
        Total variation distance of object and surround on the seed.
    separability_change : Tensor
        The same here, minus its value on the seed.
    residual : Tensor
        Mean absolute difference, inside, between the slice and the warped previous slice.
    """

    travel: Tensor
    log_likelihood: Tensor
    log_likelihood_change: Tensor
    similarity: Tensor
    mean_change: Tensor
    log_area: Tensor
    separability: Tensor
    separability_change: Tensor
    residual: Tensor

    @classmethod
    def measure(
        cls,
        images: Tensor,
        residuals: Tensor,
        distances: Tensor,
        *,
        appearance: Appearance,
        log_likelihood: Tensor,
        area: Tensor,
        travel: Tensor,
        zoom: Tensor,
        ring: float | Tensor,
    ) -> Self:
        """Measure the warped masks on a slice.

        Parameters
        ----------
        images : Tensor of float32, shape (B, H, W)
            The slice, with the contrast of the seed.
        residuals : Tensor of float32, shape (B, H, W)
            Absolute difference to the warped previous slice.
        distances : Tensor of float32, shape (B, H, W)
            Signed distance to the warped outline in pixels, positive inside.
        appearance : Appearance
        log_likelihood, area : Tensor, shape (B,)
            Of the objects on their seeds: appearance, mean log likelihood ratio inside, pixels of
            the slice.
        travel : Tensor, shape (B,)
        zoom : Tensor, shape (B,)
            Pixels of ``images`` per pixel of the slice.
        ring : float
            Width of the surround, in pixels of ``images``.
        """
        inside = distances > 0
        deepest = distances >= distances.amax((1, 2), keepdim=True)
        inside = torch.where(inside.flatten(1).any(1)[:, None, None], inside, deepest)
        now = Appearance.measure(images, distances, ring)
        here = appearance.mean_log_ratio(images, inside)
        n = inside.sum((1, 2))
        return cls(
            travel=travel,
            log_likelihood=here,
            log_likelihood_change=here - log_likelihood,
            similarity=appearance.similarity(now),
            mean_change=(now.mean - appearance.mean).abs() / (appearance.deviation + 0.02),
            log_area=torch.log((n / zoom**2 + 1.0) / (area + 1.0)),
            separability=appearance.separability,
            separability_change=now.separability - appearance.separability,
            residual=(residuals * inside).sum((1, 2)) / n,
        )

    def presence(self) -> Tensor:
        """Probability that the mask still covers the object, (B,)."""
        return self._logistic(_PRESENCE)

    def predicted_iou(self) -> Tensor:
        """Expected overlap with the true mask, intersection over union, (B,)."""
        return self._logistic(_OVERLAP)

    def _logistic(self, weights: Mapping[str, float]) -> Tensor:
        values = {**self._asdict(), "log_travel": torch.log(self.travel + 0.05)}
        score = torch.full_like(self.travel, weights["bias"])
        for name, value in values.items():
            score = score + weights[name] * value.clamp(-10.0, 10.0)
        return torch.sigmoid(score.clamp(-20.0, 20.0))
