"""Speed, memory and masks against SAM 2's own video predictor, with the same random weights.

    python benchmarks/against_sam2.py --device cuda
    python benchmarks/against_sam2.py --device cpu --sizes 128 --labels 1 2 --slices 10
    python benchmarks/against_sam2.py speed --labels 1
    python benchmarks/against_sam2.py speed --labels 10 --slices 12
    python benchmarks/against_sam2.py memory --slices 24 96

Without a command: parity is checked in float32, then times and memory of all cases are printed as
tables; on a card the time of SAM 2 with its compiled image encoder comes last. ``speed``: both
predictors advance in turn, slice by slice, in one process, so that the ratio is free of the
machine's drift. No trained weights are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # read when torch imports it

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.random_weights import randomise
from tests.sam2_state import sam2_state

from napari_slmsam2.core.config import PropagationConfig, sam2_config
from napari_slmsam2.core.events import SliceSegmented
from napari_slmsam2.core.intensity import IntensityWindow
from napari_slmsam2.core.prompts import SlicePrompt
from napari_slmsam2.core.volume import Volume
from napari_slmsam2.engine.device import choose_device
from napari_slmsam2.engine.loading import make_segmenter
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.preprocess import SlicePreprocessor
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.session.session import SegmentationSession

SHAPE = (256, 256)
FULL_BANK = 8  # from this slice on the memory holds seven maps


class GeneratedVolume:
    """Discs that drift through textured slices, float32 in 0..1; a slice is made when it is read.

    So the input itself takes no memory, as with a file that is read slice by slice.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, n_slices: int) -> None:
        self.shape = (n_slices, *SHAPE)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | tuple) -> np.ndarray:
        z, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if not 0 <= z < len(self):
            raise IndexError(z)
        y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
        image = 0.3 + np.random.default_rng(z).normal(0, 0.05, SHAPE)
        for k in range(10):
            image[disc(x, y, z, k)] += 0.3
        return np.clip(image, 0, 1).astype(np.float32)[rest]


