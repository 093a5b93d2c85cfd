"""Fine-tuning of SAM 2.1 and SLM-SAM 2 on clips, as SLM-SAM 2 was (arXiv:2505.01854)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
from napari_slmsam2.training.sam2.clips import ClipSampler, DrawnAhead, Sam2Clip
from napari_slmsam2.training.sam2.rollout import clip_loss, roll_out

_TRUNK = "image_encoder.trunk."

_Seed = tuple[int, int, int]


class Sam2Trainer:
    """Network, optimiser and position in the training.

    A step depends only on the seed, its number and ``at_once``, so that a resumed training gives
    the same result as an uninterrupted one. Dropout is drawn once for the clips that are computed
    together, so that it depends on the number of processes as well.

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
    at_once : int
        Clips that are computed as one batch, where their lengths are equal.
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
        at_once: int = 1,
    ) -> None:
        self.network = self.averaged = network.to(distributed.device)
        self.config = network.config
        self.recipe = recipe
        self.device = distributed.device
        self.precision = precision
        self.save_memory = save_memory
        self.at_once = at_once
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
        for numbers, upcoming in self._chunks():
            for clips in self._take(numbers, upcoming):
                for name, value in self._learn(clips).items():
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

    def _chunks(self) -> list[tuple[list[_Seed], list[_Seed]]]:
        """Seeds of the clips that are computed at once in this step, each with those after them."""
        mine = self._distributed.part(self.batch_size)
        steps = [self.step, self.step + 1] if self.step + 1 < self.steps else [self.step]
        chunks = [
            [(self.recipe.seed, step, number) for number in mine[start : start + self.at_once]]
            for step in steps
            for start in range(0, len(mine), self.at_once)
        ]
        now = -(-len(mine) // self.at_once)
        return list(zip(chunks, [*chunks[1:], []], strict=True))[:now]

    def _take(
        self, seeds: Sequence[_Seed], upcoming: Sequence[_Seed]
    ) -> Iterable[list[tuple[_Seed, Sam2Clip]]]:
        """Clips in groups of equal length; those after them are begun."""
        clips = [(seed, self._drawn.take(seed)) for seed in seeds]
        if upcoming:
            self._drawn.begin(upcoming)
        groups: dict[int, list[tuple[_Seed, Sam2Clip]]] = {}
        for seed, clip in clips:
            groups.setdefault(len(clip.masks), []).append((seed, clip))
        return groups.values()

    def _learn(self, clips: Sequence[tuple[_Seed, Sam2Clip]]) -> dict[str, Tensor]:
        """Gradients of clips of equal length."""
        mixed = [int(np.random.SeedSequence(seed).generate_state(1)[0]) for seed, _ in clips]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(mixed[0])  # of dropout
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.precision is torch.bfloat16
            ):
                answers = roll_out(
                    self._segmenter,
                    [clip for _, clip in clips],
                    [torch.Generator().manual_seed(one) for one in mixed],
                    corrections=self.recipe.corrections,
                    save_memory=self.save_memory,
                )
                loss, parts = clip_loss(answers)
            torch.autograd.backward(loss / self.batch_size)
        parts["loss"] = loss.detach()
        return {name: value / self.batch_size for name, value in parts.items()}

    def state(self) -> dict[str, Any]:
        """Everything that is needed to resume, not copied."""
        return {
            "step": self.step,
            "at_once": self.at_once,
            "save_memory": self.save_memory,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state`."""
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.step = state["step"]
        # Dropout is drawn batch by batch; states of earlier versions had one clip in each.
        self.at_once = state.get("at_once", 1)
        self.save_memory = state.get("save_memory", self.save_memory)
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
