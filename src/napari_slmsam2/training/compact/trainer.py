"""Training of the window network: it can be stopped at any time and goes on exactly."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.errors import CheckpointError
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.sweep import select
from napari_slmsam2.training.compact.rollout import LossWeights, roll_out, step_loss
from napari_slmsam2.training.compact.validation import validate
from napari_slmsam2.training.data.batch import Clips, make_batch, sampling_weights
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.lora import add_adapters
from napari_slmsam2.training.optimizer import make_adamw


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How a network is trained.

    Attributes
    ----------
    steps : int
        Optimiser steps of the whole training; the learning rate falls over them.
    batch_size : int
        Clips per step.
    asked_steps : int
        Slices of every clip that the network is asked for, drawn anew for every batch.
    learning_rate, weight_decay, clip_norm : float
        AdamW, with a warm-up of ``warm_up`` steps and a cosine down to a hundredth.
    warm_up : int
    average : float
        Decay of the running mean of the weights, which is what is kept.
    seed : int
    precision : {"bfloat16", "float32"}
    gentle : bool
        Augmentation keeps about to the orientation and the contrast of the volumes.
    loss : LossWeights
    """

    steps: int
    batch_size: int = 32
    asked_steps: int = 2
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    warm_up: int = 200
    average: float = 0.999
    seed: int = 0
    precision: str = "bfloat16"
    gentle: bool = False
    loss: LossWeights = field(default_factory=LossWeights)


class Trainer:
    """Network, optimiser and place in the training.

    The batch of a step depends on the seed and the number of the step alone, so that a training
    that goes on from a checkpoint does what it would have done.

    Parameters
    ----------
    config : CompactConfig
    plan : TrainingConfig
    clips : mapping
        From `read_shards`.
    device : torch.device
    distributed : DistributedContext, optional
        Processes that train together: all draw the same batch, each computes its part.
    """

    def __init__(
        self,
        config: CompactConfig,
        plan: TrainingConfig,
        clips: Clips,
        device: torch.device,
        distributed: DistributedContext | None = None,
    ) -> None:
        self.distributed = distributed or DistributedContext()
        torch.manual_seed(plan.seed)
        self.config, self.plan, self.device = config, plan, device
        self.network = CompactNetwork(config).to(device)
        self.averaged = CompactNetwork(config).to(device)
        self.averaged.load_state_dict(self.network.state_dict())
        self.averaged.requires_grad_(False)
        self.optimizer = make_adamw(self._groups(), lr=plan.learning_rate)
        self.step = 0
        self.use(clips)

    def use(self, clips: Clips) -> None:
        """Draw from these clips from now on."""
        self._clips = clips
        self._chances = sampling_weights(clips["set_names"])
        self._length = clips["positions"].shape[1]

    def start_from(self, network: CompactNetwork) -> None:
        """Take over the weights of a trained network."""
        for own in (self.network, self.averaged):
            own.load_state_dict(network.state_dict())

    def train_adapters(self, rank: int) -> None:
        """Train low-rank updates of the weights in place of the weights, from the first step on."""
        for own in (self.network, self.averaged):
            add_adapters(own, rank, self.plan.seed)
        self.averaged.requires_grad_(False)
        self.optimizer = make_adamw(self._groups(), lr=self.plan.learning_rate)

    def _groups(self) -> list[dict[str, Any]]:
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        return [
            {"params": decayed, "weight_decay": self.plan.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def advance(self) -> dict[str, float]:
        """One optimiser step; returns the parts of the loss."""
        plan = self.plan
        drawn = np.random.default_rng((plan.seed, self.step))
        indices = drawn.choice(len(self._chances), plan.batch_size, p=self._chances)
        asked = drawn.permutation(self._length)[: plan.asked_steps].tolist()
        generator = torch.Generator(self.device).manual_seed(plan.seed * 1_000_003 + self.step)
        batch = make_batch(
            self._clips,
            indices,
            self.network.config,
            device=self.device,
            generator=generator,
            gentle=plan.gentle,
        )
        if self.distributed.size > 1:
            batch = select(batch, self.distributed.part(plan.batch_size))
        # Only the presence unit has a mode of its own for training, and it is trained apart.
        self.network.eval()
        total, parts = torch.zeros((), device=self.device), dict[str, float]()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=plan.precision == "bfloat16"):
            results = list(roll_out(self.network, batch, asked))
        for result in results:
            loss, found = step_loss(result, plan.loss, self.distributed)
            total = total + loss / len(results)
            for name, value in found.items():
                parts[name] = parts.get(name, 0.0) + value / len(results)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        self.distributed.all_reduce_gradients(self.network.parameters())
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), plan.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the loss of step {self.step} is not a number")
        self.optimizer.step()
        self.step += 1
        self._average()
        shares = torch.tensor([float(total.detach()), *parts.values()], device=self.device)
        return dict(zip(("loss", *parts), self.distributed.total(shares).tolist(), strict=True))

    def _rate(self) -> float:
        plan = self.plan
        if self.step < plan.warm_up:
            return plan.learning_rate * (self.step + 1) / plan.warm_up
        part = (self.step - plan.warm_up) / max(1, plan.steps - plan.warm_up)
        return plan.learning_rate * (0.01 + 0.495 * (1 + math.cos(math.pi * min(1.0, part))))

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.plan.average, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)

    def metadata(self) -> dict[str, Any]:
        """How the weights were made, for the file that takes them."""
        plan = self.plan
        recipe = {"steps": self.step, "batch_size": plan.batch_size, "seed": plan.seed}
        return {"recipe": {**recipe, "learning_rate": plan.learning_rate}}

    def state(self) -> dict[str, Any]:
        """Everything that is needed to go on, not copied."""
        return {
            "config": self.config.to_dict(),
            "plan": asdict(self.plan),
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self, path: Path) -> None:
        """Write `state` to a file; whole or not at all."""
        atomic_write(path, lambda file: torch.save(self.state(), file), overwrite=True)

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint of `save`.

        Raises
        ------
        CheckpointError
            It is of another network.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        if CompactConfig.from_dict(state["config"]) != self.config:
            raise CheckpointError(
                str(path),
                "is a checkpoint of another network",
                expected=self.config,
                found=state["config"],
            )
        self.load_state(state)


