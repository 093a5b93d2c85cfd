"""How an adaptation went."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from napari_slmsam2.training.adapt.evaluation import JUDGED, EvaluationResult

WHY_STOPPED = {
    "finished": "all steps were made",
    "early": "it got no better any more",
    "time": "the time was up",
    "cancelled": "it was cancelled",
    "nan": "the loss was not a number any more; the last good weights were kept",
    "memory": "the memory ran out; the last good weights were kept",
}


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One judgement on the way.

    Attributes
    ----------
    step : int
    loss : float
        Mean of training since the judgement before.
    dice : float
        Of what was held out.
    """

    step: int
    loss: float
    dice: float


@dataclass(frozen=True, slots=True, eq=False)
class AdaptReport:
    """What came of an adaptation.

    Attributes
    ----------
    stopped : str
        A key of `WHY_STOPPED`.
    steps : int
        That were made.
    best_step : int
        After which the kept weights were judged; 0 stands for the base model, with the threshold
        of presence set anew if that is better.
    seconds : float
    held_out : str
        What was held out, in words.
    before, after : EvaluationResult
        Of the base model and of the kept weights. The latter were chosen on the same held-out
        part, which flatters them a little.
    curve : tuple of CurvePoint
    notes : tuple of str
        What was left out.
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
        """Whether any weights were better than the base model on what was held out."""
        return self.after.dice > self.before.dice

    @property
    def verdict(self) -> str:
        """One sentence."""
        measured = f"held-out Dice {self.before.dice:.3f} before"
        if self.improved:
            after = f"after {self.best_step} steps"
            if not self.best_step:
                after = "with the threshold of presence set for these volumes"
            return f"Better: {measured}, {self.after.dice:.3f} {after}."
        if not self.curve:
            return f"Nothing was judged, because {WHY_STOPPED[self.stopped]}; keep the old model."
        most = max(point.dice for point in self.curve)
        return f"No better: {measured}, at best {most:.3f} after; keep the old model."

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        structures = [
            {
                "volume": old.held_out_volume,
                "label": old.label,
                **{
                    measure: [_plain(getattr(old, measure)), _plain(getattr(new, measure))]
                    for measure in JUDGED
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
