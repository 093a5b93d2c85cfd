"""The result of an adaptation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from napari_slmsam2.training.adapt.evaluation import MEASURED, EvaluationResult

WHY_STOPPED = {
    "finished": "all steps are done",
    "early": "the held-out Dice did not improve further",
    "time": "the time was up",
    "cancelled": "it was cancelled",
    "nan": "the loss is not a number; the last good weights are kept",
    "memory": "the memory is exhausted; the last good weights are kept",
}


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One evaluation during training.

    Attributes
    ----------
    step : int
    loss : float
        Mean training loss since the previous evaluation.
    dice : float
        On the held-out part.
    """

    step: int
    loss: float
    dice: float


@dataclass(frozen=True, slots=True, eq=False)
class AdaptReport:
    """Result of an adaptation.

    Attributes
    ----------
    stopped : str
        A key of `WHY_STOPPED`.
    steps : int
        Optimiser steps.
    best_step : int
        Of the kept weights; 0: the base model, with its presence threshold calibrated if that is
        better.
    seconds : float
    held_out : str
        What was held out, as text.
    before, after : EvaluationResult
        Scores of the base model and of the kept weights. The latter were selected on the same
        held-out part, which raises their scores a little.
    curve : tuple of CurvePoint
    notes : tuple of str
        What was left out or shortened.
    """

    stopped: str
    steps: int
    best_step: int
    seconds: float
    held_out: str
    before: EvaluationResult
    after: EvaluationResult
    curve: tuple[CurvePoint, ...]
    notes: tuple[str, ...]

    @property
    def improved(self) -> bool:
        """Whether the kept weights are better than the base model on the held-out part."""
        return self.after.dice > self.before.dice

    @property
    def verdict(self) -> str:
        """One sentence."""
        before = self.before.dice
        if self.improved:
            after = f"after {self.best_step} steps"
            if not self.best_step:
                after = "with the presence threshold calibrated on these volumes"
            return f"Better: held-out Dice {before:.3f} before, {self.after.dice:.3f} {after}."
        if not self.curve:
            return f"No result: nothing was evaluated, because {WHY_STOPPED[self.stopped]}."
        best = max(point.dice for point in self.curve)
        return (
            f"No better than before: held-out Dice {before:.3f} before, at most {best:.3f} after."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        structures = [
            {
                "volume": old.held_out_volume,
                "label": old.label,
                **{
                    measure: [_plain(getattr(old, measure)), _plain(getattr(new, measure))]
                    for measure in MEASURED
                },
            }
            for old, new in zip(self.before.structures, self.after.structures, strict=True)
        ]
        return {
            "improved": self.improved,
            "verdict": self.verdict,
            "stopped": self.stopped,
            "steps": self.steps,
            "best_step": self.best_step,
            "seconds": round(self.seconds, 1),
            "held_out": self.held_out,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "structures": structures,
            "curve": [asdict(point) for point in self.curve],
            "notes": list(self.notes),
        }


def _plain(value: float) -> float | None:
    return value if value == value else None
