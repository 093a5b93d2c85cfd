"""The table of `against_sam2.py`: parity first, then times and memory of all cases."""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np
import torch
from against_sam2 import (
    FULL_BANK,
    SHAPE,
    GeneratedVolume,
    Ours,
    Theirs,
    make_network,
    means_of_four,
    peak_of_process,
    seeds,
)
from tests.random_weights import randomise

from napari_slmsam2.core.config import PropagationConfig, slm_sam2_config
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.engine.device import choose_device
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.reference_order import ReferenceOrder
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter

TOLERANCE = 1e-3
"""Largest difference of a mask logit in float32 with which the table is printed."""

TARGETS = {  # milliseconds on one NVIDIA H200: network, input size, labels
    ("SAM 2", 1024, 1): 11,
    ("SAM 2", 512, 1): 6,
    ("SAM 2", 1024, 10): 42,
    ("SAM 2", 512, 10): 18,
    ("SLM-SAM 2", 1024, 1): 14,
    ("SLM-SAM 2", 1024, 10): 55,
}


def print_table(arguments: argparse.Namespace) -> None:
    """Check parity, then print one row per network, input size and number of labels.

    Ends with exit status 1 where the logits differ.
    """
    started = time.perf_counter()
    device = choose_device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    print(f"{name}, torch {torch.__version__}, {arguments.slices} slices, random weights")
    worst = parity(min(arguments.sizes), device)
    print(f"parity with SAM 2 in float32: largest difference of a logit {worst:.1e}")
    if not worst <= TOLERANCE:
        sys.exit(1)
    print("| network | px | labels | SAM 2, ms | here, ms | target, ms | graphs | peak, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for family in ("SAM 2", "SLM-SAM 2"):
        for size in arguments.sizes:
            for labels in arguments.labels:
                print_row(family, size, labels, device, arguments)
    print_growth(max(arguments.sizes), device, arguments.slices)
    print(f"{time.perf_counter() - started:.0f} s so far", flush=True)
    if device.type == "cuda" or arguments.compiled:
        print_compiled(max(arguments.sizes), device, arguments.slices)
        print(f"{time.perf_counter() - started:.0f} s in all")


def parity(size: int, device: torch.device, slices: int = 10) -> float:
    """Largest difference of a logit from SAM 2's own predictor, over a forward walk."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    network = make_network(size).to(device).eval()
    volume = GeneratedVolume(slices)
    theirs = Theirs(network, size, volume, 1)
    segmenter = NetworkSegmenter(network, name="sam2", device=device)
    walk = ReferenceOrder(segmenter, lambda i: segmenter.encode_image(volume[i]), slices, SHAPE)
    walk.add_prompt(SlicePrompt.from_mask(1, 0, seeds(1)[0]))
    differences = [
        np.abs(logits[0, 0].cpu().numpy() - ours.logits[1]).max()
        for (_, _, logits), ours in zip(theirs.walk(), walk.walk(0), strict=True)
    ]
    torch.backends.cudnn.allow_tf32 = allowed
    return float(max(differences))


def print_row(
    family: str, size: int, labels: int, device: torch.device, arguments: argparse.Namespace
) -> None:
    """Times of one case, SAM 2's predictor first; it has no short-term memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if family == "SAM 2":
        network = make_network(size)
    else:
        network = SliceNetwork(slm_sam2_config("tiny", image_size=size))
        randomise(network, 0)
    network = network.to(device).eval()
    volume = GeneratedVolume(arguments.slices)
    ours = Ours(network, volume, labels, settings(arguments.slices))
    walk = ours.run()
    their_seconds, our_seconds = [], []
    if family == "SAM 2":
        theirs = Theirs(network, size, volume, labels)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            their_walk = theirs.run()
            next(their_walk)
            for seconds, _ in their_walk:
                their_seconds.append(seconds)
        del theirs
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    our_seconds = [seconds for seconds, _ in walk][: arguments.slices - 1]
    peak = f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f}" if device.type == "cuda" else ""
    calls = ours.session.load_model().captured_calls
    graphs = " + ".join(f"{count} {kind}" for kind, count in calls.items()) or "none"
    target = TARGETS.get((family, size, labels), "") if device.type == "cuda" else ""
    print(
        f"| {family} | {size} | {labels} | {milliseconds(their_seconds)} | "
        f"{milliseconds(our_seconds)} | {target} | {graphs} | {peak} |",
        flush=True,
    )


def settings(slices: int) -> PropagationConfig:
    """A forward run to the last slice."""
    return PropagationConfig(direction="forward", stop_after_absent=slices)


def milliseconds(seconds: list[float]) -> str:
    """The median of the slices with full memory, see `means_of_four`."""
    full = seconds[2 * FULL_BANK :] or seconds[FULL_BANK:] or seconds
    return f"{1000 * statistics.median(means_of_four(full)):.1f}" if full else ""


def print_growth(size: int, device: torch.device, slices: int) -> None:
    """Peak memory of runs of some slices and of three times as many, in both predictors.

    Of the device on a card, else of whole processes. The budget for embeddings is small.
    """
    print(
        "| peak memory, MiB | px | slices | three times as many | a slice |\n|---|---|---|---|---|"
    )
    for who in ("SAM 2", "here"):
        few, many = (
            peak_on_card(who, n, size, device)
            if device.type == "cuda"
            else peak_of_process({"SAM 2": "sam2"}.get(who, who), n, size)
            for n in (slices, 3 * slices)
        )
        a_slice = (many - few) / (2 * slices)
        print(f"| {who} | {size} | {slices}: {few:.0f} | {many:.0f} | {a_slice:.2f} |", flush=True)


def peak_on_card(who: str, slices: int, size: int, device: torch.device) -> float:
    """Peak memory of the tensors of one whole run, in MiB."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    network, volume = make_network(size).to(device).eval(), GeneratedVolume(slices)
    if who == "SAM 2":
        with torch.autocast(device.type, torch.bfloat16):
            for _ in Theirs(network, size, volume, 1).run():
                pass
    else:
        config = settings(slices).replace(embedding_budget=256)
        for _ in Ours(network, volume, 1, config).run():
            pass
    return torch.cuda.max_memory_allocated(device) / 2**20


def print_compiled(size: int, device: torch.device, slices: int) -> None:
    """Time of SAM 2 with its compiled image encoder, one label; compiling takes a minute or two."""
    network = make_network(size).to(device).eval()
    theirs = Theirs(network, size, GeneratedVolume(slices), 1, compiled=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        walk = theirs.run()
        next(walk)
        seconds = [second for second, _ in walk]
    print(f"SAM 2 with its compiled encoder, {size} px, 1 label: {milliseconds(seconds)} ms")
