"""State of an adaptation, in memory and in a checkpoint."""

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
from napari_slmsam2.training.adapt.estimate import Estimate
from napari_slmsam2.training.adapt.evaluation import EvaluationResult
from napari_slmsam2.training.adapt.protocols import AdaptTrainer
from napari_slmsam2.training.adapt.report import CurvePoint

BETTER = 1e-4
"""Smallest gain of held-out Dice that counts as better."""


@dataclass(slots=True, eq=False)
class AdaptRun:
    """Everything that changes during training.

    Attributes
    ----------
    trainer : AdaptTrainer
    estimate : Estimate
    n_clips : int
        Clips that were cut.
    before, best : EvaluationResult
        Scores of the base model, and the best so far.
    best_state : dict of str to Tensor
        Weights with the best scores.
    best_step : int
        0: the base model, with its presence threshold calibrated if that is better.
    since_best : int
        Evaluations since then.
    curve : tuple of CurvePoint
    loss_sum : float
        Sum over ``loss_steps`` steps, since the last evaluation.
    loss_steps : int
    """

    trainer: AdaptTrainer
    estimate: Estimate
    n_clips: int
    before: EvaluationResult
    best: EvaluationResult
    best_state: dict[str, Tensor]
    best_step: int = 0
    since_best: int = 0
    curve: tuple[CurvePoint, ...] = ()
    loss_sum: float = 0.0
    loss_steps: int = 0

    @property
    def seconds_left(self) -> float:
        """Of the remaining steps and evaluations, as estimated."""
        steps = self.estimate.steps - self.trainer.step
        evaluations = max(0, self.estimate.evaluations - len(self.curve))
        return steps * self.estimate.step_seconds + evaluations * self.estimate.evaluation_seconds

    def add(self, found: EvaluationResult, candidate: nn.Module) -> None:
        """Add an evaluation; keep the weights if they are the best so far."""
        loss = self.loss_sum / max(1, self.loss_steps)
        self.curve = (*self.curve, CurvePoint(self.trainer.step, loss, found.dice))
        self.loss_sum, self.loss_steps = 0.0, 0
        if is_better(found, self.best):
            self.best, self.best_step, self.since_best = found, self.trainer.step, 0
            self.best_state = copied_state(candidate)
        else:
            self.since_best += 1

    def to_state(self) -> dict[str, Any]:
        """Plain values and tensors for a checkpoint, directly after an evaluation."""
        return {
            "estimate": asdict(self.estimate),
            "n_clips": self.n_clips,
            "before": self.before.to_state(),
            "best": self.best.to_state(),
            "best_state": self.best_state,
            "best_step": self.best_step,
            "since_best": self.since_best,
            "curve": [asdict(point) for point in self.curve],
            "trainer": self.trainer.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], trainer: AdaptTrainer) -> Self:
        """The inverse of `to_state`; takes a new trainer."""
        trainer.load_state(state["trainer"])
        return cls(
            trainer,
            read_estimate(state),
            state["n_clips"],
            EvaluationResult.from_state(state["before"]),
            EvaluationResult.from_state(state["best"]),
            state["best_state"],
            state["best_step"],
            state["since_best"],
            tuple(CurvePoint(**point) for point in state["curve"]),
        )


def read_estimate(state: Mapping[str, Any]) -> Estimate:
    """The estimate in a checkpoint."""
    return Estimate(**state["estimate"])


def is_better(found: EvaluationResult, than: EvaluationResult) -> bool:
    """Whether the held-out Dice is higher by more than `BETTER`."""
    return found.dice > than.dice + BETTER


def copied_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights of a module."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint for `read_checkpoint`, completely or not at all.

    Raises
    ------
    OutputError
        It cannot be written; an existing file is unchanged.
    """
    try:
        atomic_write(path, lambda file: torch.save(dict(state), file), overwrite=True)
    except RuntimeError as error:  # torch wraps the error of the disk
        raise OutputError(str(path), "cannot be written", found=str(error)) from error


def read_checkpoint(path: Path, key: str, device: torch.device) -> dict[str, Any]:
    """Read the checkpoint of the adaptation with this key; runs no code from it.

    Raises
    ------
    CheckpointError
        The file is no checkpoint, is damaged, or belongs to another adaptation.
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
            expected="the same volumes, base model, recipe and version of this package",
            hint="Use these, or another path for the checkpoint.",
        )
    return dict(state)
