"""Settings of the training of the compact network. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from napari_slmsam2.core.settings import Settings, setting


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the parts of the loss.

    Attributes
    ----------
    mask, dice : float
        Cross entropy and Dice of the mask on slices with the object.
    empty : float
        Cross entropy of the mask on slices without it; 0 leaves them to the presence head, as
        SLM-SAM 2 does.
    presence, iou : float
        Of the two heads.
    """

    mask: float = 2.0
    dice: float = 1.0
    empty: float = 1.0
    presence: float = 0.3
    iou: float = 0.2


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """Optimisation of the compact network.

    Attributes
    ----------
    loss : LossWeights
    """

    steps: int = setting(
        5500,
        "Steps",
        "Steps of the whole training; the learning rate falls over them. 0: only presence over a "
        "sweep is trained, of the model to start from.",
        minimum=0,
    )
    batch_size: int = setting(32, "Batch", "Clips per step.", minimum=1)
    supervised_steps: int = setting(
        2,
        "Supervised slices",
        "Slices of every clip with a loss, drawn again for every batch.",
        minimum=1,
        advanced=True,
    )
    learning_rate: float = setting(
        1.5e-3,
        "Learning rate",
        "Highest learning rate of AdamW, after a warm-up; falls along a cosine to a hundredth.",
        minimum=0,
    )
    weight_decay: float = setting(
        0.02, "Weight decay", "Of all weights with more than one axis.", minimum=0, advanced=True
    )
    clip_norm: float = setting(
        1.0, "Gradient norm", "Gradients are clipped to it.", minimum=0, advanced=True
    )
    warm_up: int = setting(
        200, "Warm-up", "Steps until the highest learning rate.", minimum=0, advanced=True
    )
    average: float = setting(
        0.999,
        "Averaging",
        "Decay of the moving average of the weights, which is evaluated and kept.",
        minimum=0,
        maximum=1,
        advanced=True,
    )
    seed: int = setting(0, "Seed", "Random seed of the clips and the training.")
    precision: str = setting(
        "bfloat16",
        "Precision",
        "Of the computation; weights stay in float32.",
        choices=("bfloat16", "float32"),
        advanced=True,
    )
    gentle: bool = setting(
        False,
        "Gentle augmentation",
        "Keep approximately the orientation and the contrast of the volumes.",
        advanced=True,
    )
    loss: LossWeights = field(default_factory=LossWeights)


@dataclass(frozen=True, kw_only=True)
class DaggerConfig(Settings):
    """Clips of a training, in DAgger iterations."""

    volumes: Path | None = setting(  # noqa: RUF009 - a dataclass field
        None,
        "Volumes",
        "Folder of labelled volumes, NAME/image.nii.gz, NAME/labels.nii.gz and NAME/meta.json, "
        "with sampling weights in sampling.json. Default: synthetic stacks only.",
        kind=Path,
    )
    real_clips: int = setting(4352, "Real clips", "Clips cut from the volumes.", minimum=0)
    synthetic_clips: int = setting(
        1792, "Synthetic clips", "Clips cut from synthetic stacks.", minimum=0
    )
    rounds: int = setting(
        3,
        "DAgger iterations",
        "DAgger iterations: each makes new clips from sweeps of the current network.",
        minimum=1,
    )
    start: str | None = setting(
        None, "Start", "Model to start from. Default: from scratch.", kind=str
    )
    workers: int | None = setting(
        None,
        "Workers",
        "Processes that make clips and sweeps. Default: one for every core.",
        minimum=1,
        kind=int,
    )
    minutes: float | None = setting(
        None, "Time", "Stop after this time.", minimum=0, unit="min", kind=float
    )


@dataclass(frozen=True, kw_only=True)
class PresenceTrainingConfig(Settings):
    """Training of presence over a sweep, after that of the network."""

    objects: int = setting(
        800,
        "Objects",
        "Objects whose whole sweeps train the presence over a sweep. 0: none.",
        minimum=0,
    )
    passes: int = setting(
        40, "Passes", "Draws of every object, on average.", minimum=1, advanced=True
    )
    batch_size: int = setting(32, "Batch", "Objects per step.", minimum=1, advanced=True)
    learning_rate: float = setting(
        3e-3, "Learning rate", "Of AdamW, one cycle.", minimum=0, advanced=True
    )
    weight_decay: float = setting(0.05, "Weight decay", "Of AdamW.", minimum=0, advanced=True)
    seed: int = setting(0, "Seed", "Random seed of objects and training.", advanced=True)
