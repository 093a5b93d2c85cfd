"""Operators, casts, copies and reads by the host of one slice, and what its scaling takes.

    python benchmarks/operators.py
    python benchmarks/operators.py --against ../older-checkout --labels 1 10

Counts are medians over the slices of a run with full memory, and do not depend on the machine or
its load. They are taken at torch's dispatcher, so that a count on the CPU stands for launches on a
card; a read by the host (``item``, ``cpu``, ``tolist``, a condition on a tensor) waits for the
card, and a tensor made from Python numbers is a copy to it. The slices have 256 x 256 pixels.
Random weights, bfloat16.

The second table has the processor milliseconds of the host that the intensity window takes for a
slice, medians on one thread.

``--against`` counts another checkout of the package in a second process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from against_sam2 import GeneratedVolume, Ours
from tests.random_weights import randomise

from napari_slmsam2.core.config import PropagationConfig, sam2_config, slm_sam2_config
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.engine.inference_thread import run_on_inference_thread
from napari_slmsam2.engine.sam2.network import SliceNetwork

try:
    from napari_slmsam2.engine.sam2 import masks
except ImportError:  # an older checkout
    masks = None

KINDS = (
    "operators", "casts of weights", "other casts", "copies", "reads by the host",
    "KiB to the host", "uploads",
)  # fmt: skip
FULL_BANK = 8
SCALED = [(side, dtype) for side in (512, 1024) for dtype in ("uint8", "uint16", "float32")]
_COPIES = ("copy_", "clone", "cat", "stack", "contiguous")
_READS = ("cpu", "tolist", "item", "__bool__", "__float__", "__int__", "nonzero")
_UPLOADS = ("tensor", "as_tensor", "new_tensor")
_VIEWS = (
    "view", "_unsafe_view", "reshape", "permute", "transpose", "expand", "slice", "select", "split",
    "unsqueeze", "squeeze", "alias", "detach", "unbind", "t", "as_strided", "unfold",
    "split_with_sizes", "_reshape_alias", "view_as_real", "view_as_complex", "_conj", "lift_fresh",
)  # fmt: skip


class DispatchCounter(TorchDispatchMode):
    """Counts what reaches the kernels."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch._C.DispatchKey.CompositeImplicitAutograd not in func.py_kernels:
            with self:  # inference mode hands over operators that consist of others
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if name in _VIEWS:
            return result
        self.counts["operators"] += 1
        if name == "_to_copy" and result.dtype != args[0].dtype:
            weight = isinstance(args[0], torch.nn.Parameter)
            self.counts["casts of weights" if weight else "other casts"] += 1
        elif name in _COPIES or name == "_to_copy":
            self.counts["copies"] += 1
        return result


class CallCounter(TorchFunctionMode):
    """Counts the calls that make the host wait for a device."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in _READS:
            self.counts["reads by the host"] += 1
            self.counts["KiB to the host"] += args[0].nbytes / 1024
        elif name in _UPLOADS:
            self.counts["uploads"] += 1
        return func(*args, **(kwargs or {}))


def count(family: str, labels: int, size: int, slices: int) -> dict[str, float]:
    """Medians of a slice with full memory."""
    make = {"SAM 2": sam2_config, "SLM-SAM 2": slm_sam2_config}[family]
    network = SliceNetwork(make("tiny", image_size=size))
    randomise(network, 0)
    config = PropagationConfig(
        direction="forward",
        stop_after_absent=slices,
        precision="bfloat16",
        batch_size=max(8, labels),
    )
    ours = Ours(network.eval(), GeneratedVolume(slices), labels, config)
    rows: list[Counter[str]] = []

    counts: Counter[str] = Counter()
    if masks is not None:  # on a CPU nothing is copied, so that torch does not see this transfer
        transfer = masks.HostCopy.wait

        def counted(copy: masks.HostCopy) -> list:
            counts["reads by the host"] += 1
            counts["KiB to the host"] += sum(tensor.nbytes for tensor in copy._tensors) / 1024
            return transfer(copy)

        masks.HostCopy.wait = counted

    def run() -> None:
        walk = ours.run()
        while True:
            counts.clear()
            with DispatchCounter(counts), CallCounter(counts):
                if next(walk, None) is None:
                    return
            if counts["operators"]:  # else an event of the check at the end
                rows.append(counts.copy())

    run_on_inference_thread(run)
    if masks is not None:
        masks.HostCopy.wait = transfer
    return {kind: statistics.median(row[kind] for row in rows[FULL_BANK:]) for kind in KINDS}


def time_scaling(side: int, dtype: str, repeats: int = 25) -> float:
    """Processor milliseconds of the intensity window for a slice, the median."""
    noise = np.random.default_rng(0).random((side, side), np.float32)
    image = (noise * (65535 if dtype == "uint16" else 255)).astype(dtype)
    window, took = IntensityWindow(12.3, 203.7), []
    for _ in range(repeats):
        start = time.process_time()
        window.apply(image)
        took.append(time.process_time() - start)
    return statistics.median(took) * 1000


def main() -> None:
    """Print one row per network, number of labels and checkout, and one per checkout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--slices", type=int, default=14)
    parser.add_argument("--family", nargs="+", default=["SAM 2", "SLM-SAM 2"])
    parser.add_argument("--against", type=Path, help="another checkout of this package")
    parser.add_argument("--json", action="store_true", help="print numbers only")
    arguments = parser.parse_args()
    cases = [(family, labels) for family in arguments.family for labels in arguments.labels]
    found = {
        "here": {
            "counts": [count(*case, arguments.size, arguments.slices) for case in cases],
            "scaling": [time_scaling(*case) for case in SCALED],
        }
    }
    if arguments.json:
        print(json.dumps(found["here"]))
        return
    if arguments.against is not None:
        command = [sys.executable, __file__, *sys.argv[1:], "--json"]
        environment = {**os.environ, "PYTHONPATH": str(arguments.against.resolve() / "src")}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found = {str(arguments.against): json.loads(done.stdout.splitlines()[-1]), **found}
    print(f"| network | labels | checkout | {' | '.join(KINDS)} |")
    print(f"|---|---|---|{'---|' * len(KINDS)}")
    for position, (family, labels) in enumerate(cases):
        for checkout, rows in found.items():
            numbers = " | ".join(f"{rows['counts'][position][kind]:.6g}" for kind in KINDS)
            print(f"| {family} | {labels} | {checkout} | {numbers} |")
    print(f"\n| checkout | {' | '.join(f'{side} px, {dtype}' for side, dtype in SCALED)} |")
    print(f"|---|{'---|' * len(SCALED)}")
    for checkout, rows in found.items():
        print(f"| {checkout} | {' | '.join(f'{ms:.2f}' for ms in rows['scaling'])} |")


if __name__ == "__main__":
    main()
