r"""Accuracy on real labelled volumes: models against floors, from one annotated slice to five.

    python benchmarks/accuracy.py --volumes FOLDER                     # the default model
    python benchmarks/accuracy.py --volumes FOLDER --model copy flow weights.safetensors \
        --protocols 1 1-ends 3 3-ends 5 5-ends --workers 2 --json results.json
    python benchmarks/accuracy.py --volumes FOLDER --model compact flow tvl1 copy --thin 3 \
        --protocols 1-ends 3-inner-ends                                # thick slices from thin ones
    python benchmarks/accuracy.py --load results.json --compare earlier.json

FOLDER holds NAME/image.nii.gz, NAME/labels.nii.gz and NAME/meta.json (``slice_axis``,
``suggested_eval_labels``, ``modality``, ``label_origin``). All chosen labels of a volume run
together, through the session that window and command line use.

The annotated slices are chosen from the true labels: protocol 1 is the largest slice, 3 adds the
first and the last slice with at least 20 % of the largest area, 5 the two midway; 3-inner is the
slices at 20, 50 and 80 % of the extent. With ``-ends`` the true first and last slice are marked as
well. With ``--thin N`` only every Nth slice of a volume is used, with N times the slice distance;
labels that are left on fewer than two slices are dropped.

Two baselines are known here only. ``copy`` gives every slice the mask of the nearest annotated one;
``tvl1`` warps the mask from slice to slice by plain TV-L1 flow in the box of the object and 40
pixels around it, at the resolution of the slice. Both fill the whole stack where the ends are not
marked.

Dice, NSD and their intervals leave the annotated slices out. "outside the extent": voxels beyond
the true first and last slice over true voxels. "absent slices empty": share of the slices beyond
them that are empty in the result. Means are taken over the labels of a volume, the volumes of a
group, the groups; intervals resample volumes and the labels in them (1000 times). Volumes whose
labels were not drawn by people are reported apart. Structures whose Dice falls by more than 0.01
although more slices were annotated are named; both results are measured on the slices that neither
protocol annotates. Seconds are those of the propagation, without
reading and without loading the model; "slices/s" counts a slice once for every label on it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import accuracy_tables as tables
from accuracy_baselines import BASELINES
from accuracy_runs import Task, measure
from accuracy_seeds import losses

import napari_slmsam2
from napari_slmsam2.core.atomic_write import atomic_write, check_writable
from napari_slmsam2.core.errors import ConfigError, SlmSam2Error, VolumeError
from napari_slmsam2.engine.weights.registry import DEFAULT_MODEL
from napari_slmsam2.evaluate import PROTOCOLS

FORMAT = 1
PACKAGES = ("numpy", "scipy", "scikit-image", "torch")


def find_folders(volumes: Path, only: Sequence[str] | None) -> list[Path]:
    """The folders of the volumes, by name."""
    found = {path.parent.name: path.parent for path in sorted(volumes.glob("*/meta.json"))}
    unknown = [name for name in only or () if name not in found]
    if unknown or not found:
        raise VolumeError(
            f"--volumes {volumes}",
            f"has no volume {unknown[0]}" if unknown else "holds no NAME/meta.json",
            found=", ".join(found) or None,
        )
    return [folder for name, folder in found.items() if only is None or name in only]


def plan(arguments: argparse.Namespace) -> list[Task]:
    """Everything that is to be measured, volume by volume."""
    names = [Path(model).name for model in arguments.model]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(
            "--model", "models of the tables must have different names", found=f"{twice[0]} twice"
        )
    return [
        Task(folder, model, protocol, arguments.device, arguments.max_labels, arguments.thin)
        for folder in find_folders(arguments.volumes, arguments.only)
        for model in arguments.model
        for protocol in arguments.protocols
    ]


def run(tasks: Sequence[Task], workers: int) -> Iterator[dict[str, Any]]:
    """Do the tasks, in their order."""
    if workers == 1:
        yield from map(measure, tasks)
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(measure, tasks)


def load(path: Path) -> list[dict[str, Any]]:
    """The runs of a file of results."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["format"] == FORMAT:
            return stored["runs"]
        problem = f"format {stored['format']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise ConfigError(str(path), "holds no results", expected=f"format {FORMAT}", found=problem)


