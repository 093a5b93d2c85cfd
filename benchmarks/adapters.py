r"""What slice adapters and confident memory are worth, against all weights and low-rank updates.

    python benchmarks/adapters.py --volumes FOLDER --base base.safetensors --train-base 20
    python benchmarks/adapters.py --volumes FOLDER --base base.safetensors --json adapters.json
    python benchmarks/adapters.py --load adapters.json

FOLDER is as for ``accuracy.py``, the kind of a volume as in ``adaptation.py``. ``--train-base``
trains a SAM 2 network of a compact width from random weights (further, if the file exists) on the
volumes of all kinds but those of ``--kinds``, for so many minutes, and stops. Then, for every kind
of ``--kinds``, every volume is left out once: the network is trained on the others for
``--minutes``, in each of the ways of ``--trained`` with each of ``--seeds`` random seeds, and
propagates one annotated slice per label through the volume that was left out, with the standard
and the confident memory. Minutes are of optimiser steps only, in processor time of this process
where it computes on the CPU. The last weights count; nothing is selected on held-out data. Scores
are those of ``accuracy.py``: the annotated slice is left out of Dice.

``--compact`` adapts the network ``compact`` in the ways that it has with ``adapt --recipe quick``,
whose minutes include clips and evaluation; it has no confident memory.

Differences are paired with the network before training, label by label; 95 % intervals are
bootstrapped over the volumes of a kind, their labels, and the seeds. What ``--json`` holds already
is not measured again: the same command continues a stopped one.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accuracy import find_folders, whole_number
from accuracy_runs import Task, load_model, load_volume, measure, thin_out
from adaptation import kinds_of, scores, split_kind

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.config import ModelConfig
from napari_slmsam2.core.errors import ConfigError, SlmSam2Error
from napari_slmsam2.engine.device import choose_device
from napari_slmsam2.engine.loading import load_network
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.weights.checkpoints import read_metadata, save_weights
from napari_slmsam2.evaluate.bootstrap import nested_interval, nested_mean
from napari_slmsam2.training.adapt.adaptation import Adaptation
from napari_slmsam2.training.data.labelled_scan import LabelledScan
from napari_slmsam2.training.data.split import TrainingObject
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.lora import merged
from napari_slmsam2.training.recipes import SLICE_ADAPTERS, TRAINED, PaperRecipe, get_recipe
from napari_slmsam2.training.sam2.clips import ClipSampler
from napari_slmsam2.training.sam2.slice_adapter import with_slice_adapter
from napari_slmsam2.training.sam2.trainer import Sam2Trainer

FORMAT = 1
KINDS = ("mr_hippocampus", "mr_sarcoma")
WAYS = ("all", "adapters", *SLICE_ADAPTERS)
MEMORIES = ("standard", "confident")
NETWORK = ModelConfig(
    image_size=128, embed_dim=24, stages=(1, 1, 3, 1), global_attention_blocks=(3,),
    model_dim=64, memory_dim=16, attention_layers=1, feedforward_dim=128, decoder_mlp_dim=128,
    iou_head_dim=64,
)  # fmt: skip
"""SAM 2.1 with about a quarter of the width of Hiera-T."""

RATES = {"learning_rate": 3e-4, "encoder_rate": 3e-4, "adapter_rate": 1e-3}
BASE_RATES = {"learning_rate": 5e-4, "encoder_rate": 5e-4}
"""Those of the recipe are for large pretrained networks. Not tuned."""

MOST_LABELS = 4
"""Objects of a volume that the base is trained on: volumes of many cells do not dominate."""

Key = tuple[str, str, str, int]
"""Kind, volume, label and seed."""

_TIMED_STEPS = 2


@dataclass(frozen=True, slots=True)
class Experiment:
    """Train in one way on some volumes of a kind, test on the one that is left out."""

    kind: str
    network: str
    trained: str
    seed: int
    train: tuple[str, ...]
    test: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> Experiment:
        """The experiment of a stored record."""
        fields = {name: record[name] for name in cls.__dataclass_fields__}
        return cls(**{**fields, "train": tuple(fields["train"])})


def plan(arguments: argparse.Namespace) -> list[Experiment]:
    """Everything that is to be done; ``none`` stands for the network before training."""
    kinds = kinds_of(find_folders(arguments.volumes, None))
    made = []
    for kind in arguments.kinds:
        folders = kinds[kind]
        one_of_two = len(folders) == 2
        for train, test in split_kind(folders, ("1",) if one_of_two else ("all",)):
            names = tuple(folder.name for folder in train)
            tested = test[0].name
            made.append(Experiment(kind, "sam2", "none", 0, (), tested))
            made += [
                Experiment(kind, "sam2", way, seed, names, tested)
                for way in arguments.trained
                for seed in range(arguments.seeds)
            ]
            if arguments.compact:
                made.append(Experiment(kind, "compact", "none", 0, (), tested))
                made += [
                    Experiment(kind, "compact", way, seed, names, tested)
                    for way in arguments.trained
                    if way not in SLICE_ADAPTERS
                    for seed in range(arguments.seeds)
                ]
    return made


def run(experiment: Experiment, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and test; the record holds the experiment, its duration and all scores."""
    train = [arguments.volumes / name for name in experiment.train]
    training: dict[str, Any] = {}
    if experiment.network == "compact":
        model = "compact"
        if experiment.trained != "none":
            model, training = adapt_compact(experiment, train, arguments, folder)
        memories = MEMORIES[:1]
    else:
        model, memories = str(arguments.base), MEMORIES
        if experiment.trained != "none":
            network = load_network(arguments.base).network
            recipe = recipe_of(experiment.trained, experiment.seed, RATES)
            if recipe.slice_adapter is not None:
                network = with_slice_adapter(network, recipe.slice_adapter, experiment.seed)
            trained, training = train_sam2(
                network, recipe, objects_of(train), 60 * arguments.minutes, arguments.device
            )
            model = str(store_network(folder / "trained.safetensors", trained))
    place = arguments.volumes / experiment.test
    labels: dict[str, dict[str, Any]] = {}
    for memory in memories:
        task = Task(place, model, "1", arguments.device, arguments.max_labels, memory=memory)
        load_model.cache_clear()  # every training has the same path
        found = measure(task)
        labels[memory] = {str(s["label"]): scores(s) for s in found["structures"]}
    return {**asdict(experiment), "training": training, "labels": labels}


