"""What an adaptation must know of a kind of network: clips, trainer, judging, file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from napari_slmsam2.core.config import WindowConfig
from napari_slmsam2.core.errors import ConfigError, DeviceMemoryError
from napari_slmsam2.engine.compact.network import WindowNetwork
from napari_slmsam2.engine.compact.segmenter import WindowSegmenter
from napari_slmsam2.engine.device import choose_dtype, free_cached_memory
from napari_slmsam2.engine.loading import LoadedNetwork
from napari_slmsam2.engine.sam2.network import SliceNetwork
from napari_slmsam2.engine.sam2.segmenter import NetworkSegmenter
from napari_slmsam2.engine.weights.checkpoints import save_weights
from napari_slmsam2.training.adapt.estimate import TrialStep, free_memory, try_steps
from napari_slmsam2.training.adapt.evaluation import Examiner, Judgement, judge
from napari_slmsam2.training.compact.export import release
from napari_slmsam2.training.compact.trainer import Trainer, TrainingPlan
from napari_slmsam2.training.data.batch import Clips
from napari_slmsam2.training.data.split import Course, cut_lessons
from napari_slmsam2.training.distributed import Crew
from napari_slmsam2.training.lora import merged
from napari_slmsam2.training.recipes import AdaptRecipe, PaperRecipe
from napari_slmsam2.training.sam2.clips import ClipDrawer
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


class Trainee(Protocol):
    """A kind of network in an adaptation."""

    @property
    def network(self) -> Any:
        """The base model's, on the device; it is not changed."""
        ...

    def cut(self, exactly: int | None, is_enough: Callable[[int], bool]) -> int:
        """Make the clips; returns how many there are."""
        ...

    def try_steps(self) -> TrialStep:
        """Time and memory of a step; see `napari_slmsam2.training.adapt.estimate.try_steps`."""
        ...

    def trainer(self, steps: int) -> AdaptTrainer:
        """A trainer that starts from the base model."""
        ...

    def candidate(self, network: Any) -> nn.Module:
        """A network as it would be kept."""
        ...

    def judge(self, network: Any, should_stop: Stop) -> Judgement | None:
        """Scores on what is held out; None where it was stopped."""
        ...

    def write(
        self, trainer: Any, weights: Mapping[str, Tensor], path: Path, facts: Mapping[str, Any]
    ) -> None:
        """Write the weights of a candidate as one file."""
        ...


def trainee_of(base: LoadedNetwork, recipe: AdaptRecipe, course: Course, crew: Crew) -> Trainee:
    """The kind of a base model.

    Raises
    ------
    ConfigError
        The recipe cannot adapt it.
    """
    if recipe.architecture == "window" and isinstance(base.network, WindowNetwork):
        return WindowTrainee(base.network, recipe, course, crew)
    if isinstance(recipe, PaperRecipe) and isinstance(base.network, SliceNetwork):
        return MemoryTrainee(base.network, recipe, course, crew)
    wanted = {"window": "a compact network", "sam2": "a SAM 2.1 or SLM-SAM 2 network"}
    raise ConfigError(
        f"model {base.name}",
        f"cannot be adapted with the recipe {recipe.name}",
        expected=wanted[recipe.architecture],
        found=type(base.network).__name__,
    )


def structures_of(recipe: AdaptRecipe, course: Course) -> tuple[int, ...]:
    """The labels that the network is told of."""
    if recipe.source == "seeds":
        return ()  # ends are not learned from single slices
    few = 1 < len(course.labels) <= MOST_STRUCTURES
    if recipe.labels_are == "structures" or (recipe.labels_are == "auto" and few):
        return course.labels
    return ()


