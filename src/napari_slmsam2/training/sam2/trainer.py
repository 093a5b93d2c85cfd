"""Fine-tuning of SAM 2.1 and SLM-SAM 2 on clips, as SLM-SAM 2 was (arXiv:2505.01854)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.lora import add_adapters
from napari_slmsam2.training.optimizer import load_optimizer, make_adamw, make_schedule
from napari_slmsam2.training.recipes import SLICE_ADAPTER_KEY, PaperRecipe
from napari_slmsam2.training.sam2.clips import ClipSampler, DrawnAhead
from napari_slmsam2.training.sam2.rollout import clip_loss, roll_out

_TRUNK = "image_encoder.trunk."


class Sam2Trainer:
    """Network, optimiser and position in the training.

    A step depends only on the seed and its number, so that a resumed training gives the same
    result as an uninterrupted one.

    Parameters
    ----------
    network : SliceNetwork
        Trained in place; gets low-rank updates if the recipe trains these.
    recipe : PaperRecipe
    clips : ClipSampler
    steps : int
        The learning rate falls over them.
    batch_size : int
        Clips per step.
    distributed : DistributedContext
    precision : torch.dtype
        Of the computation; weights stay in float32.
    save_memory : bool
        Recompute activations in the backward pass.
    """

    def __init__(
        self,
        network: SliceNetwork,
        recipe: PaperRecipe,
        clips: ClipSampler,
        *,
        steps: int,
        batch_size: int,
        distributed: DistributedContext,
        precision: torch.dtype = torch.float32,
        save_memory: bool = False,
    ) -> None:
        self.network = self.averaged = network.to(distributed.device)
        self.config = network.config
        self.recipe = recipe
        self.device = distributed.device
        self.precision = precision
        self.save_memory = save_memory
        self.steps, self.batch_size, self.step = steps, batch_size, 0
        self._drawn, self._distributed = DrawnAhead(clips.draw), distributed
        if recipe.trained == "adapters":
            add_adapters(network, recipe.rank, recipe.seed)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(recipe.trains(name))
        self.optimizer = make_adamw(groups_of(network, recipe))
        self._schedule = make_schedule(self.optimizer, self._rate)
        self._segmenter = NetworkSegmenter(
            network, name="training", device=distributed.device, memory_dtype=torch.float32
        )

    def advance(self) -> dict[str, float]:
        """One optimiser step; returns the parts of the loss.

        Raises
        ------
        FloatingPointError
            The loss is not a number; the weights are unchanged.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {"loss": torch.zeros((), device=self.device)}
        for number in self._distributed.part(self.batch_size):
            for name, value in self._learn(number).items():
                sums[name] = sums.get(name, 0.0) + value
        self._distributed.all_reduce_gradients(self.network.parameters())
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the loss of step {self.step} is not a number")
        self.optimizer.step()
        self._schedule.step()
        self.step += 1
        sums["loss"] = self._distributed.total(sums["loss"])
        return dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True))

    def _rate(self, step: int) -> float:
        """Share of the highest learning rate: a cosine to a tenth."""
        return 0.55 + 0.45 * math.cos(math.pi * min(1.0, step / max(1, self.steps)))

    def _learn(self, number: int) -> dict[str, Tensor]:
        """Gradients of one clip of the batch."""
        seed = (self.recipe.seed, self.step, number)
        clip = self._drawn.take(seed)
        self._draw_next(number)
        mixed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        generator = torch.Generator().manual_seed(mixed)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(mixed)  # of dropout
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16
            ):
                answers = roll_out(
                    self._segmenter,
                    clip,
                    generator,
                    corrections=self.recipe.corrections,
                    save_memory=self.save_memory,
                )
                loss, parts = clip_loss(answers)
            torch.autograd.backward(loss / self.batch_size)
        parts["loss"] = loss.detach()
        return {name: value / self.batch_size for name, value in parts.items()}

    def _draw_next(self, number: int) -> None:
        """Begin to draw the clip after this one, while this one is computed."""
        mine = list(self._distributed.part(self.batch_size))
        place, step = mine.index(number) + 1, self.step
        if place == len(mine):
            place, step = 0, step + 1
        if step < self.steps:
            self._drawn.begin((self.recipe.seed, step, mine[place]))

    def state(self) -> dict[str, Any]:
        """Everything that is needed to resume, not copied."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state`."""
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.step = state["step"]
        self._schedule = make_schedule(self.optimizer, self._rate, self.step)


def groups_of(network: SliceNetwork, recipe: PaperRecipe) -> list[dict[str, Any]]:
    """Trained parameters, grouped by learning rate and weight decay.

    Learning rates are lower in the encoder, and in its trunk lower from layer to layer towards the
    image; new slice adapters have a rate of their own. Biases, norms and embeddings have no weight
    decay.
    """
    depth = sum(network.config.stages) + 1
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = recipe.learning_rate
        if name.startswith("image_encoder."):
            rate = recipe.encoder_rate
        if name.startswith(_TRUNK):
            rate *= recipe.layer_decay ** (depth - _layer(name.removeprefix(_TRUNK)))
        if recipe.slice_adapter is not None and SLICE_ADAPTER_KEY in name:
            rate = recipe.adapter_rate
        decay = recipe.weight_decay if parameter.ndim > 1 and "embed" not in name else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def _layer(name: str) -> int:
    """Number of a layer of the trunk; 0 before the first block."""
    parts = name.split(".")
    return int(parts[1]) + 1 if parts[0] == "blocks" else 0
