"""What an adaptation must know of a kind of network: clips, trainer, judging, file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.errors import ConfigError, DeviceMemoryError
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.segmenter import CompactSegmenter
from napari_slmsam2.engine.device import choose_dtype, free_cached_memory
from napari_slmsam2.engine.loading import LoadedNetwork
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.training.adapt.estimate import TrialStep, free_memory, profile_steps
from napari_slmsam2.training.adapt.evaluation import EvaluationResult, Evaluator, judge
from napari_slmsam2.training.compact.export import release
from napari_slmsam2.training.compact.trainer import Trainer, TrainingConfig
from napari_slmsam2.training.data.batch import Clips
from napari_slmsam2.training.data.split import DataSplit, cut_training_clips
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.lora import merged
from napari_slmsam2.training.recipes import AdaptRecipe, PaperRecipe
from napari_slmsam2.training.sam2.clips import ClipSampler
from napari_slmsam2.training.sam2.trainer import MemoryTrainer

_WARM_UP = 10

MOST_STRUCTURES = 5
"""Labels that are taken for structures where nobody says what they are."""

_BYTES_PER_PIXEL = 1900
"""Of a slice of the input, kept for the backward pass in float32 (SLM-SAM 2 tiny, measured)."""

Stop = Callable[[], bool]


class AdaptTrainer(Protocol):
    """A trainer, whatever it trains.

    Attributes
    ----------
    step : int
        Steps that were made.
    network : nn.Module
        What is trained.
    averaged : nn.Module
        What is judged and kept.
    """

    step: int
    network: Any
    averaged: Any

    def advance(self) -> dict[str, float]:
        """One step; its ``loss`` and other parts."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that is needed to go on."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


class FineTuningBackend(Protocol):
    """A kind of network in an adaptation."""

    @property
    def network(self) -> Any:
        """The base model's, on the device; it is not changed."""
        ...

    def cut(self, exactly: int | None, is_enough: Callable[[int], bool]) -> int:
        """Make the clips; returns how many there are."""
        ...

    def profile_steps(self) -> TrialStep:
        """Time and memory of a step; see `napari_slmsam2.training.adapt.estimate.profile_steps`."""
        ...

    def trainer(self, steps: int) -> AdaptTrainer:
        """A trainer that starts from the base model."""
        ...

    def candidate(self, network: Any) -> nn.Module:
        """A network as it would be kept."""
        ...

    def judge(self, network: Any, should_stop: Stop) -> EvaluationResult | None:
        """Scores on what is held out; None where it was stopped."""
        ...

    def write(
        self, trainer: Any, weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, Any]
    ) -> None:
        """Write the weights of a candidate as one file."""
        ...


def backend_of(
    base: LoadedNetwork, recipe: AdaptRecipe, data_split: DataSplit, distributed: DistributedContext
) -> FineTuningBackend:
    """The kind of a base model.

    Raises
    ------
    ConfigError
        The recipe cannot adapt it.
    """
    if recipe.architecture == "window" and isinstance(base.network, CompactNetwork):
        return CompactBackend(base.network, recipe, data_split, distributed)
    if isinstance(recipe, PaperRecipe) and isinstance(base.network, SliceNetwork):
        return Sam2Backend(base.network, recipe, data_split, distributed)
    wanted = {"window": "a compact network", "sam2": "a SAM 2.1 or SLM-SAM 2 network"}
    raise ConfigError(
        f"model {base.name}",
        f"cannot be adapted with the recipe {recipe.name}",
        expected=wanted[recipe.architecture],
        found=type(base.network).__name__,
    )


def structures_of(recipe: AdaptRecipe, data_split: DataSplit) -> tuple[int, ...]:
    """The labels that the network is told of."""
    if recipe.source == "seeds":
        return ()  # ends are not learned from single slices
    few = 1 < len(data_split.labels) <= MOST_STRUCTURES
    if recipe.labels_are == "structures" or (recipe.labels_are == "auto" and few):
        return data_split.labels
    return ()


