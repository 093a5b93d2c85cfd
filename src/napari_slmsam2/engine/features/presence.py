"""Is the object still there? Judged from how far the sweep has come and what it meets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from napari_slmsam2.engine.features.appearance import Appearance

Image = npt.NDArray[np.float32]

_PRESENCE = {
    "bias": -5.72,
    "travel": -0.44,
    "log_travel": -1.16,
    "fit": 0.57,
    "fit_change": -0.37,
    "likeness": 6.80,
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
    "fit": 0.03,
    "fit_change": 0.40,
    "likeness": 2.83,
    "mean_change": -0.16,
    "log_area": 0.64,
    "separability": 2.08,
    "separability_change": 2.12,
    "residual": -11.59,
}
"""Logistic regression to the intersection over union with the true mask."""


@dataclass(frozen=True, slots=True)
class AppearanceFeatures:
    """What a sweep knows about the object on a slice.

    The weights were fitted on the training volumes (see ``docs/flow.md``).

    Attributes
    ----------
    travel : float
        Distance from the seed over the half length of the object along the stack.
    fit : float
        Mean log likelihood ratio of object against surround inside the mask, with the seed's
        histograms.
    fit_change : float
        The same, minus its value on the seed.
    likeness : float
        Bhattacharyya coefficient of the intensities inside, here and on the seed.
    mean_change : float
        Change of the mean intensity inside since the seed, in standard deviations.
    log_area : float
        Log of the area over that of the seed.
    separability : float
        Total variation distance of object and surround on the seed.
    separability_change : float
        The same here, minus its value on the seed.
    residual : float
        Mean absolute difference, inside, between the slice and the warped previous slice.
    """

    travel: float
    fit: float
    fit_change: float
    likeness: float
    mean_change: float
    log_area: float
    separability: float
    separability_change: float
    residual: float

    @classmethod
    def measure(
        cls,
        here: Image,
        residual: Image,
        moved: Image,
        *,
        look: Appearance,
        fit: float,
        area: int,
        travel: float,
        zoom: float,
        ring: float,
    ) -> Self:
        """Look at the carried mask on a slice.

        Parameters
        ----------
        here : ndarray of float32, shape (H, W)
            The slice, with the contrast of the seed.
        residual : ndarray of float32, shape (H, W)
            Absolute difference to the warped previous slice.
        moved : ndarray of float32, shape (H, W)
            Signed distance to the carried outline in pixels, positive inside.
        look : Appearance
        fit : float
        area : int
            Of the object on the seed: how it looks, mean log likelihood ratio inside, pixels of
            the slice.
        travel : float
        zoom : float
            Pixels of ``here`` per pixel of the slice.
        ring : float
            Width of the surround, in pixels of ``here``.
        """
        inside = moved > 0
        if not inside.any():
            inside = moved >= moved.max()
        now = Appearance.measure(here, moved, ring)
        fit_here = float(look.log_ratio(here)[inside].mean())
        pixels = float(inside.sum()) / zoom**2
        return cls(
            travel=travel,
            fit=fit_here,
            fit_change=fit_here - fit,
            likeness=look.likeness(now),
            mean_change=abs(now.mean - look.mean) / (look.deviation + 0.02),
            log_area=float(np.log((pixels + 1.0) / (area + 1.0))),
            separability=look.separability,
            separability_change=now.separability - look.separability,
            residual=float(residual[inside].mean()),
        )

    def presence(self) -> float:
        """Probability that the mask still covers the object."""
        return self._logistic(_PRESENCE)

    def predicted_iou(self) -> float:
        """Expected overlap with the true mask, intersection over union."""
        return self._logistic(_OVERLAP)

    def _logistic(self, weights: Mapping[str, float]) -> float:
        values = {
            "bias": 1.0,
            "travel": self.travel,
            "log_travel": float(np.log(self.travel + 0.05)),
            "fit": self.fit,
            "fit_change": self.fit_change,
            "likeness": self.likeness,
            "mean_change": self.mean_change,
            "log_area": self.log_area,
            "separability": self.separability,
            "separability_change": self.separability_change,
            "residual": self.residual,
        }
        score = sum(weight * np.clip(values[name], -10.0, 10.0) for name, weight in weights.items())
        return float(1.0 / (1.0 + np.exp(-np.clip(score, -20.0, 20.0))))
