"""Time of one slice in float32 and bfloat16 on a CPU, at several network sizes.

    python benchmarks/precision.py
    python benchmarks/precision.py --threads 2 --pooling 2 --only "SAM 2.1 tiny, 1024 px"

On one thread: processor seconds, so that other work on the machine counts little; on several: wall
seconds, for an idle machine. The least of five. Random weights; seven memory maps and sixteen
pointers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.random_weights import randomise

from napari_slmsam2.core.config import ModelConfig, sam2_config, slm_sam2_config
from napari_slmsam2.engine.sam2.network import SliceNetwork, encode_distances
from napari_slmsam2.engine.sam2.tensors import MemoryTokens

COMPACT = {
    "embed_dim": 24,
    "stages": (1, 2, 3, 2),
    "global_attention_blocks": (4,),
    "model_dim": 128,
    "memory_dim": 32,
    "attention_layers": 2,
    "feedforward_dim": 256,
    "decoder_mlp_dim": 256,
    "iou_head_dim": 64,
}
NETWORKS = {
    "compact, 128 px": slm_sam2_config(image_size=128, **COMPACT),
    "compact, 256 px": slm_sam2_config(image_size=256, **COMPACT),
    "SAM 2.1 tiny, 256 px": sam2_config(image_size=256),
    "SAM 2.1 tiny, 512 px": sam2_config(image_size=512),
    "SAM 2.1 tiny, 1024 px": sam2_config(image_size=1024),
    "SLM-SAM 2 tiny, 1024 px": slm_sam2_config(image_size=1024),
}


def least(function: Callable[[], object], repeats: int = 5) -> float:
    """Least seconds of one call, after a warm-up."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    function()
    seconds = []
    for _ in range(repeats):
        started = clock()
        function()
        seconds.append(clock() - started)
    return min(seconds)


def memories(config: ModelConfig) -> tuple[MemoryTokens, MemoryTokens]:
    """A full long-term memory and a short-term one of one slice."""
    grid = config.image_size // 16
    maps = torch.randn(7, 1, config.memory_dim, grid, grid)
    pointers = torch.randn(16, 1, config.model_dim)
    distances = encode_distances(range(16), 15, config.model_dim, maps.device)
    long = MemoryTokens(maps, (6, 5, 4, 3, 2, 1, 0), pointers, distances)
    return long, MemoryTokens(maps[-1:], (0,), pointers[1:2], distances[1:2])


def main() -> None:
    """Print one row per network and precision."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pooling", type=int, default=1, choices=(1, 2, 4))
    parser.add_argument("--only", nargs="*", choices=NETWORKS, default=tuple(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| network | precision | encoder | memory attention and decoder | memory encoder |")
    print("|---|---|---|---|---|")
    for name in arguments.only:
        config = NETWORKS[name]
        network = SliceNetwork(config).eval()
        network.pool_memory(arguments.pooling)
        randomise(network, 0)
        image = torch.randn(1, 3, config.image_size, config.image_size)
        for dtype in (torch.float32, torch.bfloat16):
            half = dtype == torch.bfloat16
            with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=half):
                row = time_network(network, image)
            numbers = " | ".join(f"{seconds:.3f}" for seconds in row)
            print(f"| {name} | {str(dtype).removeprefix('torch.')} | {numbers} |", flush=True)


def time_network(network: SliceNetwork, image: torch.Tensor) -> tuple[float, float, float]:
    """Seconds of the encoder, of tracking one label, and of the memory encoder."""
    embedding = network.encode_image(image)
    memory = memories(network.config)
    output = network.track(embedding, *memory)
    made = embedding.feature, output.low_res_logits, output.presence_logit
    return (
        least(lambda: network.encode_image(image)),
        least(lambda: network.track(embedding, *memory)),
        least(lambda: network.encode_memory(*made, prompted=False)),
    )


if __name__ == "__main__":
    main()
