"""Accuracy on real labelled volumes, through the command line.

    python benchmarks/accuracy.py --volumes FOLDER --model flow --seeds 1
    python benchmarks/accuracy.py --volumes FOLDER --model interpolation --seeds 3

FOLDER holds NAME/image.nii.gz, NAME/labels.nii.gz and NAME/meta.json (``slice_axis``,
``suggested_eval_labels``, ``modality``, ``label_origin``). The annotated slices are chosen from the
true labels: 1 is the largest slice, 3 adds the first and the last slice with at least 20 % of the
largest area, 5 the two midway. They are left out of the scores. Scores are averaged over the
labels of a volume, the volumes of a group, and the groups; volumes whose labels were not drawn by
people are reported apart.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from napari_slmsam2.evaluate import bootstrap_interval, choose_seeds, seed_volume
from napari_slmsam2.io import read_image, read_labels, write_labels

COMMAND = Path(sys.executable).with_name("napari-slmsam2")
GROUPS = {"ct": "CT", "mr": "MR", "pet": "PET", "em": "EM", "lm": "light"}
MEASURES = ("dice", "dice_all", "nsd", "op_voxels", "presence_f1")


def run_volume(folder: Path, arguments: argparse.Namespace, scratch: Path) -> dict:
    """Annotate, propagate and evaluate one volume; returns its mean scores."""
    meta = json.loads((folder / "meta.json").read_text())
    axis, labels = meta["slice_axis"], meta["suggested_eval_labels"]
    image_path, truth_path = folder / "image.nii.gz", folder / "labels.nii.gz"
    image = read_image(image_path, axis=axis)
    truth = np.asarray(read_labels(truth_path, image))
    seeds = {label: choose_seeds(truth == label, axis, arguments.seeds) for label in labels}
    seeds_path, result_path = scratch / "seeds.nii.gz", scratch / "labels.nii.gz"
    write_labels(seeds_path, seed_volume(truth, seeds, axis), image, overwrite=True)
    command = ["propagate", image_path, seeds_path, "-o", result_path, "--axis", axis, "--force"]
    command += ["--model", arguments.model, "--report", scratch / "report.json"]
    if arguments.ends:
        for label in labels:
            others = tuple(a for a in range(3) if a != axis)
            there = np.flatnonzero((truth == label).any(axis=others))
            command += ["--extent", f"{label}:{there[0]}:{there[-1]}"]
    started = time.perf_counter()
    call(command)
    seconds = time.perf_counter() - started
    scores_path = scratch / "scores.json"
    command = ["evaluate", result_path, truth_path, "--axis", axis, "--seeds", seeds_path]
    command += ["--labels", ",".join(map(str, labels)), "--json", scores_path]
    call(command)
    report = json.loads(scores_path.read_text())
    found = {
        "dice": mean(one["scores"]["overlap"]["dice"] for one in report["labels"]),
        "dice_all": mean(one["all_slices"]["overlap"]["dice"] for one in report["labels"]),
        "nsd": mean(one["scores"]["surface"]["nsd"] for one in report["labels"]),
        "op_voxels": mean(one["all_slices"]["extent"]["op_voxels"] for one in report["labels"]),
        "presence_f1": mean(one["all_slices"]["extent"]["f1"] for one in report["labels"]),
    }
    human = meta["label_origin"].lower().startswith("human")
    group = GROUPS[folder.name.split("_")[0]] if human else f"not human: {folder.name}"
    per_label = {str(one["label"]): one["scores"]["overlap"]["dice"] for one in report["labels"]}
    return (
        {"group": group, "labels": len(labels), "seconds": seconds}
        | found
        | {"dice_per_label": per_label}
    )


def call(command: list) -> None:
    """Run the command line; stop with what it printed where it fails."""
    done = subprocess.run(
        [str(part) for part in (COMMAND, *command)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stdout}{done.stderr}")


def mean(values) -> float:
    """Mean of what is defined."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else float("nan")


def print_table(volumes: dict[str, dict]) -> dict:
    """Print Markdown, per volume and per group, and return the means."""
    print("| volume | labels | Dice | with seeds | NSD | outside the extent | presence F1 | s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, one in volumes.items():
        numbers = " | ".join(f"{one[m]:.3f}" for m in MEASURES)
        print(f"| {name} | {one['labels']} | {numbers} | {one['seconds']:.0f} |")
    groups: dict[str, list[dict]] = {}
    for one in volumes.values():
        groups.setdefault(one["group"], []).append(one)
    means = {}
    for group, members in groups.items():
        means[group] = {m: mean(one[m] for one in members) for m in MEASURES}
        numbers = " | ".join(f"{means[group][m]:.3f}" for m in MEASURES)
        print(f"| **{group}**, {len(members)} volumes | | {numbers} | |")
    human = [g for g in means if not g.startswith("not human")]
    total = {m: mean(means[g][m] for g in human) for m in MEASURES}
    print("| **mean of groups** | | " + " | ".join(f"{total[m]:.3f}" for m in MEASURES) + " | |")
    dice = [one["dice"] for one in volumes.values() if one["group"] in human]
    low, high = bootstrap_interval(dice)
    print(f"\nMean Dice over volumes {mean(dice):.3f}, 95 % bootstrap {low:.3f} to {high:.3f}.")
    return means | {"mean of groups": total}


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--volumes", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=None, help="names of volumes")
    parser.add_argument("--model", default="flow")
    parser.add_argument("--seeds", type=int, choices=(1, 3, 5), default=1)
    parser.add_argument("--ends", action="store_true", help="tell the true first and last slice")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    volumes = {}
    for folder in sorted(p.parent for p in arguments.volumes.glob("*/meta.json")):
        if arguments.only is None or folder.name in arguments.only:
            with tempfile.TemporaryDirectory() as scratch:
                volumes[folder.name] = run_volume(folder, arguments, Path(scratch))
            print(f"{folder.name} {volumes[folder.name]['dice']:.3f}", file=sys.stderr)
    means = print_table(volumes)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"volumes": volumes, "means": means}, indent=1))


if __name__ == "__main__":
    main()
