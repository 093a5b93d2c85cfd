"""The same training, in one process or in each of several that ``torchrun`` starts."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from napari_slmsam2.engine.loading import LoadedNetwork, load_network
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.training.adapt import backends
from napari_slmsam2.training.adapt.adaptation import Adaptation
from napari_slmsam2.training.compact.config import TrainingConfig
from napari_slmsam2.training.compact.trainer import Trainer, train
from napari_slmsam2.training.data.labelled_scan import LabelledScan, read_pair
from napari_slmsam2.training.data.split import split_data
from napari_slmsam2.training.data.training_clips import ClipCutter
from napari_slmsam2.training.distributed import DistributedContext, init_distributed
from napari_slmsam2.training.recipes import PaperRecipe, get_recipe
from napari_slmsam2.training.sam2.clips import ClipSampler
from napari_slmsam2.training.sam2.trainer import Sam2Trainer
from tests.random_weights import TINY, without_dropout

RATES = {"adapted": 4e-4, "adapters": 4e-4, "trained": 1.5e-3, "tuned": 1e-4, "batched": 1e-4}
"""Learning rates: about what a step changes every weight by."""


def work(distributed: DistributedContext, data: Path, out: Path) -> None:
    """Train five networks; the first process writes what came of them into ``out``.

    In float32: in bfloat16 the parts of a batch are rounded otherwise than the whole.
    """
    backends.choose_dtype = lambda device, **options: torch.float32
    scan = read_pair(data / "image0.nii.gz", data / "labels0.nii.gz")
    base = load_network(data / "base.safetensors")
    _adapt(distributed, scan, base, out)
    _adapt_by_adapters(distributed, scan, base, out)
    _train(distributed, scan, base, out)
    _fine_tune(distributed, scan, out, "tuned")
    _fine_tune(distributed, scan, out, "batched", at_once=2)


def _adapt(
    distributed: DistributedContext, scan: LabelledScan, base: LoadedNetwork, out: Path
) -> None:
    recipe = get_recipe("quick").replace(
        minutes=30.0, clips=8, steps=2, fewest_steps=1, evaluations=1, batch_size=4,
        learning_rate=RATES["adapted"],
    )  # fmt: skip
    job = Adaptation(
        [scan], base, recipe, distributed=distributed, checkpoint=out / "checkpoint.pt"
    )
    job.prepare()
    report = job.run()
    if distributed.is_main:
        save_file(job._run.trainer.averaged.state_dict(), out / "adapted.safetensors")
        (out / "curve.txt").write_text(repr([(p.step, round(p.dice, 4)) for p in report.curve]))


def _adapt_by_adapters(
    distributed: DistributedContext, scan: LabelledScan, base: LoadedNetwork, out: Path
) -> None:
    recipe = get_recipe("quick").replace(
        minutes=30.0, clips=8, steps=2, fewest_steps=1, evaluations=1, batch_size=4,
        learning_rate=RATES["adapters"], trained="adapters",
    )  # fmt: skip
    job = Adaptation([scan], base, recipe, distributed=distributed)
    job.prepare()
    job.run()
    if distributed.is_main:
        parameters = job._run.trainer.averaged.named_parameters()
        own = {name: value for name, value in parameters if recipe.trains(name)}
        save_file(own, out / "adapters.safetensors")


def _train(
    distributed: DistributedContext, scan: LabelledScan, base: LoadedNetwork, out: Path
) -> None:
    cutter = ClipCutter(split_data([scan], 0), base.network, 0)
    cutter.cut(8)
    clips = cutter.clips(8)
    plan = TrainingConfig(
        steps=4, batch_size=5, learning_rate=RATES["trained"], precision="float32", warm_up=1
    )
    trainer = Trainer(base.network.config, plan, clips, distributed.device, distributed)
    train(trainer, out / "run", clips, validate_every=2, report=lambda line: None)
    if distributed.is_main:
        save_file(trainer.network.state_dict(), out / "trained.safetensors")


def _fine_tune(
    distributed: DistributedContext, scan: LabelledScan, out: Path, name: str, *, at_once: int = 1
) -> None:
    torch.manual_seed(0)
    network = SliceNetwork(TINY)
    if at_once > 1:
        without_dropout(network)  # which is drawn once for all clips of a process
    recipe = get_recipe("paper").replace(
        clip_slices=3,
        corrections=1,
        learning_rate=RATES[name],
        encoder_rate=RATES[name],
        clip_norm=1.0,
    )
    assert isinstance(recipe, PaperRecipe)
    clips = ClipSampler(split_data([scan], 0).training_objects, recipe, 64, distributed.device)
    trainer = Sam2Trainer(
        network, recipe, clips, steps=3, batch_size=3, distributed=distributed, at_once=at_once
    )
    losses = [trainer.advance()["loss"] for _ in range(3)]
    if distributed.is_main:
        save_file(trainer.network.state_dict(), out / f"{name}.safetensors")
        (out / f"losses_{name}.txt").write_text(" ".join(f"{loss:.5f}" for loss in losses))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with init_distributed("cpu") as context:
        work(context, Path(sys.argv[1]), Path(sys.argv[2]))
