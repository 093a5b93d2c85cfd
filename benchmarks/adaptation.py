r"""What adapting the compact network to a few volumes is worth on other volumes of their kind.

    python benchmarks/adaptation.py --volumes FOLDER --model weights.safetensors --json adapted.json
    python benchmarks/adaptation.py --volumes FOLDER --model weights.safetensors \
        --recipe this-volume --protocols 1 3
    python benchmarks/adaptation.py --volumes FOLDER --kinds mr_hippocampus \
        --model both.safetensors long.safetensors --train-on 1
    python benchmarks/adaptation.py --volumes FOLDER --model weights.safetensors --memory both long
    python benchmarks/adaptation.py --load adapted.json

FOLDER is as for ``accuracy.py``; the kind of a volume is its name up to the second underscore.
Recipe ``quick``: for every kind of two and more volumes, adapt on one (``--train-on 1``) or on all
but one (``--train-on all``), test on those that were not used. ``this-volume``: adapt on the
annotated slices of a volume, test on its other slices. Tests are those of ``accuracy.py``: one
annotated slice per label (``--protocols`` for more), annotated slices left out of Dice. Where the
adaptation found nothing better on what it had held out, the old model is kept, as the command
does, and before and after are the same; ``kept`` counts the adaptations that were used.

``--memory`` reads the weights as a network with one memory less: the same parameters, another
path. For networks that were trained with one memory from the start, give several ``--model``.
Intervals: 95 %, bootstrap over volumes and the labels in them, of the paired difference.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import find_folders, whole_number
from accuracy_runs import LabelledVolume, Task, load_volume, measure, thin_out

from napari_slmsam2.core.atomic_write import atomic_write, check_writable
from napari_slmsam2.core.errors import ConfigError, SlmSam2Error
from napari_slmsam2.engine.loading import LoadedNetwork, load_network
from napari_slmsam2.engine.weights.checkpoints import load_state, save_weights
from napari_slmsam2.evaluate import PROTOCOLS, AnnotationProtocol, seed_volume
from napari_slmsam2.evaluate.bootstrap import nested_interval, nested_mean
from napari_slmsam2.training.adapt.adaptation import Adaptation
from napari_slmsam2.training.data.labelled_scan import LabelledScan
from napari_slmsam2.training.recipes import RECIPES, AdaptRecipe, get_recipe

FORMAT = 1
MEASURED = ("dice", "nsd", "op_voxels")


@dataclass(frozen=True, slots=True)
class Experiment:
    """Adapt on some volumes, test on others."""

    kind: str
    model: str
    memory: str
    protocol: str
    train: tuple[Path, ...]
    test: tuple[Path, ...]


def kinds_of(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The volumes by their kind."""
    kinds: dict[str, list[Path]] = {}
    for folder in folders:
        kinds.setdefault("_".join(folder.name.split("_")[:2]), []).append(folder)
    return kinds


def plan(arguments: argparse.Namespace) -> list[Experiment]:
    """Everything that is to be done."""
    kinds = kinds_of(find_folders(arguments.volumes, None))
    unknown = [kind for kind in arguments.kinds or () if kind not in kinds]
    if unknown:
        raise ConfigError("--kinds", "is not there", expected=", ".join(kinds), found=unknown[0])
    source = get_recipe(arguments.recipe).source
    splits = [
        (kind, *split)
        for kind, folders in kinds.items()
        if kind in (arguments.kinds or kinds)
        for split in (
            [((f,), (f,)) for f in folders]
            if source == "seeds"
            else split_kind(folders, arguments.train_on)
        )
    ]
    return [
        Experiment(kind, model, memory, protocol, train, test)
        for model in arguments.model
        for memory in arguments.memory
        for protocol in arguments.protocols
        for kind, train, test in splits
    ]


def split_kind(
    folders: Sequence[Path], sizes: Sequence[str]
) -> Iterator[tuple[tuple[Path, ...], tuple[Path, ...]]]:
    """Every volume is trained on alone, or left out once."""
    if len(folders) < 2:
        return
    for one in folders:
        others = tuple(f for f in folders if f is not one)
        if "1" in sizes:
            yield (one,), others
        if "all" in sizes and len(folders) > 2:
            yield others[:5], (one,)


