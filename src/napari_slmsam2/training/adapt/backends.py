"""Fine-tuning backends: clips, trainer, evaluation and file of each network architecture."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_slmsam2.core.config import CompactConfig
from napari_slmsam2.core.errors import ConfigError, DeviceMemoryError
from napari_slmsam2.engine.compact.network import CompactNetwork
from napari_slmsam2.engine.compact.segmenter import CompactSegmenter
from napari_slmsam2.engine.device import choose_dtype, free_cached_memory, free_memory
from napari_slmsam2.engine.loading import LoadedNetwork
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.training.adapt.evaluation import (
    EvaluationResult,
    PresenceCalibrator,
    count_visits,
    evaluate,
    measure_visit,
    thin_labels,
)
from napari_slmsam2.training.adapt.measurement import TrialStep, clips_at_once, profile_steps
from napari_slmsam2.training.adapt.protocols import (
    Advanced,
    FineTuningBackend,
    Stop,
)
from napari_slmsam2.training.compact.config import TrainingConfig
from napari_slmsam2.training.compact.export import release
from napari_slmsam2.training.compact.trainer import Trainer
from napari_slmsam2.training.data.batch import Clips
from napari_slmsam2.training.data.split import DataSplit
from napari_slmsam2.training.data.training_clips import ClipCutter
from napari_slmsam2.training.distributed import DistributedContext
from napari_slmsam2.training.lora import merged
from napari_slmsam2.training.recipes import AdaptRecipe, PaperRecipe
from napari_slmsam2.training.sam2.clips import ClipSampler
from napari_slmsam2.training.sam2.slice_adapter import with_slice_adapter
from napari_slmsam2.training.sam2.trainer import Sam2Trainer

_WARM_UP = 10

MOST_STRUCTURES = 5
"""Number of labels up to which they are taken as structures if the recipe does not specify it."""

_BYTES_PER_PIXEL = 1900
"""Activations per pixel of a slice for the backward pass in float32 (SLM-SAM 2 tiny, measured)."""


def backend_of(
    base: LoadedNetwork, recipe: AdaptRecipe, data_split: DataSplit, distributed: DistributedContext
) -> FineTuningBackend:
    """The backend of a base model.

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


def class_labels(recipe: AdaptRecipe, data_split: DataSplit) -> tuple[int, ...]:
    """The labels that get a class embedding."""
    if recipe.source == "seeds":
        return ()  # single slices do not show where a structure ends
    few = 1 < len(data_split.labels) <= MOST_STRUCTURES
    if recipe.labels_are == "structures" or (recipe.labels_are == "auto" and few):
        return data_split.labels
    return ()