def train(
    trainer: Trainer,
    folder: Path,
    held_out: Clips,
    *,
    until: int | None = None,
    validate_every: int = 500,
    seconds: float | None = None,
    report: Callable[[str], None] = print,
    advanced: Callable[[int], None] | None = None,
) -> None:
    """Train to the end of the plan, or until the time is up; writes into a folder.

    Of a crew, the first process validates and writes.

    Parameters
    ----------
    trainer : Trainer
        Goes on from ``folder/checkpoint.pt`` where that is there.
    folder : Path
        Takes ``checkpoint.pt`` and ``log.jsonl``.
    held_out : mapping
        Clips for validation.
    until : int, optional
        Step to stop at, in place of the end of the plan.
    validate_every : int
        Steps.
    seconds : float, optional
        Stop after the first validation beyond this time.
    report : callable
        Is told every line of the log.
    advanced : callable, optional
        Is told the number of steps after every step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(checkpoint)
    started, sums, since = time.monotonic(), dict[str, float](), 0
    last = trainer.plan.steps if until is None else until
    while trainer.step < last:
        for name, value in trainer.advance().items():
            sums[name] = sums.get(name, 0.0) + value
        since += 1
        if advanced is not None:
            advanced(trainer.step)
        if trainer.step % validate_every and trainer.step < last:
            continue
        if trainer.distributed.is_main:
            scores = validate(trainer.averaged, held_out, trainer.device)
            line = {
                "step": trainer.step,
                "seconds": round(time.monotonic() - started, 1),
                **{name: round(total / since, 4) for name, total in sums.items()},
                **{name: round(value, 4) for name, value in scores.items()},
            }
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            trainer.save(checkpoint)
            report(json.dumps(line))
        sums, since = {}, 0
        late = seconds is not None and time.monotonic() - started > seconds
        if trainer.distributed.broadcast(late):
            return