def run(
    experiment: Experiment, recipe: AdaptRecipe, arguments: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Adapt and test; the record holds the experiment, its duration and all scores."""
    base = with_memory(load_network(experiment.model), experiment.memory, folder)
    scans = [open_scan(f, experiment, recipe, arguments.max_labels) for f in experiment.train]
    job = Adaptation(scans, base, recipe, device=arguments.device)
    job.prepare()
    report = job.run()
    new = base.path
    if report.improved:
        name = "-".join(f.name for f in experiment.train)
        new = job.save(
            folder / f"{base.path.stem}-{experiment.protocol}-{name}.safetensors", report
        )
    tests = []
    for place in experiment.test:
        before, after = (
            measure(
                Task(place, str(p), experiment.protocol, arguments.device, arguments.max_labels)
            )
            for p in (base.path, new)
        )
        tests.append(
            {
                "volume": place.name,
                "before": {str(s["label"]): scores(s) for s in before["structures"]},
                "after": {str(s["label"]): scores(s) for s in after["structures"]},
            }
        )
    return {
        "kind": experiment.kind,
        "model": Path(experiment.model).name,
        "sha256": base.sha256,
        "memory": experiment.memory,
        "protocol": experiment.protocol,
        "recipe": recipe.to_dict(),
        "train": [f.name for f in experiment.train],
        "adaptation": report.to_dict(),
        "tests": tests,
    }


def with_memory(base: LoadedNetwork, memory: str, folder: Path) -> LoadedNetwork:
    """The same weights in a network with these memories."""
    if memory == base.network.config.memory:
        return base
    path = folder / f"{base.path.stem}-{memory}.safetensors"
    if not path.exists():
        config = base.network.config.replace(memory=memory)
        save_weights(path, load_state(base.path), {"config": config.to_dict()})
    return load_network(path)


def open_scan(
    folder: Path, experiment: Experiment, recipe: AdaptRecipe, max_labels: int | None
) -> LabelledScan:
    """A volume as the recipe learns from it."""
    loaded: LabelledVolume = load_volume(folder)
    labels, truth = thin_out(loaded.labels, max_labels), loaded.truth
    volume = loaded.volume
    if recipe.source == "seeds":
        protocol = AnnotationProtocol.parse(experiment.protocol)
        seeds = {x: protocol.choose_seeds(truth == x, volume.axis) for x in labels}
        truth = seed_volume(truth, seeds, volume.axis)
    return LabelledScan.of(
        volume, truth, window=loaded.window, chosen=labels, seeds=recipe.source == "seeds"
    )


def scores(structure: dict[str, Any]) -> dict[str, float | None]:
    """Dice and NSD without the annotated slices, over-propagation with them."""
    return {m: structure["all_slices" if m == "op_voxels" else "scores"][m] for m in MEASURED}


def pairs(runs: Sequence[dict[str, Any]], measure_name: str) -> list[list[tuple[float, float]]]:
    """Before and after of every label of every tested volume."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in runs:
        for test in record["tests"]:
            for label, before in test["before"].items():
                values = before[measure_name], test["after"][label][measure_name]
                found.setdefault(test["volume"], []).append(
                    tuple(math.nan if v is None else v for v in values)
                )
    return list(found.values())


def print_tables(runs: Sequence[dict[str, Any]]) -> None:
    """The means of every setting, then every structure."""
    titles = ["kind", "model", "memory", "slices", "trained on", "tests", "Dice before", "after"]
    titles += ["difference, 95 %", "NSD before", "after", "outside before", "after", "kept", "s"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    grouped: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in runs:
        own = record["recipe"]["source"] == "seeds"
        size = "itself" if own else str(len(record["train"]))
        key = (record["kind"], record["model"], record["memory"], record["protocol"], size)
        grouped.setdefault(key, []).append(record)
    for key, members in grouped.items():
        dice = pairs(members, "dice")
        change = [[after - before for before, after in volume] for volume in dice]
        low, high = nested_interval(change)
        cells = [*key, str(sum(len(r["tests"]) for r in members)), *means(dice)]
        cells += [f"{nested_mean(change):+.3f} ({low:+.3f} to {high:+.3f})"]
        cells += [*means(pairs(members, "nsd")), *means(pairs(members, "op_voxels"))]
        kept = sum(r["adaptation"]["improved"] for r in members)
        seconds = np.mean([r["adaptation"]["seconds"] for r in members])
        print("| " + " | ".join([*cells, f"{kept}/{len(members)}", f"{seconds:.0f}"]) + " |")
    print("\n| trained on | tested on | label | Dice before | after |\n|---|---|---|---|---|")
    for record in runs:
        for test in record["tests"]:
            for label, before in test["before"].items():
                values = (before["dice"], test["after"][label]["dice"])
                shown = ["-" if v is None else f"{v:.3f}" for v in values]
                print(
                    "| "
                    + " | ".join([", ".join(record["train"]), test["volume"], label, *shown])
                    + " |"
                )


def means(values: Sequence[Sequence[tuple[float, float]]]) -> list[str]:
    """Mean before and after, over the labels of a volume, then over the volumes."""
    return [f"{nested_mean([[v[i] for v in volume] for volume in values]):.3f}" for i in (0, 1)]


def store(path: Path, runs: Sequence[dict[str, Any]], *, overwrite: bool) -> None:
    """Write everything that was measured."""
    text = json.dumps({"format": FORMAT, "command": sys.argv[1:], "runs": list(runs)}, indent=1)
    atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"), overwrite=overwrite)


def collect(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Stored runs and new ones; what has been measured is on the disk after every run."""
    runs = [run for path in arguments.load for run in json.loads(path.read_text())["runs"]]
    if arguments.volumes is None:
        return runs
    given = {"minutes": arguments.minutes, "steps": arguments.steps}
    changes = {name: value for name, value in given.items() if value is not None}
    if arguments.steps is not None:
        changes["fewest_steps"] = 1
    recipe = get_recipe(arguments.recipe).replace(**changes)
    experiments, overwrite = plan(arguments), arguments.force
    with tempfile.TemporaryDirectory() as work:
        for number, experiment in enumerate(experiments, 1):
            runs.append(run(experiment, recipe, arguments, Path(work)))
            description = f"{', '.join(f.name for f in experiment.train)}, {experiment.memory}"
            verdict = runs[-1]["adaptation"]["verdict"]
            print(
                f"[{number}/{len(experiments)}] {description}: {verdict}",
                file=sys.stderr,
                flush=True,
            )
            if arguments.json is not None:
                store(arguments.json, runs, overwrite=overwrite)
                overwrite = True
    return runs


def read_command_line() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--volumes", type=Path, help="without it, nothing is measured")
    add("--kinds", nargs="+", metavar="KIND", help="these only; all by default")
    add("--model", nargs="+", default=[], help="names or files of compact networks")
    add("--memory", nargs="+", choices=("both", "short", "long"), default=["both"])
    add("--recipe", choices=RECIPES, default="quick")
    protocols = [str(protocol) for protocol in PROTOCOLS]
    add("--protocols", nargs="+", choices=protocols, default=["1"])
    add("--train-on", nargs="+", choices=("1", "all"), default=["1", "all"])
    add("--minutes", type=float, help="of every adaptation; the recipe's by default")
    add("--steps", type=whole_number, help="at most; the recipe's by default")
    add("--max-labels", type=whole_number, help="of a volume, evenly spaced; all by default")
    add("--device", default="auto", help="auto, cpu, mps, cuda or cuda:N")
    add("--json", type=Path, help="store everything here, after every run")
    add("--force", action="store_true", help="--json may replace a file")
    add("--load", nargs="+", type=Path, default=[], help="show stored results as well")
    arguments = parser.parse_args()
    if arguments.volumes is None and not arguments.load:
        parser.error("give --volumes to measure, or --load to show stored results")
    if arguments.volumes is not None and not arguments.model:
        parser.error("give --model")
    return arguments


def main() -> None:
    """Adapt, test, store, print."""
    arguments = read_command_line()
    try:
        if arguments.json is not None:
            check_writable(arguments.json, overwrite=arguments.force)
        print_tables(collect(arguments))
    except SlmSam2Error as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
