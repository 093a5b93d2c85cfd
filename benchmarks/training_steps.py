"""Optimiser steps of `adapt --recipe paper`: clips of a batch one after another, and together.

    python benchmarks/training_steps.py
    python benchmarks/training_steps.py --device cuda --size 512 --network sam2

Operators and reads by the host are counted at torch's dispatcher (`operators.py`) and do not depend
on the machine; seconds are processor seconds on a CPU and medians. Random weights, generated scans;
both ways take their steps by turns and see the same clips.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

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


def main() -> None:
    """Print one row per way."""
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
    device = choose_device(arguments.device)
    config = TINY if arguments.network == "tiny" else slm_sam2_config("tiny")
    config = config.replace(image_size=arguments.size)
    recipe = get_recipe("paper").replace(clip_slices=arguments.slices)
    assert isinstance(recipe, PaperRecipe)
    with tempfile.TemporaryDirectory() as folder:
        scans = [read_pair(*write_pair(Path(folder), seed)) for seed in range(2)]
    clips = ClipSampler(split_data(scans, 0).training_objects, recipe, arguments.size, device)
    trainers = {}
    for at_once in (1, arguments.batch):
        network = SliceNetwork(config)
        randomise(network, 1)
        trainers[at_once] = Sam2Trainer(
            network, recipe, clips, steps=arguments.steps, batch_size=arguments.batch,
            distributed=DistributedContext(device=device), at_once=at_once,
        )  # fmt: skip
    seconds: dict[int, list[float]] = {at_once: [] for at_once in trainers}
    counted: dict[int, Counter[str]] = {at_once: Counter() for at_once in trainers}
    for step in range(arguments.steps):
        for at_once, trainer in trainers.items():
            started = clock(device)
            if step == arguments.steps - 1:
                with DispatchCounter(counted[at_once]), CallCounter(counted[at_once]):
                    trainer.advance()
                continue
            trainer.advance()
            seconds[at_once].append(clock(device) - started)
    print("| clips at once | s a step | operators | reads by the host | uploads |")
    print("|---|---|---|---|---|")
    for at_once, counts in counted.items():
        found = " | ".join(str(counts[k]) for k in ("operators", "reads by the host", "uploads"))
        print(f"| {at_once} | {statistics.median(seconds[at_once][1:]):.3f} | {found} |")


def clock(device: torch.device) -> float:
    """Processor seconds of this process; on a card seconds, when it has finished its work."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()
