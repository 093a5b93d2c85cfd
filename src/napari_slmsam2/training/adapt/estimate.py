"""What a training will take on this device, measured by two trial steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import psutil
import torch

from napari_slmsam2.core.errors import ConfigError, DeviceMemoryError
from napari_slmsam2.engine.device import is_out_of_memory
from napari_slmsam2.training.recipes import AdaptRecipe

JUDGING_SHARE = 0.3
"""Of the time, at most."""

_SMALL_BATCH = 2
_MARGIN = 1.2
_SAMPLE_S = 0.005


@dataclass(frozen=True, slots=True)
class Estimate:
    """Time and memory of an adaptation.

    Attributes
    ----------
    step_seconds, judge_seconds : float
        One step; one propagation of everything that was held out.
    memory : int
        Bytes that a step needs beside what is used already.
    steps : int
        That fit into the time.
    judgements : int
    seconds : float
        From now on, for all of them.
    """

    step_seconds: float
    judge_seconds: float
    memory: int
    steps: int
    judgements: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TrialStep:
    """Time and memory of one step."""

    seconds: float
    memory: int


def profile_steps(
    step: Callable[[int], object], batch_size: int, device: torch.device
) -> TrialStep:
    """A step with two clips, and one with all if the first one lets hope that it fits.

    Parameters
    ----------
    step : callable
        ``step(batch_size)`` makes one.
    batch_size : int
    device : torch.device

    Raises
    ------
    DeviceMemoryError
        A step does not fit into the memory.
    """
    small = min(_SMALL_BATCH, batch_size)
    first = _measured(step, small, device)
    needed = int(_MARGIN * first.memory * batch_size / small)
    free = free_memory(device)
    if needed > free:
        raise _too_large(device, batch_size, f"about {needed / 2**30:.2g} GiB", free)
    return _measured(step, batch_size, device)


def plan_time(
    recipe: AdaptRecipe, trial: TrialStep, judge_seconds: float, elapsed: float
) -> Estimate:
    """How many steps fit into the time of a recipe.

    Parameters
    ----------
    recipe : AdaptRecipe
    trial : TrialStep
    judge_seconds : float
    elapsed : float
        Seconds that are gone already.

    Raises
    ------
    ConfigError
        Not even the fewest steps fit.
    """
    left = 60 * recipe.minutes - elapsed
    judgements = recipe.judgements
    if judge_seconds > 0:
        judgements = max(1, min(judgements, int(JUDGING_SHARE * left / judge_seconds)))
    steps = int((left - judgements * judge_seconds) / max(trial.seconds, 1e-9))
    if steps < recipe.fewest_steps:
        whole = elapsed + recipe.fewest_steps * trial.seconds + judge_seconds
        raise ConfigError(
            f"recipe {recipe.name}",
            f"does not fit into {recipe.minutes:g} min on this device",
            expected=f"at least {recipe.fewest_steps} steps, which take about "
            f"{whole / 60:.1f} min with clips and judging",
            found=f"time for {max(0, steps)}",
            hint="Allow more time, take a smaller batch or another device.",
        )
    steps = min(steps, recipe.steps)
    judgements = min(judgements, steps)
    seconds = steps * trial.seconds + judgements * judge_seconds
    return Estimate(trial.seconds, judge_seconds, trial.memory, steps, judgements, seconds)


def free_memory(device: torch.device) -> int:
    """Bytes that are free for a step."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _measured(step: Callable[[int], object], batch_size: int, device: torch.device) -> TrialStep:
    with _Peak(device) as peak:
        started = time.perf_counter()
        try:
            step(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            needed, free = "more", free_memory(device)
            raise _too_large(device, batch_size, needed, free) from error
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return TrialStep(seconds, peak.grown)


def _too_large(device: torch.device, batch_size: int, needed: str, free: int) -> DeviceMemoryError:
    return DeviceMemoryError(
        f"device {device}",
        f"has too little memory to train with {batch_size} clips at a time",
        expected=needed,
        found=f"{free / 2**30:.2g} GiB free",
        hint="Take a smaller batch, close other programs, or choose another device.",
    )


class _Peak:
    """By how much the memory in use grows at most."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._before = self._most = 0

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._before = self._most = self._process.memory_info().rss
            self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._device.type == "cuda":
            self._most = torch.cuda.max_memory_allocated(self._device)
        else:
            self._done.set()
            self._watcher.join()

    @property
    def grown(self) -> int:
        return self._most - self._before

    def _watch(self) -> None:
        while True:
            self._most = max(self._most, self._process.memory_info().rss)
            if self._done.wait(_SAMPLE_S):
                return
