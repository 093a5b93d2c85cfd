"""Time and memory of the parts of an adaptation, measured within seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import psutil
import torch

from napari_slmsam2.core.errors import DeviceMemoryError
from napari_slmsam2.engine.device import free_memory, is_out_of_memory

_SMALL_BATCH = 2
_MARGIN = 1.2
_SAMPLE_S = 0.005
_LONGEST_STEP_S = 40.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the parts of an adaptation take on this device.

    Attributes
    ----------
    clip_seconds : float
        Cutting one clip.
    step_seconds : float
        One optimiser step with a full batch.
    base_seconds : float
        Evaluating the base model before training.
    evaluation_seconds : float
        One evaluation during training.
    memory : int
        Bytes that a step needs in addition to what is in use.
    """

    clip_seconds: float
    step_seconds: float
    base_seconds: float
    evaluation_seconds: float
    memory: int


@dataclass(frozen=True, slots=True)
class TrialStep:
    """Seconds and bytes of memory of one step."""

    seconds: float
    memory: int


def clips_at_once(free: int, per_clip: int, batch_size: int) -> int:
    """Clips of a batch whose activations fit into the free memory together: at least 1.

    Parameters
    ----------
    free : int
        Bytes.
    per_clip : int
        Bytes of activations.
    batch_size : int
    """
    return max(1, min(batch_size, int(free / _MARGIN) // per_clip))


def profile_steps(
    step: Callable[[int], object],
    batch_size: int,
    device: torch.device,
    *,
    at_once: int | None = None,
) -> TrialStep:
    """Measure a step with two clips, then one with a full batch if that fits and takes seconds.

    Else the full batch is extrapolated from the small one.

    Parameters
    ----------
    step : callable
        ``step(batch_size)`` makes one step.
    batch_size : int
    device : torch.device
    at_once : int, optional
        Clips that are in memory together. Default: all of a batch.

    Raises
    ------
    DeviceMemoryError
        A step does not fit into the memory.
    """
    small = min(_SMALL_BATCH, batch_size)
    first = _measured(step, small, device)
    together = batch_size if at_once is None else min(at_once, batch_size)
    needed = int(_MARGIN * first.memory * together / min(small, together))
    free = free_memory(device)
    if needed > free:
        raise _too_large(device, batch_size, f"about {needed / 2**30:.2g} GiB", free)
    share = batch_size / small
    if first.seconds * share > _LONGEST_STEP_S:
        second = _measured(step, small, device)  # the first one loads libraries, too
        if second.seconds * share > _LONGEST_STEP_S:
            return TrialStep(second.seconds * share, needed)
    return _measured(step, batch_size, device)


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
    """Measures the largest growth of the memory in use."""

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
