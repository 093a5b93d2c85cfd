"""The input size of SAM 2 on a CPU, chosen by a measured time per slice.

Two parts of the network are timed on an input of 512 px, and their times are scaled: that of the
image encoder with the number of pixels, that of the memory attention with almost its square.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from napari_slmsam2.engine.device import choose_dtype, computing
from napari_slmsam2.engine.inference_thread import run_on_inference_thread
from napari_slmsam2.engine.sam2.network import SliceNetwork

LONGEST_SLICE_S = 3.0
"""Seconds per slice and label above which a smaller input is chosen, where none is specified."""

SMALL_INPUT = 512
"""The smaller input; one that is smaller still loses too much detail."""

_OTHER_PARTS = 1.4
"""Time of image encoder, mask decoder and memory encoder over that of the image encoder."""

_ATTENTION_POWER = 1.8
"""With which the time of the memory attention grows with the number of pixels (measured)."""


@dataclass(frozen=True, slots=True)
class PartTimes:
    """Seconds of the parts of a network on an input of 512 x 512 pixels.

    Attributes
    ----------
    encoder : float
        Image encoder.
    attention : float
        Memory attention of one label, with full memory.
    """

    encoder: float
    attention: float

    def slice_seconds(self, size: int) -> float:
        """Estimated time of one label on one slice with another input size."""
        pixels = (size / SMALL_INPUT) ** 2
        return _OTHER_PARTS * self.encoder * pixels + self.attention * pixels**_ATTENTION_POWER


@dataclass(frozen=True, slots=True)
class ChosenSize:
    """A smaller input than the model's own, and why.

    Attributes
    ----------
    size, own : int
        Side of the chosen input and of the model's own, in pixels.
    seconds, own_seconds : float
        Estimated time per slice and label with each.
    """

    size: int
    own: int
    seconds: float
    own_seconds: float

    def describe(self, setting: str) -> str:
        """One sentence for the user, with the name of the setting that decides instead."""
        return (
            f"input of {self.size} px: about {self.seconds:.2g} s per slice and label on this CPU. "
            f"{setting} {self.own}, the model's own, shows more detail and would take about "
            f"{self.own_seconds:.2g} s"
        )


def fit_to_cpu(network: SliceNetwork, precision: str) -> tuple[SliceNetwork, ChosenSize | None]:
    """A network with the input size that suits this CPU, which is measured.

    Parameters
    ----------
    network : SliceNetwork
        With its weights. Returned itself where its own size stays.
    precision : str
        See `napari_slmsam2.engine.device.choose_dtype`.
    """
    own = network.config.image_size
    if own <= SMALL_INPUT:
        return network, None
    dtype = choose_dtype(torch.device("cpu"), precision, image_size=own)
    network.eval()
    times = run_on_inference_thread(lambda: measure_parts(network, dtype))
    chosen = choose_size(own, times, LONGEST_SLICE_S)
    if chosen is None:
        return network, None
    with torch.random.fork_rng(devices=[]):
        smaller = SliceNetwork(network.config.replace(image_size=chosen.size))
    smaller.load_state_dict(network.state_dict())
    return smaller, chosen


def choose_size(own: int, times: PartTimes, longest: float) -> ChosenSize | None:
    """The input size for a CPU; None for the model's own.

    Parameters
    ----------
    own : int
        The model's own size.
    times : PartTimes
    longest : float
        Seconds per slice and label up to which the own size stays.
    """
    own_seconds = times.slice_seconds(own)
    if own <= SMALL_INPUT or own_seconds <= longest:
        return None
    return ChosenSize(SMALL_INPUT, own, times.slice_seconds(SMALL_INPUT), own_seconds)


def measure_parts(network: SliceNetwork, dtype: torch.dtype) -> PartTimes:
    """Time the parts of a network on the CPU; takes as long as two slices of 512 x 512 pixels."""
    config, side = network.config, SMALL_INPUT // 16
    image = torch.randn(config.encoded_slices, 3, SMALL_INPUT, SMALL_INPUT)
    tokens = torch.randn(side * side, 1, config.model_dim)
    with computing(torch.device("cpu"), dtype):
        encoder = _seconds(lambda: network.encode_image(image))
        attention = 0.0
        reads = [(network.memory_attention, config.memory_slices)]
        if config.has_short_memory:
            reads.append((network.recent_memory_attention, config.short_memory_slices))
        for module, maps in reads:
            memory = torch.randn(maps * side * side, 1, config.memory_dim)
            attention += _seconds(
                partial(module, curr=tokens, curr_pos=tokens, memory=memory, memory_pos=memory)
            )
    return PartTimes(encoder, attention)


def _seconds(compute: Callable[[], object]) -> float:
    """The shorter time of two calls: the first one loads libraries, too."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        compute()
        times.append(time.perf_counter() - started)
    return min(times)
