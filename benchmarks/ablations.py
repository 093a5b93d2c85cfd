"""What each part of the compact network is worth, at equal budget.

    napari-slmsam2 train --volumes TRAIN -o training --steps 1
    python benchmarks/ablations.py --clips training/clips --out ablations --steps 400
    python benchmarks/accuracy.py --volumes EVAL --model ablations/*.safetensors
    python benchmarks/ablations.py --cut TRAIN --clips whole --window slice --only both --out whole

Every variant sees the same clips in the same order from the same initial seed. The table gives
held-out scores of single steps; whole sweeps on real volumes are what `accuracy.py` measures.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.training.compact.config import LossWeights, TrainingConfig
from napari_slmsam2.training.compact.export import release
from napari_slmsam2.training.compact.trainer import Trainer
from napari_slmsam2.training.compact.validation import validate
from napari_slmsam2.training.data.shards import read_shards, write_shards

VARIANTS = {
    "both": {},
    "short": {"memory": "short"},
    "long": {"memory": "long"},
    "sum": {"fusion": "sum"},
    "one-seed": {"seed_slices": 1},
    "no-empty": {"empty": 0.0},
}
MEASURES = ("dice_known", "dice", "recall_present", "recall_absent", "overrun", "iou_error")


def run_variant(name: str, arguments: argparse.Namespace, clips: dict, held_out: dict) -> dict:
    """Train one variant, keep its weights, and judge it on the held-out clips."""
    changes = dict(VARIANTS[name])
    loss = LossWeights(**({"empty": changes.pop("empty")} if "empty" in changes else {}))
    config = CompactConfig(follow=arguments.window, **changes)
    if config.seed_slices == 1:
        clips, held_out = (
            {k: v[:, :1] if k.startswith("seed") else v for k, v in part.items()}
            for part in (clips, held_out)
        )
    plan = TrainingConfig(steps=arguments.steps, batch_size=arguments.batch, loss=loss)
    plan = replace(plan, warm_up=min(plan.warm_up, max(1, arguments.steps // 10)))
    trainer = Trainer(config, plan, clips, torch.device(arguments.device))
    for _ in range(plan.steps):
        trainer.advance()
    facts = {**trainer.metadata(), "ablation": name}
    path = arguments.out / f"{name}.safetensors"
    release(path, config, trainer.averaged.state_dict(), facts)
    return validate(trainer.averaged, held_out, trainer.device)


def cut_clips(arguments: argparse.Namespace) -> None:
    """Make the clips that are not there yet, from where the flow arrives."""
    config = CompactConfig(follow=arguments.window)
    folder, volumes = arguments.clips, arguments.cut
    write_shards(folder, volumes, config, split="train", numbers=range(arguments.shards))
    write_shards(folder, None, config, split="train", numbers=range(1))
    write_shards(folder, volumes, config, split="held-out", numbers=range(1), shard_clips=64)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=Path, required=True, help="folder made by the train command, or by --cut"
    )
    parser.add_argument("--cut", type=Path, metavar="VOLUMES", help="make the clips, from these")
    parser.add_argument("--shards", type=int, default=4, help="of 128 clips, with --cut")
    parser.add_argument(
        "--window",
        choices=("object", "slice"),
        default="object",
        help="what the window of the network, and of the clips, follows",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and scores")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.cut:
        cut_clips(arguments)
    clips, held_out = (read_shards(arguments.clips, split) for split in ("train", "held-out"))
    scores = {}
    print("| variant | " + " | ".join(MEASURES) + " |")
    print("|---" * (len(MEASURES) + 1) + "|")
    for name in arguments.only:
        scores[name] = run_variant(name, arguments, clips, held_out)
        row = " | ".join(f"{scores[name][m]:.3f}" for m in MEASURES)
        print(f"| {name} | {row} |", flush=True)
        (arguments.out / "scores.json").write_text(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