def recipe_of(trained: str, seed: int, rates: dict[str, float]) -> PaperRecipe:
    """The recipe `paper` for a small network and short times."""
    recipe = get_recipe("paper")
    assert isinstance(recipe, PaperRecipe)
    return recipe.replace(
        trained=trained, seed=seed, clip_slices=4, corrections=0, clip_norm=1.0, layer_decay=1.0,
        weight_decay=0.01, checkpointing="off", **rates,
    )  # fmt: skip


def objects_of(folders: Sequence[Path], most: int | None = None) -> list[TrainingObject]:
    """Objects of some volumes, at most so many of each, on all of their slices."""
    found = []
    for folder in folders:
        loaded = load_volume(folder)
        volume = loaded.volume
        labels = thin_out(loaded.labels, most)
        scan = LabelledScan.of(volume, loaded.truth, window=loaded.window, chosen=labels)
        found += [TrainingObject(scan, x, 0, volume.n_slices - 1) for x in scan.areas]
    return found


def train_sam2(
    network: SliceNetwork,
    recipe: PaperRecipe,
    objects: Sequence[TrainingObject],
    seconds: float,
    device: str,
) -> tuple[SliceNetwork, dict[str, Any]]:
    """Train for a time; returns an ordinary network, and the number of steps and parameters."""
    place = choose_device(device)
    neighbours = network.config.encoded_slices // 2
    clips = ClipSampler(objects, recipe, network.config.image_size, place, neighbours)

    def trainer(steps: int) -> Sam2Trainer:
        return Sam2Trainer(
            copy.deepcopy(network),
            recipe,
            clips,
            steps=steps,
            batch_size=1,
            distributed=DistributedContext(device=place),
        )

    clock = time.process_time if place.type == "cpu" else time.perf_counter
    trial = trainer(_TIMED_STEPS + 1)
    trial.advance()  # loads libraries
    started = clock()
    for _ in range(_TIMED_STEPS):
        trial.advance()
    steps = max(1, round(seconds * _TIMED_STEPS / (clock() - started)))
    made, started = trainer(steps), clock()
    loss = []
    while made.step < steps and clock() - started < 1.2 * seconds:
        loss.append(made.advance()["loss"])
    n_trained = sum(p.numel() for p in made.network.parameters() if p.requires_grad)
    note = {"steps": made.step, "seconds": clock() - started, "parameters": n_trained}
    tenth = max(1, len(loss) // 10)
    note["loss"] = sum(loss[-tenth:]) / tenth
    return merged(made.network, network), note


def store_network(path: Path, network: SliceNetwork, **metadata: int) -> Path:
    """Write a network as a file that every command takes."""
    save_weights(path, network.state_dict(), {"config": network.config.to_dict(), **metadata})
    return path


def adapt_compact(
    experiment: Experiment, train: Sequence[Path], arguments: argparse.Namespace, folder: Path
) -> tuple[str, dict[str, Any]]:
    """Adapt ``compact`` as the command does; the base model where nothing was better."""
    recipe = get_recipe("quick").replace(
        minutes=arguments.minutes, trained=experiment.trained, seed=experiment.seed, fewest_steps=1
    )
    scans = [objects_of([place])[0].scan for place in train]
    base = load_network("compact")
    job = Adaptation(scans, base, recipe, device=arguments.device, fixed_time=False)
    job.prepare()
    report = job.run()
    assert report is not None
    note = {"steps": report.steps, "seconds": report.seconds, "improved": report.improved}
    if not report.improved:
        return "compact", note
    return str(job.save(folder / "compact.safetensors", report)), note


def train_base(arguments: argparse.Namespace) -> None:
    """Train the network that is adapted (further, if it exists) on the volumes of other kinds."""
    kinds = kinds_of(find_folders(arguments.volumes, None))
    folders = [f for kind, found in kinds.items() if kind not in arguments.kinds for f in found]
    done = 0
    if arguments.base.exists():
        network, done = load_network(arguments.base).network, read_metadata(arguments.base)["steps"]
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = SliceNetwork(NETWORK)
    trained, note = train_sam2(
        network,
        recipe_of("all", done, BASE_RATES),
        objects_of(folders, MOST_LABELS),
        60 * arguments.train_base,
        arguments.device,
    )
    store_network(arguments.base, trained, steps=done + note["steps"])
    print(f"{len(folders)} volumes, {done} steps before, {note}", flush=True)


def values(records: Sequence[dict[str, Any]], memory: str) -> dict[Key, float]:
    """Dice with one memory."""
    return {
        (r["kind"], r["test"], label, r["seed"]): math.nan if s["dice"] is None else s["dice"]
        for r in records
        for label, s in r["labels"].get(memory, {}).items()
    }


def nested(found: dict[Key, float]) -> list[Any]:
    """Seeds within labels within volumes within kinds."""
    tree: dict[str, dict[str, dict[str, list[float]]]] = {}
    for (kind, volume, label, _), value in found.items():
        tree.setdefault(kind, {}).setdefault(volume, {}).setdefault(label, []).append(value)
    return [[list(labels.values()) for labels in volumes.values()] for volumes in tree.values()]


def difference(found: dict[Key, float], other: dict[Key, float]) -> str:
    """Mean paired difference with its interval; what has one seed only is compared with it."""
    paired = {
        key: value - before
        for key, value in found.items()
        if (before := other.get(key, other.get((*key[:3], 0)))) is not None
    }
    low, high = nested_interval(nested(paired), fixed=1)
    return f"{nested_mean(nested(paired)):+.3f} ({low:+.3f} to {high:+.3f})"


def rows(records: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """One row for each network, way of training and memory."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["network"], record["trained"]), []).append(record)
    for (network, trained), members in groups.items():
        before = values(groups[network, "none"], MEMORIES[0])
        standard = values(members, MEMORIES[0])
        notes = [r["training"] for r in members if r["training"]]
        steps = sorted(note["steps"] for note in notes)
        for memory in MEMORIES:
            found = values(members, memory)
            if not found:
                continue
            kinds: dict[str, dict[Any, float]] = {}
            for key, value in found.items():
                kinds.setdefault(key[0], {})[key] = value
            by_kind = [f"{kind} {nested_mean(nested(v)):.3f}" for kind, v in kinds.items()]
            yield [
                network,
                TRAINED.get(trained, "before training"),
                memory,
                ", ".join(by_kind),
                f"{nested_mean(nested(found)):.3f}",
                "" if trained == "none" and memory == "standard" else difference(found, before),
                "" if memory == "standard" else difference(found, standard),
                f"{steps[0]} to {steps[-1]}" if steps else "",
                f"{notes[0]['parameters']:,}" if notes and "parameters" in notes[0] else "",
            ]


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """All records as one table."""
    titles = ["network", "trained", "memory", "Dice by kind", "mean", "change by training, 95 %"]
    titles += ["confident - standard, 95 %", "steps", "parameters"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    for row in rows(records):
        print("| " + " | ".join(row) + " |")


def collect(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Stored records and new ones; what has been measured is on the disk after every run."""
    stored = [path for path in (*arguments.load, arguments.json) if path and path.exists()]
    records = [r for path in stored for r in json.loads(path.read_text())["records"]]
    if arguments.volumes is None:
        return records
    if not arguments.base.exists():
        raise ConfigError(f"--base {arguments.base}", "does not exist", hint="Use --train-base.")
    known = {Experiment.of(record) for record in records}
    experiments = [one for one in plan(arguments) if one not in known]
    with tempfile.TemporaryDirectory() as work:
        for number, experiment in enumerate(experiments, 1):
            records.append(run(experiment, arguments, Path(work)))
            dice = {m: nested_mean(nested(values(records[-1:], m))) for m in MEMORIES}
            done = f"[{number}/{len(experiments)}] {experiment}: {dice}"
            print(done, file=sys.stderr, flush=True)
            if arguments.json is not None:
                store(arguments.json, records)
    return records


def store(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write everything that was measured."""
    content = {"format": FORMAT, "command": sys.argv[1:], "records": list(records)}
    text = json.dumps(content, indent=1)
    atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"), overwrite=True)


def read_command_line() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--volumes", type=Path, help="without it, nothing is measured")
    add("--kinds", nargs="+", metavar="KIND", default=list(KINDS))
    add("--trained", nargs="+", choices=WAYS, default=list(WAYS))
    add("--seeds", type=whole_number, default=3, help="random seeds of the training")
    add("--minutes", type=float, default=5.0, help="of every training")
    add("--base", type=Path, default=Path("base.safetensors"), help="the network that is adapted")
    add("--train-base", type=float, metavar="MINUTES", help="train it, and nothing else")
    add("--compact", action="store_true", help="adapt the network compact as well")
    add("--max-labels", type=whole_number, help="of a volume, evenly spaced; all by default")
    add("--device", default="cpu", help="auto, cpu, mps, cuda or cuda:N")
    add("--json", type=Path, help="store everything here, after every run, and continue from it")
    add("--load", nargs="+", type=Path, default=[], help="show stored results as well")
    arguments = parser.parse_args()
    if arguments.volumes is None and not arguments.load:
        parser.error("give --volumes to measure, or --load to show stored results")
    return arguments


def main() -> None:
    """Train, test, store, print."""
    arguments = read_command_line()
    try:
        if arguments.train_base is not None:
            train_base(arguments)
        else:
            print_table(collect(arguments))
    except SlmSam2Error as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