class CompactBackend:
    """The compact network.

    Parameters
    ----------
    network : CompactNetwork
    recipe : AdaptRecipe
    data_split : DataSplit
    distributed : DistributedContext
    """

    def __init__(
        self,
        network: CompactNetwork,
        recipe: AdaptRecipe,
        data_split: DataSplit,
        distributed: DistributedContext,
    ) -> None:
        network = network.with_structures(structures_of(recipe, data_split))
        assert isinstance(network.config, CompactConfig)
        self.network, self._config = network.to(distributed.device), network.config
        self._recipe, self._data_split, self._distributed = recipe, data_split, distributed
        self._examiner = Evaluator(data_split, distributed.device)
        self._clips: Clips = {}

    def cut(self, exactly: int | None, is_enough: Callable[[int], bool]) -> int:
        """See `FineTuningBackend.cut`."""
        recipe = self._recipe
        self._clips = cut_training_clips(
            self._data_split,
            self.network,
            exactly or recipe.clips,
            recipe.seed,
            is_enough=is_enough,
        )
        return len(self._clips["set_names"])

    def profile_steps(self) -> TrialStep:
        """See `FineTuningBackend.profile_steps`."""
        return profile_steps(
            lambda n: self._trainer(1, n).advance(),
            self._recipe.batch_size,
            self._distributed.device,
        )

    def trainer(self, steps: int) -> Trainer:
        """See `FineTuningBackend.trainer`."""
        return self._trainer(steps, self._recipe.batch_size)

    def candidate(self, network: CompactNetwork) -> CompactNetwork:
        """See `FineTuningBackend.candidate`."""
        return self._examiner.calibrated(merged(network, self.network))

    def judge(self, network: CompactNetwork, should_stop: Stop) -> EvaluationResult | None:
        """See `FineTuningBackend.judge`."""
        segmenter = CompactSegmenter(
            network, name="adapting", device=self._distributed.device, dtype=torch.float32
        )
        return judge(segmenter, self._data_split.held_out_volumes, should_stop)

    def write(
        self,
        trainer: Trainer,
        weights: Mapping[str, Tensor],
        path: Path,
        metadata: Mapping[str, Any],
    ) -> None:
        """See `FineTuningBackend.write`."""
        release(path, trainer.config, weights, {**trainer.metadata(), **metadata})

    def _trainer(self, steps: int, batch_size: int) -> Trainer:
        recipe, device = self._recipe, self._distributed.device
        dtype = choose_dtype(device)
        plan = TrainingConfig(
            steps=steps,
            batch_size=batch_size,
            learning_rate=recipe.learning_rate,
            weight_decay=0.0,
            warm_up=min(_WARM_UP, steps // 4),
            average=recipe.average,
            seed=recipe.seed,
            precision="bfloat16" if dtype is torch.bfloat16 else "float32",
            gentle=True,
        )
        trainer = Trainer(self._config, plan, self._clips, device, self._distributed)
        trainer.start_from(self.network)
        if recipe.trained == "adapters":
            trainer.train_adapters(recipe.rank)
        for name, parameter in trainer.network.named_parameters():
            parameter.requires_grad_(recipe.trains(name))
        return trainer


class Sam2Backend:
    """SAM 2.1 and SLM-SAM 2.

    Parameters
    ----------
    network : SliceNetwork
    recipe : PaperRecipe
    data_split : DataSplit
    distributed : DistributedContext
    """

    def __init__(
        self,
        network: SliceNetwork,
        recipe: PaperRecipe,
        data_split: DataSplit,
        distributed: DistributedContext,
    ) -> None:
        self.network = network.to(distributed.device)
        self._recipe, self._data_split, self._distributed = recipe, data_split, distributed
        self._dtype = choose_dtype(distributed.device, image_size=network.config.image_size)
        self._clips = ClipSampler(
            data_split.training_objects, recipe, network.config.image_size, distributed.device
        )
        self._save_memory = recipe.checkpointing == "on"

    def cut(self, exactly: int | None, is_enough: Callable[[int], bool]) -> int:
        """Clips are drawn at every step; this only makes sure that there are some."""
        self._clips.draw((self._recipe.seed,))
        return 1

    def profile_steps(self) -> TrialStep:
        """See `FineTuningBackend.profile_steps`; parts are computed twice if it does not fit.

        Raises
        ------
        DeviceMemoryError
            Not even then it fits.
        """
        if self._distributed.device.type != "cuda":
            self._foresee()  # a computer that runs out of memory may end the program
        try:
            return self._try()
        except DeviceMemoryError:
            if self._recipe.checkpointing != "auto":
                raise
        free_cached_memory(self._distributed.device)
        self._save_memory = True
        return self._try()

    def _foresee(self) -> None:
        """Compute parts twice, or refuse, before anything is tried."""
        size, free = self.network.config.image_size, free_memory(self._distributed.device)
        slices = self._recipe.clip_slices
        if self._recipe.checkpointing == "auto":
            self._save_memory = _BYTES_PER_PIXEL * size**2 * slices > free
        held = min(slices, 2) if self._save_memory else slices
        needed = _BYTES_PER_PIXEL * size**2 * held
        if needed > free:
            raise DeviceMemoryError(
                f"device {self._distributed.device}",
                f"has too little memory to train on {slices} slices of {size} x {size} pixels",
                expected=f"about {needed / 2**30:.2g} GiB",
                found=f"{free / 2**30:.2g} GiB free",
                hint="Use a graphics card, or the recipe quick with a compact network.",
            )

    def trainer(self, steps: int) -> MemoryTrainer:
        """See `FineTuningBackend.trainer`."""
        return self._trainer(steps, self._recipe.batch_size)

    def candidate(self, network: SliceNetwork) -> SliceNetwork:
        """See `FineTuningBackend.candidate`."""
        return merged(network, self.network)

    def judge(self, network: SliceNetwork, should_stop: Stop) -> EvaluationResult | None:
        """See `FineTuningBackend.judge`."""
        segmenter = NetworkSegmenter(
            network, name="adapting", device=self._distributed.device, dtype=self._dtype
        )
        return judge(segmenter, self._data_split.held_out_volumes, should_stop)

    def write(
        self,
        trainer: MemoryTrainer,
        weights: Mapping[str, Tensor],
        path: Path,
        metadata: Mapping[str, Any],
    ) -> None:
        """See `FineTuningBackend.write`; in full precision, for the steps are small."""
        save_weights(path, weights, {"config": trainer.config.to_dict(), **metadata})

    def _try(self) -> TrialStep:
        return profile_steps(
            lambda n: self._trainer(1, n).advance(),
            self._recipe.batch_size,
            self._distributed.device,
        )

    def _trainer(self, steps: int, batch_size: int) -> MemoryTrainer:
        return MemoryTrainer(
            copy.deepcopy(self.network),
            self._recipe,
            self._clips,
            steps=steps,
            batch_size=batch_size,
            distributed=self._distributed,
            precision=self._dtype,
            save_memory=self._save_memory,
        )