class CompactBackend:
    """Fine-tuning of the compact network.

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
        network = network.with_structures(class_labels(recipe, data_split))
        assert isinstance(network.config, CompactConfig)
        self.network, self._config = network.to(distributed.device), network.config
        self._recipe, self._distributed = recipe, distributed
        self._held_out = list(data_split.held_out_volumes)
        self._calibrator = PresenceCalibrator(data_split, distributed.device)
        self._cutter = ClipCutter(data_split, self.network, recipe.seed)
        self._clips: Clips = {}

    def measure_clip(self) -> float:
        """See `FineTuningBackend.measure_clip`."""
        started = time.perf_counter()
        self._cutter.cut(1)
        self._clips = self._cutter.clips()
        return (time.perf_counter() - started) / len(self._cutter)

    def cut(self, most: int, is_enough: Callable[[int], bool] = lambda n: False) -> int:
        """See `FineTuningBackend.cut`."""
        self._cutter.cut(most, is_enough)
        self._clips = self._cutter.clips(most)
        return len(self._clips["set_names"])

    def measure_visit(self, should_stop: Stop) -> float:
        """See `FineTuningBackend.measure_visit`."""
        return measure_visit(self._segmenter(self.network), self._held_out, should_stop)

    def limit_visits(self, labels: int) -> None:
        """See `FineTuningBackend.limit_visits`."""
        self._held_out = thin_labels(self._held_out, labels)
        self._calibrator.limit(labels)

    @property
    def visits(self) -> tuple[int, int]:
        """See `FineTuningBackend.visits`."""
        return count_visits(self._held_out), self._calibrator.n_slices

    def profile_steps(self) -> TrialStep:
        """See `FineTuningBackend.profile_steps`."""
        # Alone: where memory runs out in one process, the others would wait for it.
        return profile_steps(
            lambda n: self._trainer(1, n, self._distributed.alone).advance(),
            self._distributed.largest_part(self._recipe.batch_size),
            self._distributed.device,
        )

    def trainer(self, steps: int) -> Trainer:
        """See `FineTuningBackend.trainer`."""
        return self._trainer(steps, self._recipe.batch_size, self._distributed)

    def candidate(
        self, network: CompactNetwork, advanced: Advanced = lambda slices: None
    ) -> CompactNetwork:
        """See `FineTuningBackend.candidate`; the presence threshold is calibrated."""
        ordinary = merged(network, self.network)
        if not self._calibrator.n_slices:
            return ordinary
        return self._calibrator.calibrated(ordinary, advanced)

    def evaluate(
        self,
        network: CompactNetwork,
        should_stop: Stop = lambda: False,
        advanced: Advanced = lambda slices: None,
    ) -> EvaluationResult | None:
        """See `FineTuningBackend.evaluate`."""
        return evaluate(self._segmenter(network), self._held_out, should_stop, advanced)

    def write(
        self,
        trainer: Trainer,
        weights: Mapping[str, Tensor],
        path: Path,
        metadata: Mapping[str, Any],
    ) -> None:
        """See `FineTuningBackend.write`."""
        release(path, trainer.config, weights, {**trainer.metadata(), **metadata})

    def _segmenter(self, network: CompactNetwork) -> CompactSegmenter:
        return CompactSegmenter(
            network, name="adapting", device=self._distributed.device, dtype=torch.float32
        )

    def _trainer(self, steps: int, batch_size: int, distributed: DistributedContext) -> Trainer:
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
        trainer = Trainer(self._config, plan, self._clips, device, distributed)
        trainer.start_from(self.network)
        if recipe.trained == "adapters":
            trainer.train_adapters(recipe.rank)
        for name, parameter in trainer.network.named_parameters():
            parameter.requires_grad_(recipe.trains(name))
        return trainer


class Sam2Backend:
    """Fine-tuning of SAM 2.1 and SLM-SAM 2.

    Parameters
    ----------
    network : SliceNetwork
        Gets the slice adapter of the recipe, which is zero at first.
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
        if recipe.slice_adapter is not None:
            network = with_slice_adapter(network, recipe.slice_adapter, recipe.seed)
        self.network = network.to(distributed.device)
        self._recipe, self._distributed = recipe, distributed
        self._held_out = list(data_split.held_out_volumes)
        self._dtype = choose_dtype(distributed.device, image_size=network.config.image_size)
        self._clips = ClipSampler(
            data_split.training_objects,
            recipe,
            network.config.image_size,
            distributed.device,
            network.config.encoded_slices // 2,
        )
        self._save_memory = recipe.checkpointing == "on"
        self._at_once = 1

    def measure_clip(self) -> float:
        """0: clips are drawn at every step. One is drawn here, to check that there are any."""
        self._clips.draw((self._recipe.seed,))
        return 0.0

    def cut(self, most: int, is_enough: Callable[[int], bool] = lambda n: False) -> int:
        """Nothing to do: clips are drawn at every step."""
        return most

    def measure_visit(self, should_stop: Stop) -> float:
        """See `FineTuningBackend.measure_visit`."""
        return measure_visit(self._segmenter(self.network), self._held_out, should_stop)

    def limit_visits(self, labels: int) -> None:
        """See `FineTuningBackend.limit_visits`."""
        self._held_out = thin_labels(self._held_out, labels)

    @property
    def visits(self) -> tuple[int, int]:
        """See `FineTuningBackend.visits`."""
        return count_visits(self._held_out), 0

    def profile_steps(self) -> TrialStep:
        """See `FineTuningBackend.profile_steps`; activations are recomputed if that is needed.

        Raises
        ------
        DeviceMemoryError
            A step does not fit even then.
        """
        if self._distributed.device.type != "cuda":
            self._predict_memory()  # where main memory runs out the process may be killed
        each = self._bytes_per_slice() * self._recipe.clip_slices
        free = free_memory(self._distributed.device)
        clips = self._distributed.largest_part(self._recipe.batch_size)
        self._at_once = clips_at_once(free, each, clips)
        trial = self._try_until_it_fits(clips)
        # The checkpoint of the main process continues all of them.
        self._at_once = self._distributed.smallest(self._at_once)
        self._save_memory = self._distributed.any(self._save_memory)
        return trial

    def _try_until_it_fits(self, clips: int) -> TrialStep:
        while True:
            try:
                return self._try(clips)
            except DeviceMemoryError:
                if self._at_once > 1:
                    self._at_once //= 2
                elif self._recipe.checkpointing == "auto" and not self._save_memory:
                    self._save_memory = True
                else:
                    raise
            free_cached_memory(self._distributed.device)

    def _predict_memory(self) -> None:
        """Recompute activations, or refuse, before a step is tried."""
        size, free = self.network.config.image_size, free_memory(self._distributed.device)
        slices = self._recipe.clip_slices
        each = self._bytes_per_slice()
        if self._recipe.checkpointing == "auto":
            self._save_memory = each * slices > free
        needed = each * (min(slices, 2) if self._save_memory else slices)
        if needed > free:
            raise DeviceMemoryError(
                f"device {self._distributed.device}",
                f"has too little memory to train on {slices} slices of {size} x {size} pixels",
                expected=f"about {needed / 2**30:.2g} GiB",
                found=f"{free / 2**30:.2g} GiB free",
                hint="Use a graphics card, or the recipe quick with a compact network.",
            )

    def _bytes_per_slice(self) -> int:
        """Activations that the backward pass of a slice needs."""
        config = self.network.config
        return _BYTES_PER_PIXEL * config.image_size**2 * config.encoded_slices

    def trainer(self, steps: int) -> Sam2Trainer:
        """See `FineTuningBackend.trainer`."""
        return self._trainer(steps, self._recipe.batch_size, self._distributed)

    def candidate(
        self, network: SliceNetwork, advanced: Advanced = lambda slices: None
    ) -> SliceNetwork:
        """See `FineTuningBackend.candidate`."""
        return merged(network, self.network)

    def evaluate(
        self,
        network: SliceNetwork,
        should_stop: Stop = lambda: False,
        advanced: Advanced = lambda slices: None,
    ) -> EvaluationResult | None:
        """See `FineTuningBackend.evaluate`."""
        return evaluate(self._segmenter(network), self._held_out, should_stop, advanced)

    def write(
        self,
        trainer: Sam2Trainer,
        weights: Mapping[str, Tensor],
        path: Path,
        metadata: Mapping[str, Any],
    ) -> None:
        """See `FineTuningBackend.write`; in full precision, because the steps are small."""
        save_weights(path, weights, {"config": trainer.config.to_dict(), **metadata})

    def _segmenter(self, network: SliceNetwork) -> NetworkSegmenter:
        return NetworkSegmenter(
            network, name="adapting", device=self._distributed.device, dtype=self._dtype
        )

    def _try(self, clips: int) -> TrialStep:
        # Alone: where memory runs out in one process, the others would wait for it.
        return profile_steps(
            lambda n: self._trainer(1, n, self._distributed.alone).advance(),
            clips,
            self._distributed.device,
            at_once=self._at_once,
        )

    def _trainer(self, steps: int, batch_size: int, distributed: DistributedContext) -> Sam2Trainer:
        return Sam2Trainer(
            copy.deepcopy(self.network),
            self._recipe,
            self._clips,
            steps=steps,
            batch_size=batch_size,
            distributed=distributed,
            precision=self._dtype,
            save_memory=self._save_memory,
            at_once=self._at_once,
        )
