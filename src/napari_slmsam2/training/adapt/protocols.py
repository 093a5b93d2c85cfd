"""What an adaptation needs of a trainer and of a network architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from napari_slmsam2.training.adapt.evaluation import EvaluationResult
from napari_slmsam2.training.adapt.measurement import TrialStep

Stop = Callable[[], bool]
Advanced = Callable[[int], object]


class AdaptTrainer(Protocol):
    """A trainer of any network.

    Attributes
    ----------
    step : int
        Number of steps so far.
    network : nn.Module
        The trained network.
    """

    step: int
    network: Any

    @property
    def averaged(self) -> Any:
        """The network that is evaluated and kept."""
        ...

    def advance(self) -> Mapping[str, float | Tensor]:
        """One step; returns its ``loss`` and the parts of it."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that is needed to continue."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`."""
        ...


class FineTuningBackend(Protocol):
    """What an adaptation needs of a network architecture."""

    @property
    def network(self) -> Any:
        """The network of the base model on the device; it is not changed."""
        ...

    def measure_clip(self) -> float:
        """Seconds for cutting one clip; the clips cut so far are used by `profile_steps`.

        Raises
        ------
        VolumeError
            No clip could be cut.
        """
        ...

    def cut(self, most: int, is_enough: Callable[[int], bool] = ...) -> int:
        """Cut clips until there are ``most``; returns their number."""
        ...

    def profile_steps(self) -> TrialStep:
        """Time and memory of a step; see `profile_steps` of `measurement`."""
        ...

    def measure_visit(self, should_stop: Stop) -> float:
        """Seconds for one label on one slice."""
        ...

    def limit_visits(self, labels: int) -> None:
        """Evaluate on at most so many labels, and calibrate on at most so many objects."""
        ...

    @property
    def visits(self) -> tuple[int, int]:
        """Visits of one label on one slice in an evaluation, and in making a candidate."""
        ...

    def trainer(self, steps: int) -> AdaptTrainer:
        """A trainer that starts from the base model."""
        ...

    def candidate(self, network: Any, advanced: Advanced = ...) -> nn.Module:
        """A network as it would be kept; the base model itself where nothing differs."""
        ...

    def evaluate(
        self, network: Any, should_stop: Stop = ..., advanced: Advanced = ...
    ) -> EvaluationResult | None:
        """Scores on the held-out part; None where it was stopped."""
        ...

    def write(
        self, trainer: Any, weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]
    ) -> None:
        """Write the weights of a candidate as one file."""
        ...
