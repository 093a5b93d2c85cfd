"""Progress reports of an adaptation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from napari_slmsam2.training.adapt.evaluation import EvaluationResult


@dataclass(frozen=True, slots=True)
class AdaptProgress:
    """Progress of an adaptation.

    Attributes
    ----------
    stage : {"measuring", "clips", "evaluation", "training"}
    done, total : int
        Clips, visited slices or steps; a total of 0 where it is not known.
    step : int
        Steps so far, in every stage.
    loss : float
        Of the last step; NaN before the first one.
    seconds_left : float
        Of everything; NaN where it is not known yet.
    evaluation : EvaluationResult or None
        A new one, with a preview.
    """

    stage: str
    done: int
    total: int
    step: int = 0
    loss: float = math.nan
    seconds_left: float = math.nan
    evaluation: EvaluationResult | None = None


OnProgress = Callable[[AdaptProgress], object]