class WindowTrainee:
    """The compact network.

    Parameters
    ----------
    network : WindowNetwork
    recipe : AdaptRecipe
    course : Course
    crew : Crew
    """

    def __init__(
        self, network: WindowNetwork, recipe: AdaptRecipe, course: Course, crew: Crew
    ) -> None:
        network = network.with_structures(structures_of(recipe, course))
        assert isinstance(network.config, WindowConfig)
        self.network, self._config = network.to(crew.device), network.config
        self._recipe, self._course, self._crew = recipe, course, crew
        self._examiner = Examiner(course, crew.device)
        self._clips: Clips = {}

    def cut(self, exactly: int | None, is_enough: Callable[[int], bool]) -> int:
        """See `Trainee.cut`."""
        recipe = self._recipe
        self._clips = cut_lessons(
            self._course, self.network, exactly or recipe.clips, recipe.seed, is_enough=is_enough
        )
        return len(self._clips["set_names"])

    def try_steps(self) -> TrialStep:
        """See `Trainee.try_steps`."""
        return try_steps(
            lambda n: self._trainer(1, n).advance(), self._recipe.batch_size, self._crew.device
        )

    def trainer(self, steps: int) -> Trainer:
        """See `Trainee.trainer`."""
        return self._trainer(steps, self._recipe.batch_size)

    def candidate(self, network: WindowNetwork) -> WindowNetwork:
        """See `Trainee.candidate`."""
        return self._examiner.calibrated(merged(network, self.network))

    def judge(self, network: WindowNetwork, should_stop: Stop) -> Judgement | None:
        """See `Trainee.judge`."""
        segmenter = WindowSegmenter(
            network, name="adapting", device=self._crew.device, dtype=torch.float32
        )
        return judge(segmenter, self._course.exams, should_stop)

    def write(
        self, trainer: Trainer, weights: Mapping[str, Tensor], path: Path, facts: Mapping[str, Any]
    ) -> None:
        """See `Trainee.write`."""
        release(path, trainer.config, weights, {**trainer.facts(), **facts})

    def _trainer(self, steps: int, batch_size: int) -> Trainer:
        recipe, device = self._recipe, self._crew.device
        dtype = choose_dtype(device)
        plan = TrainingPlan(
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
        trainer = Trainer(self._config, plan, self._clips, device, self._crew)
        trainer.start_from(self.network)
        if recipe.trained == "adapters":
            trainer.train_adapters(recipe.rank)
        for name, parameter in trainer.network.named_parameters():
            parameter.requires_grad_(recipe.trains(name))
        return trainer


class MemoryTrainee:
    """SAM 2.1 and SLM-SAM 2.

    Parameters
    ----------
    network : SliceNetwork
    recipe : PaperRecipe
    course : Course
    crew : Crew
    """

    def __init__(
        self, network: SliceNetwork, recipe: PaperRecipe, course: Course, crew: Crew
    ) -> None:
        self.network = network.to(crew.device)
        self._recipe, self._course, self._crew = recipe, course, crew
        self._dtype = choose_dtype(crew.device, image_size=network.config.image_size)
        self._clips = ClipDrawer(course.lessons, recipe, network.config.image_size, crew.device)
        self._save_memory = recipe.checkpointing == "on"

    def cut(self, exactly: int | None, is_enough: Callable[[int], bool]) -> int:
        """Clips are drawn at every step; this only makes sure that there are some."""
        self._clips.draw((self._recipe.seed,))
        return 1

    def try_steps(self) -> TrialStep:
        """See `Trainee.try_steps`; where a step does not fit, parts are computed twice.

        Raises
        ------
        DeviceMemoryError
            Not even then it fits.
        """
        if self._crew.device.type != "cuda":
            self._foresee()  # a computer that runs out of memory may end the program
        try:
            return self._try()
        except DeviceMemoryError:
            if self._recipe.checkpointing != "auto":
                raise
        free_cached_memory(self._crew.device)
        self._save_memory = True
        return self._try()

    def _foresee(self) -> None:
        """Compute parts twice, or refuse, before anything is tried."""
        size, free = self.network.config.image_size, free_memory(self._crew.device)
        slices = self._recipe.clip_slices
        if self._recipe.checkpointing == "auto":
            self._save_memory = _BYTES_PER_PIXEL * size**2 * slices > free
        held = min(slices, 2) if self._save_memory else slices
        needed = _BYTES_PER_PIXEL * size**2 * held
        if needed > free:
            raise DeviceMemoryError(
                f"device {self._crew.device}",
                f"has too little memory to train on {slices} slices of {size} x {size} pixels",
                expected=f"about {needed / 2**30:.2g} GiB",
                found=f"{free / 2**30:.2g} GiB free",
                hint="Use a graphics card, or the recipe quick with a compact network.",
            )

    def trainer(self, steps: int) -> MemoryTrainer:
        """See `Trainee.trainer`."""
        return self._trainer(steps, self._recipe.batch_size)

    def candidate(self, network: SliceNetwork) -> SliceNetwork:
        """See `Trainee.candidate`."""
        return merged(network, self.network)

    def judge(self, network: SliceNetwork, should_stop: Stop) -> Judgement | None:
        """See `Trainee.judge`."""
        segmenter = NetworkSegmenter(
            network, name="adapting", device=self._crew.device, dtype=self._dtype
        )
        return judge(segmenter, self._course.exams, should_stop)

    def write(
        self,
        trainer: MemoryTrainer,
        weights: Mapping[str, Tensor],
        path: Path,
        facts: Mapping[str, Any],
    ) -> None:
        """See `Trainee.write`; in full precision, for the steps are small."""
        save_weights(path, weights, {"config": trainer.config.to_dict(), **facts})

    def _try(self) -> TrialStep:
        return try_steps(
            lambda n: self._trainer(1, n).advance(), self._recipe.batch_size, self._crew.device
        )

    def _trainer(self, steps: int, batch_size: int) -> MemoryTrainer:
        return MemoryTrainer(
            copy.deepcopy(self.network),
            self._recipe,
            self._clips,
            steps=steps,
            batch_size=batch_size,
            crew=self._crew,
            precision=self._dtype,
            save_memory=self._save_memory,
        )
