"""Optimiser steps of `adapt --recipe paper`: clips of a batch one after another, and together.

    python benchmarks/training_steps.py
    python benchmarks/training_steps.py --device cuda --size 512 --network sam2

Operators and reads by the host are counted at torch's dispatcher (`operators.py`) and do not depend
on the machine; seconds are processor seconds on a CPU and medians. MiB are the most that the
tensors of a step take at once, beside the network and the state of the optimiser. "Recomputed": the
activations are, in the backward pass (`checkpointing`). Random weights, generated scans; all ways
take their steps by turns and see the same clips.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from operators import CallCounter, DispatchCounter
from tests.labelled_files import write_pair
from tests.random_weights import TINY, randomise

from napari_slmsam2.core.config import slm_sam2_config
from napari_slmsam2.engine.device import choose_device
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.training.data.labelled_scan import read_pair
from napari_slmsam2.training.data.split import split_data
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.recipes import PaperRecipe, get_recipe
from napari_slmsam2.training.sam2.clips import ClipSampler
from napari_slmsam2.training.sam2.trainer import Sam2Trainer

COUNTS = ("operators", "reads by the host", "uploads")
Way = tuple[int, bool]
"""Clips at once, and whether activations are recomputed."""


def main() -> None:
    """Print one row per number of clips that are computed at once, with and without activations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", choices=("tiny", "sam2"), default="tiny")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--slices", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.steps < 4:
        parser.error("--steps: at least 4, of which the first and the last two are not timed")
    device = choose_device(arguments.device)
    config = TINY if arguments.network == "tiny" else slm_sam2_config("tiny")
    config = config.replace(image_size=arguments.size)
    recipe = get_recipe("paper").replace(clip_slices=arguments.slices)
    assert isinstance(recipe, PaperRecipe)
    with tempfile.TemporaryDirectory() as folder:
        scans = [read_pair(*write_pair(Path(folder), seed)) for seed in range(2)]
    clips = ClipSampler(split_data(scans, 0).training_objects, recipe, arguments.size, device)
    trainers = {}
    for way in itertools.product((1, arguments.batch), (False, True)):
        network = SliceNetwork(config)
        randomise(network, 1)
        trainers[way] = Sam2Trainer(
            network, recipe, clips, steps=arguments.steps, batch_size=arguments.batch,
            distributed=DistributedContext(device=device), at_once=way[0], save_memory=way[1],
        )  # fmt: skip
    seconds: dict[Way, list[float]] = {way: [] for way in trainers}
    counted: dict[Way, Counter[str]] = {way: Counter() for way in trainers}
    peaks: dict[Way, float] = {}
    for step in range(arguments.steps):
        for way, trainer in trainers.items():
            started = clock(device)
            if step == arguments.steps - 2:
                peaks[way] = peak_memory(trainer.advance, device)
            elif step == arguments.steps - 1:
                with DispatchCounter(counted[way]), CallCounter(counted[way]):
                    trainer.advance()
            else:
                trainer.advance()
                seconds[way].append(clock(device) - started)
    head = "clips at once", "recomputed", "s a step", "MiB", *COUNTS
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for (at_once, save_memory), counts in counted.items():
        way = at_once, save_memory
        found = " | ".join(str(counts[k]) for k in COUNTS)
        print(
            f"| {at_once} | {'yes' if save_memory else 'no'} | "
            f"{statistics.median(seconds[way][1:]):.3f} | {peaks[way]:.0f} | {found} |"
        )


def peak_memory(step: Callable[[], object], device: torch.device) -> float:
    """MiB of tensors that a step has at once, in addition to those before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())]
    return float(np.cumsum(sizes).max()) / 2**20


def clock(device: torch.device) -> float:
    """Processor seconds of this process; on a card seconds, when it has finished its work."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