def store(path: Path, runs: Sequence[dict[str, Any]], *, overwrite: bool) -> None:
    """Write everything that was measured, and the means."""
    means: dict[str, Any] = {}
    for settings, members in tables.group_runs(runs).items():
        means.setdefault(settings.model, {})[settings.protocol] = tables.summaries(members)
    made = {
        "version": napari_slmsam2.__version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "machine": platform.platform(),
        "processors": os.cpu_count(),
        "command": sys.argv[1:],
    }
    content = {"format": FORMAT, "made": made, "means": means, "runs": list(runs)}
    text = json.dumps(content, indent=1, allow_nan=False)
    atomic_write(path, lambda file: file.write_text(text, encoding="utf-8"), overwrite=overwrite)


def collect(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Stored runs and new ones; a new one takes the place of its stored counterpart.

    What has been measured is on the disk after every run.
    """
    loaded = [run for path in arguments.load for run in load(path)]
    known = {(r["volume"], *tables.Settings.of(r)): r for r in loaded}
    tasks = plan(arguments) if arguments.volumes is not None else []
    overwrite = arguments.force
    for number, record in enumerate(run(tasks, arguments.workers), 1):
        settings = tables.Settings.of(record)
        known[record["volume"], *settings] = record
        dice = tables.nested_mean(tables.nested(tables.values([record])))
        task_name = f"{record['volume']}, {settings.model}, protocol {settings.protocol}"
        print(f"[{number}/{len(tasks)}] {task_name}: {dice:.3f}", file=sys.stderr, flush=True)
        if arguments.json is not None:
            store(arguments.json, list(known.values()), overwrite=overwrite)
            overwrite = True
    return list(known.values())


def print_tables(runs: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]] | None) -> None:
    """Everything as Markdown, the comparison last."""
    grouped = tables.group_runs(runs)
    texts = [tables.details(settings, members) for settings, members in grouped.items()]
    apart = tables.not_by_people(grouped)
    texts += [] if apart is None else [apart]
    texts += [tables.measures(grouped), tables.comparison(grouped)]
    worse = losses(grouped)
    texts += [] if worse is None else [worse]
    texts += [] if earlier is None else [tables.changes(grouped, earlier)]
    print("\n\n".join(texts))


def whole_number(text: str) -> int:
    """A number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text}")
    return number


def read_command_line() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    protocols = [str(protocol) for protocol in PROTOCOLS]
    add("--volumes", type=Path, help="without it, nothing is measured")
    add("--only", nargs="+", metavar="NAME", help="these volumes; all by default")
    add(
        "--model",
        nargs="+",
        default=[DEFAULT_MODEL],
        help=f"a model's name, a file of weights, or {' or '.join(BASELINES)}; "
        f"{DEFAULT_MODEL} by default",
    )
    add("--protocols", nargs="+", choices=protocols, default=protocols, help="all by default")
    add("--max-labels", type=whole_number, help="of a volume, evenly spaced; all by default")
    add("--thin", type=whole_number, default=1, metavar="N", help="every Nth slice; all by default")
    add("--device", default="auto", help="auto, cpu, mps, cuda or cuda:N")
    add("--workers", type=whole_number, default=1, help="processes; times are rough above 1")
    add("--json", type=Path, help="store everything here, after every run")
    add("--force", action="store_true", help="--json may replace a file")
    add("--load", nargs="+", type=Path, default=[], help="show stored results as well")
    add("--compare", type=Path, help="print the changes against stored results")
    arguments = parser.parse_args()
    if arguments.volumes is None and not arguments.load:
        parser.error("give --volumes to measure, or --load to show stored results")
    return arguments


def main() -> None:
    """Measure, store, print."""
    arguments = read_command_line()
    try:
        if arguments.json is not None:
            check_writable(arguments.json, overwrite=arguments.force)
        earlier = None if arguments.compare is None else load(arguments.compare)
        print_tables(collect(arguments), earlier)
    except SlmSam2Error as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