def disc(x: np.ndarray, y: np.ndarray, z: int, k: int) -> np.ndarray:
    """The k-th of ten objects on slice z."""
    row, column = 60 + 130 * (k // 5), 28 + 50 * (k % 5)
    return (y - row - 0.5 * z) ** 2 + (x - column - 0.2 * z) ** 2 < (20 - 0.1 * z) ** 2


def make_network(size: int) -> SliceNetwork:
    """SAM 2.1 Hiera-T with random weights."""
    network = SliceNetwork(sam2_config("tiny", image_size=size))
    randomise(network, 0)
    return network


def make_sam2(network: SliceNetwork, size: int, *, compiled: bool = False):
    """SAM 2's own predictor with the same weights; its image encoder can be compiled."""
    from hydra import initialize_config_module
    from sam2.build_sam import build_sam2_video_predictor

    with initialize_config_module("sam2", version_base="1.2"):
        predictor = build_sam2_video_predictor(
            "configs/sam2.1/sam2.1_hiera_t.yaml",
            device=network.device.type,
            hydra_overrides_extra=[
                f"++model.image_size={size}",
                f"++model.compile_image_encoder={str(compiled).lower()}",
            ],
        )
    predictor.load_state_dict(network.state_dict())
    predictor.fill_hole_area = 0
    return predictor


class Theirs:
    """SAM 2's predictor over a volume, all labels annotated on slice 0."""

    def __init__(
        self,
        network: SliceNetwork,
        size: int,
        volume: GeneratedVolume,
        labels: int,
        *,
        compiled: bool = False,
    ) -> None:
        self.predictor = make_sam2(network, size, compiled=compiled)
        preprocessor = SlicePreprocessor(network.image_size, network.device)
        images = torch.cat([preprocessor.image(slice_) for slice_ in volume])
        self.state = sam2_state(images, SHAPE)
        for k, mask in enumerate(seeds(labels)):
            self.predictor.add_new_mask(self.state, 0, k + 1, mask)

    def walk(self):
        """The predictor's own walk."""
        return self.predictor.propagate_in_video(self.state, start_frame_idx=0)

    def run(self):
        """Yield seconds and masks of every slice, shape (labels, H, W)."""
        walk = self.walk()
        while True:
            started = time.perf_counter()
            try:
                _, _, logits = next(walk)
            except StopIteration:
                return
            masks = logits[:, 0].cpu().numpy() > 0
            yield time.perf_counter() - started, masks


class Ours:
    """The package measured here, over the same volume."""

    def __init__(
        self, network: SliceNetwork, volume: GeneratedVolume, labels: int, config: PropagationConfig
    ) -> None:
        self.session = SegmentationSession(
            Volume(volume), config=config, window=IntensityWindow.from_limits(0.0, 1.0)
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "random.safetensors"
            save_weights(path, network.state_dict(), {"config": network.config.to_dict()})
            device = str(network.device)
            self.session.use_model(make_segmenter(path, device=device, config=config))
        for k, mask in enumerate(seeds(labels)):
            self.session.add_prompt(SlicePrompt.from_mask(k + 1, 0, mask))

    def run(self, **options):
        """Yield seconds and slice index of every segmented slice."""
        events = self.session.propagate(**options)
        while True:
            started = time.perf_counter()
            event = next(events, None)
            if event is None:
                return
            if isinstance(event, SliceSegmented):
                yield time.perf_counter() - started, event.index

    def masks(self, index: int, labels: int) -> np.ndarray:
        """Soft masks cut at 0 before overlaps are resolved, shape (labels, H, W)."""
        found = self.session.logits_on_slice(index)
        empty = np.full(SHAPE, -1.0)
        return np.stack([found.get(k + 1, empty) > 0 for k in range(labels)])


def seeds(labels: int) -> list[np.ndarray]:
    """Masks of the labels on slice 0."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return [disc(x, y, 0, k) for k in range(labels)]


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice of two masks, 1 where both are empty."""
    total = first.sum() + second.sum()
    return 1.0 if total == 0 else float(2 * (first & second).sum() / total)


def means_of_four(seconds: Sequence[float]) -> list[float]:
    """Seconds per slice of every four slices: on a card so many are encoded at once, ahead."""
    return [statistics.mean(seconds[k : k + 4]) for k in range(0, max(1, len(seconds) - 3), 4)]


def speed(arguments: argparse.Namespace) -> None:
    """Advance both by turns and print medians of the times and of the ratios."""
    volume = GeneratedVolume(arguments.slices)
    network = make_network(arguments.size).to(choose_device(arguments.device)).eval()
    config = PropagationConfig(
        direction="forward",
        stop_after_absent=arguments.slices,
        precision=arguments.precision,
        memory_pooling=arguments.pooling,
    )
    theirs = Theirs(network, arguments.size, volume, arguments.labels)
    ours = Ours(network, volume, arguments.labels, config)
    their_walk, our_walk = theirs.run(), ours.run()
    next(their_walk)
    started = time.perf_counter()
    rows, objects, backgrounds = [], [], []
    for their_seconds, their_masks in their_walk:
        our_seconds, index = next(our_walk)
        rows.append((their_seconds, our_seconds))
        our_masks = ours.masks(index, arguments.labels)
        objects.append(dice(their_masks, our_masks))
        backgrounds.append(dice(~their_masks, ~our_masks))
        print(
            f"slice {index}: sam2 {their_seconds:.2f} s, here {our_seconds:.2f} s, Dice of object "
            f"{objects[-1]:.4f}, of background {backgrounds[-1]:.4f}",
            file=sys.stderr,
        )
    full = rows[FULL_BANK - 1 :] or rows
    theirs_of, ours_of = (means_of_four(seconds) for seconds in zip(*full, strict=True))
    result = {
        "size": arguments.size,
        "labels": arguments.labels,
        "slices": arguments.slices,
        "precision": str(ours.session.load_model().precision),
        "pooling": arguments.pooling,
        "threads": torch.get_num_threads(),
        "sam2_seconds_per_slice": statistics.median(theirs_of),
        "our_seconds_per_slice": statistics.median(ours_of),
        "ratio": statistics.median(t / o for t, o in zip(theirs_of, ours_of, strict=True)),
        "whole_run_ratio": sum(t for t, _ in rows) / sum(o for _, o in rows),
        "dice_object_min": min(objects),
        "dice_object_mean": statistics.mean(objects),
        "dice_background_mean": statistics.mean(backgrounds),
        "seconds": time.perf_counter() - started,
    }
    result |= rerun(ours, arguments, sum(t for t, _ in rows))
    print(json.dumps(result, indent=1))


def rerun(ours: Ours, arguments: argparse.Namespace, their_whole_run: float) -> dict:
    """Correct one slice and fill only the gap between it and the first seed.

    SAM 2 has no way to run a part of the volume again, so that its whole walk is the comparison.
    """
    middle = arguments.slices // 4
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    last = arguments.slices - 1
    for k in range(arguments.labels):
        mask = disc(x, y, last, k)
        ours.session.add_prompt(SlicePrompt.from_mask(k + 1, last, mask))
    for _ in ours.run(gaps_only=True):
        pass
    for k in range(arguments.labels):
        ours.session.add_prompt(SlicePrompt.from_mask(k + 1, middle, disc(x, y, middle, k)))
    encoded = ours.session.encoded_slices
    seconds = [s for s, _ in ours.run(gaps_only=True, write_range=(0, middle))]
    return {
        "rerun_slices": middle - 1,
        "rerun_seconds": sum(seconds),
        "rerun_encoded_again": ours.session.encoded_slices - encoded,
        "rerun_ratio": their_whole_run / sum(seconds),
    }


def memory(arguments: argparse.Namespace) -> None:
    """Peak resident memory of whole processes, at several numbers of slices."""
    peaks: dict[str, list[float]] = {}
    for who in ("sam2", "here"):
        for n in arguments.slices:
            peaks.setdefault(who, []).append(peak_of_process(who, n, arguments.size))
            print(who, n, "slices:", peaks[who][-1], "MiB", file=sys.stderr)
    span = arguments.slices[-1] - arguments.slices[0]
    growth = {who: (p[-1] - p[0]) / span for who, p in peaks.items()}
    print(
        json.dumps(
            {
                "size": arguments.size,
                "slices": arguments.slices,
                "peak_MiB": peaks,
                "growth_MiB_per_slice": growth,
                "share": growth["here"] / growth["sam2"],
            },
            indent=1,
        )
    )


def peak_of_process(who: str, slices: int, size: int) -> float:
    """Peak resident memory of one whole run in a process of its own, in MiB."""
    command = [sys.executable, __file__, "one", who, str(slices), str(size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def one(arguments: argparse.Namespace) -> None:
    """One whole run of one predictor; prints the peak memory in MiB."""
    volume = GeneratedVolume(arguments.slices)
    network = make_network(arguments.size).eval()
    if arguments.who == "sam2":
        for _ in Theirs(network, arguments.size, volume, 1).run():
            pass
    else:
        config = PropagationConfig(
            direction="forward", stop_after_absent=arguments.slices, embedding_budget=16
        )
        for _ in Ours(network, volume, 1, config).run():
            pass
    # Not `resource.getrusage`: its maximum begins with that of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)


def table(arguments: argparse.Namespace) -> None:
    """Check parity and print the table of all cases."""
    from sam2_table import print_table  # which imports this module

    print_table(arguments)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 512])
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--compiled", action="store_true", help="also on a CPU")
    parser.set_defaults(run=table)
    commands = parser.add_subparsers()
    command = commands.add_parser("speed")
    command.add_argument("--labels", type=int, default=1)
    command.add_argument("--slices", type=int, default=24)
    command.add_argument("--size", type=int, default=1024)
    command.add_argument("--precision", default="auto")
    command.add_argument("--pooling", type=int, default=1)
    command.add_argument("--device", default="cpu")
    command.set_defaults(run=speed)
    command = commands.add_parser("memory")
    command.add_argument("--slices", type=int, nargs="+", default=[24, 96])
    command.add_argument("--size", type=int, default=1024)
    command.set_defaults(run=memory)
    command = commands.add_parser("one")
    command.add_argument("who", choices=("sam2", "here"))
    command.add_argument("slices", type=int)
    command.add_argument("size", type=int)
    command.set_defaults(run=one)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
