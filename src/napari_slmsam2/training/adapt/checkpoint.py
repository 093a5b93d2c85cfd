"""How far an adaptation has come, in memory and in a checkpoint."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.errors import CheckpointError, OutputError
from napari_slmsam2.training.adapt.backends import AdaptTrainer
from napari_slmsam2.training.adapt.estimate import Estimate
from napari_slmsam2.training.adapt.evaluation import EvaluationResult
from napari_slmsam2.training.adapt.report import CurvePoint

BETTER = 1e-4
"""Of the held-out Dice, to count as better."""


@dataclass(slots=True, eq=False)
class AdaptRun:
    """Everything that changes while it is trained.

    Attributes
    ----------
    trainer : AdaptTrainer
    estimate : Estimate
    n_clips : int
        That were cut.
    before, best : EvaluationResult
        Of the base model, and the best so far.
    best_state : dict of str to Tensor
        The weights of the latter.
    best_step : int
        0 stands for the base model, with the threshold of presence set anew if that is better.
    in_vain : int
        Judgements since then.
    curve : tuple of CurvePoint
    loss_sum : float
        Over ``loss_steps`` steps, since the last judgement.
    loss_steps : int
    """

    trainer: AdaptTrainer
    estimate: Estimate
    n_clips: int
    before: EvaluationResult
    best: EvaluationResult
    best_state: dict[str, Tensor]
    best_step: int = 0
    in_vain: int = 0
    curve: tuple[CurvePoint, ...] = ()
    loss_sum: float = 0.0
    loss_steps: int = 0

    @property
    def seconds_left(self) -> float:
        """As estimated before."""
        steps = self.estimate.steps - self.trainer.step
        judgements = max(0, self.estimate.judgements - len(self.curve))
        return steps * self.estimate.step_seconds + judgements * self.estimate.judge_seconds

    def take(self, found: EvaluationResult, candidate: nn.Module) -> None:
        """Note a judgement; keep the weights if they are the best so far."""
        loss = self.loss_sum / max(1, self.loss_steps)
        self.curve = (*self.curve, CurvePoint(self.trainer.step, loss, found.dice))
        self.loss_sum, self.loss_steps = 0.0, 0
        if is_better(found, self.best):
            self.best, self.best_step, self.in_vain = found, self.trainer.step, 0
            self.best_state = copied_state(candidate)
        else:
            self.in_vain += 1

    def to_state(self) -> dict[str, Any]:
        """For a checkpoint, just after a judgement."""
        return {
            "estimate": asdict(self.estimate),
            "n_clips": self.n_clips,
            "before": self.before.to_state(),
            "best": self.best.to_state(),
            "best_state": self.best_state,
            "best_step": self.best_step,
            "in_vain": self.in_vain,
            "curve": [asdict(point) for point in self.curve],
            "trainer": self.trainer.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], trainer: AdaptTrainer) -> Self:
        """The inverse of `to_state`; the trainer must be as it was made."""
        trainer.load_state(state["trainer"])
        return cls(
            trainer,
            Estimate(**state["estimate"]),
            state["n_clips"],
            EvaluationResult.from_state(state["before"]),
            EvaluationResult.from_state(state["best"]),
            state["best_state"],
            state["best_step"],
            state["in_vain"],
            tuple(CurvePoint(**point) for point in state["curve"]),
        )


def is_better(found: EvaluationResult, than: EvaluationResult) -> bool:
    """Whether the held-out Dice is higher by more than rounding."""
    return found.dice > than.dice + BETTER


def copied_state(module: nn.Module) -> dict[str, Tensor]:
    """The weights of a module, which do not change with it."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write what `read_checkpoint` reads: whole, or not at all.

    Raises
    ------
    OutputError
        It cannot be written; what was there is as it was.
    """
    try:
        atomic_write(path, lambda file: torch.save(dict(state), file), overwrite=True)
    except RuntimeError as error:  # torch wraps the error of the disk
        raise OutputError(str(path), "cannot be written", found=str(error)) from error


def read_checkpoint(path: Path, key: str, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint of the adaptation with this key; no code in it is run.

    Raises
    ------
    CheckpointError
        It is none, is damaged, or is of another adaptation.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = state["key"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            str(path), "is not the checkpoint of an adaptation", found=type(error).__name__
        ) from error
    if found != key:
        raise CheckpointError(
            str(path),
            "is the checkpoint of another adaptation",
            expected="the same volumes, base model and recipe",
            hint="Give these, or another path for the checkpoint.",
        )
    return dict(state)
