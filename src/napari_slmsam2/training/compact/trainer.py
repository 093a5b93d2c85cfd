"""Training of the compact network; can be stopped at any time and resumed exactly."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from napari_slmsam2.core.atomic_write import atomic_write
from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.errors import CheckpointError
from napari_slmsam2.engine.compact.cpu_workers import compute_in_parts, compute_on_one_core
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.sweep import select
from napari_slmsam2.training.compact.config import TrainingConfig
from napari_slmsam2.training.compact.rollout import StepTotals, roll_out, step_loss
from napari_slmsam2.training.compact.validation import validate
from napari_slmsam2.training.data.batch import Batch, Clips, ClipStore, make_batch, sampling_weights
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.lora import add_adapters
from napari_slmsam2.training.optimizer import load_optimizer, make_adamw, make_schedule

CLIPS_TOGETHER = 4
"""Clips that a core of a CPU computes together, so that a step of 16 uses four cores."""


class _Share(NamedTuple):
    """The share of some clips of a batch in an optimiser step.

    Attributes
    ----------
    gradients : tuple of (Tensor or None)
        Of the trained parameters.
    losses : Tensor, shape (1 + len(names),)
        The loss and its parts.
    names : tuple of str
        Of the parts.
    """

    gradients: tuple[Tensor | None, ...]
    losses: Tensor
    names: tuple[str, ...]


class Trainer:
    """Network, optimiser and position in the training.

    The batch of a step depends only on the seed and the number of the step, so that a resumed
    training gives the same result as an uninterrupted one.

    Parameters
    ----------
    config : CompactConfig
    plan : TrainingConfig
    clips : mapping
        From `read_shards`.
    device : torch.device
    distributed : DistributedContext, optional
        Processes that train together: all draw the same batch, each computes its part.
    set_weights : mapping of {set name: float}, optional
        Relative frequency of the sets in the clips. Default: all sets alike.
    """

    def __init__(
        self,
        config: CompactConfig,
        plan: TrainingConfig,
        clips: Clips,
        device: torch.device,
        distributed: DistributedContext | None = None,
        *,
        set_weights: Mapping[str, float] | None = None,
    ) -> None:
        self._set_weights = set_weights or {}
        self.distributed = distributed or DistributedContext()
        torch.manual_seed(plan.seed)
        self.config, self.plan, self.device = config, plan, device
        self.network = CompactNetwork(config).to(device)
        self.step = 0
        self._begin()
        self.use(clips)

    def _begin(self) -> None:
        """Optimiser, schedule and average of the parameters as they are."""
        self.optimizer = make_adamw(self._groups(), lr=self.plan.learning_rate)
        self._schedule = make_schedule(self.optimizer, self._rate)
        self._average = AveragedModel(self.network, multi_avg_fn=self._add_to_average)
        self._average.requires_grad_(False)
        # The first update copies; the average starts from the weights before the first step.
        self._average.update_parameters(self.network)

    @property
    def averaged(self) -> CompactNetwork:
        """The moving average of the weights, which is evaluated and kept."""
        network = self._average.module
        assert isinstance(network, CompactNetwork)
        return network

    def use(self, clips: Clips) -> None:
        """Draw batches from these clips, which are kept on the device."""
        self._clips = ClipStore.from_arrays(clips, self.device)
        self._chances = sampling_weights(clips["set_names"], self._set_weights)
        self._length = clips["positions"].shape[1]

    def start_from(self, network: CompactNetwork) -> None:
        """Load the weights of a trained network."""
        for own in (self.network, self.averaged):
            own.load_state_dict(network.state_dict())

    def train_adapters(self, rank: int) -> None:
        """Train low-rank updates of the weights in place of the weights; before the first step."""
        add_adapters(self.network, rank, self.plan.seed)
        self._begin()

    def _groups(self) -> list[dict[str, Any]]:
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        return [
            {"params": decayed, "weight_decay": self.plan.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def advance(self) -> dict[str, Tensor]:
        """One optimiser step, in which the host does not wait for the device.

        Returns
        -------
        dict of str to Tensor
            The loss and its parts, of shape (), on the device. The loss is NaN where the gradient
            is not finite; the weights are lost then.
        """
        plan = self.plan
        drawn = np.random.default_rng((plan.seed, self.step))
        indices = drawn.choice(len(self._chances), plan.batch_size, p=self._chances)
        supervised = drawn.permutation(self._length)[: plan.supervised_steps].tolist()
        generator = torch.Generator(self.device).manual_seed(plan.seed * 1_000_003 + self.step)
        batch = compute_on_one_core(
            lambda: make_batch(
                self._clips,
                indices,
                self.network.config,
                generator=generator,
                gentle=plan.gentle,
            ),
            self.device,
        )
        if self.distributed.size > 1:
            batch = select(batch, self.distributed.part(plan.batch_size))
        # Only the presence unit has a mode of its own for training, and it is trained apart.
        self.network.eval()
        totals = {
            step: StepTotals.of(batch.weights[:, step], batch.present[:, step], self.distributed)
            for step in supervised
        }
        shares = compute_in_parts(
            lambda part: [self._gradients(select(batch, slice(part[0], part[-1] + 1)), totals)],
            range(len(batch.weights)),
            self.device,
            most=CLIPS_TOGETHER,
        )
        norm = compute_on_one_core(lambda: self._update(shares), self.device)
        self.step += 1
        losses = self.distributed.total(torch.stack([share.losses for share in shares]).sum(0))
        loss = torch.where(torch.isfinite(norm), losses[0], torch.nan)
        return dict(zip(("loss", *shares[0].names), (loss, *losses[1:]), strict=True))

    def _update(self, shares: Sequence[_Share]) -> Tensor:
        """Change the weights by the sum of the gradients; returns its norm, shape ()."""
        self.optimizer.zero_grad(set_to_none=True)
        for share in shares:
            for parameter, gradient in zip(self._trained(), share.gradients, strict=True):
                if parameter.grad is None:
                    parameter.grad = gradient
                elif gradient is not None:
                    parameter.grad += gradient
        self.distributed.all_reduce_gradients(self.network.parameters())
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.clip_norm)
        self.optimizer.step()
        self._schedule.step()
        self._average.update_parameters(self.network)
        return norm

    def _gradients(self, batch: Batch, totals: Mapping[int, StepTotals]) -> _Share:
        """The share of some clips in the loss of a step; called on several threads at once."""
        precision = torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.plan.precision == "bfloat16",
            cache_enabled=self.device.type != "cpu",  # threads would share it
        )
        with precision:
            results = list(roll_out(self.network, batch, totals))
        losses, names = [], tuple[str, ...]()
        total = torch.zeros((), device=self.device)
        for step, result in zip(sorted(totals), results, strict=True):
            loss, parts = step_loss(result, self.plan.loss, totals[step])
            total = total + loss / len(results)
            names = tuple(parts)
            losses.append(torch.stack([loss.detach(), *parts.values()]) / len(results))
        gradients = torch.autograd.grad(total, self._trained(), allow_unused=True)
        return _Share(gradients, torch.stack(losses).sum(0), names)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.network.parameters() if p.requires_grad]

    def _rate(self, step: int) -> float:
        """Share of the highest learning rate: linear warm-up, then a cosine to a hundredth."""
        plan = self.plan
        if step < plan.warm_up:
            return (step + 1) / plan.warm_up
        part = (step - plan.warm_up) / max(1, plan.steps - plan.warm_up)
        return 0.01 + 0.495 * (1 + math.cos(math.pi * min(1.0, part)))

    def _add_to_average(
        self, means: Sequence[Tensor], parameters: Sequence[Tensor], n_averaged: Tensor | int
    ) -> None:
        """Exponential moving average, with a shorter memory at first; see `AveragedModel`."""
        n = int(n_averaged)
        decay = min(self.plan.average, (1 + n) / (10 + n))
        for mean, parameter in zip(means, parameters, strict=True):
            mean.lerp_(parameter, 1 - decay)

    def metadata(self) -> dict[str, Any]:
        """How the weights were trained, for the metadata of their file."""
        plan = self.plan
        recipe = {"steps": self.step, "batch_size": plan.batch_size, "seed": plan.seed}
        return {"recipe": {**recipe, "learning_rate": plan.learning_rate}}

    def state(self) -> dict[str, Any]:
        """Everything that is needed to resume, not copied."""
        return {
            "config": self.config.to_dict(),
            "plan": self.plan.to_dict(),
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state`."""
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.step = state["step"]
        self._schedule = make_schedule(self.optimizer, self._rate, self.step)
        self._average.n_averaged.fill_(self.step + 1)

    def save(self, path: Path) -> None:
        """Write `state` to a file; whole or not at all."""
        atomic_write(path, lambda file: torch.save(self.state(), file), overwrite=True)

    def restore(self, path: Path) -> None:
        """Resume from a checkpoint of `save`.

        Raises
        ------
        CheckpointError
            The checkpoint is of another network.
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

    Of several processes, the main one validates and writes.

    Parameters
    ----------
    trainer : Trainer
        Resumes from ``folder/checkpoint.pt`` if it exists.
    folder : Path
        For ``checkpoint.pt`` and ``log.jsonl``.
    held_out : mapping
        Clips for validation.
    until : int, optional
        Step to stop at, in place of the end of the plan.
    validate_every : int
        Steps.
    seconds : float, optional
        Stop after the first validation beyond this time.
    report : callable
        Called with every line of the log.
    advanced : callable, optional
        Called with the number of steps after every step.

    Raises
    ------
    FloatingPointError
        A loss is not finite; the checkpoint is the one before it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(checkpoint)
    started, sums, since = time.monotonic(), dict[str, Tensor](), 0
    last = trainer.plan.steps if until is None else until
    while trainer.step < last:
        for name, value in trainer.advance().items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value
        since += 1
        if advanced is not None:
            advanced(trainer.step)
        if trainer.step % validate_every and trainer.step < last:
            continue
        means = {name: float(total) / since for name, total in sums.items()}
        if not math.isfinite(means["loss"]):
            raise FloatingPointError(f"the loss of a step before step {trainer.step} is not finite")
        if trainer.distributed.is_main:
            scores = validate(trainer.averaged, held_out, trainer.device)
            line = {
                "step": trainer.step,
                "seconds": round(time.monotonic() - started, 1),
                **{name: round(value, 4) for name, value in means.items()},
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
